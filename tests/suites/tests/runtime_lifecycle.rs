//! Runtimes dropped in every state, and starts that fail half-way: nothing hangs, nothing is left.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use ipiq::{Builder, CoreId, JoinHandle, Runtime, call_on, core_id, spawn_local, spawn_on, yield_now};
use ipiq_suites::alone::alone;
use ipiq_suites::process::{Holdings, holdings};
use ipiq_suites::runtimes::{Census, Token, drivers, each_kind};
use ipiq_suites::scale::scaled;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

fn two_cores(builder: &Builder) -> Runtime {
    builder.clone().cores(2).ring_capacity(4).build().expect("a runtime")
}

fn other() -> CoreId {
    CoreId::new(1 - core_id().index())
}

/// Waits until threads and descriptors are what they were.
fn wait_for(before: Holdings) {
    while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
        thread::yield_now();
    }
}

#[test]
fn tasks_that_await_each_other_end_with_their_runtime() {
    alone("tasks_that_await_each_other_end_with_their_runtime", LIMIT, || {
        each_kind(|builder| {
            for round in 0..scaled(20, 150) {
                // On one core, and across two.
                await_each_other(two_cores(&builder), CoreId::new(round % 2));
            }
        });
    });
}

fn await_each_other(runtime: Runtime, second: CoreId) {
    let census = Census::default();
    let handles: [Arc<Mutex<Option<JoinHandle<()>>>>; 2] = Default::default();
    let waiting = Arc::new(AtomicU64::new(0));
    let spawn = |core: CoreId, own: usize| {
        let (token, waiting, theirs) = (census.token(), waiting.clone(), handles[1 - own].clone());
        runtime.handle().spawn_on(core, move || async move {
            let _token = token;
            let handle = loop {
                if let Some(handle) = theirs.lock().expect("not poisoned").take() {
                    break handle;
                }
                yield_now().await;
            };
            waiting.fetch_add(1, Ordering::AcqRel);
            let _ = handle.await;
        })
    };
    *handles[0].lock().expect("not poisoned") = Some(spawn(A, 0));
    *handles[1].lock().expect("not poisoned") = Some(spawn(second, 1));
    while waiting.load(Ordering::Acquire) < 2 {
        thread::yield_now();
    }
    drop(runtime);
    assert_eq!(census.alive(), 0);
}

/// Spawns, when it is dropped, here and there.
struct SpawnsInDrop {
    handles: Sender<JoinHandle<()>>,
    census: Census,
    _token: Token,
}

impl Drop for SpawnsInDrop {
    fn drop(&mut self) {
        let (here, there, far) = (self.census.token(), self.census.token(), self.census.token());
        let hold = |token: Token| async move {
            let _token = token;
            pending::<()>().await;
        };
        let spawned = [
            spawn_local(hold(here)),
            spawn_on(other(), move || hold(there)),
            ipiq::handle().spawn_on(core_id(), move || hold(far)),
        ];
        spawned.into_iter().for_each(|task| self.handles.send(task).expect("a listener"));
    }
}

#[test]
fn tasks_spawned_by_destructors_during_the_end_are_cancelled() {
    alone("tasks_spawned_by_destructors_during_the_end_are_cancelled", LIMIT, || {
        each_kind(|builder| {
            for _ in 0..scaled(20, 150) {
                let runtime = two_cores(&builder);
                let (census, (handles, spawned)) = (Census::default(), channel());
                for core in [A, B] {
                    for _ in 0..10 {
                        let bomb =
                            SpawnsInDrop { handles: handles.clone(), census: census.clone(), _token: census.token() };
                        let started = runtime.handle().call_on(core, move || {
                            drop(spawn_local(async move {
                                let _bomb = bomb;
                                pending::<()>().await;
                            }));
                        });
                        Runtime::wait(started).expect("it runs");
                    }
                }
                drop(handles);
                let handle = runtime.handle();
                drop(runtime);
                let mut cancelled = 0;
                for task in spawned {
                    assert!(Runtime::wait(task).expect_err("cancelled").is_cancelled());
                    cancelled += 1;
                }
                assert_eq!((cancelled, census.alive()), (2 * 10 * 3, 0));
                let late = census.token();
                let task = handle.spawn_on(B, move || async move { drop(late) });
                assert!(Runtime::wait(task).expect_err("too late").is_cancelled());
                assert!(Runtime::wait(handle.call_on(A, || ())).expect_err("too late").is_gone());
                assert_eq!(census.alive(), 0);
            }
        });
    });
}

#[test]
fn calls_under_way_in_every_direction_end_with_the_runtime() {
    alone("calls_under_way_in_every_direction_end_with_the_runtime", LIMIT, || {
        each_kind(|builder| {
            for seed in 0..scaled(40, 200) {
                drop_amid_calls(two_cores(&builder), seed);
            }
        });
    });
}

fn drop_amid_calls(runtime: Runtime, seed: u64) {
    let census = Census::default();
    let answered = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = [A, B, A, B, A, B]
        .map(|core| {
            let (census, answered) = (census.clone(), answered.clone());
            runtime.handle().spawn_on(core, move || call_for_ever(census, answered))
        })
        .into();
    thread::scope(|scope| {
        let handle = runtime.handle();
        let (census, answered) = (&census, &answered);
        scope.spawn(move || {
            // A foreign caller learns of the end by an answer too.
            let call = || {
                let token = census.token();
                Runtime::wait(handle.call_on(B, move || token))
            };
            while call().is_ok() {
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let enough = Rng::with_seed(seed).u64(..3_000);
        while answered.load(Ordering::Relaxed) < enough {
            thread::yield_now();
        }
        drop(runtime);
    });
    for task in tasks {
        // A task that sees an answer "gone" before it is cancelled ends by itself.
        assert!(Runtime::wait(task).is_ok_and(|gone| gone) || census.alive() == 0);
    }
    assert_eq!(census.alive(), 0, "seed {seed}");
}

/// Keeps several calls under way; `true` once one is answered "gone".
async fn call_for_ever(census: Census, answered: Arc<AtomicU64>) -> bool {
    loop {
        let calls = (0..8).map(|_| {
            let (token, large) = (census.token(), [0_u8; 100]);
            call_on(other(), move || (token, large))
        });
        for answer in calls.collect::<Vec<_>>() {
            match answer.await {
                Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                Err(error) => return error.is_gone(),
            };
        }
    }
}

#[test]
fn a_runtime_dropped_on_one_of_its_own_cores_ends() {
    alone("a_runtime_dropped_on_one_of_its_own_cores_ends", LIMIT, || {
        let before = holdings();
        each_kind(|builder| {
            for round in 0..scaled(20, 150) {
                let (runtime, census) = (two_cores(&builder), Census::default());
                let (handle, token) = (runtime.handle(), census.token());
                drop(handle.spawn_on(B, move || async move {
                    let _token = token;
                    pending::<()>().await;
                }));
                let task = handle.spawn_on(CoreId::new(round % 2), move || async move { drop(runtime) });
                // It stops as soon as the task ends, or before the task's end is told.
                let _ = Runtime::wait(task);
                // A handle keeps what is needed to wake the cores.
                drop(handle);
                wait_for(before);
                assert_eq!(census.alive(), 0);
            }
        });
    });
}

thread_local! {
    static WAKER: RefCell<Option<WakeLate>> = const { RefCell::new(None) };
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
    static LATE_WAKER: RefCell<Option<WakeLate>> = const { RefCell::new(None) };
}

/// Wakes when its thread ends.
struct WakeLate(Waker);

impl Drop for WakeLate {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

#[test]
fn a_runtime_in_a_thread_local_ends_with_its_thread() {
    alone("a_runtime_in_a_thread_local_ends_with_its_thread", LIMIT, || {
        let before = holdings();
        each_kind(|builder| {
            for _ in 0..scaled(20, 150) {
                let census = Census::default();
                let owner = thread::spawn({
                    let (runtime, token) = (two_cores(&builder), census.token());
                    move || keep_in_thread_local(runtime, token)
                });
                owner.join().expect("no panic");
                assert_eq!(census.alive(), 0);
                wait_for(before);
            }
        });
    });
}

/// Leaves the runtime to the thread's end, and wakers of its task to the time before and after.
fn keep_in_thread_local(runtime: Runtime, token: Token) {
    let (tell, told) = channel();
    drop(runtime.handle().spawn_on(B, move || async move {
        let _token = token;
        poll_fn(|cx| {
            let _ = tell.send(cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }));
    let waker = told.recv().expect("the task runs");
    WAKER.set(Some(WakeLate(waker.clone())));
    RUNTIME.set(Some(runtime));
    LATE_WAKER.set(Some(WakeLate(waker)));
}

#[test]
fn a_start_that_fails_on_one_core_names_it_and_leaves_nothing() {
    alone("a_start_that_fails_on_one_core_names_it_and_leaves_nothing", LIMIT, || {
        let before = holdings();
        for driver in drivers() {
            let builder = Runtime::builder().cores(4).driver(driver);
            drop(builder.clone().build().expect("a runtime"));
            wait_for(before);
            let granted = getrlimit(Resource::Nofile);
            let (mut refused, mut spare) = (0, 0);
            loop {
                // The count includes the descriptor by which it was taken.
                let limit = before.descriptors as u64 - 1 + spare;
                setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..granted }).expect("a lower limit");
                let built = builder.clone().build();
                setrlimit(Resource::Nofile, granted).expect("the old limit");
                let Err(error) = built else { break };
                assert!(error.is_driver(), "{error}");
                let text = error.to_string();
                assert!((0..4).any(|core| text.starts_with(&format!("core {core}: "))), "{text}");
                wait_for(before);
                if spare == 0 {
                    println!("{driver:?}: {text}");
                }
                (refused, spare) = (refused + 1, spare + 1);
            }
            println!("{driver:?}: {refused} starts refused, {spare} descriptors are enough for 4 cores");
            assert!(refused >= 4);
        }
    });
}

#[test]
fn a_core_that_panics_while_it_starts_is_named_and_leaves_nothing() {
    alone("a_core_that_panics_while_it_starts_is_named_and_leaves_nothing", LIMIT, || {
        each_kind(|builder| {
            for round in 0..scaled(30, 300) {
                let before = holdings();
                let bad = CoreId::new(round % 3);
                let started = Arc::new(AtomicU64::new(0));
                let count = started.clone();
                let hook = move |core| {
                    count.fetch_add(1, Ordering::AcqRel);
                    assert_ne!(core, bad, "no such priority");
                };
                let built = builder.clone().cores(3).on_thread_start(hook).build();
                let text = built.expect_err("one core has panicked").to_string();
                assert!(text.contains(&format!("{bad}: ")) && text.contains("no such priority"), "{text}");
                // All were joined: none runs on, and the hook is dropped with them.
                assert_eq!((started.load(Ordering::Acquire), Arc::strong_count(&started)), (3, 1));
                wait_for(before);
            }
        });
    });
}

#[test]
fn many_runtimes_leave_nothing_behind() {
    alone("many_runtimes_leave_nothing_behind", LIMIT, || {
        let start = holdings();
        each_kind(|builder| {
            let round = || {
                let runtime = two_cores(&builder);
                let sum = runtime.block_on(|| async {
                    let there = spawn_on(B, || async { call_on(A, || 1).await.expect("it runs") });
                    let kept = spawn_on(B, pending::<()>);
                    drop(kept);
                    there.await.expect("no panic") + call_on(B, || 2).await.expect("it runs")
                });
                assert_eq!(sum, 3);
            };
            // The allocator's arenas and the process's first-time state are there after these.
            (0..100).for_each(|_| round());
            wait_for(start);
            let before = holdings();
            (0..scaled(100, 1_000)).for_each(|_| round());
            // A joined thread's entry may stay for a moment.
            wait_for(start);
            let after = holdings();
            println!("{before:?}, later {after:?}");
            assert!(after.resident_kib < before.resident_kib + 256, "{before:?}, later {after:?}");
        });
    });
}

#[test]
fn tasks_that_waited_leave_no_memory_behind() {
    alone("tasks_that_waited_leave_no_memory_behind", LIMIT, || {
        each_kind(|builder| {
            let runtime = two_cores(&builder);
            let round = || {
                runtime.block_on(|| async {
                    for number in 0..1_000_u32 {
                        let here = spawn_local(yield_now());
                        let there = spawn_on(B, yield_now);
                        let aborted = spawn_on(B, pending::<()>);
                        if number % 2 == 0 {
                            yield_now().await;
                        }
                        aborted.abort();
                        here.await.expect("no panic");
                        there.await.expect("no panic");
                        assert!(aborted.await.expect_err("aborted").is_cancelled());
                    }
                });
            };
            (0..5).for_each(|_| round());
            let before = holdings();
            (0..scaled(10, 100)).for_each(|_| round());
            let after = holdings();
            println!("{} KiB, later {} KiB", before.resident_kib, after.resident_kib);
            assert!(after.resident_kib < before.resident_kib + 512, "{before:?}, later {after:?}");
        });
    });
}

#[test]
fn a_stop_amid_spawns_of_other_threads_cancels_or_completes_each() {
    alone("a_stop_amid_spawns_of_other_threads_cancels_or_completes_each", LIMIT, || {
        each_kind(|builder| {
            for _ in 0..scaled(40, 200) {
                let (runtime, census, begun) = (two_cores(&builder), Census::default(), AtomicBool::new(false));
                thread::scope(|scope| {
                    for _ in 0..2 {
                        let (handle, census, begun) = (runtime.handle(), &census, &begun);
                        scope.spawn(move || {
                            let mut outcomes = Vec::new();
                            // Goes on until it is told that nothing runs any more.
                            loop {
                                let token = census.token();
                                let task = handle
                                    .spawn_on(CoreId::new(outcomes.len() % 2), move || async move { drop(token) });
                                begun.store(true, Ordering::Release);
                                let refused = task.is_finished();
                                outcomes.push(task);
                                if refused && is_stopped(&handle) {
                                    break;
                                }
                            }
                            outcomes.into_iter().for_each(|task| {
                                let _ = Runtime::wait(task).map_err(|error| assert!(error.is_cancelled()));
                            });
                        });
                    }
                    while !begun.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                    drop(runtime);
                });
                assert_eq!(census.alive(), 0);
            }
        });
    });
}

fn is_stopped(handle: &ipiq::Handle) -> bool {
    Runtime::wait(handle.call_on(A, || ())).is_err()
}
