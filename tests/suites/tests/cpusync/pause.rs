//! Pauses of a runtime's cores.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use ipiq::{CoreId, Pause, PauseError, Runtime, WaitKind};
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use crate::add;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

#[test]
fn a_pause_runs_its_body_here_and_its_function_on_each_core_in_turn_with_others() {
    let _watch = watch("a_pause_runs_its_body_here_and_its_function_on_each_core_in_turn_with_others");
    each_kind(|builder| {
        let runtime = builder.cores(3).build().expect("three cores");
        let ran: Arc<[AtomicU64; 3]> = Arc::default();
        let inside = Arc::new(AtomicBool::new(false));
        let seen = ran.clone();
        runtime.block_on(move || async move {
            let masters = (0..3).map(CoreId::new).map(|core| {
                let (ran, inside) = (ran.clone(), inside.clone());
                ipiq::spawn_on(core, move || async move {
                    for _ in 0..100 {
                        let (ran, inside) = (ran.clone(), inside.clone());
                        // What the body keeps need not be `Send`.
                        let local = Rc::new(Cell::new(0));
                        let written = local.clone();
                        let each = move || add(&ran[ipiq::core_id().index()], 1);
                        let paused = ipiq::pause(Pause::all().each(each), move |paused| {
                            assert!(!inside.swap(true, Ordering::Relaxed), "two bodies at once");
                            written.set(paused.cores().len());
                            inside.store(false, Ordering::Relaxed);
                            ipiq::core_id()
                        });
                        assert_eq!(paused.await.expect("no panic").0, core);
                        assert_eq!(local.get(), 3);
                    }
                })
            });
            join_all(masters).await.into_iter().for_each(|ended| ended.expect("no panic"));
        });
        assert!(seen.iter().all(|ran| ran.load(Ordering::Relaxed) == 300));
    });
}

/// Two accounts on different cores; a transfer is two calls that one poll sends.
#[test]
fn a_pause_that_drains_cuts_no_transfer_between_cores_in_two() {
    let _watch = watch("a_pause_that_drains_cuts_no_transfer_between_cores_in_two");
    thread_local!(static BALANCE: Cell<i64> = const { Cell::new(1_000) });
    each_kind(|builder| {
        let runtime = builder.cores(3).build().expect("three cores");
        let (transfers, cuts) = runtime.block_on(|| async {
            let over = Arc::new(AtomicBool::new(false));
            let clients = (0..30).map(|client| {
                let over = over.clone();
                ipiq::spawn_on(CoreId::new(client % 3), move || async move {
                    let mut transfers = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        let (from, to) = (CoreId::new(fastrand::usize(..3)), CoreId::new(fastrand::usize(..3)));
                        let amount = fastrand::i64(1..50);
                        let take = ipiq::call_on(from, move || BALANCE.set(BALANCE.get() - amount));
                        let give = ipiq::call_on(to, move || BALANCE.set(BALANCE.get() + amount));
                        take.await.expect("no panic");
                        give.await.expect("no panic");
                        transfers += 1;
                        ipiq::yield_now().await;
                    }
                    transfers
                })
            });
            let clients: Vec<_> = clients.collect();
            let cuts = scaled(200, 5_000);
            for _ in 0..cuts {
                let sum = Arc::new(Mutex::new(Vec::new()));
                let balances = sum.clone();
                let each = move || balances.lock().expect("not poisoned").push(BALANCE.get());
                ipiq::pause(Pause::all().drain().each(each), |_| ()).await.expect("no limit");
                let balances = sum.lock().expect("not poisoned").clone();
                assert_eq!((balances.len(), balances.iter().sum::<i64>()), (3, 3_000), "{balances:?}");
                ipiq::yield_now().await;
            }
            over.store(true, Ordering::Relaxed);
            let transfers: u64 = join_all(clients).await.into_iter().map(|made| made.expect("no panic")).sum();
            (transfers, cuts)
        });
        assert!(transfers > cuts, "{transfers} transfers under {cuts} cuts");
    });
}

/// The answer to the first call runs inside the stop alone: this core stands at a safe point by then.
#[test]
fn a_call_of_every_core_that_begins_in_a_drain_is_carried_out_on_all_of_them_before_the_body() {
    let _watch = watch("a_call_of_every_core_that_begins_in_a_drain_is_carried_out_on_all_of_them_before_the_body");
    each_kind(|builder| {
        let runtime = builder.cores(3).build().expect("three cores");
        for _ in 0..50 {
            let ran = Arc::new(AtomicU64::new(0));
            let counted = ran.clone();
            let seen = runtime.block_on(move || async move {
                let home = ipiq::core_id();
                let count = move || add(&counted, 1);
                let everywhere = move || drop(ipiq::xcall::high::broadcast(count));
                let other = CoreId::new((home.index() + 1) % 3);
                drop(ipiq::call_on(other, move || drop(ipiq::call_on(home, everywhere))));
                let body = move |_: &ipiq::Paused<'_>| ran.load(Ordering::Relaxed);
                ipiq::pause(Pause::all().drain(), body).await.expect("no limit").0
            });
            assert_eq!(seen, 3);
        }
    });
}

/// Without *drain* the same cut may fall between the two calls: what the option is for.
#[test]
fn a_request_forwarded_from_core_to_core_is_carried_out_before_the_body_of_a_drained_pause() {
    let _watch = watch("a_request_forwarded_from_core_to_core_is_carried_out_before_the_body_of_a_drained_pause");
    let runtime = Runtime::builder().cores(4).build().expect("four cores");
    for _ in 0..scaled(200, 2_000) {
        let arrived = Arc::new(AtomicBool::new(false));
        runtime.block_on(move || async move {
            // One poll: a call whose closure begins another one, three cores on, and then the pause.
            let seen = arrived.clone();
            let first = ipiq::call_on(CoreId::new(1), move || {
                drop(ipiq::call_on(CoreId::new(2), move || {
                    drop(ipiq::call_on(CoreId::new(3), move || arrived.store(true, Ordering::Relaxed)));
                }));
            });
            let (done, _) =
                ipiq::pause(Pause::all().drain(), move |_| seen.load(Ordering::Relaxed)).await.expect("no limit");
            assert!(done);
            first.await.expect("no panic");
        });
    }
}

#[test]
fn a_plain_thread_pauses_a_runtime_and_awaits_it() {
    let _watch = watch("a_plain_thread_pauses_a_runtime_and_awaits_it");
    each_kind(|builder| {
        let runtime = builder.cores(2).build().expect("two cores");
        let handle = runtime.handle();
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        let core = CoreId::new(n % 2);
                        let pausing = handle.pause(core, Pause::all(), |paused| (ipiq::core_id(), paused.cores()));
                        let ((ran_on, cores), _) = Runtime::wait(pausing).expect("it runs");
                        assert_eq!((ran_on, cores), (core, vec![A, B]));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        drop(runtime);
        let late = Runtime::wait(handle.pause(A, Pause::all(), |_| ()));
        assert!(late.expect_err("it has stopped").is_gone());
    });
}

#[test]
fn a_pause_waits_for_the_poll_under_way_and_for_no_other() {
    let _watch = watch("a_pause_waits_for_the_poll_under_way_and_for_no_other");
    let runtime = Runtime::builder().cores(2).build().expect("two cores");
    let polls = Arc::new(AtomicUsize::new(0));
    let seen = polls.clone();
    let after = runtime.block_on(move || async move {
        // Twenty tasks wait for their turn there; each poll goes on until it is told.
        let go = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (polls, go) = (polls.clone(), go.clone());
                ipiq::spawn_on(B, move || async move {
                    polls.fetch_add(1, Ordering::AcqRel);
                    while !go.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        while seen.load(Ordering::Acquire) == 0 {
            ipiq::yield_now().await;
        }
        let pausing = ipiq::pause(Pause::cores([B]), move |_| seen.load(Ordering::Acquire));
        // The poll ends when it is being waited for.
        let handle = ipiq::handle();
        let ender = std::thread::spawn(move || {
            while !handle.waits().iter().any(|wait| wait.kind == WaitKind::Cpusync) {
                std::thread::yield_now();
            }
            go.store(true, Ordering::Release);
        });
        let (after, _) = pausing.await.expect("no limit");
        ender.join().expect("no panic");
        join_all(tasks).await.into_iter().for_each(|ended| ended.expect("no panic"));
        after
    });
    assert_eq!(after, 1);
}

#[test]
fn a_pause_that_times_out_names_the_core_in_a_long_poll() {
    let _watch = watch("a_pause_that_times_out_names_the_core_in_a_long_poll");
    each_kind(|builder| {
        let runtime = builder.cores(3).build().expect("three cores");
        runtime.block_on(|| async {
            let (begun, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let (told, wait) = (begun.clone(), go.clone());
            let long = ipiq::spawn_on(B, move || async move {
                told.store(true, Ordering::Release);
                while !wait.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
            });
            while !begun.load(Ordering::Acquire) {
                ipiq::yield_now().await;
            }
            let plan = Pause::all().timeout(Duration::from_millis(300));
            let error =
                ipiq::pause(plan.each(|| unreachable!("it gave up")), |_| ()).await.expect_err("core 1 is busy");
            assert!(error.is_timeout() && !error.is_gone() && !error.is_panic() && !error.is_restless());
            assert_eq!(error.not_stopped(), [B]);
            // The other core has been let go.
            assert_eq!(ipiq::call_on(CoreId::new(2), || 7).await.expect("it runs"), 7);
            go.store(true, Ordering::Release);
            long.await.expect("no panic");
            ipiq::pause(Pause::all().timeout(Duration::from_secs(60)), |_| ()).await.expect("nobody is busy");
        });
    });
}

#[test]
fn the_limit_of_another_threads_pause_begins_with_its_request() {
    const LIMIT: Duration = Duration::from_millis(200);
    let _watch = watch("the_limit_of_another_threads_pause_begins_with_its_request");
    each_kind(|builder| {
        let runtime = builder.cores(2).build().expect("two cores");
        let timed_out = || {
            let (begun, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let (told, wait) = (begun.clone(), go.clone());
            let long = runtime.handle().spawn_on(A, move || async move {
                told.store(true, Ordering::Release);
                while !wait.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
            });
            while !begun.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let pausing = runtime.handle().pause(A, Pause::all().timeout(LIMIT), |_| ());
            let asked = Instant::now();
            while asked.elapsed() <= LIMIT {
                std::thread::yield_now();
            }
            go.store(true, Ordering::Release);
            Runtime::wait(long).expect("no panic");
            Runtime::wait(pausing).is_err_and(|error| error.is_timeout())
        };
        // Once in a while the other core stands still before the lead looks for the first time: that is in time, whatever the clock says.
        assert!((0..5).any(|_| timed_out()));
    });
}

#[test]
fn panics_of_body_and_functions_reach_the_caller_alone() {
    let _watch = watch("panics_of_body_and_functions_reach_the_caller_alone");
    each_kind(|builder| {
        let runtime = builder.cores(2).build().expect("two cores");
        runtime.block_on(|| async {
            let payload = |error: PauseError| {
                assert!(error.is_panic());
                *error.try_into_panic().expect("a panic").downcast::<u32>().expect("its payload")
            };
            for _ in 0..5 {
                let body = ipiq::pause(Pause::all(), |_| std::panic::panic_any(1_u32)).await;
                assert_eq!(payload(body.map(|((), _)| ()).expect_err("a panic")), 1);
                let each = Pause::all().each(|| assert!(ipiq::core_id() == A || throw(2)));
                assert_eq!(payload(ipiq::pause(each, |_| ()).await.expect_err("a panic")), 2);
                let quick = ipiq::pause_each([A, B], || assert!(ipiq::core_id() == B || throw(3))).await;
                assert_eq!(payload(quick.expect_err("a panic")), 3);
                let inner = ipiq::pause(Pause::all(), move |paused| {
                    assert_eq!(payload(paused.on_each(|| assert!(throw(4))).expect_err("a panic")), 4);
                    let inner = paused.pause(&Pause::all(), |_| std::panic::panic_any(5_u32));
                    payload(inner.map(|((), _)| ()).expect_err("a panic"))
                });
                assert_eq!(inner.await.expect("the outer one goes on").0, 5);
            }
        });
    });
}

fn throw(n: u32) -> bool {
    std::panic::panic_any(n)
}

#[test]
fn a_pause_wakes_sleeping_cores_and_leaves_timers_and_tasks_whole() {
    let _watch = watch("a_pause_wakes_sleeping_cores_and_leaves_timers_and_tasks_whole");
    each_kind(|builder| {
        let runtime = builder.cores(4).idle(ipiq::IdlePolicy::Park).build().expect("four cores");
        runtime.block_on(|| async {
            let sleepers: Vec<_> = (0..4)
                .map(|core| {
                    ipiq::spawn_on(CoreId::new(core), || async { ipiq::time::sleep(Duration::from_millis(30)).await })
                })
                .collect();
            for _ in 0..20 {
                let cores = ipiq::pause(Pause::all().drain(), |paused| paused.cores().len()).await.expect("no limit").0;
                assert_eq!(cores, 4);
                ipiq::time::sleep(Duration::from_millis(1)).await;
            }
            join_all(sleepers).await.into_iter().for_each(|ended| ended.expect("no panic"));
        });
    });
}

#[test]
fn a_pause_whose_future_is_dropped_is_not_carried_out_or_carried_out_whole() {
    let _watch = watch("a_pause_whose_future_is_dropped_is_not_carried_out_or_carried_out_whole");
    let census = Census::default();
    let runtime = Runtime::builder().cores(2).build().expect("two cores");
    let (ran, tokens) = (Arc::new(AtomicU64::new(0)), census.clone());
    let counted = ran.clone();
    runtime.block_on(move || async move {
        let log = Rc::new(RefCell::new(Vec::new()));
        for n in 0..100 {
            let (ran, token, entry, log) = (counted.clone(), tokens.token(), tokens.token(), log.clone());
            let plan = Pause::all().each(move || {
                let _held = &token;
                add(&ran, 1);
            });
            let pausing = ipiq::pause(plan, move |_| {
                log.borrow_mut().push(n);
                entry
            });
            if n % 2 == 0 {
                // Before the safe point: this poll has not ended.
                drop(pausing);
            } else {
                drop(pausing.await.expect("no panic"));
            }
        }
        assert_eq!(*log.borrow(), (0..50).map(|n| 2 * n + 1).collect::<Vec<_>>());
    });
    assert_eq!(ran.load(Ordering::Relaxed), 100);
    drop(runtime);
    assert_eq!(census.alive(), 0);
}

#[test]
fn a_runtime_that_is_stopped_in_the_middle_of_pauses_ends_and_leaks_nothing() {
    let _watch = watch("a_runtime_that_is_stopped_in_the_middle_of_pauses_ends_and_leaks_nothing");
    each_kind(|builder| {
        for round in 0..10 {
            let census = Census::default();
            let runtime = builder.clone().cores(4).build().expect("four cores");
            let handle = runtime.handle();
            let pauses = Arc::new(AtomicUsize::new(0));
            let tasks: Vec<_> = (0..4)
                .map(|core| {
                    let (census, pauses) = (census.clone(), pauses.clone());
                    handle.spawn_on(CoreId::new(core), move || async move {
                        loop {
                            let (token, entry) = (census.token(), census.token());
                            let plan = Pause::all().drain().each(move || {
                                let _held = &token;
                            });
                            let stopped = ipiq::pause(plan, move |_| drop(entry)).await;
                            assert!(stopped.as_ref().err().is_none_or(PauseError::is_gone), "{stopped:?}");
                            pauses.fetch_add(1, Ordering::AcqRel);
                        }
                    })
                })
                .collect();
            while pauses.load(Ordering::Acquire) < round * 5 {
                std::thread::yield_now();
            }
            drop(runtime);
            for task in tasks {
                let ended: Result<(), _> = Runtime::wait(task);
                assert!(ended.expect_err("it had no end").is_cancelled());
            }
            assert_eq!(census.alive(), 0);
        }
    });
}

#[test]
#[should_panic(expected = "there is no core 5: the runtime has 2 cores")]
fn a_pause_of_a_core_that_is_not_there_is_refused_where_it_is_asked_for() {
    let runtime = Runtime::builder().cores(2).build().expect("two cores");
    runtime.block_on(|| async {
        drop(ipiq::pause(Pause::cores([CoreId::new(5)]), |_| ()));
    });
}

/// Reports the pauses of busy cores: two on two CPUs, and many more than there are CPUs.
#[test]
fn pauses_of_busy_cores_are_as_long_as_they_say() {
    let _watch = watch("pauses_of_busy_cores_are_as_long_as_they_say");
    for cores in [2, 4, 16] {
        let runtime = Runtime::builder().cores(cores).build().expect("cores");
        let mut totals = runtime.block_on(move || async move {
            let over = Arc::new(AtomicBool::new(false));
            let busy: Vec<_> = (0..2 * cores)
                .map(|task| {
                    let over = over.clone();
                    ipiq::spawn_on(CoreId::new(task % cores), move || async move {
                        while !over.load(Ordering::Relaxed) {
                            let target = CoreId::new(fastrand::usize(..cores));
                            ipiq::call_on(target, || (0..200).for_each(|_| std::hint::spin_loop()))
                                .await
                                .expect("no panic");
                        }
                    })
                })
                .collect();
            let mut totals = Vec::new();
            for n in 0..scaled(200, 5_000) {
                let plan = if n % 2 == 0 { Pause::all() } else { Pause::all().drain() };
                let asked = Instant::now();
                let ((), times) = ipiq::pause(plan.each(|| ()), |_| ()).await.expect("no limit");
                assert!(times.stopping <= times.total && times.total <= asked.elapsed());
                totals.push(times.total);
                ipiq::yield_now().await;
            }
            over.store(true, Ordering::Relaxed);
            join_all(busy).await.into_iter().for_each(|ended| ended.expect("no panic"));
            totals
        });
        totals.sort_unstable();
        let at = |permille: usize| totals[(totals.len() - 1) * permille / 1000];
        println!("{cores} busy cores: pause p50 {:?}, p99 {:?}, longest {:?}", at(500), at(990), at(1000));
    }
}
