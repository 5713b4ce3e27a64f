//! Whose a block is.

use crate::sync::{AtomicU32, Ordering, mutant, relaxed_if};

/// The target has it in hand.
const TAKEN: u32 = 1 << 0;
/// The value is there.
const ANSWERED: u32 = 1 << 1;
/// The future has let go of it.
const DROPPED: u32 = 1 << 2;
/// Its way is over.
const HOME: u32 = 1 << 3;
/// Its caller runs no core, from the beginning.
const FOREIGN: u32 = 1 << 4;

/// The state of a block.
pub(super) struct Word(AtomicU32);

/// What a future finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Found {
    /// It is under way.
    Away,
    /// It is at home, with its value.
    Answered,
    /// It is at home, and was not run.
    Unrun,
}

/// What is left to do for a future that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Dropped {
    /// Free the block.
    Free {
        /// Its value was not taken.
        has_value: bool,
    },
    /// Nothing: the function will not run.
    BeforeRun,
    /// Nothing: the function has run, or runs.
    Running,
}

impl Dropped {
    /// Whether the function has not run and never will.
    pub(super) fn is_prevented(self) -> bool {
        matches!(self, Self::BeforeRun | Self::Free { has_value: false })
    }
}

impl Word {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// [urgent_call E1]
    pub(super) fn foreign() -> Self {
        Self(AtomicU32::new(FOREIGN))
    }

    /// Whether it has no home to go to.
    pub(super) fn is_foreign(&self) -> bool {
        self.0.load(Ordering::Relaxed) & FOREIGN != 0
    }

    /// C2. `false`: it was dropped before, and is not to be run.
    #[must_use]
    pub(super) fn take(&self) -> bool {
        // [urgent_call C2] relaxed: C1 has acquired the block; this only decides, together with H6.
        self.0.fetch_or(TAKEN, Ordering::Relaxed) & DROPPED == 0 || mutant!("urgent-call-dropped-runs")
    }

    /// C3.
    pub(super) fn answer(&self) {
        // [urgent_call C3] relaxed: C4's release hands it on.
        self.0.fetch_or(ANSWERED, Ordering::Relaxed);
    }

    /// H4, E2, L3. `Some`: the caller frees the block, which has a value or not.
    #[must_use]
    pub(super) fn come_home(&self) -> Option<bool> {
        // [urgent_call H4] [urgent_call E2] [urgent_call L3] release, and acquire, with H6 and E4: the second of the two has seen all that the first did.
        let both = relaxed_if(mutant!("urgent-foreign-home-relaxed"), Ordering::AcqRel);
        let word = self.0.fetch_or(HOME, both);
        (word & DROPPED != 0).then_some(word & ANSWERED != 0)
    }

    /// H5, E3.
    pub(super) fn look(&self) -> Found {
        // [urgent_call H5] [urgent_call E3] acquire: L3 and E2 come home on another thread.
        let word = self.0.load(Ordering::Acquire);
        match (word & HOME != 0, word & ANSWERED != 0) {
            (false, _) => Found::Away,
            (true, true) => Found::Answered,
            (true, false) => Found::Unrun,
        }
    }

    /// H6, E4.
    pub(super) fn drop(&self) -> Dropped {
        // [urgent_call H6] [urgent_call E4] as in H4.
        let word = self.0.fetch_or(DROPPED, Ordering::AcqRel);
        match (word & HOME != 0, word & TAKEN != 0) {
            (true, _) => Dropped::Free { has_value: word & ANSWERED != 0 },
            (false, false) => Dropped::BeforeRun,
            (false, true) => Dropped::Running,
        }
    }
}
