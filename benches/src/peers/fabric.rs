//! ipiq's fabric alone: two threads that drain their rings, without tasks and without an executor.
//!
//! What ipiq adds to these figures is what its executor costs.

use std::cell::Cell;
use std::future::poll_fn;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use ipiq_fabric::call::{Outcome as CallOutcome, PendingCall};
use ipiq_fabric::{Config, Core, CoreId, Fabric};
use ipiq_linux::port::{FenceChoice, LinuxPort};

use crate::drive;
use crate::machine::{CpuPair, pin};
use crate::work::{Figure, Outcome, Peer, Plan, PostPayload};

/// The fabric on two threads that never park.
pub static FABRIC: Bare = Bare;

/// Messages of each source that a look at the inbox runs.
const BUDGET: u32 = 64;

/// Passive messages between two rings of the doorbell.
const RING_EVERY: usize = 32;

/// The fabric without a runtime.
pub struct Bare;

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
            block_on(drive::round_trips(plan, || poll_fn(|cx| Poll::Ready(call(core, target, cx)))))
        })
        .into()
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
            [("per_message", Bell::Each), ("per_message_by_32", Bell::By32)].map(|(metric, bell)| {
                let elapsed = post(core, target, plan.items, bell);
                Figure::new(metric, drive::per_item_ns(elapsed, plan.items as u64))
            })
        })
        .to_vec()
        .into()
    }

    fn wake_parked(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }

    fn broadcast(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }

    fn cpusync(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }

    fn shootdown(&self, _plan: Plan) -> Outcome {
        Outcome::Elsewhere
    }
}

/// Calls the target and spins until the answer is there.
///
/// # Errors
///
/// When the target has left.
pub fn call(core: &Core, target: CoreId, cx: &mut Context<'_>) -> CallOutcome<u64> {
    let mut call = PendingCall::new(core, target, || hint::black_box(1));
    loop {
        core.drain(BUDGET);
        if let Poll::Ready(outcome) = call.poll(core, cx) {
            return outcome;
        }
        hint::spin_loop();
    }
}

/// When the sender rings the target's doorbell.
#[derive(Clone, Copy, Debug)]
pub enum Bell {
    /// At every message.
    Each,
    /// Once for 32 messages.
    By32,
}

/// Sends that many messages and waits until the last has run.
///
/// # Panics
///
/// When the target leaves before that.
pub fn post(core: &Core, target: CoreId, messages: usize, bell: Bell) -> Duration {
    let send = match bell {
        Bell::Each => send_each,
        Bell::By32 => send_by_32,
    };
    let counted = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    for number in 1..=messages {
        send(core, target, number);
    }
    let count = Arc::clone(&counted);
    // The last in the ring: it runs when all others have.
    core.send(target, move |_, _| count.store(ARRIVED.take(), Ordering::Release))
        .map_err(drop)
        .expect("the target stays");
    core.flush();
    while counted.load(Ordering::Acquire) == 0 {
        core.drain(BUDGET);
        hint::spin_loop();
    }
    let elapsed = started.elapsed();
    assert_eq!(counted.load(Ordering::Acquire), messages, "each message arrives once");
    elapsed
}

thread_local! {
    /// Messages that have run on this core since somebody asked.
    static ARRIVED: Cell<usize> = const { Cell::new(0) };
}

fn send_each(core: &Core, target: CoreId, number: usize) {
    let payload: PostPayload = [number as u64; 6];
    core.send(target, move |_, _| arrive(payload)).expect("the target stays");
}

fn send_by_32(core: &Core, target: CoreId, number: usize) {
    let payload: PostPayload = [number as u64; 6];
    while let Err(error) = core.try_send_passive(target, move |_, _| arrive(payload)) {
        assert!(error.is_full(), "the target stays");
        core.flush();
        core.drain(BUDGET);
        hint::spin_loop();
    }
    if number.is_multiple_of(RING_EVERY) {
        core.flush();
    }
}

fn arrive(payload: PostPayload) {
    hint::black_box(payload);
    ARRIVED.set(ARRIVED.get() + 1);
}

/// Runs a measurement on the first of two pinned threads; the second drains its rings until it is over.
///
/// # Panics
///
/// When a thread cannot be pinned, or the measurement panics.
pub fn on_cores<T: Send>(cpus: CpuPair, measurement: impl FnOnce(&Core, CoreId) -> T + Send) -> T {
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
            let _over = SetOnDrop(&over);
            measurement(&core, CoreId::new(1))
        });
        measured.join().expect("the measurement ends")
    })
}

/// Ends the target's loop also when the measurement panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
