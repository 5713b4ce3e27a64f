//! One core's thread, from start to end.

use std::io;
use std::sync::Arc;

use ipiq_driver::{Config, CountersReader, Driver, DriverKind, Notifier};
use ipiq_executor::{Executor, Remote, SpinPolicy};
use ipiq_fabric::port::{Clock, Idle};
use ipiq_fabric::{CoreId, Panic, PanicPayload, Seat, catch, contain};
use ipiq_linux::clock::MonotonicClock;
use ipiq_linux::interrupt::{CoreThread, Interrupts};
use ipiq_linux::membarrier::Pinned;
use ipiq_linux::pin;
use ipiq_linux::placement::{Spot, WhyUnpinned};
use ipiq_linux::port::LinuxPort;

use crate::Runtime;
use crate::blocking::{self, Pool};
use crate::builder::{Cause, ThreadHook};
use crate::calls::{self, Limit};
use crate::crew::{Arrival, Former};
use crate::driver;
use crate::home;
use crate::idle::DriverIdle;
use crate::paused_clock::{PausedClock, PausedIdle};
use crate::shutdown::{self, Board};
use crate::slices::Bell;
use crate::stalls::{self, Inspect};
use crate::threads::{self, AtEnd, ReturnError, Threads};

/// What a core's thread is given.
pub(crate) struct Start {
    pub(crate) core: CoreId,
    pub(crate) remote: Remote,
    pub(crate) spot: Spot,
    /// Whether not to start where the kernel refuses to pin.
    pub(crate) pin_or_fail: bool,
    pub(crate) driver: DriverKind,
    /// `None`: this is the core's first life.
    pub(crate) former: Option<Former>,
    pub(crate) spin: SpinPolicy,
    /// In place of the machine's.
    pub(crate) clock: Option<Arc<PausedClock>>,
    pub(crate) on_start: Option<ThreadHook>,
    pub(crate) blocking: Arc<Pool>,
    pub(crate) call_limit: Limit,
    /// Of the thread that watches over time slices.
    pub(crate) bell: Arc<Bell>,
    pub(crate) inspect: Arc<Inspect>,
    pub(crate) board: Arc<Board>,
    pub(crate) threads: Arc<Threads>,
    pub(crate) interrupts: Option<(Arc<LinuxPort>, Arc<Interrupts>)>,
    /// Whether not to start where the thread cannot be interrupted.
    pub(crate) interrupt_or_fail: bool,
    pub(crate) arrival: Arrival,
}

/// A core that could start.
pub(crate) struct Ready {
    pub(crate) spot: Spot,
    pub(crate) pinned: Option<Pinned>,
    pub(crate) notifier: Notifier,
    pub(crate) driver: DriverKind,
    pub(crate) counters: CountersReader,
    pub(crate) fallback: Option<String>,
    pub(crate) interrupt_fallback: Option<String>,
}

/// What may be refused.
struct Prepared {
    spot: Spot,
    driver: Driver,
    /// Dropped after the core.
    interrupted: Option<CoreThread>,
    interrupt_fallback: Option<String>,
}

/// A core's thread.
pub(crate) fn main(start: Start) {
    let id = start.core;
    let _at_end = AtEnd { threads: start.threads.clone(), core: id };
    let prepared = catch(|| prepare(&start)).unwrap_or_else(|payload| {
        let panic = Panic::new(payload);
        let text = format!("it panicked while it started: {panic}");
        contain(|| drop(panic));
        Err(Cause::Thread(id, io::Error::other(text)))
    });
    let Start { remote, spin, clock, blocking, call_limit, bell, inspect, board, threads, arrival, .. } = start;
    let others =
        Others { remote: &remote, clock: clock.as_deref(), inspect: &inspect, board: &board, threads: &threads };
    let Some((seat, Prepared { driver, interrupted, .. })) = arrive(id, others, arrival, prepared) else { return };
    calls::install_limit(call_limit);
    let installed = (blocking::install(blocking), stalls::install(inspect), threads::install(threads));
    let boarded = shutdown::install(board.clone());
    if let Err(payload) = catch(|| run(seat, remote, driver, bell, spin, clock, &board)) {
        die(id, payload);
    }
    drop((boarded, installed));
    drop(interrupted);
    // [shutdown B7]
    board.ended(id);
}

/// Who is told of a core that comes back.
#[derive(Clone, Copy)]
struct Others<'a> {
    remote: &'a Remote,
    clock: Option<&'a PausedClock>,
    inspect: &'a Inspect,
    board: &'a Board,
    threads: &'a Threads,
}

/// Tells how far the core got, and takes its seat; `None`: it does not run.
fn arrive(
    id: CoreId,
    others: Others<'_>,
    arrival: Arrival,
    prepared: Result<Prepared, Cause>,
) -> Option<(Seat, Prepared)> {
    match arrival {
        Arrival::First { report, go } => {
            let (ready, prepared) = match prepared {
                Ok(mut prepared) => (Ok(prepared.ready()), Some(prepared)),
                Err(cause) => (Err(cause), None),
            };
            let _ = report.send((id, ready));
            drop(report);
            Some((go.recv().ok()?, prepared?))
        }
        Arrival::Again(tell) => {
            let returned = others.bring_back(id, prepared);
            match returned {
                Ok(returned) => {
                    let _ = tell.send(Ok(()));
                    Some(returned)
                }
                Err(error) => {
                    others.threads.refuse(id, tell, error);
                    None
                }
            }
        }
    }
}

impl Others<'_> {
    fn bring_back(self, id: CoreId, prepared: Result<Prepared, Cause>) -> Result<(Seat, Prepared), ReturnError> {
        let prepared = prepared.map_err(|cause| {
            self.remote.give_up_return(id);
            ReturnError::start(id, cause)
        })?;
        // [threads R3] [paused P7]
        self.clock.into_iter().for_each(|clock| clock.come_back(id));
        self.board.began(id);
        match Runtime::wait(self.remote.admit(id)) {
            Ok(admitted) => {
                // [threads R4]
                self.inspect.instruments().set_spot(id, prepared.spot.clone());
                home::arrive_anew();
                Ok((admitted.into_seat(), prepared))
            }
            Err(error) => {
                self.clock.into_iter().for_each(|clock| clock.leave(id));
                self.board.stays_out(id);
                Err(ReturnError::refused(id, error))
            }
        }
    }
}

impl Prepared {
    fn ready(&mut self) -> Ready {
        Ready {
            // Without it a fence of this core alone is everyone's.
            pinned: self.spot.cpu().and_then(|_| Pinned::current().ok()),
            spot: self.spot.clone(),
            notifier: self.driver.notifier(),
            driver: self.driver.kind(),
            counters: self.driver.counters(),
            fallback: self.driver.fallback_reason().map(str::to_owned),
            interrupt_fallback: self.interrupt_fallback.take(),
        }
    }
}

/// Tasks and message functions contain their panics: one that comes here is a defect of the runtime, and the other cores
/// would wait for this one for ever.
fn die(id: CoreId, payload: PanicPayload) -> ! {
    eprintln!("ipiq: the loop of {id} panicked: {}", Panic::new(payload));
    std::process::abort();
}

fn prepare(start: &Start) -> Result<Prepared, Cause> {
    let id = start.core;
    // First: what is made from here on lies in the memory of the core's node.
    let spot = take_place(start)?;
    if let Some(on_start) = &start.on_start {
        on_start(id);
    }
    let (interrupted, interrupt_fallback) = accept_interrupts(start)?;
    let config = Config::with_kind(start.driver);
    // [threads R2]
    let driver = match &start.former {
        Some(Former { notifier, counters }) => Driver::in_place_of(&config, notifier.clone(), counters),
        None => Driver::new(&config),
    };
    let driver = driver.map_err(|error| Cause::Driver(id, error))?;
    Ok(Prepared { spot, driver, interrupted, interrupt_fallback })
}

/// Brings the thread to its spot. Returns where it is.
fn take_place(start: &Start) -> Result<Spot, Cause> {
    let id = start.core;
    let refused = match &start.spot {
        Spot::Cpu(cpu) => match pin::pin_current(*cpu) {
            Ok(()) => None,
            Err(error) if start.pin_or_fail => return Err(Cause::Pin(id, error)),
            Err(error) => Some(error.to_string()),
        },
        Spot::Node { cpus, .. } => pin::unpin_current(cpus).err().map(|error| error.to_string()),
        _ => None,
    };
    let Some(error) = refused else { return Ok(start.spot.clone()) };
    tracing::warn!(%error, "{id} runs unpinned");
    Ok(Spot::Anywhere(WhyUnpinned::Refused(error)))
}

/// Makes the thread the one that its core is interrupted on, or says why not.
fn accept_interrupts(start: &Start) -> Result<(Option<CoreThread>, Option<String>), Cause> {
    let id = start.core;
    let Some((port, interrupts)) = &start.interrupts else { return Ok((None, None)) };
    match CoreThread::enter(port.clone(), id, interrupts.clone()) {
        Ok(interrupted) => Ok((Some(interrupted), None)),
        Err(error) if start.interrupt_or_fail => Err(Cause::CoreInterrupts(id, error)),
        Err(error) => {
            tracing::warn!(%error, "{id} is not interrupted");
            Ok((None, Some(format!("{id}: {error}"))))
        }
    }
}

/// From the word to go to the end.
fn run(
    seat: Seat,
    remote: Remote,
    driver: Driver,
    bell: Arc<Bell>,
    spin: SpinPolicy,
    paused: Option<Arc<PausedClock>>,
    board: &Arc<Board>,
) {
    let id = seat.id();
    let installed = driver::install(driver.clone());
    let idle = DriverIdle { driver, bell };
    let (clock, mut idle): (Arc<dyn Clock>, Box<dyn Idle>) = match paused {
        Some(paused) => (paused.clone(), Box::new(PausedIdle::new(idle, paused, id))),
        None => (Arc::new(MonotonicClock), Box::new(idle)),
    };
    let executor = Executor::new(seat.enter(), remote, clock, spin);
    // [shutdown B6]
    let told = board.clone();
    executor.when_emptied(move |cuts| told.emptied(id, cuts));
    // Before anything is dropped that the tasks may use.
    if let Err(payload) = catch(|| executor.run(&mut *idle)) {
        die(id, payload);
    }
    drop(executor);
    drop(installed);
}
