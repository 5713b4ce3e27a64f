//! What the threads of a runtime's cores are started with.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle as ThreadHandle;

use futures_channel::oneshot;
use ipiq_driver::{CountersReader, DriverKind, Notifier};
use ipiq_executor::{Remote, SpinPolicy};
use ipiq_fabric::{CoreId, Seat};
use ipiq_linux::interrupt::Interrupts;
use ipiq_linux::placement::Spot;
use ipiq_linux::port::LinuxPort;

use crate::blocking::Pool;
use crate::builder::{Cause, ThreadHook, ThreadName};
use crate::calls::Limit;
use crate::paused_clock::PausedClock;
use crate::shutdown::Board;
use crate::slices::Bell;
use crate::stalls::Inspect;
use crate::thread::{self, Ready, Start};
use crate::threads::{ReturnError, Threads};

/// The same for every core, but where said.
pub(crate) struct Crew {
    pub(crate) remote: Remote,
    /// By core.
    pub(crate) spots: Vec<Spot>,
    /// Whether not to start where the kernel refuses to pin.
    pub(crate) pin_or_fail: bool,
    pub(crate) driver: DriverKind,
    pub(crate) spin: SpinPolicy,
    /// In place of the machine's.
    pub(crate) clock: Option<Arc<PausedClock>>,
    pub(crate) thread_name: ThreadName,
    pub(crate) on_start: Option<ThreadHook>,
    pub(crate) blocking: Arc<Pool>,
    pub(crate) call_limit: Limit,
    /// Of the thread that watches over time slices.
    pub(crate) bell: Arc<Bell>,
    pub(crate) inspect: Arc<Inspect>,
    /// Of the end in phases.
    pub(crate) board: Arc<Board>,
    pub(crate) interrupts: Option<(Arc<LinuxPort>, Arc<Interrupts>)>,
    /// Whether not to start where the thread cannot be interrupted.
    pub(crate) interrupt_or_fail: bool,
}

/// What of a core's first driver serves those of its next lives.
#[derive(Clone)]
pub(crate) struct Former {
    /// Whoever kicks the core has it.
    pub(crate) notifier: Notifier,
    pub(crate) counters: CountersReader,
}

/// How a thread comes to its seat.
pub(crate) enum Arrival {
    /// With the others.
    First {
        /// Says how far the core got.
        report: mpsc::Sender<(CoreId, Result<Ready, Cause>)>,
        /// Closed without a seat if another core could not start.
        go: mpsc::Receiver<Seat>,
    },
    /// The core has left before; says whether it is back.
    Again(oneshot::Sender<Result<(), ReturnError>>),
}

impl Crew {
    pub(crate) fn start(
        &self,
        core: CoreId,
        threads: &Arc<Threads>,
        former: Option<Former>,
        arrival: Arrival,
    ) -> Start {
        Start {
            core,
            remote: self.remote.clone(),
            spot: self.spots[core.index()].clone(),
            pin_or_fail: self.pin_or_fail,
            driver: self.driver,
            former,
            spin: self.spin,
            clock: self.clock.clone(),
            on_start: self.on_start.clone(),
            blocking: self.blocking.clone(),
            call_limit: self.call_limit,
            bell: self.bell.clone(),
            inspect: self.inspect.clone(),
            board: self.board.clone(),
            threads: threads.clone(),
            interrupts: self.interrupts.clone(),
            interrupt_or_fail: self.interrupt_or_fail,
            arrival,
        }
    }

    pub(crate) fn spawn(name: String, start: Start) -> io::Result<ThreadHandle<()>> {
        std::thread::Builder::new().name(name).spawn(move || thread::main(start))
    }
}
