//! Waiting for messages to have run.

use super::{Core, WAIT_BUDGET};
use crate::CoreId;
use crate::watch::WaitKind;

/// A message's place in the ring to its target: see [`Core::has_executed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(pub(super) u32);

impl Core {
    /// The sequence of the last message sent to `target`: waiting for it waits for everything sent so far.
    ///
    /// Messages on the overflow list are included: their places in the ring are settled. Sequences are 32 bits wide and wrap; they are compared
    /// by signed difference. So one must be asked about before 2^31 further messages have gone to the target: after that it counts
    /// as not executed until 2^32 have.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[must_use]
    pub fn sequence(&self, target: CoreId) -> Sequence {
        let out = self.out(target);
        Sequence(
            out.used()
                .map_or(self.shared.first_index(), |(producer, _)| producer.sequence().wrapping_add(out.listed())),
        )
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
