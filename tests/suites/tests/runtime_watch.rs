//! What a runtime says of cores that wait for each other, and waiting for everything sent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipiq::{CoreId, IdlePolicy, Runtime, Stall, TargetState, WaitKind};
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::watchdog::watch;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

#[test]
fn a_core_in_a_long_poll_is_named_by_one_that_sleeps_until_its_answer() {
    let _watch = watch("a_core_in_a_long_poll_is_named_by_one_that_sleeps_until_its_answer");
    each_kind(|builder| {
        for idle in [IdlePolicy::Park, IdlePolicy::Spin] {
            let stalls = Arc::new(Mutex::new(Vec::<Stall>::new()));
            let told = stalls.clone();
            let report = move |stall: &Stall| told.lock().expect("not poisoned").push(*stall);
            let builder = builder.clone().cores(2).idle(idle).stall_reports(Duration::from_millis(20), report);
            let runtime = builder.build().expect("a runtime");
            let seen = stalls.clone();
            let waits = runtime.block_on(move || async move {
                let begun = Arc::new(AtomicBool::new(false));
                let begun_there = begun.clone();
                // Given a core in the middle of a poll that ends when somebody has complained,
                let long = ipiq::spawn_on(B, move || async move {
                    begun_there.store(true, Ordering::Release);
                    while seen.lock().expect("not poisoned").is_empty() {
                        std::thread::yield_now();
                    }
                    ipiq::handle().waits()
                });
                while !begun.load(Ordering::Acquire) {
                    ipiq::yield_now().await;
                }
                // when another one awaits its answer, it is told of,
                ipiq::call_on(B, || ()).await.expect("an answer");
                long.await.expect("it ends")
            });
            let stall = stalls.lock().expect("not poisoned")[0];
            assert_eq!((stall.wait.core, stall.wait.target, stall.wait.kind), (A, B, WaitKind::Call));
            assert_eq!(stall.target, TargetState::Busy);
            let text = stall.to_string();
            assert!(text.starts_with("core 0 waits for core 1, ") && text.ends_with("s, in call; core 1 is busy"));
            // and it could be read meanwhile.
            assert_eq!((waits[0].core, waits[0].target, waits[0].kind), (A, B, WaitKind::Call));
        }
    });
}

#[test]
fn an_idle_runtime_waits_for_nobody() {
    let _watch = watch("an_idle_runtime_waits_for_nobody");
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    runtime.block_on(|| async { ipiq::call_on(B, || ()).await.expect("an answer") });
    let handle = runtime.handle();
    let parked = |core| handle.core_counters(core).parked;
    let before = (parked(A), parked(B));
    // Both go to sleep once more at least, or sleep already.
    while !handle.waits().is_empty() || (parked(A), parked(B)) < before {
        std::thread::yield_now();
    }
}

#[test]
fn everything_sent_has_run_when_synchronize_ends() {
    let _watch = watch("everything_sent_has_run_when_synchronize_ends");
    each_kind(|builder| {
        let runtime = builder.cores(3).ring_capacity(4).build().expect("a runtime");
        runtime.block_on(|| async {
            let ran = Arc::new(AtomicU64::new(0));
            for round in 1..=300 {
                for core in 0..3 {
                    let ran = ran.clone();
                    // Nobody awaits it; there is space, because the last round has run.
                    drop(ipiq::call_on(CoreId::new(core), move || ran.fetch_add(1, Ordering::Relaxed)));
                }
                ipiq::synchronize().await;
                assert_eq!(ran.load(Ordering::Relaxed), round * 3);
            }
            // One that is dropped at once, and several at a time.
            drop(ipiq::synchronize());
            futures::future::join_all((0..10).map(|_| ipiq::synchronize())).await;
        });
    });
}
