//! A core's side of a queue that it sends to.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;

use ipiq_fabric::CoreId;

use super::super::address::Address;
use super::inbox::Inbox;
use crate::home::{self, BoxName, Key};
use crate::sync::{Notify, Semaphore};

/// What the senders of one core share: the space that they have at the receiver.
pub(super) struct Port<T: Send + 'static> {
    pub(super) credits: Semaphore,
    pub(super) ended: Notify,
    /// Which of the queue's it is: a core that has left and come back makes another one.
    number: usize,
    core: CoreId,
    home: Address,
    inbox: BoxName,
    /// The receiver was told that somebody waits, and has not answered.
    asked: Cell<bool>,
    over: Cell<bool>,
    value: PhantomData<fn(T)>,
}

impl<T: Send> Port<T> {
    /// Of the calling core, `core`.
    pub(super) fn new(number: usize, core: CoreId, home: Address, inbox: BoxName, capacity: usize) -> Self {
        Self {
            credits: Semaphore::new(capacity),
            ended: Notify::new(),
            number,
            core,
            home,
            inbox,
            asked: Cell::new(false),
            over: Cell::new(false),
            value: PhantomData,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Sends a value for which there is a credit, unless it is over.
    pub(super) fn send(&self, value: T) -> Result<(), T> {
        if self.is_over() {
            return Err(value);
        }
        // [cross M2]
        let (name, port) = (self.inbox, self.number);
        self.home.post(move |source| {
            // Dropped here where there is nobody any more.
            if let Some(inbox) = Inbox::find(name) {
                inbox.accept(source, port, value);
            }
        });
        Ok(())
    }

    /// Somebody waits.
    pub(super) fn ask(&self) {
        if !self.is_over() && !self.asked.replace(true) {
            let (name, core, port) = (self.inbox, self.core, self.number);
            // [cross M4]
            self.home.post(move |_| Inbox::<T>::find(name).iter().for_each(|inbox| inbox.asked_by(core, port)));
        }
    }

    /// The receiver has taken so many that port `number` of this core has sent.
    pub(super) fn credit(&self, number: usize, credits: usize) {
        if number != self.number {
            return;
        }
        // [cross M4]
        self.asked.set(false);
        self.credits.add_permits(credits);
        if self.credits.waiting() > 0 {
            self.ask();
        }
    }

    /// Nothing more is sent from here.
    pub(super) fn end(&self) {
        if !self.over.replace(true) {
            self.credits.close();
            self.ended.notify_waiters();
            let name = self.inbox;
            // [cross M6] behind all that was sent from here.
            self.home.post(move |_| Inbox::<T>::find(name).iter().for_each(|inbox| inbox.one_ended()));
        }
    }
}

impl<T: Send> Drop for Port<T> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The calling core's port of a channel.
pub(super) fn find<T: Send + 'static>(key: Key) -> Option<Rc<Port<T>>> {
    home::get(key)
}
