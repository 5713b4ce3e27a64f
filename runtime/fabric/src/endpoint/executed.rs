//! Waiting for messages to have run.

use super::{Core, WAIT_BUDGET};
use crate::CoreId;
use crate::watch::WaitKind;

/// A message's place in the ring to its target: see [`Core::has_executed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(pub(super) u64);

impl Core {
    /// The sequence of the last message sent to `target`: waiting for it waits for everything sent so far.
    ///
    /// Messages on the overflow list are included: their places in the ring are settled. A sequence never gets stale, however many messages
    /// follow it.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[must_use]
    pub fn sequence(&self, target: CoreId) -> Sequence {
        let out = self.out(target);
        Sequence(out.used().map_or(0, |(producer, _)| producer.sequence() + u64::from(out.listed())))
    }

    /// Whether the message of `sequence` to `target`, and all before it, have *finished*, nested passes included. True for the
    /// own core, and for a core that has left.
    ///
    /// What those functions wrote is visible to the caller if this returns `true`.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[must_use]
    pub fn has_executed(&self, target: CoreId, sequence: Sequence) -> bool {
        match self.out(target).used() {
            Some((producer, _)) if target != self.id => producer.has_executed(sequence.0) || self.is_gone(target),
            _ => true,
        }
    }

    /// Waits until [`has_executed`](Self::has_executed); *runs messages* sent to this core meanwhile.
    ///
    /// Not for futures. Two message functions that wait for each other wait for ever.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn wait_executed(&self, target: CoreId, sequence: Sequence) {
        if self.has_executed(target, sequence) {
            return;
        }
        let mut waiting = self.wait_for(target, WaitKind::Execution);
        while !self.has_executed(target, sequence) {
            self.flush();
            waiting.turn(self.drain_all(WAIT_BUDGET) > 0);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::{Cell, RefCell};

    use crate::{Core, CoreId};

    const A: CoreId = CoreId::new(0);
    const B: CoreId = CoreId::new(1);
    const C: CoreId = CoreId::new(2);

    std::thread_local! {
        static CORES: RefCell<Vec<Rc<Core>>> = const { RefCell::new(Vec::new()) };
        /// How many messages `flood` has run.
        static FLOODED: Cell<u32> = const { Cell::new(0) };
    }

    fn core(id: CoreId) -> Rc<Core> {
        CORES.with_borrow(|cores| cores[id.index()].clone())
    }

    /// A message to A in whose place C at once puts the next one; on the way B does what A waits for.
    fn flood(_: &Core, _: CoreId) {
        FLOODED.set(FLOODED.get() + 1);
        if FLOODED.get() == 100 {
            core(B).drain_all(u32::MAX);
        }
        // Without a bound the wait goes on until here.
        if FLOODED.get() < 100_000 {
            core(C).send_or_list(A, flood);
        }
    }

    /// Lets A wait for B while C floods it.
    fn waits_among_floods(wait: impl FnOnce(&Core)) {
        let (_fabric, cores) = crate::tests::cores(3, 4);
        CORES.set(cores.into_iter().map(Rc::new).collect());
        FLOODED.set(0);
        core(C).send_or_list(A, flood);
        wait(&core(A));
        assert!((100..1_000).contains(&FLOODED.get()), "{} messages before it looked again", FLOODED.get());
        CORES.take();
    }

    #[test]
    fn a_wait_for_execution_ends_although_a_source_never_stops_sending() {
        waits_among_floods(|a| {
            a.try_send(B, |_, _| ()).expect("space");
            a.wait_executed(B, a.sequence(B));
        });
    }

    #[test]
    fn a_send_that_waits_for_space_ends_although_a_source_never_stops_sending() {
        waits_among_floods(|a| {
            (0..4).for_each(|_| a.try_send(B, |_, _| ()).map(drop).expect("space"));
            a.send(B, |_, _| ()).map(drop).expect("nobody leaves");
        });
    }
}
