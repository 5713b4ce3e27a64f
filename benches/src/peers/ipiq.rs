//! ipiq itself, with two pinned cores.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ::ipiq::xcall::{self, Class};
use ::ipiq::{Builder, CoreId, IdlePolicy, Pause, Placement, Runtime};

use crate::drive::{self, Lanes, Sleepers};
use crate::memory;
use crate::work::{Figure, Outcome, Peer, Plan};

/// As it comes: a core spins a while before it parks.
pub(super) static ADAPTIVE: Ipiq = Ipiq { variant: "adaptive", note: "as it comes: spins a while before it parks" };

/// A core parks as soon as it has nothing to do.
pub(super) static PARK: Ipiq = Ipiq { variant: "park", note: "parks as soon as it has nothing to do" };

/// ipiq with one idle policy.
pub(super) struct Ipiq {
    variant: &'static str,
    note: &'static str,
}

impl Peer for Ipiq {
    fn runtime(&self) -> &'static str {
        "ipiq"
    }

    fn variant(&self) -> &'static str {
        self.variant
    }

    fn note(&self) -> Option<&'static str> {
        Some(self.note)
    }

    fn call_rtt(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| on_cores(plan, IdlePolicy::Adaptive, call_rtt))
    }

    fn call_pipelined(&self, plan: Plan, outstanding: usize) -> Outcome {
        self.unless_parking(|| {
            on_cores(plan, IdlePolicy::Adaptive, move |plan, target| call_pipelined(plan, target, outstanding))
        })
    }

    fn spawn_on(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| on_cores(plan, IdlePolicy::Adaptive, spawn_on))
    }

    fn spawn_local(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| on_cores(plan, IdlePolicy::Adaptive, spawn_local))
    }

    fn yield_now(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| on_cores(plan, IdlePolicy::Adaptive, yield_now))
    }

    fn post(&self, _plan: Plan) -> Outcome {
        // The fabric's messages are measured by themselves.
        Outcome::Elsewhere
    }

    fn wake_parked(&self, plan: Plan) -> Outcome {
        if self.variant == ADAPTIVE.variant {
            return Outcome::Elsewhere;
        }
        on_cores(plan, IdlePolicy::Park, call_rtt)
    }

    fn broadcast(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| on_cores(plan, IdlePolicy::Adaptive, broadcast))
    }

    fn cpusync(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| on_cores(plan, IdlePolicy::Adaptive, cpusync))
    }

    fn shootdown(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| on_cores(plan, IdlePolicy::Adaptive, shootdown))
    }

    fn preempt(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| run(builder(plan).time_slice(drive::SLICE), plan, preempt))
    }

    fn timers(&self, plan: Plan) -> Outcome {
        let parks = self.variant == PARK.variant;
        on_cores(plan, if parks { IdlePolicy::Park } else { IdlePolicy::Adaptive }, timers)
    }

    fn memory(&self, plan: Plan) -> Outcome {
        self.unless_parking(|| run(builder(plan).ring_capacity(2 * memory::CALLS), plan, memory_of_tasks_and_calls))
    }
}

impl Ipiq {
    fn unless_parking(&self, measure: impl FnOnce() -> Outcome) -> Outcome {
        if self.variant == PARK.variant { Outcome::Elsewhere } else { measure() }
    }
}

async fn call_rtt(plan: Plan, target: CoreId) -> Vec<Figure> {
    drive::round_trips(plan, || ::ipiq::call_on(target, || hint::black_box(1))).await
}

async fn call_pipelined(plan: Plan, target: CoreId, outstanding: usize) -> Vec<Figure> {
    let call = move || ::ipiq::call_on(target, || hint::black_box(1));
    let lanes = Lanes::new(plan.section);
    let tasks: Vec<_> = (0..outstanding).map(|lane| ::ipiq::spawn_local(Arc::clone(&lanes).run(lane, call))).collect();
    for task in tasks {
        task.await.expect("a lane panicked");
    }
    let one_task = drive::in_flight_ns(plan.section, outstanding, call).await;
    vec![Figure::new("per_call", lanes.per_call_ns()), Figure::new("per_call_one_task", one_task)]
}

async fn spawn_on(plan: Plan, target: CoreId) -> Vec<Figure> {
    let per_task = drive::windowed_spawns_ns(plan.items, || ::ipiq::spawn_on(target, || async {})).await;
    vec![Figure::new("per_task", per_task)]
}

async fn spawn_local(plan: Plan, _target: CoreId) -> Vec<Figure> {
    drive::local_spawns(plan, || ::ipiq::spawn_local(async {})).await
}

async fn yield_now(plan: Plan, _target: CoreId) -> Vec<Figure> {
    drive::yields(plan, ::ipiq::yield_now).await
}

/// Between polls; as tasks; and a round of nothing, which is a barrier.
async fn broadcast(plan: Plan, _target: CoreId) -> Vec<Figure> {
    let all = || async { xcall::high::broadcast(|| hint::black_box(1)).fold(0, |sum, one| sum + one).await };
    let mut figures = drive::round_trips(plan, all).await;
    let low = || xcall::low::broadcast(|| async { hint::black_box(1) });
    figures.push(Figure::new("per_call_low", drive::mean_ns(plan.section, low).await));
    let barrier = || xcall::barrier(Class::High);
    figures.push(Figure::new("per_barrier", drive::mean_ns(plan.section, barrier).await));
    figures
}

/// All cores held for a body of nothing; and the same without holding them.
async fn cpusync(plan: Plan, target: CoreId) -> Vec<Figure> {
    let mut figures = drive::round_trips(plan, || ::ipiq::pause(Pause::all(), |_| hint::black_box(1))).await;
    let quick = || {
        ::ipiq::pause_each([CoreId::new(0), target], || {
            hint::black_box(1);
        })
    };
    figures.push(Figure::new("per_call_quick", drive::mean_ns(plan.section, quick).await));
    figures
}

/// By one core; and by both at once.
async fn shootdown(plan: Plan, target: CoreId) -> Vec<Figure> {
    let shoot = || {
        ::ipiq::shootdown(|| {
            hint::black_box(1);
        })
    };
    let mut figures = drive::round_trips(plan, shoot).await;
    let other = ::ipiq::spawn_on(target, move || async move {
        loop {
            shoot().await.expect("it is carried out");
        }
    });
    figures.push(Figure::new("per_call_of_both", drive::mean_ns(plan.section, shoot).await));
    other.abort();
    let _cancelled: Result<(), _> = other.await;
    figures
}

/// By [`::ipiq::yield_if_needed`]; and, for comparison, by a clock that is read after each pass.
async fn preempt(plan: Plan, _target: CoreId) -> Vec<Figure> {
    let spawn = |task: drive::Task| drop(::ipiq::spawn_local(task));
    let question = drive::question(plan, drive::QUESTION, ::ipiq::should_yield);
    let mut figures = vec![question];
    figures.extend(drive::mixed_load(plan, &drive::OWN_WAY, ::ipiq::yield_if_needed, spawn).await);
    let clock = drive::MixedLoad {
        per_check: "per_check_of_clock",
        pair_p50: "pair_p50_by_clock",
        pair_p99: "pair_p99_by_clock",
        per_pass: "per_pass_by_clock",
    };
    let (epoch, begun_ns) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    figures.push(drive::question(plan, "per_question_of_clock", || epoch.elapsed() >= drive::SLICE));
    let by_clock = move || {
        let begun_ns = Arc::clone(&begun_ns);
        async move {
            let now_ns = epoch.elapsed().as_nanos() as u64;
            if now_ns - begun_ns.load(Ordering::Relaxed) >= drive::SLICE.as_nanos() as u64 {
                begun_ns.store(now_ns, Ordering::Relaxed);
                ::ipiq::yield_now().await;
            }
        }
    };
    figures.extend(drive::mixed_load(plan, &clock, by_clock, spawn).await);
    figures
}

async fn timers(plan: Plan, _target: CoreId) -> Vec<Figure> {
    let sleepers = Sleepers::begin(plan);
    for number in 0..drive::SLEEPERS {
        drop(::ipiq::spawn_local(sleepers.sleeper(number, ::ipiq::time::sleep)));
    }
    sleepers.figures().await
}

async fn memory_of_tasks_and_calls(plan: Plan, target: CoreId) -> Vec<Figure> {
    let call = || ::ipiq::call_on(target, || hint::black_box(1));
    call().await.expect("the ring is made");
    let gate = memory::Gate::default();
    let blocks = gate.clone();
    let blocked = ::ipiq::call_on(target, move || blocks.block());
    let mut figures = memory::pending_calls(gate, call, ::ipiq::yield_now).await;
    blocked.await.expect("the gate was opened");
    let spawn = |task| drop(::ipiq::spawn_local(task));
    figures.extend(memory::idle_tasks(plan.items / 10, spawn, ::ipiq::yield_now).await);
    figures
}

/// Runs a measurement on the first of two cores.
fn on_cores<M, F>(plan: Plan, idle: IdlePolicy, measurement: M) -> Outcome
where
    M: FnOnce(Plan, CoreId) -> F + Send + 'static,
    F: Future<Output = Vec<Figure>> + 'static,
{
    run(builder(plan).idle(idle), plan, measurement)
}

fn builder(plan: Plan) -> Builder {
    Runtime::builder().cores(plan.cpus.len()).placement(Placement::Fixed(plan.cpus.to_vec()))
}

fn run<M, F>(builder: Builder, plan: Plan, measurement: M) -> Outcome
where
    M: FnOnce(Plan, CoreId) -> F + Send + 'static,
    F: Future<Output = Vec<Figure>> + 'static,
{
    let runtime = builder.build().expect("a runtime of two cores starts");
    runtime.block_on(move || measurement(plan, CoreId::new(1))).into()
}
