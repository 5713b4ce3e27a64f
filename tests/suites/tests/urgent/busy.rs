//! Cores that are in the middle of a poll, of a wait, or of nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use ipiq::urgent::critical;
use ipiq::{CoreSet, IdlePolicy, InterruptPolicy, Pause, Runtime, ipi};
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled_up_to;
use ipiq_suites::watchdog::{watch, with_watchdog};

use super::*;

/// At `most`, 100,000 triggers in a minute.
#[test]
fn a_core_that_never_awaits_runs_the_handler_for_every_trigger_of_another_core() {
    let triggers = scaled_up_to(1_000, 10_000, 100_000);
    let longest_gap_ns = scaled_up_to(20_000, 20_000, 1_200_000);
    with_watchdog("triggers of a core that never awaits", Duration::from_secs(600), || {
        let runtime = two_cores(Runtime::builder());
        let told = Told::default();
        let handler = told.handler(&runtime.handle());
        let stuck = told.clone();
        let task = runtime.handle().spawn_on(B, move || async move { compute(|| stuck.seen() < triggers) });
        runtime.block_on(move || async move {
            let mut random = fastrand::Rng::with_seed(7);
            for n in 1..=triggers {
                let (start, gap) = (Instant::now(), Duration::from_nanos(random.u64(0..longest_gap_ns)));
                while start.elapsed() < gap {}
                told.tell(&handler, B, n);
            }
        });
        let (rounds, result) = Runtime::wait(task).expect("it has seen them all");
        let mut left = rounds;
        let again = compute(|| {
            left -= 1;
            left > 0
        });
        assert_eq!((rounds, result), again, "as without interrupts");
        let counters = runtime.handle().core_counters(B);
        assert!(counters.urgent_run >= triggers && counters.interrupts_sent > 0, "{counters:?}");
        assert_eq!(counters.interrupts_refused, 0);
    });
}

/// Integers, floating point and vectors. Returns how many rounds it took, and what came out.
fn compute(mut go_on: impl FnMut() -> bool) -> (u64, u64) {
    let (mut rounds, mut hash, mut sum, mut lanes) = (0_u64, 0xcbf2_9ce4_8422_2325_u64, 1.0_f64, [0_u32; 16]);
    loop {
        rounds += 1;
        hash = (hash ^ rounds).wrapping_mul(0x100_0000_01b3);
        sum = (sum + 1.0 / rounds as f64).sqrt();
        lanes.iter_mut().zip(1..).for_each(|(lane, by)| *lane = lane.wrapping_mul(3).wrapping_add(by));
        if !go_on() {
            let lanes = lanes.iter().fold(0, |all, lane| u64::from(*lane).wrapping_add(all * 31 % 1_000_003));
            return (rounds, hash ^ sum.to_bits() ^ lanes);
        }
    }
}

#[test]
fn a_burst_of_triggers_is_seen_to_its_last() {
    let _watchdog = watch("a burst of triggers");
    let runtime = two_cores(Runtime::builder());
    let told = Told::default();
    let handler = told.handler(&runtime.handle());
    let stuck = told.clone();
    let last = scaled_up_to(20_000, 200_000, 2_000_000);
    let task = runtime.handle().spawn_on(B, move || async move { while stuck.seen() < last {} });
    for n in 1..=last {
        told.written.store(n, Ordering::Relaxed);
        handler.trigger(B).expect("live");
    }
    Runtime::wait(task).expect("it has seen the last");
    let counters = runtime.handle().core_counters(B);
    assert!((1..=last).contains(&counters.urgent_run), "{counters:?}");
}

#[test]
fn idle_and_sleeping_cores_run_handlers_too() {
    let _watchdog = watch("idle and sleeping cores");
    each_kind(|builder| {
        for idle in [IdlePolicy::Adaptive, IdlePolicy::Park, IdlePolicy::Spin] {
            let runtime = two_cores(builder.clone().idle(idle));
            let told = Told::default();
            let handler = told.handler(&runtime.handle());
            for n in 1..=scaled_up_to(50, 1_000, 10_000) {
                told.tell(&handler, B, n);
            }
        }
    });
}

#[test]
fn the_own_core_runs_it_inside_the_trigger_but_not_in_a_critical_section() {
    let runtime = two_cores(Runtime::builder());
    let told = Told::default();
    let handler = told.handler(&runtime.handle());
    runtime.block_on(move || async move {
        told.written.store(1, Ordering::Relaxed);
        handler.trigger(A).expect("live");
        assert_eq!(told.seen(), 1, "at once");
        told.written.store(2, Ordering::Relaxed);
        let inside = critical(|| {
            critical(|| handler.trigger(A).expect("live"));
            told.seen()
        });
        assert_eq!((inside, told.seen()), (1, 2));
    });
}

#[test]
fn without_interrupts_handlers_run_between_polls() {
    let _watchdog = watch("handlers without interrupts");
    let runtime = two_cores(Runtime::builder().interrupts(InterruptPolicy::Off));
    assert_eq!((runtime.info().interrupt_signal, &runtime.info().interrupt_fallback), (None, &None));
    let told = Told::default();
    let handler = told.handler(&runtime.handle());
    runtime.block_on(move || async move {
        told.written.store(1, Ordering::Relaxed);
        handler.trigger(A).expect("live");
        assert_eq!(told.seen(), 0, "nothing interrupts this poll");
        while told.seen() == 0 {
            ipiq::yield_now().await;
        }
        // Nor does the end of a critical section wait for a poll.
        told.written.store(2, Ordering::Relaxed);
        handler.trigger(A).expect("live");
        ipiq::yield_now().await;
        while told.seen() < 2 {
            ipiq::yield_now().await;
        }
    });
    assert!(runtime.handle().core_counters(A).interrupts_refused >= 2);
}

#[test]
fn a_core_that_stands_still_runs_urgent_handlers() {
    let _watchdog = watch("a core that stands still");
    for interrupts in [InterruptPolicy::Auto, InterruptPolicy::Off] {
        let runtime = two_cores(Runtime::builder().interrupts(interrupts));
        let told = Told::default();
        let handler = told.handler(&runtime.handle());
        runtime.block_on(move || async move {
            ipiq::pause(Pause::all(), move |_| told.tell(&handler, B, 1)).await.expect("both stand still");
        });
    }
}

#[test]
fn a_core_that_waits_for_another_one_runs_urgent_handlers() {
    let _watchdog = watch("a core in a wait of the fabric");
    for interrupts in [InterruptPolicy::Auto, InterruptPolicy::Off] {
        let runtime = two_cores(Runtime::builder().interrupts(interrupts));
        let told = Told::default();
        let handler = told.handler(&runtime.handle());
        let ready = Arc::new(Barrier::new(2));
        let (busy, seen) = (ready.clone(), told.clone());
        // A waits, in a loop of the fabric, for B, which is in a poll until A has run the handler.
        let task = runtime.handle().spawn_on(B, move || async move {
            busy.wait();
            while seen.seen() == 0 {}
        });
        let other = std::thread::spawn({
            let told = told.clone();
            move || told.tell(&handler, A, 1)
        });
        runtime.block_on(move || async move {
            ready.wait();
            ipi::multicast_blocking(&CoreSet::from_iter([B]), |_| ()).expect("B lives");
        });
        assert_eq!(told.seen(), 1);
        Runtime::wait(task).expect("it has ended");
        other.join().expect("no panic");
    }
}

#[test]
fn sets_reach_every_core_of_theirs() {
    let _watchdog = watch("sets");
    let runtime = Runtime::builder().cores(4).build().expect("a runtime");
    let ran: Arc<[AtomicU32; 4]> = Arc::default();
    let count = ran.clone();
    let handler = register(&runtime.handle(), move |core| _ = count[core.index()].fetch_add(1, Ordering::Relaxed));
    runtime.block_on(move || async move {
        let others = || [1, 2, 3].iter().all(|&core: &usize| ran[core].load(Ordering::Relaxed) > 0);
        assert_eq!(handler.to_trigger().trigger_others(), Ok(3));
        while !others() {
            ipiq::yield_now().await;
        }
        assert_eq!(ran[0].load(Ordering::Relaxed), 0);
        assert_eq!(handler.trigger_all(), Ok(4));
        assert_eq!(ran[0].load(Ordering::Relaxed), 1, "the own one inside the call");
        let set = CoreSet::from_iter([A]);
        assert_eq!(handler.trigger_set(&set), Ok(1));
        let trigger = handler.to_trigger();
        handler.unregister().await;
        assert!(trigger.trigger(B).is_err() && trigger.trigger_all().is_err());
    });
}

#[test]
fn unregistering_races_with_triggers_of_every_thread() {
    let _watchdog = watch("unregistering under fire");
    let runtime = two_cores(Runtime::builder());
    let over = Arc::new(AtomicBool::new(false));
    let stuck = over.clone();
    let task = runtime.handle().spawn_on(B, move || async move { while !stuck.load(Ordering::Relaxed) {} });
    for _ in 0..scaled_up_to(50, 1_000, 10_000) {
        let token = Arc::new(AtomicU32::new(0));
        let held = token.clone();
        let handler = register(&runtime.handle(), move |_| _ = held.fetch_add(1, Ordering::Relaxed));
        let trigger = handler.to_trigger();
        let accepted = std::thread::scope(|scope| {
            let fire = scope.spawn(|| (0..100).take_while(|_| trigger.trigger(B).is_ok()).count());
            Runtime::wait(handler.unregister());
            fire.join().expect("no panic")
        });
        assert_eq!(Arc::strong_count(&token), 1, "the function is gone");
        assert_eq!(token.load(Ordering::Relaxed) > 0, accepted > 0);
    }
    over.store(true, Ordering::Relaxed);
    Runtime::wait(task).expect("it has ended");
}

#[test]
fn a_runtime_that_ends_under_fire_refuses_from_then_on() {
    let _watchdog = watch("a runtime that ends under fire");
    for _ in 0..scaled_up_to(10, 100, 1_000) {
        let runtime = two_cores(Runtime::builder());
        let handler = register(&runtime.handle(), |_| ());
        let trigger = handler.to_trigger();
        std::thread::scope(|scope| {
            scope.spawn(|| while trigger.trigger(B).is_ok() {});
            runtime.block_on(|| async { ipiq::yield_now().await });
            drop(runtime);
        });
        assert!(handler.trigger(A).is_err());
    }
}
