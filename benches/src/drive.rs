//! The loops that every peer is measured with: a peer says how it calls, these say how often and when
//! the clock is read.
//!
//! A section ends by the clock, so a peer that takes a thousand times longer does not take a
//! thousand times longer to measure. The clock is read once per batch; where each call is timed by
//! itself, for percentiles, the cost of reading the clock is measured and taken off.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::hint;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::StreamExt;
use futures::channel::mpsc;
use futures::stream::FuturesUnordered;
use rustix::time::{ClockId, clock_gettime};

use crate::stats::{Spread, Times};
use crate::work::{Figure, Plan};

/// Operations between two readings of the clock.
const BATCH: u64 = 64;

/// Calls of a lane between two readings of the clock.
const LANE_BATCH: u64 = 16;

/// Remote tasks not yet joined at any time.
pub const WINDOW: usize = 4096;

/// Local tasks spawned before they are joined, in the figure by chunks.
pub const CHUNK: usize = 1024;

/// Part of a section that is run before it, unmeasured.
const WARM_UP: u32 = 10;

/// Mean, median and tail of awaiting one answer at a time.
///
/// # Panics
///
/// When a call is lost.
pub async fn round_trips<F, R, E>(plan: Plan, call: impl Fn() -> F) -> Vec<Figure>
where
    F: Future<Output = Result<R, E>>,
    E: Debug,
{
    let call = || async { call().await.expect("a call was lost") };
    mean_ns(plan.section / WARM_UP, call).await;
    let mean = mean_ns(plan.section, call).await;
    let times = each(plan.section, call).await;
    vec![
        Figure::new("p50", times.percentile_ns(50.0)),
        Figure::new("p99", times.percentile_ns(99.0)),
        Figure::new("per_call", mean),
    ]
}

/// Nanoseconds per operation, repeated for a section.
pub async fn mean_ns<F: Future>(section: Duration, operation: impl Fn() -> F) -> f64 {
    let started = Instant::now();
    let mut done = 0;
    loop {
        for _ in 0..BATCH {
            hint::black_box(operation().await);
        }
        done += BATCH;
        let elapsed = started.elapsed();
        if elapsed >= section {
            return per_item_ns(elapsed, done);
        }
    }
}

/// Times of single operations, repeated for a section.
async fn each<F: Future>(section: Duration, operation: impl Fn() -> F) -> Times {
    let mut times = Times::new();
    let started = Instant::now();
    let mut last = started;
    while last - started < section {
        hint::black_box(operation().await);
        let now = Instant::now();
        times.record(clock_ns(now - last));
        // Recording is no part of the next operation.
        last = Instant::now();
    }
    times
}

/// Many tasks that each await one call at a time: the calls under way equal the tasks.
pub struct Lanes {
    section: Duration,
    started: OnceLock<Instant>,
    over: AtomicBool,
    calls: AtomicU64,
    ended_ns: AtomicU64,
}

impl Lanes {
    /// Lanes that run for a section, which starts when the first of them is polled.
    #[must_use]
    pub fn new(section: Duration) -> Arc<Self> {
        Arc::new(Self {
            section,
            started: OnceLock::new(),
            over: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            ended_ns: AtomicU64::new(0),
        })
    }

    /// Calls until the section is over; lane 0 watches the clock for all.
    ///
    /// # Panics
    ///
    /// When a call is lost.
    pub async fn run<F, R, E>(self: Arc<Self>, lane: usize, call: impl Fn() -> F)
    where
        F: Future<Output = Result<R, E>>,
        E: Debug,
    {
        let started = *self.started.get_or_init(Instant::now);
        let mut calls: u64 = 0;
        while !self.over.load(Ordering::Relaxed) {
            hint::black_box(call().await.expect("a call was lost"));
            calls += 1;
            let looks_at_clock = lane == 0 && calls.is_multiple_of(LANE_BATCH);
            if looks_at_clock && started.elapsed() >= self.section {
                self.over.store(true, Ordering::Relaxed);
            }
        }
        self.calls.fetch_add(calls, Ordering::Relaxed);
        self.ended_ns.fetch_max(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Nanoseconds per call from the first lane's start to the last one's end; for after all were joined.
    #[must_use]
    pub fn per_call_ns(&self) -> f64 {
        let elapsed = Duration::from_nanos(self.ended_ns.load(Ordering::Relaxed));
        per_item_ns(elapsed, self.calls.load(Ordering::Relaxed))
    }
}

/// One task that keeps that many calls under way: nanoseconds per call.
///
/// # Panics
///
/// When a call is lost.
pub async fn in_flight_ns<F, R, E>(section: Duration, outstanding: usize, call: impl Fn() -> F) -> f64
where
    F: Future<Output = Result<R, E>>,
    E: Debug,
{
    let started = Instant::now();
    let mut flight: FuturesUnordered<F> = (0..outstanding).map(|_| call()).collect();
    let mut done = 0_u64;
    while let Some(answer) = flight.next().await {
        hint::black_box(answer.expect("a call was lost"));
        done += 1;
        if !done.is_multiple_of(BATCH) || started.elapsed() < section {
            flight.push(call());
        } else {
            break;
        }
    }
    let elapsed = started.elapsed();
    while flight.next().await.is_some() {}
    per_item_ns(elapsed, done)
}

/// Spawns and joins, with at most [`WINDOW`] tasks not yet joined: nanoseconds per task.
///
/// # Panics
///
/// When a task is lost.
pub async fn windowed_spawns_ns<F, R, E>(tasks: usize, spawn: impl Fn() -> F) -> f64
where
    F: Future<Output = Result<R, E>>,
    E: Debug,
{
    let mut window = VecDeque::with_capacity(WINDOW);
    let started = Instant::now();
    for _ in 0..tasks {
        if window.len() == WINDOW
            && let Some(oldest) = window.pop_front()
        {
            join(oldest).await;
        }
        window.push_back(spawn());
    }
    while let Some(oldest) = window.pop_front() {
        join(oldest).await;
    }
    per_item_ns(started.elapsed(), tasks as u64)
}

/// Local tasks: all spawned before the first is joined, in chunks, and one by one. The first batch also pays for memory that the process has
/// never touched, so it has a figure of its own.
pub async fn local_spawns<F, R, E>(plan: Plan, spawn: impl Fn() -> F) -> Vec<Figure>
where
    F: Future<Output = Result<R, E>>,
    E: Debug,
{
    chunked_spawns_ns(CHUNK, CHUNK, &spawn).await;
    let chunked = chunked_spawns_ns(plan.items, CHUNK, &spawn).await;
    let single = mean_ns(plan.section, || join(spawn())).await;
    let first_batch = chunked_spawns_ns(plan.items, plan.items, &spawn).await;
    let batch = chunked_spawns_ns(plan.items, plan.items, &spawn).await;
    vec![
        Figure::new("per_task_batch", batch),
        Figure::new("per_task_first_batch", first_batch),
        Figure::new("per_task_chunk", chunked),
        Figure::new("per_task_single", single),
    ]
}

async fn chunked_spawns_ns<F, R, E>(tasks: usize, chunk: usize, spawn: &impl Fn() -> F) -> f64
where
    F: Future<Output = Result<R, E>>,
    E: Debug,
{
    let mut spawned = Vec::with_capacity(chunk);
    let chunks = tasks.div_ceil(chunk);
    let started = Instant::now();
    for _ in 0..chunks {
        spawned.extend((0..chunk).map(|_| spawn()));
        for task in spawned.drain(..) {
            join(task).await;
        }
    }
    per_item_ns(started.elapsed(), (chunks * chunk) as u64)
}

async fn join<R, E: Debug>(task: impl Future<Output = Result<R, E>>) {
    hint::black_box(task.await.expect("a task was lost"));
}

/// A task of its own on this core.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the long task is asked to give way after, where the peer lets that be chosen.
pub const SLICE: Duration = Duration::from_millis(1);

/// The name of a peer's own [`question`].
pub const QUESTION: &str = "per_question";

/// Names of the figures of [`mixed_load`].
pub struct MixedLoad {
    /// The check alone, when there is nothing to give way to.
    pub per_check: &'static str,
    /// Round trip of the two that talk.
    pub pair_p50: &'static str,
    /// Its tail.
    pub pair_p99: &'static str,
    /// A pass of the long task, with all that ran in between.
    pub per_pass: &'static str,
}

/// What it takes to ask whether to give way, and not to do it; as the figure `name`.
#[must_use]
pub fn question(plan: Plan, name: &'static str, ask: impl Fn() -> bool) -> Figure {
    let started = Instant::now();
    let mut asked = 0;
    loop {
        (0..BATCH).for_each(|_| _ = hint::black_box(ask()));
        asked += BATCH;
        let elapsed = started.elapsed();
        if elapsed >= plan.section {
            return Figure::new(name, per_item_ns(elapsed, asked));
        }
    }
}

/// The figures of a peer's own way of giving way.
pub const OWN_WAY: MixedLoad =
    MixedLoad { per_check: "per_check", pair_p50: "pair_p50", pair_p99: "pair_p99", per_pass: "per_pass" };

/// A long task that asks after every pass whether to give way, and two others of the same core that talk to each other.
///
/// # Panics
///
/// When a task is lost.
pub async fn mixed_load<C: Future + Send>(
    plan: Plan,
    names: &MixedLoad,
    give_way: impl Fn() -> C + Clone + Send + 'static,
    spawn: impl Fn(Task),
) -> Vec<Figure> {
    let per_check = mean_ns(plan.section, &give_way).await;
    let (ask, mut asked) = mpsc::unbounded();
    let (answer, mut answered) = mpsc::unbounded();
    spawn(Box::pin(async move {
        while asked.next().await.is_some() {
            if answer.unbounded_send(()).is_err() {
                return;
            }
        }
    }));
    let (over, passes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (ended, counted) = (Arc::clone(&over), Arc::clone(&passes));
    let started = Instant::now();
    spawn(Box::pin(async move {
        while !ended.load(Ordering::Relaxed) {
            pass();
            counted.fetch_add(1, Ordering::Relaxed);
            give_way().await;
        }
    }));
    let mut times = Times::new();
    while started.elapsed() < plan.section {
        let asked_at = Instant::now();
        ask.unbounded_send(()).expect("the other listens");
        answered.next().await.expect("the other answers");
        times.record(clock_ns(asked_at.elapsed()));
    }
    let per_pass = per_item_ns(started.elapsed(), passes.load(Ordering::Relaxed));
    over.store(true, Ordering::Relaxed);
    vec![
        Figure::new(names.per_check, per_check),
        Figure::new(names.pair_p50, times.percentile_ns(50.0)),
        Figure::new(names.pair_p99, times.percentile_ns(99.0)),
        Figure::new(names.per_pass, per_pass),
    ]
}

/// Some hundred nanoseconds of work.
fn pass() {
    let mut value = hint::black_box(1_u64);
    for _ in 0..100 {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    hint::black_box(value);
}

/// Tasks that sleep at the same time.
pub const SLEEPERS: usize = 10_000;

/// Many tasks of one core that each sleep for one random time after another, between 1 and 100 ms.
pub struct Sleepers {
    each: usize,
    report: mpsc::UnboundedSender<Vec<i64>>,
    reports: mpsc::UnboundedReceiver<Vec<i64>>,
    cpu_time: Duration,
}

impl Sleepers {
    /// Begins to count the calling thread's CPU time.
    #[must_use]
    pub fn begin(plan: Plan) -> Self {
        let (report, reports) = mpsc::unbounded();
        Self { each: plan.items.div_ceil(SLEEPERS), report, reports, cpu_time: thread_cpu_time() }
    }

    /// What one of them does; it reports how late each of its sleeps ended.
    ///
    /// # Panics
    ///
    /// When nobody awaits the figures.
    pub fn sleeper<S, F>(&self, number: usize, sleep: S) -> impl Future<Output = ()> + use<S, F>
    where
        S: Fn(Duration) -> F,
        F: Future,
    {
        let (each, report) = (self.each, self.report.clone());
        async move {
            let mut random = Rng::with_seed(number as u64);
            let mut late_ns = Vec::with_capacity(each);
            let mut last = Instant::now();
            for _ in 0..each {
                let wanted = Duration::from_nanos(random.u64(1_000_000..100_000_000));
                sleep(wanted).await;
                let now = Instant::now();
                late_ns.push((now - last).as_nanos() as i64 - wanted.as_nanos() as i64);
                last = now;
            }
            report.unbounded_send(late_ns).expect("somebody waits for it");
        }
    }

    /// Awaits all of them: CPU time of the core per sleep, with the task's share of it and one reading of the clock; how late the
    /// sleeps ended; and how many ended early.
    ///
    /// # Panics
    ///
    /// When a sleeper is lost.
    pub async fn figures(self) -> Vec<Figure> {
        drop(self.report);
        let reports: Vec<Vec<i64>> = self.reports.collect().await;
        let used = thread_cpu_time() - self.cpu_time;
        let sleeps = reports.iter().map(Vec::len).sum::<usize>();
        assert_eq!(sleeps, self.each * SLEEPERS, "a sleeper was lost");
        let (mut times, mut latest) = (Times::new(), 0);
        for &late_ns in reports.iter().flatten() {
            times.record(late_ns.max(0) as u64);
            latest = latest.max(late_ns);
        }
        let early = reports.iter().flatten().filter(|late_ns| **late_ns < 0).count();
        vec![
            Figure::new("cpu_per_sleep", per_item_ns(used, sleeps as u64)),
            Figure::new("late_p50", times.percentile_ns(50.0)),
            Figure::new("late_p99", times.percentile_ns(99.0)),
            Figure::new("late_max", latest as f64),
            Figure::count("early", early as u64),
        ]
    }
}

/// What the calling thread has used of its CPU.
fn thread_cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// The runtime's own yield, and a future that wakes itself once.
pub async fn yields<F: Future>(plan: Plan, yield_now: impl Fn() -> F) -> Vec<Figure> {
    let own = mean_ns(plan.section, yield_now).await;
    let bare = mean_ns(plan.section, || WakeSelf { woken: false }).await;
    vec![Figure::new("per_yield", own), Figure::new("per_self_wake", bare)]
}

struct WakeSelf {
    woken: bool,
}

impl Future for WakeSelf {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.woken {
            return Poll::Ready(());
        }
        self.woken = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Nanoseconds of a time measured between two readings of the clock, less what a reading takes.
#[must_use]
pub fn clock_ns(measured: Duration) -> u64 {
    static READING_NS: OnceLock<u64> = OnceLock::new();
    let reading = READING_NS.get_or_init(|| {
        let readings = (0..10_001).map(|_| Instant::now().elapsed().as_nanos() as f64);
        Spread::of(readings).map_or(0, |spread| spread.median as u64)
    });
    (measured.as_nanos() as u64).saturating_sub(*reading)
}

/// Nanoseconds per item.
#[must_use]
pub fn per_item_ns(elapsed: Duration, items: u64) -> f64 {
    elapsed.as_nanos() as f64 / items as f64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::future::ready;

    use futures::executor::block_on;
    use futures::future::join_all;

    use super::*;

    const PLAN: Plan = Plan { cpus: [0, 1], section: Duration::from_millis(2), items: 10_000 };

    #[test]
    fn a_window_of_tasks_is_joined_to_the_last() {
        let spawned = Cell::new(0);
        let ns = block_on(windowed_spawns_ns(10_000, || {
            spawned.set(spawned.get() + 1);
            ready(Ok::<_, Infallible>(()))
        }));
        assert_eq!(spawned.get(), 10_000);
        assert!(ns > 0.0);
    }

    #[test]
    fn calls_in_flight_never_exceed_what_was_asked() {
        let (under_way, most) = (Cell::new(0), Cell::new(0));
        block_on(in_flight_ns(PLAN.section, 16, || {
            under_way.set(under_way.get() + 1);
            most.set(most.get().max(under_way.get()));
            async {
                WakeSelf { woken: false }.await;
                under_way.set(under_way.get() - 1);
                Ok::<_, Infallible>(())
            }
        }));
        assert_eq!((under_way.get(), most.get()), (0, 16));
    }

    #[test]
    fn lanes_stop_together_and_count_no_time_after_their_end() {
        let lanes = Lanes::new(PLAN.section);
        let call = || ready(Ok::<_, Infallible>(()));
        block_on(join_all((0..4).map(|lane| Arc::clone(&lanes).run(lane, call))));
        let per_call_ns = lanes.per_call_ns();
        std::thread::sleep(PLAN.section);
        assert_eq!(lanes.per_call_ns(), per_call_ns);
        assert!(per_call_ns > 0.0);
    }

    #[test]
    fn a_round_trip_has_three_figures() {
        let figures = block_on(round_trips(PLAN, || ready(Ok::<_, Infallible>(1))));
        let metrics: Vec<_> = figures.iter().map(|figure| figure.metric).collect();
        assert_eq!(metrics, ["p50", "p99", "per_call"]);
    }

    #[test]
    #[should_panic(expected = "a call was lost")]
    fn a_lost_call_is_not_measured_as_a_fast_one() {
        block_on(round_trips(PLAN, || ready(Err::<(), _>("gone"))));
    }
}
