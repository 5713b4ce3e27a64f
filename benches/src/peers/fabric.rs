//! ipiq's fabric alone: two threads that drain their rings, without tasks and without an executor.
//!
//! What ipiq adds to these figures is what its executor costs.

use std::future::poll_fn;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use futures::executor::block_on;
use ipiq_fabric::call::PendingCall;
use ipiq_fabric::{Config, Core, CoreId, Fabric};
use ipiq_linux::port::{FenceChoice, LinuxPort};

use crate::drive;
use crate::machine::{CpuPair, pin};
use crate::work::{Figure, Outcome, Peer, Plan};

/// The fabric on two threads that never park.
pub(super) static FABRIC: Bare = Bare;

/// Messages of each source that a look at the inbox runs.
const BUDGET: u32 = 64;

/// Passive messages between two rings of the doorbell.
const RING_EVERY: usize = 32;

/// The fabric without a runtime.
pub(super) struct Bare;

impl Peer for Bare {
    fn runtime(&self) -> &'static str {
        "ipiq"
    }

    fn variant(&self) -> &'static str {
        "fabric"
    }

    fn note(&self) -> Option<&'static str> {
        Some("two threads that poll the fabric's rings; no tasks, no executor")
    }

    fn call_rtt(&self, plan: Plan) -> Outcome {
        on_cores(plan.cpus, move |core, target| {
            let call = || {
                let mut call = PendingCall::new(core, target, || hint::black_box(1));
                poll_fn(move |cx| Poll::Ready(wait_for(core, &mut call, cx)))
            };
            block_on(drive::round_trips(plan, call))
        })
    }

    fn call_pipelined(&self, _plan: Plan, _outstanding: usize) -> Outcome {
        Outcome::Elsewhere
    }

    fn spawn_on(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }

    fn spawn_local(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }

    fn yield_now(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }

    fn post(&self, plan: Plan) -> Outcome {
        on_cores(plan.cpus, move |core, target| {
            vec![
                Figure::new("per_message", post_ns(core, target, plan.items, send_each)),
                Figure::new("per_message_by_32", post_ns(core, target, plan.items, send_by_32)),
            ]
        })
    }

    fn wake_parked(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }
}

fn wait_for<F, R>(core: &Core, call: &mut PendingCall<F, R>, cx: &mut Context<'_>) -> ipiq_fabric::call::Outcome<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    loop {
        core.drain(BUDGET);
        if let Poll::Ready(outcome) = call.poll(core, cx) {
            return outcome;
        }
        hint::spin_loop();
    }
}

/// What a message of the size of one cache line carries beside its function.
type Payload = [u64; 5];

/// Nanoseconds per message from the first send until the last has run.
fn post_ns(
    core: &Core,
    target: CoreId,
    messages: usize,
    send: impl Fn(&Core, CoreId, &'static AtomicUsize, usize),
) -> f64 {
    // A message carries a reference, so that no count of owners is part of the figure.
    let arrived: &'static AtomicUsize = Box::leak(Box::default());
    let started = Instant::now();
    for number in 1..=messages {
        send(core, target, arrived, number);
    }
    core.flush();
    while arrived.load(Ordering::Acquire) < messages {
        core.drain(BUDGET);
        hint::spin_loop();
    }
    drive::per_item_ns(started.elapsed(), messages as u64)
}

fn send_each(core: &Core, target: CoreId, arrived: &'static AtomicUsize, number: usize) {
    let payload: Payload = [number as u64; 5];
    core.send(target, move |_, _| arrive(arrived, payload)).expect("the target stays");
}

fn send_by_32(core: &Core, target: CoreId, arrived: &'static AtomicUsize, number: usize) {
    let payload: Payload = [number as u64; 5];
    while core.try_send_passive(target, move |_, _| arrive(arrived, payload)).is_err() {
        core.flush();
        core.drain(BUDGET);
        hint::spin_loop();
    }
    if number.is_multiple_of(RING_EVERY) {
        core.flush();
    }
}

fn arrive(arrived: &AtomicUsize, payload: Payload) {
    hint::black_box(payload);
    // Only the target writes it.
    arrived.store(arrived.load(Ordering::Relaxed) + 1, Ordering::Release);
}

/// Runs a measurement on the first of two threads; the second drains its rings until it is over.
fn on_cores<M>(cpus: CpuPair, measurement: M) -> Outcome
where
    M: FnOnce(&Core, CoreId) -> Vec<Figure> + Send,
{
    let port = Arc::new(LinuxPort::new(cpus.len(), FenceChoice::Auto));
    let config = Config { cores: cpus.len(), ring_capacity: 1024, ..Config::default() };
    let (_fabric, seats) = Fabric::new(config, port).expect("two cores make a fabric");
    let [source, target] = <[_; 2]>::try_from(seats).expect("two cores have two seats");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpus[1]);
            let core = target.enter();
            while !over.load(Ordering::Relaxed) {
                core.drain(BUDGET);
                hint::spin_loop();
            }
        });
        let measured = scope.spawn(|| {
            pin(cpus[0]);
            let core = source.enter();
            let figures = measurement(&core, CoreId::new(1));
            over.store(true, Ordering::Relaxed);
            figures
        });
        measured.join().expect("the measurement ends").into()
    })
}
