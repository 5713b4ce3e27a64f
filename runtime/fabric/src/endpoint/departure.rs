//! Leaving the fabric, and taking back what was sent to a core that has left.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Core;
use crate::doorbell::{Rung, State};
use crate::handlers;
use crate::message::Deliver;
use crate::overflow::Outgoing;
use crate::ring::Consumer;
use crate::shootdown::{Board, Lane};
use crate::sync::{Ordering, mutant};
use crate::urgent;
use crate::urgent_call;
use crate::watch::WaitKind;
use crate::{CoreId, Message};

impl Core {
    /// [doorbell G2]: discards what this core sent to a core that has left.
    pub(super) fn take_back(&self, target: CoreId) {
        let mut waiting = self.wait_for(target, WaitKind::Departure);
        // [doorbell G2] acquire, in `state`: the target has let go of its end before this takes it.
        while self.shared.core(target).doorbell.state() == State::Gone {
            waiting.turn(false);
        }
        drop(waiting);
        // Everything is taken out before any of it runs: what it runs may send to the target again, and end here.
        let Some(leftover) = self.shared.in_place_of(target, || self.empty_ring_to(target)) else {
            return self.ring_again(target);
        };
        leftover.into_iter().for_each(Message::take_back);
        self.give_up(target);
    }

    /// [admission T2], of `target`, which has let go of its end.
    fn empty_ring_to(&self, target: CoreId) -> Vec<Message> {
        self.out(target).used().map_or_else(Vec::new, |(_, link)| {
            // SAFETY: 1. the target's consumer was dropped, and had published, before `Drained` was stored; from then on
            // only this core, the source, takes from the ring, and only here, as a trustee: nothing of a message runs while it does, and
            // the target's next life begins after it.
            let consumer = unsafe { Consumer::new(link.ring.clone()) };
            core::iter::from_fn(|| consumer.pop().map(|(message, _running)| message)).collect()
        })
    }

    /// [admission T1]: `target` is back, and finds what was sent to it.
    fn ring_again(&self, target: CoreId) {
        // [doorbell S4]
        if self.shared.core(target).doorbell.ring(self.id, self.shared.fence) == Rung::Kick {
            self.kick_again(target);
        }
    }

    /// Takes back what is not in the ring yet, and wakes who waits for space.
    fn give_up(&self, target: CoreId) {
        let (listed, waiters) = self.out(target).take_all();
        listed.into_iter().for_each(Message::take_back);
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// [doorbell G4]
    fn hand_over(&self, target: CoreId) {
        let (listed, waiters) = self.out(target).take_all();
        if mutant!("doorbell-lists-given-up") {
            return drop(listed);
        }
        if !listed.is_empty() {
            let counts = &self.end(target).1.sent;
            counts.sent.add(listed.len() as u64);
            counts.avoided.add(listed.len() as u64 - 1);
            let message = Message::new(None, Legacy { source: self.id, listed });
            // [doorbell G4]
            let core = self.shared.core(target);
            core.injector.push(message);
            let rung = core.doorbell.ring_foreign();
            if rung == Rung::Gone {
                // [doorbell G2]
                self.shared.empty_injector(target);
            } else {
                self.answer(target, &self.end(target).1, rung);
            }
        }
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
        self.refuse_interrupts();
        self.leave_shootdowns();
        let shared = self.shared.clone();
        let own = shared.core(self.id);
        self.drop_deferred();
        self.give_up_leading();
        let others = || (0..shared.cores.len()).map(CoreId::new).filter(|&other| other != self.id);
        others().filter(|&target| !self.is_gone(target)).for_each(|target| self.hand_over(target));
        // [doorbell G1]
        own.doorbell.leave(&*shared.port, shared.fence);
        while own.injector.pop().is_some() {}
        handlers::leave(&shared, self.id);
        urgent::leave(&shared, self.id);
        urgent_call::leave(&shared, self.id);
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
            if self.is_gone(target) {
                self.take_back(target);
            }
        }
        if others().all(|other| self.is_gone(other)) {
            handlers::all_have_left(&shared);
            urgent::all_have_left(&shared);
            urgent_call::all_have_left(&shared);
            // [shootdown E2]
            shared.boards.iter().filter(|_| !mutant!("shootdown-leftover-kept")).for_each(Board::free_leftovers);
        }
        // [admission V1]
        self.outgoing.iter().for_each(Outgoing::leave);
        // [admission V2] before the pool goes, and with it the count.
        self.vacancy.keep_if(self.awaits_answers());
    }
}

/// What a core that has left had listed for a target.
struct Legacy {
    source: CoreId,
    listed: VecDeque<Message>,
}

impl Deliver for Legacy {
    fn deliver(self, core: &Core, _source: CoreId) {
        core.run_legacy(self.source, self.listed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::sync::Arc;
    use core::task::{Context, Poll, Waker};
    use std::sync::Mutex;

    use super::*;
    use crate::call::PendingCall;
    use crate::tests::cores;

    const A: CoreId = CoreId::new(0);
    const B: CoreId = CoreId::new(1);

    #[test]
    fn answers_that_a_core_had_listed_when_it_left_reach_their_callers() {
        let (fabric, mut cores) = cores(2, 2);
        let mut calls = [1, 2].map(|n| PendingCall::new(&cores[0], B, move || n));
        // The ring to the caller is full, so the answers wait in the list.
        (0..2).for_each(|_| cores[1].send_or_list(A, |_, _| ()));
        assert_eq!(cores[1].drain(64), 2);
        assert!(cores[1].has_overflow());
        cores.truncate(1);
        let home = &cores[0];
        home.flush();
        assert_eq!(home.drain_foreign(1), 1, "the list is one message");
        for (call, answer) in calls.iter_mut().zip([1, 2]) {
            let outcome = call.poll(home, &mut Context::from_waker(Waker::noop()));
            assert!(matches!(outcome, Poll::Ready(Ok(value)) if value == answer), "{outcome:?}");
        }
        let counters = fabric.pair_counters(B, A);
        assert_eq!((counters.sent, counters.received, counters.overflowed), (4, 4, 2));
    }

    #[test]
    fn what_a_core_had_listed_when_it_left_comes_after_what_it_had_sent() {
        let (_fabric, mut cores) = cores(2, 4);
        let seen = Arc::new(Mutex::new(Vec::new()));
        for n in 0..10 {
            let seen = seen.clone();
            cores[1].send_or_list(A, move |_, source| seen.lock().expect("not poisoned").push((source, n)));
        }
        drop(cores.pop());
        // Foreign messages first: the list must not overtake the ring.
        cores[0].drain_foreign(64);
        assert_eq!(*seen.lock().expect("not poisoned"), (0..10).map(|n| (B, n)).collect::<Vec<_>>());
        assert_eq!(cores[0].drain_all(64), 0);
    }

    #[test]
    fn what_two_cores_that_leave_had_listed_for_each_other_is_dropped_once() {
        for first in [0, 1] {
            let token = Arc::new(());
            let (_fabric, mut cores) = cores(2, 2);
            for (source, target) in [(0, B), (1, A)] {
                for _ in 0..6 {
                    let held = token.clone();
                    cores[source].send_or_list(target, move |_, _| drop(held));
                }
            }
            drop(cores.remove(first));
            drop(cores);
            assert_eq!(Arc::strong_count(&token), 1, "while the fabric lives");
        }
    }
}
