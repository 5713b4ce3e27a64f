//! Closures that block, on threads beside the cores.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use ipiq::{CoreId, JoinSet, Placement, Runtime, core_id, cores, spawn_blocking, spawn_local, spawn_on, yield_now};
use ipiq_suites::alone::alone;
use ipiq_suites::process::holdings;
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const B: CoreId = CoreId::new(1);

#[test]
fn closures_block_beside_their_cores_and_their_values_come_back() {
    alone("closures_block_beside_their_cores_and_their_values_come_back", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).blocking_threads(4).build().expect("a runtime");
            runtime.block_on(|| async {
                // All four at once, or it does not end; the cores go on.
                let (together, handle) = (Arc::new(Barrier::new(4)), ipiq::handle());
                let mut set = JoinSet::new();
                for core in cores().cycle().take(4) {
                    let (together, handle) = (together.clone(), handle.clone());
                    set.spawn_on(core, move || async move {
                        let home = core_id();
                        let value = spawn_blocking(move || {
                            together.wait();
                            Runtime::wait(handle.call_on(home, core_id)).expect("a core that runs")
                        });
                        assert_eq!(value.await.expect("no panic"), home);
                        assert_eq!(core_id(), home);
                    });
                }
                while let Some(ended) = set.join_next().await {
                    ended.expect("no panic");
                }
                let panicked = spawn_blocking(|| panic!("oh")).await.expect_err("it panics");
                assert!(panicked.is_panic(), "{panicked}");
                assert_eq!(panicked.to_string(), "the blocking closure panicked: oh");
            });
        });
    });
}

#[test]
fn more_closures_than_the_queue_holds_all_run_on_a_few_threads() {
    alone("more_closures_than_the_queue_holds_all_run_on_a_few_threads", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).blocking_threads(2).build().expect("a runtime");
            let count = scaled(3_000, 30_000);
            let ran = Arc::new(AtomicUsize::new(0));
            let counted = ran.clone();
            runtime.block_on(move || async move {
                // Both threads are busy until all are spawned.
                let gates: Vec<_> = (0..2)
                    .map(|_| {
                        let (open, opened) = mpsc::channel::<()>();
                        drop(spawn_blocking(move || _ = opened.recv()));
                        open
                    })
                    .collect();
                let spawned = Arc::new(AtomicUsize::new(0));
                let spawn = |core| {
                    let (counted, spawned) = (counted.clone(), spawned.clone());
                    spawn_on(core, move || async move {
                        let futures: Vec<_> = (0..count)
                            .map(|n| {
                                let counted = counted.clone();
                                spawn_blocking(move || counted.fetch_add(1, Ordering::Relaxed) + n)
                            })
                            .collect();
                        spawned.fetch_add(1, Ordering::Relaxed);
                        // Some that wait for space are dropped, and never run.
                        let mut dropped = 0;
                        for (n, future) in futures.into_iter().enumerate() {
                            if n % 16 == 15 && format!("{future:?}").contains("queued: false") {
                                dropped += 1;
                            } else {
                                assert!(future.await.expect("no panic") >= n);
                            }
                        }
                        dropped
                    })
                };
                let (here, there) = (spawn(CoreId::new(0)), spawn(B));
                while spawned.load(Ordering::Relaxed) < 2 {
                    yield_now().await;
                }
                drop(gates);
                let dropped = here.await.expect("no panic") + there.await.expect("no panic");
                assert!(dropped > 0, "some had no space");
                assert_eq!(counted.load(Ordering::Relaxed), 2 * count - dropped);
            });
        });
    });
}

#[test]
fn the_end_waits_for_what_has_begun_drops_the_rest_and_leaves_no_thread() {
    alone("the_end_waits_for_what_has_begun_drops_the_rest_and_leaves_no_thread", LIMIT, || {
        let before = holdings();
        each_kind(|builder| {
            for _ in 0..scaled(10, 100) {
                let census = Census::default();
                let runtime = builder.clone().cores(2).blocking_threads(1).build().expect("a runtime");
                let (tell, has_begun) = mpsc::channel();
                let finished = Arc::new(AtomicUsize::new(0));
                let (tokens, finish) = (census.clone(), finished.clone());
                let task = runtime.handle().spawn_on(B, move || async move {
                    let first = spawn_blocking(move || {
                        tell.send(()).expect("it is waited for");
                        std::thread::yield_now();
                        finish.fetch_add(1, Ordering::Relaxed);
                    });
                    let others: Vec<_> = (0..20)
                        .map(|_| {
                            let token = tokens.token();
                            spawn_blocking(move || drop(token))
                        })
                        .collect();
                    first.await.expect("no panic");
                    for other in others {
                        let _ = other.await;
                    }
                });
                has_begun.recv().expect("it begins");
                drop(runtime);
                assert_eq!((finished.load(Ordering::Relaxed), census.alive()), (1, 0));
                drop(task);
            }
        });
        // Joined, but the system may still count one.
        while holdings().threads != before.threads {
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_runtime_may_be_dropped_by_a_blocking_closure_and_by_a_core_with_one_under_way() {
    alone("a_runtime_may_be_dropped_by_a_blocking_closure_and_by_a_core_with_one_under_way", LIMIT, || {
        for _ in 0..scaled(10, 100) {
            let owner = Runtime::builder().cores(1).build().expect("a runtime");
            let (tell, told) = mpsc::channel();
            let owned = Runtime::builder().cores(2).build().expect("a runtime");
            let handle = owned.handle();
            // By a worker of its own.
            drop(handle.spawn_on(B, move || async move {
                let end = spawn_blocking(move || {
                    drop(owned);
                    tell.send(()).expect("it is waited for");
                });
                drop(end.await);
            }));
            told.recv().expect("it ends");
            // By a core of its own, while a worker waits for a value that never comes.
            let (tell, told) = mpsc::channel();
            let owned = Runtime::builder().cores(2).build().expect("a runtime");
            let (kept, gone) = mpsc::channel::<()>();
            let handle = owned.handle();
            drop(handle.spawn_on(B, move || async move {
                let waits = spawn_local(spawn_blocking(move || _ = gone.recv()));
                yield_now().await;
                drop(owned);
                tell.send(waits).expect("it is waited for");
            }));
            drop(told.recv().expect("it ends"));
            drop(kept);
            drop(owner);
        }
    });
}

#[test]
fn threads_for_closures_may_use_every_cpu_although_a_pinned_core_starts_them() {
    fn cpus() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc is mounted");
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).expect("a mask");
        line.to_owned()
    }
    let all = cpus();
    let runtime = Runtime::builder().cores(1).placement(Placement::Pinned).build().expect("a runtime");
    let (core, thread) = runtime.block_on(|| async { (cpus(), spawn_blocking(cpus).await.expect("no panic")) });
    assert_eq!(thread, all);
    assert_eq!(core == all, !all.contains([',', '-']), "a core is pinned");
}

#[test]
fn a_closure_that_waits_for_space_keeps_one_waker_and_none_when_it_is_dropped() {
    alone("a_closure_that_waits_for_space_keeps_one_waker_and_none_when_it_is_dropped", LIMIT, || {
        let runtime = Runtime::builder().cores(1).blocking_threads(1).build().expect("a runtime");
        runtime.block_on(|| async {
            let (open, opened) = mpsc::channel::<()>();
            drop(spawn_blocking(move || _ = opened.recv()));
            while !format!("{:?}", spawn_blocking(|| ())).contains("queued: false") {}
            let counts = Arc::new(());
            struct Counted(#[expect(dead_code, reason = "its count is looked at")] Arc<()>);
            impl Wake for Counted {
                fn wake(self: Arc<Self>) {}
            }
            let mut waits = spawn_blocking(|| ());
            for _ in 0..1_000 {
                let waker = Waker::from(Arc::new(Counted(counts.clone())));
                assert!(Pin::new(&mut waits).poll(&mut Context::from_waker(&waker)).is_pending());
            }
            assert_eq!(Arc::strong_count(&counts), 2);
            drop(waits);
            assert_eq!(Arc::strong_count(&counts), 1);
            drop(open);
        });
    });
}
