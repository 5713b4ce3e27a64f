//! When cores end: all of them together, or one while the others go on.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use ipiq_fabric::CoreId;

use crate::{Executor, Remote};

/// When a set of cores ends.
#[derive(Debug)]
pub struct Lifecycle {
    stop: AtomicBool,
    seats: Box<[AtomicU8]>,
    arrived: [AtomicU32; 2],
}

/// What becomes of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Seat {
    /// It runs, until all end.
    Runs = 0,
    /// It has been asked to leave.
    Leaving = 1,
    /// It has left.
    Out = 2,
}

/// The core that stays: messages for any core go there, and so do those of threads that wait for the cores.
const STAYS: usize = 0;

impl Lifecycle {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            stop: AtomicBool::new(false),
            seats: (0..cores).map(|_| AtomicU8::new(Seat::Runs as u8)).collect(),
            arrived: [AtomicU32::new(0), AtomicU32::new(0)],
        }
    }

    pub(crate) fn stop(&self) {
        // The nudge that follows has a full fence.
        self.stop.store(true, Ordering::Release);
    }

    /// Whether the cores have been told to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether `core` is to end, with the others or alone.
    pub(super) fn is_ending(&self, core: CoreId) -> bool {
        self.is_stopping() || self.has_left(core)
    }

    /// Whether `core` has been asked to leave.
    pub(crate) fn has_left(&self, core: CoreId) -> bool {
        self.seats[core.index()].load(Ordering::Acquire) != Seat::Runs as u8
    }

    /// [loop D1]. `false`: it had been asked before.
    fn leave(&self, core: CoreId) -> bool {
        let (runs, leaving) = (Seat::Runs as u8, Seat::Leaving as u8);
        // [loop D1] the nudge that follows has a full fence.
        self.seats[core.index()].compare_exchange(runs, leaving, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(super) fn arrive(&self, barrier: usize) {
        // Release and acquire: who sees the count sees what the others sent before they arrived.
        self.arrived[barrier].fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn all_arrived(&self, barrier: usize) -> bool {
        self.arrived[barrier].load(Ordering::Acquire) as usize >= self.seats.len()
    }
}

/// Dropped after the endpoint of a core that leaves alone.
pub(crate) struct Departure {
    lifecycle: Arc<Lifecycle>,
    core: CoreId,
}

impl Departure {
    pub(crate) fn new(lifecycle: Arc<Lifecycle>, core: CoreId) -> Self {
        Self { lifecycle, core }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        // [loop D4]
        [0, 1].into_iter().for_each(|barrier| self.lifecycle.arrive(barrier));
        // Release: who sees the core out sees the end of its tasks.
        self.lifecycle.seats[self.core.index()].store(Seat::Out as u8, Ordering::Release);
    }
}

/// Why a core does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveError {
    core: CoreId,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Stays,
    Left,
    Stopping,
}

impl LeaveError {
    /// Whether it is the core that cannot leave while the runtime runs: core 0.
    #[must_use]
    pub fn must_stay(&self) -> bool {
        self.cause == Cause::Stays
    }

    /// Whether the core has left already, or is about to.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.cause == Cause::Left
    }

    /// Whether the runtime has been told to stop: all cores leave.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.cause == Cause::Stopping
    }
}

impl fmt::Display for LeaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core;
        match self.cause {
            Cause::Stays => write!(f, "{core} cannot leave: it stays as long as the runtime; let another core leave"),
            Cause::Left => write!(f, "{core} has left already, or is about to"),
            Cause::Stopping => write!(f, "the runtime has been told to stop: {core} leaves with all others"),
        }
    }
}

impl core::error::Error for LeaveError {}

impl Remote {
    /// Asks `core` to leave: it cancels its tasks and its loop ends, while the others go on. Returns at once.
    ///
    /// # Errors
    ///
    /// [`LeaveError`]: it is core 0, which stays; it has left; or all are about to.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[track_caller]
    pub fn leave(&self, core: CoreId) -> Result<(), LeaveError> {
        let refused = |cause| Err(LeaveError { core, cause });
        let home = self.home(core);
        if core.index() == STAYS {
            return refused(Cause::Stays);
        }
        if self.lifecycle().is_stopping() {
            return refused(Cause::Stopping);
        }
        if !self.lifecycle().leave(core) {
            return refused(Cause::Left);
        }
        home.fabric.nudge(core);
        Ok(())
    }

    /// Whether `core` has left, or has been asked to, while the others went on.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    #[track_caller]
    pub fn has_left(&self, core: CoreId) -> bool {
        ipiq_fabric::assert_core(core, self.cores());
        self.lifecycle().has_left(core)
    }
}

impl Executor {
    /// [loop D1] to [loop D3]
    pub(super) fn leave(&self) {
        let mut turn = 0;
        // [loop D1]
        self.cancel_all();
        while self.tasks().len() > 0 {
            self.serve(&mut turn);
        }
        // Cut by whoever had it leave, which no end of all tells of.
        self.cuts().tell();
        // [loop D2]
        while self.core().awaits_answers() {
            self.serve(&mut turn);
        }
        // [loop D3]
        self.run_what_is_here();
        self.departs();
    }
}
