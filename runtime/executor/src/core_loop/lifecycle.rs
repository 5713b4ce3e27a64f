//! When cores end: all of them together, or one while the others go on.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use ipiq_fabric::CoreId;
use ipiq_fabric::admission::AdmitError;

use crate::{Executor, Pause, Remote};

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
    /// It is about to come back.
    Back = 3,
}

/// The core that stays: what threads wait for runs there, and it admits those that come back.
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

    /// Whether `core`, which runs, is to end, with the others or alone.
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

    /// [loop J1]. `false`: it has not left.
    pub(crate) fn prepare_return(&self, core: CoreId) -> bool {
        let (out, back) = (Seat::Out as u8, Seat::Back as u8);
        // [loop J1] acquire: the end of the life before.
        self.seats[core.index()].compare_exchange(out, back, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// It stays out.
    pub(crate) fn give_up_return(&self, core: CoreId) {
        self.seats[core.index()].store(Seat::Out as u8, Ordering::Release);
    }

    /// [loop J2], in a stop of all cores, none of which ends.
    pub(crate) fn returns(&self, core: CoreId) {
        // [loop J2] relaxed: nobody looks before the stop is over.
        self.arrived.iter().for_each(|arrived| _ = arrived.fetch_sub(1, Ordering::Relaxed));
        self.seats[core.index()].store(Seat::Runs as u8, Ordering::Release);
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
    is_due: bool,
}

impl Departure {
    pub(crate) fn new(lifecycle: Arc<Lifecycle>, core: CoreId) -> Self {
        Self { lifecycle, core, is_due: true }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if !self.is_due {
            return;
        }
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
        // [loop D2] [loop D3] what is dropped there may call.
        while self.core().awaits_answers() || self.has_runnable() {
            self.serve(&mut turn);
        }
        // [loop J3] for the next life, which begins after this one.
        self.counts().next_ticket.set(self.xcalls().next());
        self.departs();
    }
}

/// The seat of a core that has come back; not entered, the core leaves at once.
#[must_use = "a core that nobody enters leaves again"]
pub struct Admitted {
    /// Dropped first.
    seat: ipiq_fabric::Seat,
    departure: Departure,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admitted").field(&self.seat).finish()
    }
}

impl Admitted {
    /// The seat, to be entered.
    #[must_use]
    pub fn into_seat(self) -> ipiq_fabric::Seat {
        let Self { seat, mut departure } = self;
        departure.is_due = false;
        seat
    }
}

/// Why a core does not come back.
#[derive(Debug)]
pub struct ReturnError {
    core: CoreId,
    cause: ReturnCause,
}

#[derive(Debug)]
enum ReturnCause {
    Stopping,
    Refused(AdmitError),
}

impl ReturnError {
    /// Whether the cores have been told to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        matches!(self.cause, ReturnCause::Stopping)
    }
}

impl fmt::Display for ReturnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core;
        match &self.cause {
            ReturnCause::Stopping => write!(f, "{core} does not come back: the runtime has been told to stop"),
            ReturnCause::Refused(error) => write!(f, "{core} does not come back: {error}"),
        }
    }
}

impl core::error::Error for ReturnError {}

impl Remote {
    /// Claims the seat of `core`, which has left, for its return. `false`: it has not left, or somebody else has claimed it.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    pub fn prepare_return(&self, core: CoreId) -> bool {
        ipiq_fabric::assert_core(core, self.cores());
        self.lifecycle().prepare_return(core)
    }

    /// Gives the claim up: the core stays out.
    pub fn give_up_return(&self, core: CoreId) {
        self.lifecycle().give_up_return(core);
    }

    /// The seat of `core`, which has been [claimed](Self::prepare_return): all others settle with its former life, in a pause of them all. Whoever waits for this
    /// enters it; if it is an error the claim is given up.
    ///
    /// # Errors
    ///
    /// [`ReturnError`]: all cores are to end, or the core left with calls under way.
    pub async fn admit(&self, core: CoreId) -> Result<Admitted, ReturnError> {
        let lifecycle = self.lifecycle().clone();
        let paused = self.pause(CoreId::new(STAYS), Pause::all(), move |paused| {
            // [loop J2] who has seen the word to stop before this stop has been seen here.
            if lifecycle.is_stopping() {
                return Err(ReturnCause::Stopping);
            }
            let seat = paused.held().admit(core).map_err(ReturnCause::Refused)?;
            lifecycle.returns(core);
            Ok(Admitted { seat, departure: Departure::new(lifecycle, core) })
        });
        let admitted = match paused.await {
            Ok((admitted, _)) => admitted,
            Err(_) => Err(ReturnCause::Stopping),
        };
        admitted.map_err(|cause| {
            self.give_up_return(core);
            ReturnError { core, cause }
        })
    }
}
