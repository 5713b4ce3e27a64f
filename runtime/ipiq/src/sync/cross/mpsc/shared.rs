//! What the senders of a queue share.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipiq_fabric::{CoreId, CoreSet};

use super::super::address::Address;
use super::inbox::Inbox;
use super::port::{self, Port};
use crate::home::{self, BoxName, Number};

/// Which cores have made a port. Looked at when one is made, and at the end.
#[derive(Default)]
pub(super) struct Ports {
    made: Mutex<(CoreSet, usize)>,
    closed: AtomicBool,
}

impl Ports {
    /// One more, unless the queue is closed. Which one it is.
    fn add(&self, core: CoreId) -> Option<usize> {
        // Nothing under the lock panics half-way.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // [cross M1] under the lock, so that who closes counts it or it is not made.
        if self.is_closed() {
            return None;
        }
        made.0.insert(core);
        made.1 += 1;
        Some(made.1)
    }

    /// Lets no port be made any more. Where there are some, and how many there were; `None`: it was done before.
    pub(super) fn close(&self) -> Option<(CoreSet, usize)> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.closed.swap(true, Ordering::Relaxed)).then_some(*made)
    }

    fn cores(&self) -> CoreSet {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// What all senders have. Dropped with the last of them.
pub(super) struct Shared<T: Send + 'static> {
    home: Address,
    inbox: BoxName,
    number: Arc<Number>,
    pub(super) ports: Arc<Ports>,
    capacity: usize,
    value: PhantomData<fn(T)>,
}

impl<T: Send> Shared<T> {
    pub(super) fn new(home: Address, inbox: BoxName, number: Arc<Number>, ports: Arc<Ports>, capacity: usize) -> Self {
        Self { home, inbox, number, ports, capacity, value: PhantomData }
    }

    pub(super) fn home(&self) -> CoreId {
        self.home.core()
    }

    /// The calling core's port; made now if there is none. `None`: the queue is closed.
    #[track_caller]
    pub(super) fn port(&self, what: &str) -> Option<Rc<Port<T>>> {
        if let Some(port) = port::find(self.number.key()) {
            return Some(port);
        }
        let core = self.home.caller(what);
        let number = self.ports.add(core)?;
        // [cross M1]
        let port = Rc::new(Port::new(number, core, self.home.clone(), self.inbox, self.capacity));
        home::put(&self.number, port.clone());
        Some(port)
    }
}

impl<T: Send> Drop for Shared<T> {
    fn drop(&mut self) {
        // [cross M5]
        let closed = self.ports.close();
        if let Some((_, ports)) = closed {
            let name = self.inbox;
            self.home.post(move |_| Inbox::<T>::find(name).iter().for_each(|inbox| inbox.no_more(ports)));
        }
        for core in self.ports.cores() {
            let key = self.number.key();
            self.home.post_to(core, move |_| drop(home::take(key)));
        }
    }
}
