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
    pub(crate) driver: DriverKind,
    pub(crate) spin: SpinPolicy,
    /// Says how far the core got.
    pub(crate) report: mpsc::Sender<(CoreId, Result<Ready, Cause>)>,
    /// Closed without a word if another core could not start.
    pub(crate) go: mpsc::Receiver<()>,
}

/// A core that could start.
pub(crate) struct Ready {
    pub(crate) notifier: Notifier,
    pub(crate) driver: DriverKind,
    pub(crate) fallback: Option<String>,
}

/// A core's thread.
pub(crate) fn main(start: Start) {
    let Start { seat, remote, cpu, driver: kind, spin, report, go } = start;
    let id = seat.id();
    let prepared = cpu
        .map_or(Ok(()), |cpu| pin::pin_current(cpu).map_err(|error| Cause::Pin(id, error)))
        .and_then(|()| Driver::new(&Config::with_kind(kind)).map_err(|error| Cause::Driver(id, error)));
    let driver = match prepared {
        Ok(driver) => driver,
        Err(cause) => {
            let _ = report.send((id, Err(cause)));
            return;
        }
    };
    let ready = Ready {
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
