//! Waiting for messages to have run.

use super::{Core, WAIT_BUDGET};
use crate::CoreId;

/// A message's place in the ring to its target: see [`Core::has_executed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(pub(super) u32);

impl Core {
    /// The sequence of the last message sent to `target`: waiting for it waits for everything sent so far.
    ///
    /// Messages on the overflow list are included: their places in the ring are settled.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[must_use]
    pub fn sequence(&self, target: CoreId) -> Sequence {
        let out = self.out(target);
        Sequence(out.used().map_or(0, |(producer, _)| producer.sequence().wrapping_add(out.listed())))
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
        let mut turn = 0;
        while !self.has_executed(target, sequence) {
            self.flush();
            if self.drain_all(WAIT_BUDGET) == 0 {
                self.port().relax(turn);
                turn += 1;
            }
        }
    }
}
