//! Time slices: who is told to give way, when, and who never.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipiq::{Builder, CoreId, Pause, Runtime};

const SLICE: Duration = Duration::from_millis(5);
/// A machine that does other things too may take this long.
const PATIENCE: Duration = Duration::from_secs(60);

fn started(cores: usize, set_up: impl FnOnce(Builder) -> Builder) -> Runtime {
    set_up(Runtime::builder().cores(cores).time_slice(SLICE)).build().expect("it starts")
}

/// Spins until it is told to give way; how long that took.
fn spin_until_told() -> Duration {
    let begun = Instant::now();
    while !ipiq::should_yield() {
        assert!(begun.elapsed() < PATIENCE, "nobody told it");
        std::hint::spin_loop();
    }
    begun.elapsed()
}

#[test]
fn a_long_poll_is_told_after_its_slice_and_again_in_each_poll() {
    let runtime = started(1, |builder| builder);
    let took = runtime.block_on(|| async {
        let mut took = Vec::new();
        for _ in 0..5 {
            // A new turn.
            ipiq::yield_now().await;
            took.push(spin_until_told());
            assert!(ipiq::should_yield(), "until the poll ends");
        }
        took
    });
    // Others may keep the CPU from it between the begin of its turn and of the measurement, but not each time.
    assert!(took.iter().any(|took| *took >= SLICE / 2), "{took:?}");
}

#[test]
fn a_task_that_gives_way_when_told_lets_the_others_run() {
    let runtime = started(1, |builder| builder);
    let (passes, others) = runtime.block_on(|| async {
        let others = Rc::new(Cell::new(0));
        let counted = others.clone();
        let other = ipiq::spawn_local(async move {
            loop {
                counted.set(counted.get() + 1);
                ipiq::yield_now().await;
            }
        });
        let (begun, mut passes) = (Instant::now(), 0_u64);
        while others.get() < 10 {
            assert!(begun.elapsed() < PATIENCE, "the other does not run");
            passes += 1;
            ipiq::yield_if_needed().await;
        }
        other.abort();
        (passes, others.get())
    });
    assert!(passes > others * 10, "it gave way in {others} of {passes} passes");
}

/// Runs `ask` while core 1 is in a poll that ends when it is told to give way.
async fn tells<F: Future>(ask: impl FnOnce() -> F) -> F::Output {
    let spins = Arc::new(AtomicBool::new(false));
    let began = spins.clone();
    let spinning = ipiq::spawn_on(CoreId::new(1), move || async move {
        began.store(true, Ordering::Release);
        spin_until_told()
    });
    while !spins.load(Ordering::Acquire) {
        ipiq::yield_now().await;
    }
    let asked = ask().await;
    spinning.await.expect("no panic");
    asked
}

#[test]
fn a_stop_a_trigger_and_a_shootdown_tell_it_at_once() {
    let runtime = started(2, |builder| builder.time_slice(None));
    runtime.block_on(|| async {
        let handler = ipiq::ipi::register(|_| ()).expect("a free slot");
        for _ in 0..50 {
            tells(|| ipiq::pause(Pause::all(), |_| ())).await.expect("it is carried out");
            tells(|| async { handler.trigger(CoreId::new(1)).expect("it lives") }).await;
            tells(|| ipiq::shootdown(|| ())).await.expect("it is carried out");
        }
    });
}

#[test]
fn without_slices_nobody_is_told() {
    let runtime = started(1, |builder| builder.time_slice(None));
    runtime.block_on(|| async {
        let begun = Instant::now();
        while begun.elapsed() < 10 * SLICE {
            assert!(!ipiq::should_yield());
        }
    });
    assert!(!ipiq::should_yield(), "a thread that runs no core");
}

#[test]
fn slices_go_on_after_all_cores_have_slept() {
    let runtime = started(1, |builder| builder);
    runtime.block_on(|| async {
        // Longer than the watcher stays awake for.
        ipiq::time::sleep(20 * SLICE).await;
        spin_until_told();
    });
}
