//! The thread that goes through the phases.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ipiq_fabric::CoreId;

use super::board::{Board, Service};
use super::guard::Guard;
use super::plan::{DRAIN, Step};
use super::report::{PhaseHolder, PhaseReport, ShutdownReport, StuckCore};
use crate::runtime::Sleeper;
use crate::{Runtime, time};

/// The conductor's thread, from start to end.
pub(super) fn main(board: Arc<Board>) {
    if board.paused {
        let on_core = board.clone();
        // Where the runtime is stopped meanwhile it is cut, and what it has not told has not begun.
        let task = board.remote.spawn_on(CoreId::new(0), move || hold_phases(on_core, Timer::Core));
        if Runtime::wait(task).is_err() {
            board.cut_short();
        }
    } else {
        let timer = Rc::new(Cell::new(None));
        wait_until(&timer, hold_phases(board.clone(), Timer::Machine(timer.clone())));
    }
    finish(&board);
    board.tell(None);
}

/// [shutdown B1]: without a thread.
pub(super) fn stop_at_once(board: &Board, reason: String) {
    board.over();
    board.remote.stop();
    for step in board.not_begun().into_iter().chain([board.plan().cancel().clone(), board.plan().join().clone()]) {
        board.add_phase(report(&step));
    }
    board.tell(Some(reason));
}

/// [shutdown B9]: what a forked child is told, in which nothing is locked.
pub(super) fn of_nobody(board: &Board) -> ShutdownReport {
    let plan = board.plan();
    let phases = plan.held().iter().chain([plan.cancel(), plan.join()]).map(report).collect();
    let refused = Some("this process is a forked child, and has none of the runtime's threads".into());
    ShutdownReport { phases, refused, ..ShutdownReport::default() }
}

/// Who measures the limits.
enum Timer {
    /// The machine's clock; the thread that polls sleeps until then.
    Machine(Rc<Cell<Option<Instant>>>),
    /// That of the core that polls.
    Core,
}

impl Timer {
    fn now(&self, start: Instant) -> Duration {
        match self {
            Self::Machine(_) => start.elapsed(),
            Self::Core => Duration::from_nanos(time::now_ns()),
        }
    }

    fn deadline(&self, limit: Duration) -> Deadline {
        match self {
            Self::Machine(next) => {
                let at = Instant::now().checked_add(limit);
                next.set(at);
                Deadline::Machine(at)
            }
            Self::Core => Deadline::Core(Box::pin(time::sleep(limit))),
        }
    }
}

enum Deadline {
    /// `None`: never.
    Machine(Option<Instant>),
    Core(Pin<Box<time::Sleep>>),
}

impl Deadline {
    fn has_passed(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Machine(at) => at.is_some_and(|at| Instant::now() >= at),
            Self::Core(sleep) => sleep.as_mut().poll(cx).is_ready(),
        }
    }
}

/// The phases that may be held open, one after the other; then stops the runtime, before a clock that stands still goes on.
async fn hold_phases(board: Arc<Board>, timer: Timer) {
    let start = Instant::now();
    // Services that have been stopped, or were too late.
    let (mut drains, mut seen) = (false, 0);
    for (phase, step) in board.plan().held().iter().enumerate() {
        if board.remote.is_stopping() {
            break;
        }
        let begun = timer.now(start);
        let mut deadline = timer.deadline(step.limit);
        board.add_phase(PhaseReport { took: Some(Duration::ZERO), ..report(step) });
        board.begin(phase);
        let in_time = until(&board, &mut deadline, || board.is_quiet(phase)).await;
        // [shutdown B3]
        let mut held_by = if in_time { Vec::new() } else { board.holders(phase) };
        drains |= step.name == DRAIN;
        if drains && in_time {
            held_by = stop_services(&board, phase, &mut deadline, &mut seen).await;
        } else if drains {
            // Too late for them.
            let (late, next) = board.services(seen);
            seen = next;
            held_by.extend(late.iter().map(Service::holder));
        }
        let took = timer.now(start).saturating_sub(begun);
        let stopped = board.remote.is_stopping();
        board.change_phase(phase, |report| {
            report.took = Some(took);
            // Who is cut by the stop may have let go before the look.
            if stopped { report.cut_by_stop(held_by) } else { report.held_by = held_by }
        });
    }
    // [shutdown B5]
    board.over();
    // [shutdown B6]
    board.remote.stop();
}

/// [shutdown B4]: services from `seen` on, and those that start meanwhile. Returns what has not stopped in time.
async fn stop_services(board: &Arc<Board>, phase: usize, deadline: &mut Deadline, seen: &mut u64) -> Vec<PhaseHolder> {
    loop {
        let (services, next) = board.services(*seen);
        *seen = next;
        if services.is_empty() {
            return Vec::new();
        }
        if !stop_in_time(board, phase, deadline, services).await {
            let mut held_by = board.holders(phase);
            // Started meanwhile, and too late.
            let (late, next) = board.services(*seen);
            *seen = next;
            held_by.extend(late.iter().map(Service::holder));
            return held_by;
        }
    }
}

/// Whether all of `services` have stopped before the deadline.
async fn stop_in_time(board: &Arc<Board>, phase: usize, deadline: &mut Deadline, services: Vec<Service>) -> bool {
    let guarded = |service: Service| {
        let PhaseHolder { name, location, .. } = service.holder();
        (Guard::new(board.clone(), phase, name, location), service)
    };
    let services: Vec<(Guard, Service)> = services.into_iter().map(guarded).collect();
    let failures = board.clone();
    drop(board.remote.spawn_on(CoreId::new(0), move || async move {
        for (guard, service) in services {
            if let Err(error) = (service.stop)().await {
                let text = format!("service {}, {error}", service.name);
                failures.change_phase(phase, |report| report.failures.push(text));
            }
            drop(guard);
        }
    }));
    until(board, deadline, || board.is_quiet(phase)).await
}

/// Whether `done` held before the deadline; `false`, too, if the runtime is stopped meanwhile.
async fn until(board: &Board, deadline: &mut Deadline, done: impl Fn() -> bool) -> bool {
    poll_fn(|cx| {
        board.listen(cx.waker());
        if done() {
            return Poll::Ready(true);
        }
        if board.remote.is_stopping() || deadline.has_passed(cx) { Poll::Ready(false) } else { Poll::Pending }
    })
    .await
}

/// The phases that need no core's help, by the machine's clock.
fn finish(board: &Board) {
    for step in board.not_begun() {
        board.add_phase(report(&step));
    }
    board.over();
    board.remote.stop();
    let stuck = |cores: Vec<CoreId>| -> Vec<StuckCore> {
        let polls = |core| board.remote.polled_task(core).map(|task| task.future);
        cores.into_iter().map(|core| StuckCore { core, polls: polls(core) }).collect()
    };
    // [shutdown B6]
    let (took, _) = wait_for(board, board.plan().cancel().limit, || board.not_emptied().is_empty());
    let cores = stuck(board.not_emptied());
    board.add_phase(PhaseReport { took: Some(took), cores, ..report(board.plan().cancel()) });
    // [shutdown B7]
    let limit = board.plan().join().limit;
    let (took, ended) = wait_for(board, limit, || board.not_ended().is_empty());
    let cores = stuck(board.not_ended());
    let begun = Instant::now();
    let blocking = if ended {
        board.pool.end();
        board.pool.wait_for_end(limit.saturating_sub(took))
    } else {
        board.pool.busy()
    };
    let took = Some(took + begun.elapsed());
    board.add_phase(PhaseReport { took, cores, blocking, ..report(board.plan().join()) });
}

fn report(step: &Step) -> PhaseReport {
    PhaseReport { name: step.name.clone(), limit: step.limit, ..PhaseReport::default() }
}

/// Blocks until `done` holds or `limit` has passed. Returns how long that took, and whether it holds.
fn wait_for(board: &Board, limit: Duration, done: impl Fn() -> bool) -> (Duration, bool) {
    let start = Instant::now();
    let timer = Rc::new(Cell::new(start.checked_add(limit)));
    let mut deadline = Deadline::Machine(timer.get());
    let met = wait_until(
        &timer,
        poll_fn(|cx| {
            board.listen(cx.waker());
            if done() {
                return Poll::Ready(true);
            }
            if deadline.has_passed(cx) { Poll::Ready(false) } else { Poll::Pending }
        }),
    );
    (start.elapsed(), met)
}

/// [`Runtime::wait`], which polls again when the instant in `timer` has come.
fn wait_until<F: Future>(timer: &Cell<Option<Instant>>, future: F) -> F::Output {
    let sleeper = Arc::new(Sleeper::new(thread::current()));
    let waker = Waker::from(sleeper.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        sleeper.sleep_until(timer.get());
    }
}
