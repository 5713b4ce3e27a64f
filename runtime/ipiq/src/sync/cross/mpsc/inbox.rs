//! The receiver's side of a queue, on its core.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use ipiq_fabric::CoreId;

use super::super::address::Address;
use super::port;
use super::shared::Ports;
use crate::home::{self, BoxName, Key};
use crate::sync::waiters::WakerSlot;

/// What has arrived and was not received, and what the cores are owed for what was.
pub(super) struct Inbox<T: Send + 'static> {
    /// With the core and the port that have sent it.
    queue: RefCell<VecDeque<(CoreId, usize, T)>>,
    /// By core.
    accounts: RefCell<Vec<Account>>,
    /// So many credits go back together.
    batch: usize,
    /// How many ports have ended.
    ended: Cell<usize>,
    /// How many there are, once there will be no more.
    last: Cell<Option<usize>>,
    receiver: WakerSlot,
    home: Address,
    key: Key,
    ports: Arc<Ports>,
}

#[derive(Clone, Default)]
struct Account {
    /// The core's last port that was heard of; nobody waits for what an earlier one was owed.
    port: usize,
    owed: usize,
    asked: bool,
}

/// What the table holds: when it goes, by the receiver or with the core, the queue is closed.
pub(super) struct Seat<T: Send + 'static>(pub(super) Rc<Inbox<T>>);

impl<T: Send> Drop for Seat<T> {
    fn drop(&mut self) {
        // [cross M7]
        self.0.close();
    }
}

impl<T: Send> Inbox<T> {
    pub(super) fn new(home: Address, key: Key, ports: Arc<Ports>, capacity: usize) -> Self {
        Self {
            queue: RefCell::default(),
            accounts: RefCell::new(vec![Account::default(); home.remote().cores()]),
            batch: capacity.div_ceil(2),
            ended: Cell::new(0),
            last: Cell::new(None),
            receiver: WakerSlot::default(),
            home,
            key,
            ports,
        }
    }

    /// The inbox of a name, on its core.
    pub(super) fn find(name: BoxName) -> Option<Rc<Self>> {
        home::get_boxed::<Seat<T>>(name).map(|seat| seat.0.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.queue.borrow().len()
    }

    /// A value has come.
    pub(super) fn accept(&self, source: CoreId, port: usize, value: T) {
        // [cross M3]
        self.queue.borrow_mut().push_back((source, port, value));
        self.receiver.wake();
    }

    /// The next value; `Some(None)`: there will be none.
    pub(super) fn look(&self) -> Option<Option<(CoreId, T)>> {
        let first = self.queue.borrow_mut().pop_front();
        if let Some((source, port, value)) = first {
            self.account(source, port, |account| account.owed += 1);
            return Some(Some((source, value)));
        }
        // [cross M6]
        (self.last.get() == Some(self.ended.get())).then_some(None)
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Option<(CoreId, T)>> {
        if let Some(outcome) = self.look() {
            return Poll::Ready(outcome);
        }
        // Keeping the waker may run what sends.
        self.receiver.keep(cx.waker());
        self.look().map_or(Poll::Pending, Poll::Ready)
    }

    /// Changes a core's account, and pays if it is time to.
    fn account(&self, core: CoreId, port: usize, change: impl FnOnce(&mut Account)) {
        let credits = {
            let account = &mut self.accounts.borrow_mut()[core.index()];
            if port > account.port {
                *account = Account { port, ..Account::default() };
            }
            // [cross M4]
            if port < account.port {
                return;
            }
            change(account);
            if account.owed >= self.batch || (account.asked && account.owed > 0) {
                std::mem::replace(account, Account { port, ..Account::default() }).owed
            } else {
                return;
            }
        };
        let key = self.key;
        let pay = move |_| port::find::<T>(key).iter().for_each(|here| here.credit(port, credits));
        self.home.post_to(core, pay);
    }

    /// Somebody waits there.
    pub(super) fn asked_by(&self, core: CoreId, port: usize) {
        self.account(core, port, |account| account.asked = true);
    }

    /// Has every port end; there are no new ones.
    pub(super) fn close(&self) {
        // [cross M7]
        let Some((cores, ports)) = self.ports.close() else { return };
        self.last.set(Some(ports));
        for core in cores {
            let key = self.key;
            self.home.post_to(core, move |_| port::find::<T>(key).iter().for_each(|port| port.end()));
        }
        self.receiver.wake();
    }

    /// All senders are gone, and there were so many ports.
    pub(super) fn no_more(&self, ports: usize) {
        // [cross M5]
        self.last.set(Some(ports));
        self.receiver.wake();
    }

    /// A port has ended.
    pub(super) fn one_ended(&self) {
        // [cross M6]
        self.ended.set(self.ended.get() + 1);
        self.receiver.wake();
    }
}
