#![doc = include_str!("README.md")]

mod board;
mod error;
mod initiator;
mod operation;
mod pending;
mod prompt;
mod replica;
mod target;

#[cfg(all(test, not(loom)))]
mod tests;

use core::cell::Cell;

use alloc::rc::Rc;

pub(crate) use board::Board;
pub use error::ShootdownError;
use initiator::Initiator;
pub use operation::{EarlyAck, Operation};
pub use pending::PendingShootdown;
use replica::Registry;
pub use replica::{Replica, Source};

use crate::doorbell::Ask;

/// Which of the scoreboards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Served in every drain.
    InDrains,
    /// Served in every drain, and in sections, too.
    Prompt,
    /// Served at safe points.
    AtSafePoints,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::InDrains, Self::Prompt, Self::AtSafePoints];

    /// Those of which something is acknowledged in [sections](crate::preemptible).
    pub(crate) const IN_SECTIONS: [Self; 2] = [Self::Prompt, Self::AtSafePoints];

    fn ask(self) -> Ask {
        match self {
            Self::InDrains => Ask::Shootdown,
            Self::Prompt => Ask::Prompt,
            Self::AtSafePoints => Ask::Update,
        }
    }
}

/// One core's part that the others do not see.
#[derive(Default)]
pub(crate) struct Shootdowns {
    lanes: [Initiator; Lane::ALL.len()],
    /// Operations on this thread's stack.
    operating: Cell<u32>,
    replicas: Rc<Registry>,
}

impl Shootdowns {
    fn lane(&self, lane: Lane) -> &Initiator {
        &self.lanes[lane as usize]
    }

    /// Whether an operation is on this thread's stack.
    pub(crate) fn is_operating(&self) -> bool {
        self.operating.get() > 0
    }
}
