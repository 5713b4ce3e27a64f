//! Calls that run in the middle of a poll.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

use ipiq::urgent::{UrgentCall, call_on, critical};
use ipiq::{IdlePolicy, InterruptPolicy, xcall};
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use super::*;

/// The functions of these tests use atomics only.
fn safe<R, F: Fn(CoreId) -> R>(f: F) -> InterruptSafe<F> {
    // SAFETY: 1. to 5. they load and store atomics, and clone and drop no last reference.
    unsafe { InterruptSafe::new(f) }
}

/// A task on `core` that computes without awaiting until the flag is set; ready when it does.
async fn computing(core: CoreId) -> (Arc<AtomicBool>, ipiq::JoinHandle<()>) {
    let (begun, enough) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (tell, stop) = (begun.clone(), enough.clone());
    let task = ipiq::spawn_on(core, move || async move {
        tell.store(true, Ordering::Relaxed);
        while !stop.load(Ordering::Relaxed) {}
    });
    while !begun.load(Ordering::Relaxed) {
        ipiq::yield_now().await;
    }
    (enough, task)
}

#[test]
fn a_core_that_never_awaits_answers() {
    let _watchdog = watch("urgent calls of a core that never awaits");
    each_kind(|builder| {
        two_cores(builder).block_on(|| async {
            for round in 0..scaled(20, 50) {
                let (enough, task) = computing(B).await;
                let count = Arc::new(AtomicU64::new(0));
                for n in 0..10 {
                    let count = count.clone();
                    let answer = call_on(B, safe(move |core| (core, count.fetch_add(1, Ordering::Relaxed))));
                    assert_eq!(answer.await.expect("it has not left"), (B, n), "round {round}");
                }
                enough.store(true, Ordering::Relaxed);
                task.await.expect("no panic");
            }
        });
    });
}

#[test]
fn a_caller_that_sleeps_is_woken_by_the_answer_and_a_target_that_sleeps_by_the_call() {
    let _watchdog = watch("urgent calls among sleepers");
    each_kind(|builder| {
        for idle in [IdlePolicy::Park, IdlePolicy::Adaptive, IdlePolicy::Spin] {
            two_cores(builder.clone().idle(idle)).block_on(|| async {
                for n in 0..scaled(20, 50) {
                    assert_eq!(call_on(B, safe(move |_| n)).await.expect("it has not left"), n);
                }
                let (enough, task) = computing(B).await;
                for n in 0..scaled(20, 50) {
                    assert_eq!(call_on(B, safe(move |_| n)).await.expect("it has not left"), n);
                }
                enough.store(true, Ordering::Relaxed);
                task.await.expect("no panic");
            });
        }
    });
}

#[test]
fn many_calls_of_all_cores_run_once_each_and_in_order_per_caller() {
    let _watchdog = watch("urgent calls from all sides");
    let calls = scaled(300, 3_000);
    let runtime = Runtime::builder().cores(3).build().expect("a runtime");
    runtime.block_on(move || async move {
        // Per pair, how many have run.
        let ran: Arc<[AtomicU64; 9]> = Arc::default();
        let callers: Vec<_> = ipiq::cores()
            .map(|own| {
                let ran = ran.clone();
                ipiq::spawn_on(own, move || async move {
                    let mut outstanding = Vec::new();
                    for n in 0..calls {
                        let target = CoreId::new((own.index() + n as usize) % 3);
                        let ran = ran.clone();
                        let pair = own.index() * 3 + target.index();
                        let f = move |core: CoreId| {
                            assert_eq!(core, target);
                            ran[pair].fetch_add(1, Ordering::Relaxed)
                        };
                        outstanding.push((n / 3, call_on(target, safe(f))));
                        if n % 16 == 0 {
                            for (turn, call) in outstanding.drain(..) {
                                assert_eq!(call.await.expect("it has not left"), turn);
                            }
                        }
                    }
                    for (turn, call) in outstanding {
                        assert_eq!(call.await.expect("it has not left"), turn);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
        assert_eq!(ran.iter().map(|ran| ran.load(Ordering::Relaxed)).sum::<u64>(), 3 * calls);
        assert_eq!(Arc::strong_count(&ran), 1, "every function was dropped");
    });
}

#[test]
fn a_dropped_call_runs_only_if_it_had_begun() {
    let _watchdog = watch("dropped urgent calls");
    two_cores(Runtime::builder()).block_on(|| async {
        let (enough, task) = computing(B).await;
        let ran = Arc::new(AtomicU64::new(0));
        let (mut prevented, calls) = (0, scaled(500, 5_000));
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..calls {
            let count = ran.clone();
            let call = call_on(B, safe(move |_| count.fetch_add(1, Ordering::Relaxed)));
            (0..random.u32(0..4_000)).for_each(|_| std::hint::spin_loop());
            prevented += u64::from(call.cancel());
        }
        // What was called before has run, or gone home, when this has run.
        call_on(B, safe(|_| ())).await.expect("it has not left");
        assert_eq!(ran.load(Ordering::Relaxed) + prevented, calls);
        enough.store(true, Ordering::Relaxed);
        task.await.expect("no panic");
        while Arc::strong_count(&ran) > 1 {
            ipiq::yield_now().await;
        }
    });
}

#[test]
fn on_the_own_core_it_runs_inside_the_call() {
    two_cores(Runtime::builder()).block_on(|| async {
        let mut call = pin!(call_on(A, safe(|core| core)));
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(A))), "{polled:?}");
    });
}

#[test]
fn a_critical_section_holds_it_off_and_its_end_runs_it() {
    let _watchdog = watch("an urgent call of a core in a critical section");
    two_cores(Runtime::builder()).block_on(|| async {
        for _ in 0..scaled(20, 200) {
            let (called, ran) = (Arc::new(Barrier::new(2)), Arc::new(AtomicBool::new(false)));
            let task = ipiq::spawn_on(B, {
                let (called, ran) = (called.clone(), ran.clone());
                move || async move {
                    critical(|| {
                        called.wait();
                        called.wait();
                        assert!(!ran.load(Ordering::Relaxed));
                    });
                    // At the section's end or, if no interrupt had come yet, some moments later.
                    while !ran.load(Ordering::Relaxed) {}
                }
            });
            called.wait();
            let call = call_on(B, safe(move |_| ran.store(true, Ordering::Relaxed)));
            called.wait();
            call.await.expect("it has not left");
            task.await.expect("no panic");
        }
    });
}

#[test]
fn without_interrupts_it_runs_when_the_poll_ends() {
    let _watchdog = watch("an urgent call without interrupts");
    two_cores(Runtime::builder().interrupts(InterruptPolicy::Off)).block_on(|| async {
        let (enough, task) = computing(B).await;
        let call = call_on(B, safe(|core| core));
        let mut call = pin!(call);
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        enough.store(true, Ordering::Relaxed);
        assert_eq!(call.await.expect("it has not left"), B);
        task.await.expect("no panic");
    });
}

#[test]
fn calls_under_way_when_the_runtime_ends_leak_nothing() {
    let _watchdog = watch("urgent calls at the end of a runtime");
    for round in 0..scaled(50, 200) {
        let token = Arc::new(());
        let runtime = two_cores(Runtime::builder());
        let handle = runtime.handle();
        let held = token.clone();
        let task = handle.spawn_on(A, move || async move {
            // The handle in it is a cycle for as long as a block holds it.
            let (handle, mut calls) = (ipiq::handle(), Vec::<UrgentCall<Arc<()>>>::new());
            for n in 0..20 {
                let (held, handle) = (held.clone(), handle.clone());
                let call = call_on(
                    B,
                    safe(move |_| {
                        assert_eq!(handle.core_count(), 2);
                        held.clone()
                    }),
                );
                if n % 2 == 0 {
                    calls.push(call);
                }
            }
            std::future::pending::<()>().await;
        });
        if round % 2 == 0 {
            Runtime::wait(handle.call_on(A, || ())).expect("it runs");
        }
        drop((task, runtime));
        assert_eq!(Arc::strong_count(&token), 1, "round {round}");
    }
}

#[test]
fn every_core_answers_an_urgent_broadcast_in_the_middle_of_its_poll() {
    let _watchdog = watch("urgent broadcasts");
    let runtime = Runtime::builder().cores(3).build().expect("a runtime");
    runtime.block_on(|| async {
        for round in 0..scaled(20, 200) {
            let (one, two) = (computing(CoreId::new(1)).await, computing(CoreId::new(2)).await);
            let count = Arc::new(AtomicU64::new(0));
            let f = move |core: CoreId| (core, count.fetch_add(1, Ordering::Relaxed));
            let answers = xcall::urgent::broadcast(safe(f.clone())).await;
            assert!(answers.iter().all(|(core, answer)| answer.as_ref().is_ok_and(|(ran_on, _)| ran_on == core)));
            let sum = xcall::urgent::broadcast(safe(f)).fold(0, |sum, (_, turn)| sum + turn).await;
            assert_eq!(sum.expect("nobody has left"), 3 + 4 + 5, "round {round}");
            let there = xcall::urgent::unicast(CoreId::new(2), safe(|core| core)).await;
            assert_eq!(there.expect("it has not left"), CoreId::new(2));
            for (enough, task) in [one, two] {
                enough.store(true, Ordering::Relaxed);
                task.await.expect("no panic");
            }
        }
    });
}

#[test]
fn pr_kern_51632_holds_for_urgent_calls() {
    let _watchdog = watch("tickets of urgent calls");
    let runtime = Runtime::builder().cores(3).build().expect("a runtime");
    runtime.block_on(|| async {
        for _ in 0..scaled(50, 200) {
            // The first call is held up on core 2; a later one ends everywhere else.
            let held = Arc::new(Barrier::new(2));
            let task = ipiq::spawn_on(CoreId::new(2), {
                let held = held.clone();
                move || async move {
                    critical(|| {
                        held.wait();
                        held.wait();
                    });
                }
            });
            held.wait();
            let ran = Arc::new(AtomicU64::new(0));
            let count = ran.clone();
            let first = xcall::urgent::broadcast(safe(move |_| count.fetch_add(1, Ordering::Relaxed))).ticket();
            xcall::urgent::unicast(B, safe(|_| ())).await.expect("it has not left");
            let mut wait = pin!(xcall::wait(first));
            let looks = Cell::new(0);
            while looks.replace(looks.get() + 1) < 20 {
                assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                ipiq::yield_now().await;
            }
            held.wait();
            wait.await.expect("its home runs");
            assert_eq!(ran.load(Ordering::Relaxed), 3);
            task.await.expect("no panic");
        }
    });
}

/// [`computing`], seen from a plain thread.
fn computing_on(handle: &Handle, core: CoreId) -> (Arc<AtomicBool>, ipiq::JoinHandle<()>) {
    let (begun, enough) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (tell, stop) = (begun.clone(), enough.clone());
    let task = handle.spawn_on(core, move || async move {
        tell.store(true, Ordering::Relaxed);
        while !stop.load(Ordering::Relaxed) {}
    });
    while !begun.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    (enough, task)
}

#[test]
fn a_plain_thread_is_answered_while_every_core_computes() {
    let _watchdog = watch("urgent calls of a plain thread");
    each_kind(|builder| {
        let runtime = two_cores(builder);
        let handle = runtime.handle();
        for round in 0..scaled(3, 50) {
            let tasks = [computing_on(&handle, A), computing_on(&handle, B)];
            let count = Arc::new(AtomicU64::new(0));
            for n in 0..5 {
                let count = count.clone();
                let f = safe(move |core| (core, count.fetch_add(1, Ordering::Relaxed)));
                let answer = Runtime::wait(handle.call_urgent(B, f));
                assert_eq!(answer.expect("it has not left"), (B, n), "round {round}");
            }
            let answers = Runtime::wait(handle.broadcast_urgent(safe(|core: CoreId| core)));
            assert!(answers.into_iter().all(|(core, answer)| answer.expect("it has not left") == core));
            for (enough, task) in tasks {
                enough.store(true, Ordering::Relaxed);
                Runtime::wait(task).expect("no panic");
            }
            // What was called is dropped by the core that ran it, before what is asked of it now.
            while Arc::strong_count(&count) > 1 {
                Runtime::wait(handle.call_on(B, || ())).expect("it has not left");
            }
        }
    });
}

#[test]
fn a_plain_thread_is_answered_by_cores_that_sleep() {
    let _watchdog = watch("urgent calls of sleepers");
    let kinds = [InterruptPolicy::Auto, InterruptPolicy::Off];
    for kind in kinds {
        let runtime = two_cores(Runtime::builder().interrupts(kind).idle(IdlePolicy::Park));
        let handle = runtime.handle();
        for _ in 0..scaled(200, 5_000) {
            assert_eq!(Runtime::wait(handle.call_urgent(B, safe(|core| core))).expect("it has not left"), B);
        }
    }
}

#[test]
fn without_interrupts_a_plain_thread_is_woken_when_the_poll_ends() {
    let _watchdog = watch("urgent calls that cannot interrupt");
    let runtime = two_cores(Runtime::builder().interrupts(InterruptPolicy::Off));
    let handle = runtime.handle();
    for _ in 0..scaled(20, 200) {
        let (enough, task) = computing_on(&handle, B);
        let mut call = handle.call_urgent(B, safe(|core| core));
        let polled = std::pin::Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        enough.store(true, Ordering::Relaxed);
        assert_eq!(Runtime::wait(call).expect("it has not left"), B);
        Runtime::wait(task).expect("no panic");
    }
}

#[test]
fn calls_of_plain_threads_run_once_each_or_are_taken_back() {
    let _watchdog = watch("urgent calls of many plain threads");
    let runtime = two_cores(Runtime::builder());
    let handle = runtime.handle();
    let tasks = [computing_on(&handle, A), computing_on(&handle, B)];
    let (ran, calls) = (Arc::new(AtomicU64::new(0)), scaled(300, 5_000));
    let expected: u64 = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|seed| {
                let (handle, ran) = (handle.clone(), ran.clone());
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut expected = 0;
                    for n in 0..calls {
                        let count = ran.clone();
                        let target = CoreId::new(random.usize(0..2));
                        let call = handle.call_urgent(target, safe(move |_| count.fetch_add(1, Ordering::Relaxed)));
                        if random.bool() {
                            (0..random.u32(0..4_000)).for_each(|_| std::hint::spin_loop());
                            expected += u64::from(!call.cancel());
                        } else {
                            Runtime::wait(call).unwrap_or_else(|error| panic!("call {n}: {error}"));
                            expected += 1;
                        }
                    }
                    expected
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("no panic")).sum()
    });
    // What was called before has run, or is taken back, when this has run.
    Runtime::wait(handle.broadcast_urgent(safe(|_| ())));
    assert_eq!(ran.load(Ordering::Relaxed), expected);
    for (enough, task) in tasks {
        enough.store(true, Ordering::Relaxed);
        Runtime::wait(task).expect("no panic");
    }
    drop(runtime);
    assert_eq!(Arc::strong_count(&ran), 1, "every function was dropped");
}

#[test]
fn a_plain_thread_calls_a_runtime_that_ends() {
    let _watchdog = watch("urgent calls at the end of a runtime");
    for round in 0..scaled(50, 500) {
        let runtime = two_cores(Runtime::builder());
        let (handle, token) = (runtime.handle(), Arc::new(()));
        let caller = std::thread::spawn({
            let (handle, token) = (handle.clone(), token.clone());
            move || {
                let mut calls = 0;
                loop {
                    let held = token.clone();
                    match Runtime::wait(handle.call_urgent(B, safe(move |core| (core, Arc::strong_count(&held))))) {
                        Ok((core, _)) => assert_eq!(core, B),
                        Err(error) => return (calls, error.is_gone()),
                    }
                    calls += 1;
                }
            }
        });
        (0..round * 100).for_each(|_| std::hint::spin_loop());
        drop(runtime);
        assert!(caller.join().expect("no panic").1);
        assert!(Runtime::wait(handle.call_urgent(A, safe(|_| ()))).is_err_and(|error| error.is_gone()));
        assert_eq!(Arc::strong_count(&token), 1, "nothing is kept");
    }
}
