//! Stall reports on real threads: what is told of cores that are stuck, wherever they are, and of all cores when somebody asks.

mod all_cores;
mod endings;
mod places;
mod reports;
mod spawned_at;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipiq::{Backtrace, Builder, CoreId, Frame, Runtime, StallReport};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
/// Short, for a stall lasts until it has been told.
const LIMIT: Duration = Duration::from_millis(20);
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime of two cores, and what it reports.
struct Scene {
    runtime: Runtime,
    reports: Receiver<StallReport>,
}

impl Scene {
    fn new(set_up: impl FnOnce(Builder) -> Builder) -> Self {
        let (tell, reports) = channel();
        let builder = Runtime::builder().cores(2).stall_limit(LIMIT);
        // An error: the scene is over.
        let builder = builder.on_stall(move |report| _ = tell.send(report.clone()));
        Self { runtime: set_up(builder).build().expect("a runtime"), reports }
    }

    /// The first report that `wanted` takes. On a busy machine there are others, of cores whose threads have no CPU.
    fn report(&self, wanted: impl Fn(&StallReport) -> bool) -> StallReport {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) if wanted(&report) => return report,
                Ok(report) => others.push(report.to_string()),
                Err(error) => panic!("it is not reported ({error}), but {others:#?}"),
            }
        }
    }

    /// Has core B stall in `body`, again and again, until there is a report that `wanted` takes. `body` is told when it may end.
    fn until_told(&self, body: fn(&AtomicBool), wanted: impl Fn(&StallReport) -> bool) {
        loop {
            let told = Arc::new(AtomicBool::new(false));
            let tell = told.clone();
            let task = self.runtime.handle().spawn_on(B, move || ipiq::named("stuck", async move { body(&told) }));
            let report = self.report(|report| report.core == B && report.task.is_some());
            tell.store(true, Ordering::Relaxed);
            Runtime::wait(task).expect("no panic");
            if is_of(&report, "stuck") && wanted(&report) {
                return;
            }
        }
    }
}

/// Whether it is of the task of that name.
fn is_of(report: &StallReport, name: &str) -> bool {
    report.task.as_ref().and_then(|task| task.name.as_ref()).is_some_and(|given| given.text() == name)
}

fn is_function(frame: &Frame, name: &str) -> bool {
    frame.function.as_ref().is_some_and(|function| function.rsplit("::").any(|part| part == name))
}

/// Whether the backtrace has the function.
fn has(backtrace: &Backtrace, name: &str) -> bool {
    backtrace.frames().iter().any(|frame| is_function(frame, name))
}

fn names(report: &StallReport, function: &str) -> bool {
    report.backtrace.as_ref().is_ok_and(|backtrace| has(backtrace, function))
}

/// A function to be found.
#[inline(never)]
fn spin_here(end: impl Fn() -> bool) -> u64 {
    let mut turns = 0;
    while !end() {
        turns = black_box(turns + 1);
    }
    turns
}

fn spin_until(told: &AtomicBool) {
    black_box(spin_here(|| told.load(Ordering::Relaxed)));
}
