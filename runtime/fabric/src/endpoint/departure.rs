//! Leaving the fabric, and taking back what was sent to a core that has left.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Core;
use crate::doorbell::{Rung, State};
use crate::handlers;
use crate::ring::Consumer;
use crate::shootdown::Lane;
use crate::sync::{Ordering, mutant};
use crate::watch::WaitKind;
use crate::{CoreId, Message};

impl Core {
    /// [doorbell G2]: discards what this core sent to a core that has left.
    pub(super) fn take_back(&self, target: CoreId) {
        let mut waiting = self.wait_for(target, WaitKind::Departure);
        // [doorbell G2] acquire, in `state`: the target has let go of its end before this takes it.
        while self.shared.core(target).doorbell.state() != State::Drained {
            waiting.turn(false);
        }
        drop(waiting);
        // Everything is taken out before any of it runs: what it runs may send to the target again, and end here.
        let leftover: Vec<_> = self.out(target).used().map_or_else(Vec::new, |(_, link)| {
            // SAFETY: 1. the target's consumer was dropped, and had published, before `Drained` was stored; from then on
            // only this core, the source, takes from the ring, and only here: nothing of a message runs while it does.
            let consumer = unsafe { Consumer::new(link.ring.clone()) };
            core::iter::from_fn(|| consumer.pop().map(|(message, _running)| message)).collect()
        });
        leftover.into_iter().for_each(Message::take_back);
        self.give_up(target);
    }

    /// Takes back what is not in the ring yet, and wakes who waits for space.
    fn give_up(&self, target: CoreId) {
        let (listed, waiters) = self.out(target).take_all();
        listed.into_iter().for_each(Message::take_back);
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Takes back what was sent to cores that have left since the last look.
    #[cold]
    pub(super) fn notice_departures(&self, departures: u64) -> usize {
        self.departures.set(departures);
        // [shootdown I7]
        Lane::ALL.into_iter().for_each(|lane| self.pump_shootdowns(lane));
        let targets = (0..self.cores()).map(CoreId::new);
        let left = targets.filter(|&target| target != self.id && self.is_gone(target));
        let count = left.map(|target| self.take_back(target)).count();
        self.settle_departures();
        count
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.leave_shootdowns();
        let shared = self.shared.clone();
        let own = shared.core(self.id);
        self.drop_deferred();
        self.give_up_leading();
        let others = || (0..shared.cores.len()).map(CoreId::new).filter(|&other| other != self.id);
        // [doorbell G1]
        own.doorbell.leave(&*shared.port, shared.fence);
        while own.injector.pop().is_some() {}
        handlers::leave(&shared, self.id);
        // [doorbell G3]
        for source in others().filter(|&source| self.is_gone(source)) {
            if let Some((consumer, _)) = self.incoming(source) {
                while consumer.pop().is_some() {}
            }
        }
        // The consumers publish when they go; their sources take over from there.
        self.incoming = Box::default();
        own.doorbell.left();
        if !mutant!("doorbell-departure-uncounted") {
            shared.departures.fetch_add(1, Ordering::Release);
        }
        for other in others() {
            let asleep = shared.core(other).doorbell.ring_foreign() == Rung::Kick;
            if asleep && !mutant!("doorbell-departure-no-kick") {
                self.kick(other);
            }
        }
        for target in others() {
            // [doorbell G3]
            if self.is_gone(target) { self.take_back(target) } else { self.give_up(target) }
        }
        if others().all(|other| self.is_gone(other)) {
            handlers::all_have_left(&shared);
        }
    }
}
