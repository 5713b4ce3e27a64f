//! One core's thread, from start to end.

use std::sync::Arc;
use std::sync::mpsc;

use ipiq_driver::{Config, Driver, DriverKind, Notifier};
use ipiq_executor::{Executor, Remote, SpinPolicy};
use ipiq_fabric::{CoreId, Seat, catch};
use ipiq_linux::clock::MonotonicClock;
use ipiq_linux::pin;

use crate::builder::Cause;
use crate::driver;
use crate::idle::DriverIdle;

/// What a core's thread is given.
pub(crate) struct Start {
    pub(crate) seat: Seat,
    pub(crate) remote: Remote,
    pub(crate) cpu: Option<usize>,
    /// Whether not to start where the kernel refuses to pin.
    pub(crate) pin_or_fail: bool,
    pub(crate) driver: DriverKind,
    pub(crate) spin: SpinPolicy,
    /// Says how far the core got.
    pub(crate) report: mpsc::Sender<(CoreId, Result<Ready, Cause>)>,
    /// Closed without a word if another core could not start.
    pub(crate) go: mpsc::Receiver<()>,
}

/// A core that could start.
pub(crate) struct Ready {
    pub(crate) cpu: Option<usize>,
    pub(crate) notifier: Notifier,
    pub(crate) driver: DriverKind,
    pub(crate) fallback: Option<String>,
}

/// A core's thread.
pub(crate) fn main(start: Start) {
    let Start { seat, remote, cpu, pin_or_fail, driver: kind, spin, report, go } = start;
    let id = seat.id();
    let pinned = match cpu.map(|cpu| pin::pin_current(cpu).map(|()| cpu)).transpose() {
        Err(error) if !pin_or_fail => {
            tracing::warn!(%error, "{id} runs unpinned");
            Ok(None)
        }
        pinned => pinned.map_err(|error| Cause::Pin(id, error)),
    };
    let prepared = pinned.and_then(|cpu| {
        let driver = Driver::new(&Config::with_kind(kind)).map_err(|error| Cause::Driver(id, error))?;
        Ok((cpu, driver))
    });
    let (cpu, driver) = match prepared {
        Ok(prepared) => prepared,
        Err(cause) => {
            let _ = report.send((id, Err(cause)));
            return;
        }
    };
    let ready = Ready {
        cpu,
        notifier: driver.notifier(),
        driver: driver.kind(),
        fallback: driver.fallback_reason().map(str::to_owned),
    };
    let _ = report.send((id, Ok(ready)));
    drop(report);
    if go.recv().is_err() {
        return;
    }
    let executor = Executor::new(seat.enter(), remote, Arc::new(MonotonicClock), spin);
    let installed = driver::install(driver.clone());
    // Tasks and message functions contain their panics: one that comes here is a defect of the runtime, and the other
    // cores would wait for this one for ever.
    if let Err(payload) = catch(|| executor.run(&mut DriverIdle(driver))) {
        eprintln!("ipiq: the loop of {id} panicked: {}", ipiq_executor::panic_text(&payload));
        std::process::abort();
    }
    drop(executor);
    drop(installed);
}
