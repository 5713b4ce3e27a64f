//! Names of calls, and waiting by name.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use ipiq_fabric::call::CallError;
use ipiq_fabric::{CoreId, contain};

use crate::executor::with_current;
use crate::{Executor, JoinHandle, Remote};

/// How a call's function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// As a task, which may await.
    Low,
    /// Between two polls; it must not block.
    High,
}

/// The name of a call, in 64 bits: whoever has it can await the call's end.
///
/// It means something to the runtime that made it only; another one takes it for a call of its own, or for one that has finished.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

const CLASS_BIT: u32 = 63;
const HOME_SHIFT: u32 = 55;
const NUMBER_MASK: u64 = (1 << HOME_SHIFT) - 1;

impl Ticket {
    /// The number fits: at a call per nanosecond it takes a year to use them up.
    pub(super) fn new(class: Class, home: CoreId, number: u64) -> Self {
        debug_assert!(number <= NUMBER_MASK);
        let class = u64::from(class == Class::High) << CLASS_BIT;
        Self(class | (home.index() as u64) << HOME_SHIFT | number & NUMBER_MASK)
    }

    /// The class of the call.
    #[must_use]
    pub fn class(self) -> Class {
        if self.0 >> CLASS_BIT == 1 { Class::High } else { Class::Low }
    }

    /// The core that issued the call.
    #[must_use]
    pub fn home(self) -> CoreId {
        CoreId::new((self.0 >> HOME_SHIFT) as usize & 0xff)
    }

    /// Its number among the home's tickets, from 1.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0 & NUMBER_MASK
    }

    /// The ticket as a number that is never zero, to be kept in an atomic for example. Bit 63 is set if the class is high.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The ticket that [`to_bits`](Self::to_bits) gave.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?} call {} of {})", self.class(), self.number(), self.home())
    }
}

/// What one core has counted of its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Calls to every core that this core issued.
    pub broadcasts: u64,
    /// Calls to one core that this core issued.
    pub unicasts: u64,
    /// Tickets drawn here.
    pub tickets: u64,
    /// Of these, calls that have finished.
    pub finished: u64,
}

/// The calls with tickets of one home.
pub(crate) struct Table {
    /// The lowest number of this life of the core.
    first: u64,
    next: Cell<u64>,
    under_way: RefCell<BTreeMap<u64, Waiters>>,
    counters: Cell<Counters>,
}

/// Who waits for one call, by the key of the wait.
#[derive(Default)]
struct Waiters {
    wakers: Vec<(u64, Waker)>,
    next_key: u64,
}

impl Waiters {
    fn position(&self, key: u64) -> Option<usize> {
        self.wakers.iter().position(|(known, _)| *known == key)
    }

    /// Leaves a waker, in place of the one of `key`. Returns that one.
    fn put(&mut self, key: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        if let Some(known) = key.and_then(|key| self.position(key)) {
            return Some(core::mem::replace(&mut self.wakers[known].1, waker));
        }
        self.wakers.push((self.next_key, waker));
        *key = Some(self.next_key);
        self.next_key += 1;
        None
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::starting_at(1)
    }
}

impl Table {
    /// A table whose first ticket has the number `first`.
    pub(super) fn starting_at(first: u64) -> Self {
        Self { first, next: Cell::new(first), under_way: RefCell::default(), counters: Cell::default() }
    }

    /// [loop J3]: the table of a core's life, above the numbers of the one before, which ended with `next`; 0: there was none.
    pub(crate) fn following(next: u64) -> Self {
        // [loop J3]
        Self::starting_at(next.max(1))
    }

    /// The number of the next ticket.
    pub(crate) fn next(&self) -> u64 {
        self.next.get()
    }

    /// Whether the call's end would be known here.
    fn knows(&self, ticket: Ticket) -> bool {
        ticket.number() >= self.first
    }

    fn count(&self, add: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        add(&mut counters);
        self.counters.set(counters);
    }

    pub(super) fn count_broadcast(&self) {
        self.count(|counters| counters.broadcasts += 1);
    }

    pub(super) fn count_unicast(&self) {
        self.count(|counters| counters.unicasts += 1);
    }

    /// [xcall K1]
    pub(super) fn issue(&self, class: Class, home: CoreId) -> Ticket {
        let number = self.next.replace(self.next.get() + 1);
        // [xcall K1]
        self.under_way.borrow_mut().insert(number, Waiters::default());
        self.count(|counters| counters.tickets += 1);
        Ticket::new(class, home, number)
    }

    /// [xcall K2]
    pub(super) fn finish(&self, ticket: Ticket) {
        // [xcall K2]
        let waiters = self.under_way.borrow_mut().remove(&ticket.number());
        self.count(|counters| counters.finished += 1);
        for (_, waker) in waiters.into_iter().flat_map(|waiters| waiters.wakers) {
            // A panic here would end the task of the call, and nobody behind would be woken.
            contain(|| waker.wake());
        }
    }

    /// [xcall K3]. `key` is what the wait leaves in the table. No waker is cloned, dropped or woken while the table is borrowed: that
    /// runs foreign code.
    fn poll_finished(&self, ticket: Ticket, key: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
        // [xcall K3]
        if !self.under_way.borrow().contains_key(&ticket.number()) {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let replaced = match self.under_way.borrow_mut().get_mut(&ticket.number()) {
            Some(waiters) => waiters.put(key, waker),
            None => return Poll::Ready(()),
        };
        drop(replaced);
        Poll::Pending
    }

    /// [xcall K3]
    fn forget(&self, ticket: Ticket, key: u64) {
        let mut under_way = self.under_way.borrow_mut();
        let forgotten = under_way.get_mut(&ticket.number()).and_then(|waiters| {
            let position = waiters.position(key)?;
            // [xcall K3]
            Some(waiters.wakers.swap_remove(position))
        });
        drop(under_way);
        drop(forgotten);
    }

    #[cfg(test)]
    pub(super) fn waiters(&self, ticket: Ticket) -> Option<usize> {
        self.under_way.borrow().get(&ticket.number()).map(|waiters| waiters.wakers.len())
    }
}

/// A wait on the ticket's home.
pub(super) struct WaitHere {
    table: Rc<Table>,
    ticket: Ticket,
    key: Option<u64>,
}

impl WaitHere {
    pub(super) fn new(table: Rc<Table>, ticket: Ticket) -> Self {
        Self { table, ticket, key: None }
    }
}

impl Future for WaitHere {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.table.poll_finished(this.ticket, &mut this.key, cx)
    }
}

impl Drop for WaitHere {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.table.forget(self.ticket, key);
        }
    }
}

/// Waits on a core until a call has finished everywhere.
///
/// # Errors
///
/// [`CallError`] if the call's home is shutting down; whether the call finishes is then unknown.
///
/// # Cancel safety
///
/// Dropping it changes nothing but that nobody is woken; the call can be waited for again.
#[must_use = "futures do nothing unless polled"]
pub struct Wait(Place);

enum Place {
    Here(WaitHere),
    There(RemoteWait),
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").finish_non_exhaustive()
    }
}

impl Future for Wait {
    type Output = Result<(), CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Place::Here(wait) if !wait.table.knows(wait.ticket) => Poll::Ready(Err(CallError::gone())),
            Place::Here(wait) => Pin::new(wait).poll(cx).map(Ok),
            Place::There(wait) => Pin::new(wait).poll(cx),
        }
    }
}

/// Waits on any thread until a call has finished everywhere.
///
/// # Errors
///
/// [`CallError`] if the call's home is shutting down; whether the call finishes is then unknown.
///
/// # Cancel safety
///
/// Dropping it changes nothing but that nobody is woken; the call can be waited for again.
#[must_use = "futures do nothing unless polled"]
pub struct RemoteWait(JoinHandle<bool>);

impl fmt::Debug for RemoteWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteWait").finish_non_exhaustive()
    }
}

impl Future for RemoteWait {
    type Output = Result<(), CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let known = core::task::ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(if matches!(known, Ok(true)) { Ok(()) } else { Err(CallError::gone()) })
    }
}

impl Drop for RemoteWait {
    fn drop(&mut self) {
        // [xcall K4] a task that has ended keeps its end.
        self.0.abort();
    }
}

impl Executor {
    /// Waits until the call of `ticket` has finished on every core, whichever core issued it.
    ///
    /// # Panics
    ///
    /// If the ticket names a core that there is not.
    #[track_caller]
    pub fn wait_ticket(&self, ticket: Ticket) -> Wait {
        Wait(if ticket.home() == self.core().id() {
            Place::Here(WaitHere::new(self.xcalls().clone(), ticket))
        } else {
            Place::There(self.remote().wait_ticket(ticket))
        })
    }

    /// What this core has counted of the calls that it issued.
    #[must_use]
    pub fn xcall_counters(&self) -> Counters {
        self.xcalls().counters.get()
    }
}

impl Remote {
    /// Waits, on any thread, until the call of `ticket` has finished on every core.
    ///
    /// # Panics
    ///
    /// If the ticket names a core that there is not.
    #[track_caller]
    pub fn wait_ticket(&self, ticket: Ticket) -> RemoteWait {
        let home = self.home(ticket.home()).clone();
        // [xcall K4]
        RemoteWait(self.spawn_on(ticket.home(), move || async move {
            let table = with_current(&*home.port, |executor| executor.xcalls().clone());
            let table = table.expect("a task runs on its core");
            WaitHere::new(table.clone(), ticket).await;
            table.knows(ticket)
        }))
    }
}
