//! Tasks, calls and handles on real threads.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use ipiq::{CoreId, DriverKind, IdlePolicy, Runtime, call_on, core_id, spawn_local, spawn_on, yield_now};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// Every runtime that a test here runs on.
fn each_runtime(test: impl Fn(Runtime)) {
    for driver in [DriverKind::Epoll, DriverKind::Auto] {
        for idle in [IdlePolicy::Adaptive, IdlePolicy::Park] {
            for fence in [ipiq::FenceChoice::Auto, ipiq::FenceChoice::Symmetric] {
                let builder = Runtime::builder().cores(2).driver(driver).idle(idle).fence(fence).ring_capacity(8);
                test(builder.build().expect("a runtime of two cores"));
            }
        }
    }
}

/// Records the thread on which it is dropped.
struct DropWitness {
    home: ThreadId,
    dropped: Arc<AtomicUsize>,
    // Not `Send`: the compiler keeps it at home too.
    _local: Rc<()>,
}

impl DropWitness {
    fn new(dropped: &Arc<AtomicUsize>) -> Self {
        Self { home: std::thread::current().id(), dropped: dropped.clone(), _local: Rc::new(()) }
    }
}

impl Drop for DropWitness {
    fn drop(&mut self) {
        assert_eq!(self.home, std::thread::current().id(), "dropped away from home");
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn values_come_back_from_tasks_and_calls_on_every_core() {
    each_runtime(|runtime| {
        let sum = runtime.block_on(|| async {
            let here = spawn_local(async { core_id().index() + 1 }).await.expect("a value");
            let there = spawn_on(B, || async { core_id().index() + 10 }).await.expect("a value");
            let called = call_on(B, || core_id().index() + 100).await.expect("a value");
            let own = call_on(A, || core_id().index() + 1000).await.expect("a value");
            here + there + called + own
        });
        assert_eq!(sum, 1 + 11 + 101 + 1000);
    });
}

#[test]
fn many_calls_in_flight_beyond_the_ring_all_answer() {
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            let calls: Vec<_> = (0..500).map(|n| call_on(B, move || n * 2)).collect();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.await.expect("a value"), n * 2);
            }
        });
    });
}

#[test]
fn remote_tasks_that_wait_are_woken_from_their_spawner() {
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            let tasks: Vec<_> = (0..200)
                .map(|n| {
                    spawn_on(B, move || async move {
                        let mut sum = 0;
                        for i in 0..5 {
                            sum += call_on(A, move || i * n).await.expect("a value");
                            yield_now().await;
                        }
                        sum
                    })
                })
                .collect();
            for (n, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.await.expect("a value"), 10 * n);
            }
        });
    });
}

#[test]
fn a_panic_stays_in_its_task_or_call() {
    std::panic::set_hook(Box::new(|info| {
        if !std::thread::current().name().unwrap_or("").starts_with("ipiq-") {
            eprintln!("{info}");
        }
    }));
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            let local = spawn_local(async { panic!("in a poll") }).await;
            assert!(local.expect_err("a panic").is_panic());
            let remote = spawn_on(B, || async { panic!("far away") }).await;
            assert!(remote.expect_err("a panic").to_string().contains("far away"));
            let init = spawn_on(B, || -> std::future::Pending<()> { panic!("in the closure") }).await;
            assert!(init.expect_err("a panic").is_panic());
            let called = call_on(B, || -> u8 { panic!("in a call") }).await;
            assert!(called.expect_err("a panic").is_panic());
            struct Bomb;
            impl Drop for Bomb {
                fn drop(&mut self) {
                    panic!("in a destructor");
                }
            }
            let bomb = Bomb;
            let destructor = spawn_local(async move {
                let _bomb = bomb;
                yield_now().await;
            });
            assert!(destructor.await.expect_err("a panic").is_panic());
            let aborted = spawn_on(B, || async {
                let _bomb = Bomb;
                pending::<()>().await;
            });
            call_on(B, || ()).await.expect("alive");
            yield_now().await;
            aborted.abort();
            assert!(aborted.await.is_err());
            drop(spawn_local(async { Bomb }));
            drop(call_on(B, || Bomb));
            yield_now().await;
            assert_eq!(call_on(B, || 7).await.expect("both cores go on"), 7);
        });
    });
}

#[test]
fn abort_drops_the_future_at_home_at_every_stage() {
    each_runtime(|runtime| {
        let dropped = Arc::new(AtomicUsize::new(0));
        let counter = dropped.clone();
        runtime.block_on(move || async move {
            let witness = |counter: Arc<AtomicUsize>| {
                move || {
                    let witness = DropWitness::new(&counter);
                    async move {
                        let _witness = witness;
                        pending::<()>().await;
                    }
                }
            };
            // Before it has started, while it waits, and after it has ended.
            let before = spawn_on(B, witness(counter.clone()));
            before.abort();
            assert!(before.await.expect_err("aborted").is_cancelled());
            let started = Arc::new(AtomicUsize::new(0));
            let (start, witness) = (started.clone(), witness(counter.clone()));
            let waiting = spawn_on(B, move || {
                start.store(1, Ordering::SeqCst);
                witness()
            });
            while started.load(Ordering::SeqCst) == 0 {
                yield_now().await;
            }
            waiting.abort();
            assert!(waiting.await.expect_err("aborted").is_cancelled());
            let ended = spawn_on(B, || async { 5 });
            while !ended.is_finished() {
                yield_now().await;
            }
            ended.abort();
            assert_eq!(ended.await.expect("kept its outcome"), 5);
            assert!(counter.load(Ordering::SeqCst) <= 2);
        });
        drop(runtime);
        assert!(dropped.load(Ordering::SeqCst) >= 1);
    });
}

#[test]
fn shutdown_drops_every_task_on_its_own_core() {
    each_runtime(|runtime| {
        let dropped = Arc::new(AtomicUsize::new(0));
        let handle = runtime.handle();
        let mut waiting = Vec::new();
        for n in 0..100 {
            let counter = dropped.clone();
            waiting.push(handle.spawn_on(CoreId::new(n % 2), move || {
                let witness = DropWitness::new(&counter);
                async move {
                    let _witness = witness;
                    // Some wait for ever, some for each other's core, some run on and on.
                    match n % 3 {
                        0 => pending::<()>().await,
                        1 => {
                            let _ = spawn_on(CoreId::new((n + 1) % 2), pending::<()>).await;
                            pending::<()>().await;
                        }
                        _ => loop {
                            yield_now().await;
                        },
                    }
                }
            }));
        }
        for core in [A, B] {
            Runtime::wait(handle.call_on(core, || ())).expect("alive");
        }
        drop(runtime);
        for task in waiting {
            assert!(Runtime::wait(task).expect_err("the runtime is gone").is_cancelled());
        }
        let late = handle.spawn_on(A, || async {});
        assert!(Runtime::wait(late).expect_err("the runtime is gone").is_cancelled());
        assert!(Runtime::wait(handle.call_on(B, || ())).expect_err("the runtime is gone").is_gone());
    });
}

#[test]
fn wakers_may_be_used_on_any_thread_and_outlive_the_runtime() {
    each_runtime(|runtime| {
        let wakers: Arc<Mutex<Vec<Waker>>> = Arc::default();
        let rounds = 300;
        let seen = wakers.clone();
        let other = std::thread::spawn(move || {
            let mut woken = 0;
            while woken < rounds {
                let batch: Vec<_> = std::mem::take(&mut *seen.lock().expect("not poisoned"));
                woken += batch.len();
                batch.into_iter().for_each(Waker::wake);
                std::thread::yield_now();
            }
        });
        let kept = wakers.clone();
        runtime.block_on(move || async move {
            for _ in 0..rounds {
                let mut first = true;
                poll_fn(|cx| {
                    if std::mem::take(&mut first) {
                        kept.lock().expect("not poisoned").push(cx.waker().clone());
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                })
                .await;
            }
            poll_fn(|cx| {
                kept.lock().expect("not poisoned").push(cx.waker().clone());
                Poll::Ready(())
            })
            .await;
        });
        other.join().expect("no panic");
        drop(runtime);
        wakers.lock().expect("not poisoned").drain(..).for_each(Waker::wake);
    });
}

#[test]
fn four_foreign_threads_call_parked_cores_and_every_answer_is_right() {
    each_runtime(|runtime| {
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let handle = runtime.handle();
                std::thread::spawn(move || {
                    for n in 0..500 {
                        let core = CoreId::new((n % 2) as usize);
                        let answer = Runtime::wait(handle.call_on(core, move || thread * 1_000_000 + n));
                        assert_eq!(answer.expect("a value"), thread * 1_000_000 + n);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

#[test]
fn a_thread_that_waits_hears_a_wake_up_whatever_the_future_did_with_its_parking() {
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut polls = 0;
        let future = poll_fn(|cx| {
            polls += 1;
            if polls == 100 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            // As a channel or a scope does that waits for something else: it takes what the wake-up has left with the thread.
            std::thread::park();
            Poll::Pending
        });
        Runtime::wait(future);
        end.send(())
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("the wait has ended");
}

#[test]
fn timers_fire_in_order_and_never_early() {
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            let order = Rc::new(Cell::new(0));
            let tasks: Vec<_> = (0..50u64)
                .map(|n| {
                    let order = order.clone();
                    spawn_local(async move {
                        let wanted = Duration::from_micros(200 * (50 - n));
                        let start = Instant::now();
                        ipiq::time::sleep(wanted).await;
                        assert!(start.elapsed() >= wanted, "early");
                        order.set(order.get() + 1);
                    })
                })
                .collect();
            let never = ipiq::time::timeout(Duration::from_millis(3), ipiq::time::sleep(Duration::MAX));
            assert!(never.await.is_err());
            for task in tasks {
                task.await.expect("not early");
            }
            assert_eq!(order.get(), 50);
            let mut interval = ipiq::time::interval(Duration::from_millis(2));
            let first = interval.tick().await;
            let second = interval.tick().await;
            assert_eq!((second.deadline_ns() - first.deadline_ns()) / (second.number() - first.number()), 2_000_000);
        });
    });
}

#[test]
fn a_task_that_never_waits_starves_neither_timers_nor_messages() {
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            let spinner = spawn_on(B, || async {
                loop {
                    yield_now().await;
                }
            });
            let slept = spawn_on(B, || ipiq::time::sleep(Duration::from_millis(5)));
            for n in 0..1000 {
                assert_eq!(call_on(B, move || n).await.expect("a value"), n);
            }
            slept.await.expect("the timer fired");
            spinner.abort();
            let ended: Result<(), _> = spinner.await;
            assert!(ended.expect_err("aborted").is_cancelled());
        });
    });
}

#[test]
fn a_thousand_runtimes_leave_nothing_behind() {
    let count = || {
        let fds = std::fs::read_dir("/proc/self/fd").expect("procfs").count();
        let threads = std::fs::read_dir("/proc/self/task").expect("procfs").count();
        (fds, threads)
    };
    let make = |driver| {
        let runtime = Runtime::builder().cores(2).driver(driver).build().expect("a runtime");
        assert_eq!(runtime.block_on(|| async { call_on(B, || 3).await.expect("a value") }), 3);
    };
    make(DriverKind::Auto);
    // Other tests of this binary run beside this one: compare by growth, far below one per runtime.
    let (fds, threads) = count();
    for n in 0..300 {
        make(if n % 2 == 0 { DriverKind::Epoll } else { DriverKind::Auto });
    }
    let (fds_after, threads_after) = count();
    assert!(fds_after < fds + 100 && threads_after < threads + 30, "{fds} {threads} {fds_after} {threads_after}");
}

#[test]
fn misuse_has_clear_messages() {
    let error = Runtime::builder().cores(0).build().expect_err("no cores");
    assert_eq!(error.to_string(), "0 cores asked for: choose 1 to 256");
    let error = Runtime::builder().cores(1000).build().expect_err("too many");
    assert!(error.is_config());
    let error = Runtime::builder().cores(200).placement(ipiq::Placement::Pinned).build().expect_err("too few CPUs");
    assert!(error.to_string().contains("200 pinned cores need 200 CPUs"), "{error}");
    let error = Runtime::builder().ring_capacity(3).build().expect_err("no power of two");
    assert!(error.to_string().contains("power of two"));
    let panic = std::panic::catch_unwind(core_id).expect_err("outside");
    let text = panic.downcast_ref::<String>().expect("a text");
    assert!(text.contains("`core_id` was called on a thread that runs no core"), "{text}");
}

#[test]
fn a_name_is_known_while_its_future_is_polled_and_only_then() {
    let text = || ipiq::task_name().map(|name| name.text().to_owned());
    assert_eq!(text(), None, "a thread that runs no core");
    let runtime = Runtime::builder().cores(2).build().expect("a runtime of two cores");
    runtime.block_on(move || async move {
        let inner = ipiq::named("inner", async move {
            yield_now().await;
            text()
        });
        let line = line!() + 1;
        let outer = ipiq::named(String::from("outer"), async move {
            let before = text();
            let within = inner.await;
            (before, within, text(), ipiq::task_name().expect("it has one").location().line())
        });
        let task = spawn_local(outer);
        yield_now().await;
        assert_eq!(text(), None, "another task");
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(task.await.expect("no panic"), (some("outer"), some("inner"), some("outer"), line));
        let panics = spawn_local(ipiq::named("panics", async { panic!("in it") }));
        panics.await.expect_err("it panicked");
        assert_eq!(text(), None, "the name has gone with the panic");
        // It travels.
        let there = spawn_on(B, move || ipiq::named("there", async move { text() }));
        assert_eq!(there.await.expect("no panic"), some("there"));
    });
}
