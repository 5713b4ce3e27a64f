//! Sleep.

use super::Core;
use crate::core_set::bits;
use crate::sync::{Ordering, mutant};
use crate::{Armed, CoreId, CoreSet};

impl Core {
    /// Arms the doorbell if nothing waits: no message, no overflow that could move, and `nothing_else` agrees. From the moment it is armed
    /// until the proof is dropped, every sender kicks.
    ///
    /// `None`: stay awake and look again. `nothing_else` runs after the fence, so that what it looks at may be written by other
    /// threads before they kick; it must not run messages.
    pub fn arm(&self, nothing_else: impl FnOnce() -> bool) -> Option<Armed<'_>> {
        if self.owes_rings() {
            // [doorbell B1] a flush comes first: passive messages are under way.
            self.own().counts.park_refused.add(1);
            return None;
        }
        let wanting = self.wanting();
        for target in wanting.iter() {
            // [overflow O4]
            self.out(target).announce_want();
        }
        let own = self.own();
        let mut granted = false;
        let armed = own.doorbell.arm(self.port(), self.shared.fence, || {
            granted = true;
            // [doorbell K3] [overflow O5]
            self.inbox_is_empty()
                && !own.doorbell.is_asked(u64::MAX)
                && own.injector.is_empty()
                && self.shared.departures.load(Ordering::Acquire) == self.departures.get()
                && !wanting.iter().any(|target| self.out(target).could_flush())
                && nothing_else()
        });
        if granted {
            self.refusals.set(0);
        } else {
            // [doorbell K2] who is in the middle of a fence may need this CPU to come to its end.
            self.port().relax(self.refusals.replace(self.refusals.get().saturating_add(1)));
        }
        let counter = if armed.is_some() { &own.counts.parked } else { &own.counts.park_refused };
        counter.add(1);
        armed
    }

    /// Whether messages wait in an overflow list.
    #[must_use]
    pub fn has_overflow(&self) -> bool {
        self.outgoing.iter().any(|out| out.listed() > 0)
    }

    /// As [`has_overflow`](Self::has_overflow), for the targets that `counts` says.
    pub(crate) fn has_overflow_to(&self, counts: impl Fn(CoreId) -> bool) -> bool {
        self.outgoing.iter().enumerate().any(|(target, out)| out.listed() > 0 && counts(CoreId::new(target)))
    }

    /// Targets in whose rings this core waits for space.
    fn wanting(&self) -> CoreSet {
        self.attended().filter(|&target| self.out(target).wants_space()).collect()
    }

    /// Whether passive messages have been sent for which no flush has rung yet.
    fn owes_rings(&self) -> bool {
        self.attended().any(|target| self.out(target).owes_ring.get())
    }

    /// What the next flush looks at.
    fn attended(&self) -> impl Iterator<Item = CoreId> {
        let words = (0..self.shared.cores.len().div_ceil(64)).map(|word| (word, self.attention[word].get()));
        words.flat_map(|(word, attention)| bits(attention).map(move |bit| CoreId::new(word * 64 + bit)))
    }

    fn inbox_is_empty(&self) -> bool {
        let only_pending = mutant!("doorbell-recheck-pending-only");
        (0..self.cores()).map(CoreId::new).all(|source| {
            let skip =
                only_pending && self.own().doorbell.pending(source.index() / 64) & 1 << (source.index() % 64) == 0;
            skip || self.incoming(source).is_none_or(|(consumer, _)| consumer.is_empty())
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::port::FenceKind;
    use crate::tests::machine::{Awake, Script};
    use crate::{Config, Fabric};

    /// A machine whose next heavy fences are refused, as while another thread is in the middle of one.
    #[derive(Default)]
    struct Refusing {
        refusals: AtomicU32,
        relaxed: Mutex<Vec<u32>>,
    }

    impl Script for Refusing {
        const FENCE: FenceKind = FenceKind::Asymmetric;

        fn refuses_fence(&self) -> bool {
            self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        }
        fn relax(&self, turn: u32) {
            self.relaxed.lock().expect("not poisoned").push(turn);
        }
    }

    fn refusing(refusals: u32) -> (Arc<Awake<Refusing>>, Vec<Core>) {
        let port = Arc::new(Awake(Refusing { refusals: refusals.into(), ..Refusing::default() }));
        let (_, seats) = Fabric::new(Config { cores: 2, ..Config::default() }, port.clone()).expect("two cores");
        (port, seats.into_iter().map(crate::Seat::enter).collect())
    }

    #[test]
    fn a_core_whose_fence_is_refused_relaxes_ever_more_patiently_and_gets_its_messages() {
        let (port, cores) = refusing(100);
        for _ in 0..100 {
            assert!(cores[0].arm(|| true).is_none(), "refused");
            // A refusal leaves it awake: the sender need not kick.
            cores[1].try_send(cores[0].id(), |_, _| ()).expect("space");
            assert_eq!(cores[0].drain(64), 1);
        }
        assert!(port.relaxed.lock().expect("not poisoned").iter().copied().eq(0..100));
        drop(cores[0].arm(|| true).expect("granted at last"));
        assert!(cores[0].arm(|| false).is_none(), "something waits");
        assert_eq!(port.relaxed.lock().expect("not poisoned").len(), 100, "who has something to do does not relax");
        port.refusals.store(1, Ordering::Relaxed);
        assert!(cores[0].arm(|| true).is_none(), "refused");
        assert_eq!(port.relaxed.lock().expect("not poisoned").last(), Some(&0), "the patience starts anew");
    }

    #[test]
    fn cores_leave_a_machine_that_has_closed_its_fence_for_good() {
        let (port, mut cores) = refusing(u32::MAX);
        let token = Arc::new(());
        let held = token.clone();
        cores[0].try_send(cores[1].id(), move |_, _| drop(held)).expect("space");
        drop(cores.pop());
        cores[0].flush();
        assert_eq!(Arc::strong_count(&token), 1, "taken back");
        drop(cores);
        assert!(port.relaxed.lock().expect("not poisoned").len() > 100, "not before it has tried");
    }
}
