//! Handlers that trigger others, on a clock that its runtime's cores share.

use std::sync::atomic::AtomicBool;

use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use super::*;

#[test]
fn a_handler_kicks_a_core_while_the_core_that_it_interrupts_kicks_another_one() {
    let _watch = watch("a kick of a paused clock's core, inside another one's");
    let runtime = Runtime::builder().cores(3).paused_clock().build().expect("a runtime");
    let handle = runtime.handle();
    let asleep = CoreId::new(2);
    let leaf = register(&handle, |_| ());
    let kick = leaf.to_trigger();
    let told = Told::default();
    let told_there = told.clone();
    let relay = register(&handle, move |_| {
        // Before its end is told: it sleeps as soon as it has run that.
        let _ = kick.trigger(asleep);
        told_there.seen.store(told_there.written.load(Ordering::Relaxed), Ordering::Release);
    });
    let enough = Arc::new(AtomicBool::new(false));
    let stop = enough.clone();
    // Awake all the time, so that it is interrupted, and kicks the other one as often as that falls asleep.
    let calls = handle.spawn_on(A, move || async move {
        while !stop.load(Ordering::Relaxed) {
            let call = ipiq::spawn_on(B, || async {});
            while !call.is_finished() {
                ipiq::yield_now().await;
            }
        }
    });
    (1..=scaled(1_000, 100_000)).for_each(|n| told.tell(&relay, A, n));
    enough.store(true, Ordering::Relaxed);
    Runtime::wait(calls).expect("no panic");
    drop((relay, leaf));
}
