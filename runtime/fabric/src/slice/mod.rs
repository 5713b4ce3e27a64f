#![doc = include_str!("README.md")]

use crate::doorbell::{Ask, State};
use crate::{Core, CoreId, Fabric};

/// What a core is doing, as far as others can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// It sleeps, or is about to.
    Asleep,
    /// It is in this turn of its loop; a number that grows. The same number later: still in it.
    Turn(u64),
    /// It has left.
    Gone,
}

impl Fabric {
    /// What `core` is doing now. From any thread.
    ///
    /// # Panics
    ///
    /// If the fabric has no such core.
    #[must_use]
    pub fn progress(&self, core: CoreId) -> Progress {
        let core = self.shared().core(core);
        // [slice W1]
        match core.doorbell.state() {
            State::Parked => Progress::Asleep,
            State::Awake | State::Kicked => Progress::Turn(core.counts.ticks.get()),
            _ => Progress::Gone,
        }
    }

    /// Asks `core` to come back to its loop after the poll that it is in, without telling that poll: one that is in the same [turn](Progress::Turn) long after has not
    /// ended its poll, or its message. From any thread; wakes nobody.
    ///
    /// # Panics
    ///
    /// If the fabric has no such core.
    pub fn ask_back(&self, core: CoreId) {
        // [slice W3]
        self.shared().core(core).doorbell.ask_awake(Ask::Return);
    }

    /// Asks `core` to end its turn: [`Core::should_yield`] says yes until it has. From any thread; wakes nobody.
    ///
    /// # Panics
    ///
    /// If the fabric has no such core.
    pub fn end_slice(&self, core: CoreId) {
        // [slice W2]
        self.shared().core(core).doorbell.ask_awake(Ask::Slice);
    }
}

impl Core {
    /// Whether something waits for this core that its loop would serve before it polls further tasks: its slice is over, or it was asked to stop, to run handlers, to
    /// carry out a shootdown. One relaxed load; on the core's thread.
    #[must_use]
    #[inline(always)]
    pub fn should_yield(&self) -> bool {
        // [slice C1]
        self.own().doorbell.is_asked(Ask::TO_YIELD_FOR)
    }
}
