//! The thread that makes names and tells.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipiq_fabric::{CoreId, contain};
use ipiq_linux::interrupt::Interrupts;

use super::inspect::Answered;
use super::{Backtrace, OnStall, StallReport};

/// Stalls that are not told yet.
const PLACES: usize = 64;

/// A stall with what could be had of it.
pub(super) struct Found {
    pub(super) core: CoreId,
    pub(super) lasted: Duration,
    pub(super) answered: Answered,
    pub(super) suppressed: u64,
}

/// The teller's thread, as its runtime has it. It ends when the watcher has.
pub(crate) struct Teller {
    thread: JoinHandle<()>,
}

impl Teller {
    /// Starts it; what is sent is told.
    pub(super) fn start(
        on_stall: Option<OnStall>,
        interrupts: Option<Arc<Interrupts>>,
    ) -> io::Result<(SyncSender<Found>, Self)> {
        let (found, all_found) = sync_channel(PLACES);
        let tell = move || {
            if let Some(interrupts) = interrupts {
                interrupts.keep_out();
            }
            tell_all(&all_found, on_stall.as_ref());
        };
        let thread = thread::Builder::new().name("ipiq-stalls".into()).spawn(tell)?;
        Ok((found, Self { thread }))
    }

    /// [stall E2]
    pub(crate) fn join(self) {
        if self.thread.thread().id() != thread::current().id() {
            // It contains its panics.
            drop(self.thread.join());
        }
    }
}

fn tell_all(all_found: &Receiver<Found>, on_stall: Option<&OnStall>) {
    for Found { core, lasted, answered: (task, trace), suppressed } in all_found {
        // [stall T1]
        contain(|| {
            let backtrace = trace.map(|trace| Backtrace::new(trace.symbolise()));
            let report = StallReport { core, lasted, task, backtrace, suppressed };
            contain(|| warn(&report));
            if let Some(on_stall) = on_stall {
                on_stall(&report);
            }
        });
    }
}

fn warn(report: &StallReport) {
    let StallReport { core, lasted, task, suppressed, .. } = report;
    let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
    let name = task.as_ref().and_then(|task| task.name.as_ref()).map(tracing::field::display);
    let future = task.as_ref().map(|task| task.future);
    tracing::warn!(core = core.index(), lasted_ms, task = name, future, suppressed, "{report}");
}
