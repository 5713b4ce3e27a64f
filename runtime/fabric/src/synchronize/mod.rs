#![doc = include_str!("README.md")]

#[cfg(all(test, not(loom)))]
mod tests;

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::marker::PhantomData;
use core::task::{Context, Poll, Waker};

use crate::sync::mutant;
use crate::{Core, CoreId, CoreSet};

type Ticket = u64;

/// Below it tickets of one life are counted.
const LIFE_SHIFT: u32 = 40;

/// A core's part: the waits it has begun, and the answers it owes.
#[derive(Default)]
pub(crate) struct Synchronizations {
    next: Cell<Ticket>,
    pending: RefCell<Vec<Pending>>,
    owed: RefCell<Vec<(CoreId, Ticket)>>,
}

struct Pending {
    ticket: Ticket,
    outstanding: CoreSet,
    waker: Option<Waker>,
}

impl Synchronizations {
    /// Those of a core's life: tickets of earlier ones are not its.
    pub(crate) fn of_life(life: u64) -> Self {
        Self { next: Cell::new(life << LIFE_SHIFT), ..Self::default() }
    }

    /// Takes out what `done` says of each wait's outstanding cores; wakes those that have ended.
    fn settle(&self, done: impl Fn(Ticket, CoreId) -> bool) {
        let mut ended = Vec::new();
        for wait in self.pending.borrow_mut().iter_mut() {
            wait.outstanding = wait.outstanding.iter().filter(|&core| !done(wait.ticket, core)).collect();
            if wait.outstanding.is_empty() {
                ended.extend(wait.waker.take());
            }
        }
        // Not under the borrow: a waker may run anything.
        ended.into_iter().for_each(Waker::wake);
    }

    /// Leaves a waker with a wait. `false`: it has ended.
    fn leave(&self, ticket: Ticket, waker: &Waker) -> bool {
        let waits = |wait: &Pending| wait.ticket == ticket && !wait.outstanding.is_empty();
        if !self.pending.borrow().iter().any(waits) {
            return false;
        }
        // A waker's clone and drop may run foreign code, which may come back here: not under the borrow. The answers may come in it.
        let fresh = waker.clone();
        let mut pending = self.pending.borrow_mut();
        let Some(wait) = pending.iter_mut().find(|wait| waits(wait)) else { return false };
        let old = wait.waker.replace(fresh);
        drop(pending);
        drop(old);
        true
    }

    fn forget(&self, ticket: Ticket) {
        let mut pending = self.pending.borrow_mut();
        let place = pending.iter().position(|wait| wait.ticket == ticket);
        let gone = place.map(|place| pending.swap_remove(place));
        drop(pending);
        drop(gone);
    }
}

/// A wait for everything that a core has sent. The source of the idea: DragonFly's `lwkt_synchronize_ipiqs`.
#[derive(Debug)]
#[must_use = "it waits only while it is polled"]
pub struct PendingSynchronize {
    /// `None`: it has ended.
    ticket: Option<Ticket>,
    /// It stays with the core that made it.
    not_send: PhantomData<*const ()>,
}

impl PendingSynchronize {
    /// Begins a wait for everything that `core` has sent until now. Never waits itself, and runs no messages.
    pub fn new(core: &Core) -> Self {
        // [synchronize Y1]
        let outstanding: CoreSet = (0..core.cores())
            .map(CoreId::new)
            .filter(|&target| target != core.id() && !core.has_executed(target, core.sequence(target)))
            .collect();
        if outstanding.is_empty() {
            return Self { ticket: None, not_send: PhantomData };
        }
        let synchronizations = core.synchronizations();
        let ticket = synchronizations.next.replace(synchronizations.next.get() + 1);
        synchronizations.pending.borrow_mut().push(Pending { ticket, outstanding, waker: None });
        for target in outstanding.iter() {
            core.send_or_list(target, move |core, source| core.answer_marker(source, ticket));
        }
        Self { ticket: Some(ticket), not_send: PhantomData }
    }

    /// Ready when it has all been executed, on every core that has not left.
    pub fn poll(&mut self, core: &Core, cx: &Context<'_>) -> Poll<()> {
        let Some(ticket) = self.ticket else { return Poll::Ready(()) };
        if core.synchronizations().leave(ticket, cx.waker()) {
            return Poll::Pending;
        }
        self.cancel(core);
        Poll::Ready(())
    }

    /// Ends the wait before its time: for whoever drops it before it was ready.
    pub fn cancel(&mut self, core: &Core) {
        // [synchronize Y4]
        if let Some(ticket) = self.ticket.take() {
            core.synchronizations().forget(ticket);
        }
    }

    /// Whether it ended already: nothing was outstanding, or a poll was ready.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ticket.is_none()
    }
}

impl Core {
    /// Waits until everything that this core has sent until now has been executed on every core that has not left. *Runs
    /// messages* sent to this core meanwhile.
    ///
    /// Not for futures, which use [`PendingSynchronize`]. Two message functions that wait for each other wait for ever.
    pub fn synchronize_blocking(&self) {
        for target in (0..self.cores()).map(CoreId::new) {
            self.wait_executed(target, self.sequence(target));
        }
    }

    /// Z1 and Z2.
    fn answer_marker(&self, source: CoreId, ticket: Ticket) {
        // [synchronize Z1] the marker itself is running, too.
        if self.running_of(source) <= 1 || mutant!("synchronize-nested-early") {
            return self.send_answer(source, ticket);
        }
        // [synchronize Z2]
        self.synchronizations().owed.borrow_mut().push((source, ticket));
        self.attend(self.id());
    }

    fn send_answer(&self, source: CoreId, ticket: Ticket) {
        self.send_or_list(source, move |core, target| {
            // [synchronize Y2]
            core.synchronizations().settle(|other, core| other == ticket && core == target);
        });
    }

    /// At each flush while answers are owed.
    pub(crate) fn answer_owed(&self) -> usize {
        let synchronizations = self.synchronizations();
        let (now, later): (Vec<_>, Vec<_>) =
            synchronizations.owed.take().into_iter().partition(|&(source, _)| self.running_of(source) == 0);
        if !later.is_empty() {
            synchronizations.owed.borrow_mut().extend(later);
            self.attend(self.id());
        }
        // [synchronize Z2]
        now.iter().for_each(|&(source, ticket)| self.send_answer(source, ticket));
        now.len()
    }

    /// After departures were noticed.
    pub(crate) fn settle_departures(&self) {
        if !mutant!("synchronize-departure-ignored") {
            // [synchronize Y3]
            self.synchronizations().settle(|_, core| self.has_left(core));
        }
    }
}
