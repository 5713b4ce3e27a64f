//! tokio: one current-thread runtime per core, or one multi-thread runtime over both.
//!
//! A current-thread runtime cannot call another by itself; its users send boxed closures through a
//! channel and await a oneshot (`ct`), or spawn through the other runtime's handle (`ct-spawn`).
//! Both park when idle; the `-busy` variants keep each runtime awake by a task that only yields,
//! which is a trick and no option of tokio's.

use std::convert::Infallible;
use std::fmt::Debug;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as threads;
use std::thread;
use std::time::Instant;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::task::{self, JoinHandle, LocalSet};

use crate::drive::{self, Lanes, Sleepers};
use crate::machine::{CpuPair, pin};
use crate::memory;
use crate::work::{Figure, Outcome, Peer, Plan, PostPayload};

/// Closures through a channel, parking when idle.
pub(super) static CURRENT_THREAD: Tokio = Tokio {
    variant: "ct",
    note: "one current-thread runtime per core; boxed closures through a channel",
    way: Way::Channel { busy: false },
};

/// Closures through a channel, kept awake.
pub(super) static CURRENT_THREAD_BUSY: Tokio = Tokio {
    variant: "ct-busy",
    note: "as ct, each runtime kept awake by a task that only yields (a trick, not an option)",
    way: Way::Channel { busy: true },
};

/// Spawned through the other runtime's handle, parking when idle.
pub(super) static CURRENT_THREAD_SPAWN: Tokio = Tokio {
    variant: "ct-spawn",
    note: "one current-thread runtime per core; spawned through the other's handle",
    way: Way::Handle { busy: false },
};

/// Spawned through the other runtime's handle, kept awake.
pub(super) static CURRENT_THREAD_SPAWN_BUSY: Tokio =
    Tokio { variant: "ct-spawn-busy", note: "as ct-spawn, kept awake as ct-busy", way: Way::Handle { busy: true } };

/// Two workers that steal from each other.
pub(super) static MULTI_THREAD: Tokio = Tokio {
    variant: "mt",
    note: "two pinned workers; cannot place work: a call may never leave its caller's core",
    way: Way::Workers,
};

/// Messages that fit into the channel, as many as into the other peers' rings.
const CHANNEL_ITEMS: usize = 1024;

/// tokio in one way of using it.
pub(super) struct Tokio {
    variant: &'static str,
    note: &'static str,
    way: Way,
}

#[derive(Clone, Copy)]
enum Way {
    Channel { busy: bool },
    Handle { busy: bool },
    Workers,
}

/// Runs one of the measurements below in the way of the variant.
macro_rules! measure {
    ($peer:ident, $plan:ident, $measurement:ident($($argument:expr),*)) => {
        match $peer.way {
            Way::Channel { busy } => on_cores($plan.cpus, busy, move |target| {
                $measurement(Channel(target.jobs) $(, $argument)*)
            }),
            Way::Handle { busy } => on_cores($plan.cpus, busy, move |target| {
                $measurement(Remote(target.handle) $(, $argument)*)
            }),
            Way::Workers => on_workers($plan.cpus, $measurement(Workers $(, $argument)*)),
        }
    };
}

impl Peer for Tokio {
    fn runtime(&self) -> &'static str {
        "tokio"
    }

    fn variant(&self) -> &'static str {
        self.variant
    }

    fn note(&self) -> Option<&'static str> {
        Some(self.note)
    }

    fn call_rtt(&self, plan: Plan) -> Outcome {
        measure!(self, plan, call_rtt(plan))
    }

    fn call_pipelined(&self, plan: Plan, outstanding: usize) -> Outcome {
        measure!(self, plan, call_pipelined(plan, outstanding))
    }

    fn spawn_on(&self, plan: Plan) -> Outcome {
        measure!(self, plan, spawn_on(plan))
    }

    fn spawn_local(&self, plan: Plan) -> Outcome {
        if self.differs_from_ct_only_across_cores() {
            return Outcome::Elsewhere;
        }
        measure!(self, plan, spawn_local(plan))
    }

    fn yield_now(&self, plan: Plan) -> Outcome {
        if self.differs_from_ct_only_across_cores() {
            return Outcome::Elsewhere;
        }
        measure!(self, plan, yield_now(plan))
    }

    fn post(&self, plan: Plan) -> Outcome {
        if let Way::Handle { .. } = self.way {
            return Outcome::Elsewhere;
        }
        measure!(self, plan, post(plan))
    }

    fn wake_parked(&self, plan: Plan) -> Outcome {
        match self.way {
            Way::Channel { busy: true } | Way::Handle { busy: true } => Outcome::Elsewhere,
            Way::Workers => Outcome::NotOffered,
            Way::Channel { busy: false } | Way::Handle { busy: false } => {
                measure!(self, plan, call_rtt(plan))
            }
        }
    }

    fn broadcast(&self, plan: Plan) -> Outcome {
        match self.way {
            Way::Workers => Outcome::NotOffered,
            Way::Channel { .. } | Way::Handle { .. } => measure!(self, plan, broadcast(plan)),
        }
    }

    fn cpusync(&self, plan: Plan) -> Outcome {
        match self.way {
            Way::Handle { .. } => Outcome::Elsewhere,
            Way::Channel { .. } | Way::Workers => measure!(self, plan, barrier(plan)),
        }
    }

    fn shootdown(&self, plan: Plan) -> Outcome {
        // A broadcast, again.
        self.broadcast(plan)
    }

    fn preempt(&self, plan: Plan) -> Outcome {
        match self.way {
            Way::Channel { busy: false } => measure!(self, plan, preempt(plan)),
            // With several workers the two that talk go elsewhere.
            Way::Workers => Outcome::NotOffered,
            _ => Outcome::Elsewhere,
        }
    }

    fn timers(&self, plan: Plan) -> Outcome {
        match self.way {
            Way::Channel { busy: false } => measure!(self, plan, timers(plan)),
            // Of one core.
            _ => Outcome::Elsewhere,
        }
    }

    fn memory(&self, plan: Plan) -> Outcome {
        match self.way {
            Way::Channel { busy: true } | Way::Handle { busy: true } => Outcome::Elsewhere,
            // Its calls go to no other core that could be kept from answering.
            Way::Workers => on_workers(plan.cpus, memory_of_tasks(Workers, plan)),
            _ => measure!(self, plan, memory_of_tasks_and_calls(plan)),
        }
    }
}

impl Tokio {
    fn differs_from_ct_only_across_cores(&self) -> bool {
        !matches!(self.way, Way::Channel { busy: false } | Way::Workers)
    }
}

async fn call_rtt(reach: impl Reach, plan: Plan) -> Vec<Figure> {
    drive::round_trips(plan, || reach.call()).await
}

async fn call_pipelined<R: Reach>(reach: R, plan: Plan, outstanding: usize) -> Vec<Figure> {
    let lanes = Lanes::new(plan.section);
    let tasks: Vec<_> = (0..outstanding)
        .map(|lane| {
            let (lanes, reach) = (Arc::clone(&lanes), reach.clone());
            R::spawn_here(async move { lanes.run(lane, || reach.call()).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("a lane panicked");
    }
    let one_task = drive::in_flight_ns(plan.section, outstanding, || reach.call()).await;
    vec![Figure::new("per_call", lanes.per_call_ns()), Figure::new("per_call_one_task", one_task)]
}

async fn spawn_on(reach: impl Reach, plan: Plan) -> Vec<Figure> {
    let per_task = drive::windowed_spawns_ns(plan.items, || reach.spawn(async {})).await;
    vec![Figure::new("per_task", per_task)]
}

async fn spawn_local<R: Reach>(_reach: R, plan: Plan) -> Vec<Figure> {
    drive::local_spawns(plan, || R::spawn_here(async {})).await
}

async fn yield_now(_reach: impl Reach, plan: Plan) -> Vec<Figure> {
    drive::yields(plan, task::yield_now).await
}

/// Messages through a bounded channel of tokio's, counted by the task that receives them.
async fn post(reach: impl Reach, plan: Plan) -> Vec<Figure> {
    let (outbox, mut inbox) = mpsc::channel::<PostPayload>(CHANNEL_ITEMS);
    let received = reach.spawn(async move {
        let mut arrived = 0;
        while let Some(message) = inbox.recv().await {
            hint::black_box(message);
            arrived += 1;
        }
        assert_eq!(arrived, plan.items, "each message arrives once");
    });
    let started = Instant::now();
    for number in 0..plan.items {
        outbox.send([number as u64; 6]).await.expect("the receiver stays");
    }
    drop(outbox);
    received.await.expect("the receiver ends");
    vec![Figure::new("per_message", drive::per_item_ns(started.elapsed(), plan.items as u64))]
}

/// As its users write it: the same closure to each core, one answer awaited after the other.
async fn broadcast<R: Reach>(reach: R, plan: Plan) -> Vec<Figure> {
    let all = || async {
        let there = reach.call();
        let (tell, told) = oneshot::channel();
        R::spawn_here(async move {
            let _ = tell.send(hint::black_box(1));
        });
        let here = told.await.expect("the own part answers");
        there.await.map(|answer| answer + here)
    };
    drive::round_trips(plan, all).await
}

/// Tasks that meet at a barrier of tokio's and do nothing else: nobody is stopped, they come by themselves.
async fn barrier(reach: impl Reach, plan: Plan) -> Vec<Figure> {
    let barrier = Arc::new(Barrier::new(2));
    let other = Arc::clone(&barrier);
    // It waits for a last meeting when its runtime ends.
    drop(reach.spawn(async move {
        loop {
            other.wait().await;
        }
    }));
    let meet = || async {
        barrier.wait().await;
        Ok::<_, Infallible>(())
    };
    drive::round_trips(plan, meet).await
}

/// By tokio's budget: of so many steps, whatever they cost.
async fn preempt<R: Reach>(_reach: R, plan: Plan) -> Vec<Figure> {
    let spawn = |task: drive::Task| drop(R::spawn_here(task));
    let mut figures = vec![drive::question(plan, drive::QUESTION, || !task::coop::has_budget_remaining())];
    figures.extend(drive::mixed_load(plan, &drive::OWN_WAY, task::coop::consume_budget, spawn).await);
    figures
}

/// In tasks of the runtime itself: those of a `LocalSet` cost more.
async fn timers(_reach: impl Reach, plan: Plan) -> Vec<Figure> {
    let sleepers = Sleepers::begin(plan);
    for number in 0..drive::SLEEPERS {
        drop(task::spawn(sleepers.sleeper(number, tokio::time::sleep)));
    }
    sleepers.figures().await
}

async fn memory_of_tasks_and_calls<R: Reach>(reach: R, plan: Plan) -> Vec<Figure> {
    reach.call().await.expect("the other core runs");
    let gate = memory::Gate::default();
    let blocks = gate.clone();
    let blocked = reach.spawn(async move { blocks.block() });
    let mut figures = memory::pending_calls(gate, || reach.call(), task::yield_now).await;
    blocked.await.expect("the gate was opened");
    figures.extend(memory_of_tasks(reach, plan).await);
    figures
}

async fn memory_of_tasks<R: Reach>(_reach: R, plan: Plan) -> Vec<Figure> {
    memory::idle_tasks(plan.items / 10, |task| drop(R::spawn_here(task)), task::yield_now).await
}

/// How one core gets something done on the other.
trait Reach: Clone + Send + Sync + 'static {
    type Lost: Debug + Send;

    /// Runs a trivial closure there and awaits its result.
    fn call(&self) -> impl Future<Output = Result<u64, Self::Lost>> + Send + 'static;

    /// Spawns a task there and awaits its end.
    fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), Self::Lost>> + Send + 'static;

    /// Spawns a task where the caller runs.
    fn spawn_here(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        task::spawn_local(task)
    }
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
struct Channel(mpsc::UnboundedSender<Job>);

impl Reach for Channel {
    type Lost = oneshot::error::RecvError;

    fn call(&self) -> impl Future<Output = Result<u64, Self::Lost>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        // A refused job drops its answer, which the receiver reports.
        let _ = self.0.send(Box::new(move || {
            let _ = answer.send(hint::black_box(1));
        }));
        answered
    }

    fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), Self::Lost>> + Send + 'static {
        let (done, joined) = oneshot::channel();
        let _ = self.0.send(Box::new(move || {
            task::spawn_local(async move {
                task.await;
                let _ = done.send(());
            });
        }));
        joined
    }
}

#[derive(Clone)]
struct Remote(Handle);

impl Reach for Remote {
    type Lost = task::JoinError;

    fn call(&self) -> impl Future<Output = Result<u64, Self::Lost>> + Send + 'static {
        self.0.spawn(async { hint::black_box(1) })
    }

    fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), Self::Lost>> + Send + 'static {
        self.0.spawn(task)
    }
}

#[derive(Clone)]
struct Workers;

impl Reach for Workers {
    type Lost = task::JoinError;

    fn call(&self) -> impl Future<Output = Result<u64, Self::Lost>> + Send + 'static {
        task::spawn(async { hint::black_box(1) })
    }

    fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), Self::Lost>> + Send + 'static {
        task::spawn(task)
    }

    fn spawn_here(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        task::spawn(task)
    }
}

/// A core as seen from another thread.
struct Core {
    jobs: mpsc::UnboundedSender<Job>,
    handle: Handle,
    thread: thread::JoinHandle<()>,
}

impl Core {
    /// Starts a pinned thread that runs jobs until all their senders are gone.
    fn start(cpu: usize, busy: bool) -> Self {
        let (jobs, mut arriving) = mpsc::unbounded_channel::<Job>();
        let (started, handles) = threads::channel();
        let thread = thread::spawn(move || {
            pin(cpu);
            let runtime = Builder::new_current_thread().enable_all().build().expect("a current-thread runtime starts");
            started.send(runtime.handle().clone()).expect("the starter waits");
            LocalSet::new().block_on(&runtime, async move {
                if busy {
                    task::spawn_local(async {
                        loop {
                            task::yield_now().await;
                        }
                    });
                }
                while let Some(job) = arriving.recv().await {
                    job();
                }
            });
        });
        let handle = handles.recv().expect("the core starts");
        Self { jobs, handle, thread }
    }
}

/// What the first core needs to reach the second.
struct Target {
    jobs: mpsc::UnboundedSender<Job>,
    handle: Handle,
}

/// Runs a measurement on the first of two current-thread runtimes.
fn on_cores<M, F>(cpus: CpuPair, busy: bool, measurement: M) -> Outcome
where
    M: FnOnce(Target) -> F + Send + 'static,
    F: Future<Output = Vec<Figure>> + 'static,
{
    let [source, target] = cpus.map(|cpu| Core::start(cpu, busy));
    // The second core runs as long as somebody may send it jobs; not every measurement keeps the sender.
    let keep_running = target.jobs.clone();
    let reach = Target { jobs: target.jobs, handle: target.handle };
    let (report, figures) = threads::channel();
    let measure = Box::new(move || {
        task::spawn_local(async move {
            report.send(measurement(reach).await).expect("the starter waits");
        });
    });
    assert!(source.jobs.send(measure).is_ok(), "the first core runs");
    let figures = figures.recv().expect("the measurement ends");
    drop((source.jobs, keep_running));
    source.thread.join().expect("the first core stops");
    target.thread.join().expect("the second core stops");
    figures.into()
}

/// Runs a measurement on a multi-thread runtime of two workers.
fn on_workers<F>(cpus: CpuPair, measurement: F) -> Outcome
where
    F: Future<Output = Vec<Figure>> + Send + 'static,
{
    let started = AtomicUsize::new(0);
    let runtime = Builder::new_multi_thread()
        .worker_threads(cpus.len())
        .on_thread_start(move || {
            pin(cpus[started.fetch_add(1, Ordering::Relaxed) % cpus.len()]);
        })
        .enable_all()
        .build()
        .expect("a multi-thread runtime starts");
    let measured = runtime.spawn(measurement);
    runtime.block_on(measured).expect("the measurement ends").into()
}
