//! Sharded services: a shard per core, made, used and dropped at home, whatever happens to the service.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipiq::sharded::{Shard, ShardError, Sharded};
use ipiq::{CoreId, Runtime, call_on, core_id, cores, spawn_local, spawn_on, yield_now};
use ipiq_suites::homebound::Homebound;
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const B: CoreId = CoreId::new(1);

/// Three cores, each kind of runtime, `rounds` times, under a watchdog.
fn rounds<Fut: Future<Output = ()> + 'static>(
    what: &str,
    rounds: usize,
    scenario: impl Fn(Census) -> Fut + Send + Sync + 'static,
) {
    let scenario = Arc::new(scenario);
    with_watchdog(what, LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(3).ring_capacity(4).build().expect("a runtime");
            for _ in 0..rounds {
                let census = Census::default();
                let (scenario, theirs) = (scenario.clone(), census.clone());
                runtime.block_on(move || scenario(theirs));
                assert_eq!(census.alive(), 0, "a shard is left");
            }
        });
    });
}

async fn counters(census: &Census) -> Sharded<Homebound> {
    let census = census.clone();
    Sharded::start(move |_| async move { Homebound::new(&census) }).await.expect("no core panics")
}

#[test]
fn every_shard_is_reached_from_every_core_and_dropped_at_home() {
    rounds("sharded, everywhere", scaled(3, 30), |census| async move {
        let service = counters(&census).await;
        let (from, peers) = (service.clone(), cores());
        service
            .invoke_on_all(async move |own: Shard<Homebound>| {
                assert_eq!(own.home, core_id());
                for core in peers {
                    let home = from.on(core).call(move |shard| {
                        shard.count.set(shard.count.get() + 1);
                        shard.home
                    });
                    assert_eq!(home.await.expect("a shard"), core);
                }
            })
            .await
            .expect("no panic");
        assert_eq!(service.map(|shard| shard.count.get()).await.expect("three shards"), [3; 3]);
        service.invoke_on_others(async |shard: Shard<Homebound>| shard.count.set(10)).await.expect("no panic");
        assert_eq!(service.map_reduce(|shard| shard.count.get(), 0, |a, b| a + b).await.expect("shards"), 23);
        assert_eq!(service.local().count.get(), 3);
        service.stop().await.expect("no panic");
        assert!(service.try_local().is_none());
        assert!(service.on(B).call(|_| ()).await.is_err_and(|error| error.is_stopped()));
        assert!(service.on(B).spawn(async |_| ()).await.is_err_and(|error| error.is_stopped()));
        assert!(service.map(|_| ()).await.is_err_and(|error| error.is_stopped()));
    });
}

#[test]
fn a_start_that_fails_on_a_core_leaves_no_shard_and_tells_which() {
    rounds("sharded, failed start", scaled(5, 50), |census| async move {
        let made = Arc::new(AtomicUsize::new(0));
        let (tokens, count) = (census.clone(), made.clone());
        let failed = Sharded::try_start(move |_| async move {
            if core_id() == B {
                // The others have theirs by then.
                while count.load(Ordering::Acquire) < 2 {
                    yield_now().await;
                }
                return Err("no room");
            }
            count.fetch_add(1, Ordering::AcqRel);
            Ok(Homebound::new(&tokens))
        });
        let error = failed.await.expect_err("core 1 refuses");
        assert_eq!(error.to_string(), "the shard of core 1 was not made: no room");
        assert_eq!((error.core(), error.into_inner()), (B, Some("no room")));
        let tokens = census.clone();
        let panics = Sharded::start(move |_| async move {
            assert_ne!(core_id(), B, "no room");
            Homebound::new(&tokens)
        });
        let error = panics.await.expect_err("core 1 panics");
        assert!(error.is_panic() && error.core() == B, "{error}");
    });
}

#[test]
fn a_start_that_is_dropped_half_way_leaves_no_shard() {
    rounds("sharded, dropped start", scaled(20, 200), |census| async move {
        let made = Arc::new(AtomicUsize::new(0));
        for turns in 0..6 {
            let (tokens, count) = (census.clone(), made.clone());
            let mut start = Box::pin(Sharded::start(move |_| async move {
                for _ in 0..fastrand::usize(..6) {
                    yield_now().await;
                }
                let value = Homebound::new(&tokens);
                count.fetch_add(1, Ordering::AcqRel);
                value
            }));
            for _ in 0..turns {
                if let Poll::Ready(started) = start.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    // Nothing was dropped half-way.
                    started.expect("no panic").stop().await.expect("no panic");
                    break;
                }
                yield_now().await;
            }
            drop(start);
        }
        // What was being made is made, on every core by every start that was polled; and then dropped.
        while made.load(Ordering::Acquire) < 3 * 5 || census.alive() > 0 {
            yield_now().await;
        }
    });
}

#[test]
fn a_stop_waits_for_what_is_under_way_and_refuses_the_rest() {
    rounds("sharded, stop under load", scaled(10, 100), |census| async move {
        let service = counters(&census).await;
        let (done, late) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = cores()
            .flat_map(|core| [core; 4])
            .map(|core| {
                let (service, done, late) = (service.clone(), done.clone(), late.clone());
                spawn_on(core, move || async move {
                    loop {
                        let target = CoreId::new(fastrand::usize(..3));
                        let (done, stops) = (done.clone(), fastrand::bool());
                        let task = service.on(target).spawn(async move |shard: Shard<Homebound>| {
                            for _ in 0..fastrand::usize(..4) {
                                yield_now().await;
                            }
                            assert_eq!(shard.home, core_id());
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                        let outcome = if stops { task.await } else { service.on(target).call(|_| ()).await };
                        match outcome {
                            Ok(()) => {}
                            Err(error) if error.is_stopped() => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    late.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        while done.load(Ordering::Relaxed) < 50 {
            yield_now().await;
        }
        // Two at once: both end when the shards are gone.
        let second = service.clone();
        let second = spawn_on(B, move || async move { second.stop().await.expect("no panic") });
        let ended = done.clone();
        let hook = Arc::new(AtomicUsize::new(0));
        let ran = hook.clone();
        service
            .stop_with(async move |shard: Shard<Homebound>| {
                let before = ended.load(Ordering::Relaxed);
                yield_now().await;
                assert_eq!(shard.home, core_id());
                assert_eq!(ended.load(Ordering::Relaxed), before, "a call was under way");
                ran.fetch_add(1, Ordering::Relaxed);
            })
            .await
            .expect("no panic");
        second.await.expect("no panic");
        assert_eq!(census.alive(), 0);
        // All or none: the other one may have been the first.
        assert!([0, 3].contains(&hook.load(Ordering::Relaxed)));
        for caller in callers {
            caller.await.expect("no panic");
        }
        assert_eq!(late.load(Ordering::Relaxed), 12);
    });
}

#[test]
fn a_use_outlasts_the_stop_that_gave_up_waiting() {
    rounds("sharded, a use that lasts", scaled(3, 20), |census| async move {
        let service = counters(&census).await;
        let used = service.local();
        let mut stop = pin!(service.stop());
        for _ in 0..20 {
            assert!(stop.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            yield_now().await;
        }
        assert!(service.try_local().is_none(), "no use begins");
        assert_eq!(used.home, core_id());
        drop(used);
        stop.await.expect("no panic");
    });
}

#[test]
fn panics_of_calls_and_of_the_stop_reach_their_callers_alone() {
    struct Grumpy(Homebound);
    impl Drop for Grumpy {
        fn drop(&mut self) {
            assert_ne!(self.0.home, B, "grumpy");
        }
    }
    rounds("sharded, panics", scaled(3, 20), |census| async move {
        let tokens = census.clone();
        let started = Sharded::start(move |_| async move { Grumpy(Homebound::new(&tokens)) });
        let service = started.await.expect("no panic yet");
        let called = service.on(B).call(|_| panic!("called")).await;
        assert!(called.is_err_and(|error: ShardError| error.is_panic() && error.to_string().contains("called")));
        let spawned = service.on(B).spawn(async |_| panic!("spawned")).await;
        assert!(spawned.is_err_and(|error: ShardError| error.try_into_panic().is_ok()));
        let error = service.stop().await.expect_err("its value panics when it is dropped");
        assert_eq!(
            error.to_string(),
            "while its service stopped, on core 1: the task panicked: assertion `left != right` failed: grumpy\n  left: CoreId(1)\n right: CoreId(1)"
        );
        service.stop().await.expect("over");
    });
}

#[test]
fn a_shard_may_hold_its_service_and_tasks_may_hold_shards_when_the_runtime_ends() {
    struct Peer {
        peers: Sharded<Peer>,
        cache: RefCell<Vec<u32>>,
        _bound: Homebound,
    }
    with_watchdog("sharded, the runtime's end", LIMIT, || {
        each_kind(|builder| {
            for _ in 0..scaled(10, 100) {
                let census = Census::default();
                let runtime = builder.clone().cores(2).build().expect("a runtime");
                let tokens = census.clone();
                let service = runtime.block_on(|| async move {
                    let started = Sharded::start(move |peers| async move {
                        Peer { peers, cache: RefCell::default(), _bound: Homebound::new(&tokens) }
                    });
                    let service = started.await.expect("no core fails");
                    drop(service.on(B).spawn(async |shard: Shard<Peer>| {
                        let own = shard.clone();
                        drop(spawn_local(async move {
                            let _own = own;
                            pending::<()>().await;
                        }));
                        loop {
                            let back = shard.peers.on(CoreId::new(0)).call(|peer| peer.cache.borrow().len()).await;
                            shard.cache.borrow_mut().push(u32::try_from(back.expect("a shard")).expect("small"));
                        }
                    }));
                    service
                });
                assert_eq!(census.alive(), 2);
                drop(runtime);
                assert_eq!(census.alive(), 0);
                drop(service);
            }
        });
    });
}

#[test]
#[should_panic(expected = "on the cores of its own runtime")]
fn a_service_is_not_used_on_another_runtime() {
    let one = Runtime::builder().cores(1).build().expect("a runtime");
    let other = Runtime::builder().cores(1).build().expect("a runtime");
    let service = one.block_on(|| async { Sharded::start(|_| async { 1 }).await.expect("no panic") });
    other.block_on(move || async move { *service.local() });
}

#[test]
fn services_of_two_types_and_a_number_used_again_are_told_apart() {
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    runtime.block_on(|| async {
        let numbers = Sharded::start(|_| async { Cell::new(7u32) }).await.expect("no panic");
        let texts = Sharded::start(|_| async { RefCell::new(String::from("x")) }).await.expect("no panic");
        assert_eq!((numbers.local().get(), texts.local().borrow().len()), (7, 1));
        numbers.stop().await.expect("no panic");
        drop(numbers);
        let bytes = Sharded::start(|_| async { 3u8 }).await.expect("no panic");
        assert_eq!((*bytes.local(), texts.local().borrow().len()), (3, 1));
        assert_eq!(call_on(B, move || *bytes.local()).await.expect("core 1 runs"), 3);
    });
}

#[test]
fn a_stop_returns_when_the_values_are_gone_also_those_that_its_closure_has_passed_on() {
    rounds("sharded, uses of the last closure", scaled(5, 50), |census| async move {
        let service = counters(&census).await;
        let stop = service.stop_with(async |shard: Shard<Homebound>| {
            // Nobody awaits it here.
            drop(spawn_local(async move {
                for _ in 0..50 {
                    yield_now().await;
                }
                shard.count.set(1);
            }));
        });
        stop.await.expect("no panic");
        assert_eq!(census.alive(), 0);
    });
}

#[test]
fn who_awaits_a_stop_that_the_end_of_the_runtime_cuts_is_told() {
    /// Stops the service when its task is cancelled, where no task begins any more.
    struct StopsLate(Sharded<u32>, mpsc::Sender<BoxFuture<'static, bool>>);
    impl Drop for StopsLate {
        fn drop(&mut self) {
            for _ in 0..2 {
                let stop = self.0.stop();
                self.1.send(stop.map(|stopped| stopped.is_ok()).boxed()).expect("it is waited for");
            }
        }
    }
    with_watchdog("sharded, a stop cut by the end", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).build().expect("a runtime");
            let (tell, told) = mpsc::channel();
            let service = runtime.block_on(|| async move {
                let service = Sharded::start(|_| async { 1 }).await.expect("no panic");
                let stops = StopsLate(service.clone(), tell);
                drop(spawn_local(async move {
                    let _stops = stops;
                    pending::<()>().await;
                }));
                yield_now().await;
                service
            });
            drop(runtime);
            for _ in 0..2 {
                assert!(Runtime::wait(told.recv().expect("two stops")));
            }
            // Until now: who waits is not told by its end.
            drop(service);
        });
    });
}

#[test]
fn a_closure_of_a_stop_whose_clone_panics_stops_the_service_all_the_same() {
    struct Uncopied;
    impl Clone for Uncopied {
        fn clone(&self) -> Self {
            panic!("uncopied");
        }
    }
    rounds("sharded, a closure that cannot be cloned", scaled(3, 20), |census| async move {
        let service = counters(&census).await;
        let uncopied = Uncopied;
        let stop = service.stop_with(async move |_| {
            let _ = &uncopied;
        });
        let error = stop.await.expect_err("it is told");
        assert_eq!(error.to_string(), "while its service stopped, on core 0: the task panicked: uncopied");
        assert_eq!(census.alive(), 0);
    });
}
