//! Async calls, and what goes with calls: deadlines, limits, chains.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, join_all, lazy};
use ipiq::sharded::{Shard, ShardError, Sharded};
use ipiq::{
    CallError, CoreId, CoreLocal, Limit, Runtime, call_async_on, call_on, core_id, cores, deadline, spawn_local,
    spawn_on, time, yield_now,
};
use ipiq_suites::homebound::Homebound;
use ipiq_suites::runtimes::{Census, each_kind, on_three_cores};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);

/// On core 0 of three whose clock is the test's.
fn with_paused_clock<Fut: Future<Output = ()> + 'static>(what: &str, rounds: usize, scenario: fn() -> Fut) {
    with_watchdog(what, LIMIT, || {
        for _ in 0..rounds {
            let runtime = Runtime::builder().cores(3).paused_clock().build().expect("a runtime");
            runtime.block_on(scenario);
        }
    });
}

async fn none_alive(census: Census) {
    while census.alive() > 0 {
        yield_now().await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn an_async_call_runs_there_and_brings_its_value_or_its_panic_back() {
    on_three_cores("async calls", scaled(3, 7), |census| async move {
        for round in 0..10 {
            for core in cores() {
                let census = census.clone();
                let call = call_async_on(core, async move || {
                    let bound = Rc::new(Homebound::new(&census));
                    for _ in 0..round % 4 {
                        yield_now().await;
                    }
                    assert_ne!(round, 7, "the seventh");
                    // From there to the others, and back.
                    let next = CoreId::new((core.index() + 1) % 3);
                    let there = call_async_on(next, async || core_id()).await.expect("a core that runs");
                    (bound.home, there)
                });
                match call.await {
                    Ok((home, next)) => assert_eq!((home, next.index()), (core, (core.index() + 1) % 3)),
                    Err(error) => {
                        assert!(round == 7 && error.is_panic() && !error.is_deadline(), "{error}");
                        assert!(error.to_string().contains("the seventh"), "{error}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_call_that_is_dropped_drops_what_runs_for_it_at_home() {
    on_three_cores("dropped async calls", scaled(5, 12), |census| async move {
        let wait_there = |core| {
            let census = census.clone();
            call_async_on(core, async move || {
                let _bound = Homebound::new(&census);
                let inner = census.clone();
                // What it waits for is its own, and ends with it.
                call_async_on(C, async move || {
                    let _bound = Homebound::new(&inner);
                    pending::<()>().await;
                })
                .await
            })
        };
        for core in cores() {
            drop(wait_there(core));
            let mut calls: Vec<_> = (0..4).map(|_| wait_there(core)).collect();
            until(|| census.alive() >= 8).await;
            for call in &mut calls {
                assert!(call.now_or_never().is_none());
            }
            drop(calls);
            none_alive(census.clone()).await;
        }
    });
}

#[test]
fn calls_of_foreign_threads_are_answered_cancelled_or_told_that_the_runtime_is_gone() {
    with_watchdog("foreign async calls", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).ring_capacity(4).build().expect("a runtime");
            let (handle, census) = (runtime.handle(), Census::default());
            let wait = || {
                let census = census.clone();
                handle.call_async_on(B, async move || {
                    let _bound = Homebound::new(&census);
                    pending::<()>().await;
                })
            };
            assert_eq!(Runtime::wait(handle.call_async_on(B, async || core_id())).expect("a value"), B);
            let panicked = Runtime::wait(handle.call_async_on(B, async || panic!("there")));
            assert!(panicked.is_err_and(|error: CallError| error.is_panic()));
            drop(wait());
            let waiting = wait();
            while census.alive() != 1 {
                std::thread::yield_now();
            }
            drop(waiting);
            while census.alive() != 0 {
                std::thread::yield_now();
            }
            let (left, late) = (wait(), handle.clone());
            drop(runtime);
            assert!(Runtime::wait(left).is_err_and(|error| error.is_gone()));
            assert!(Runtime::wait(late.call_async_on(A, async || ())).is_err_and(|error| error.is_gone()));
            assert_eq!(census.alive(), 0);
        });
    });
}

#[test]
fn a_runtime_may_end_in_every_state_of_a_call() {
    with_watchdog("ends of runtimes under calls", LIMIT, || {
        for round in 0..scaled(20, 50) {
            let census = Census::default();
            let runtime = Runtime::builder().cores(2).ring_capacity(4).call_limit(Limit::wait(2)).build().expect("one");
            let (told, heard) = mpsc::channel();
            let theirs = census.clone();
            let task = runtime.handle().spawn_on(A, move || async move {
                let call = |polls: usize| {
                    let census = theirs.clone();
                    call_async_on(B, async move || {
                        let _bound = Homebound::new(&census);
                        for _ in 0..polls {
                            yield_now().await;
                        }
                    })
                };
                // Queued, running, in line, dropped in line, under a deadline.
                let calls = (0..6).map(|index| call(if index % 2 == 0 { 3 } else { 1_000_000 }));
                let mut calls: Vec<_> = calls.collect();
                drop(calls.pop());
                let timed = deadline::within(Duration::from_secs(3600), join_all(calls.split_off(2)));
                told.send(()).expect("a test that waits");
                let _ = futures::join!(join_all(calls), timed);
            });
            if round % 3 != 0 {
                heard.recv().expect("it says how far it is");
            }
            if round % 5 == 0 {
                while census.alive() == 0 && round % 3 != 0 {
                    std::thread::yield_now();
                }
            }
            drop(runtime);
            drop(task);
            assert_eq!(census.alive(), 0);
        }
    });
}

#[test]
fn a_deadline_goes_with_calls_and_spawns_to_every_core_and_the_earliest_counts() {
    with_paused_clock("deadlines travel", scaled(10, 25), || async {
        assert!(deadline::current().is_none());
        let all = deadline::within(10 * MS, async {
            assert_eq!(deadline::remaining(), Some(10 * MS));
            let remaining = || deadline::remaining();
            assert_eq!(call_on(B, remaining).await.expect("in time"), Some(10 * MS));
            assert_eq!(call_on(A, remaining).await.expect("in time"), Some(10 * MS));
            let nested = call_async_on(B, async move || {
                time::sleep(2 * MS).await;
                let later = deadline::within(Duration::MAX, call_async_on(C, async move || remaining()));
                let later = later.await.expect("in time").expect("in time");
                let sooner = deadline::within(MS, async { call_on(C, remaining).await }).await;
                (later, sooner.expect("in time").expect("in time"), remaining())
            });
            assert_eq!(nested.await.expect("in time"), (Some(8 * MS), Some(MS), Some(8 * MS)));
            assert_eq!(spawn_on(C, move || async move { remaining() }).await.expect("in time"), Some(8 * MS));
            assert_eq!(spawn_local(async move { remaining() }).await.expect("in time"), Some(8 * MS));
            let past = deadline::until(Instant::now(), async { unreachable!("it is not polled") });
            assert_eq!(past.await, Err::<(), _>(time::Elapsed));
            let alone = deadline::detached(|| spawn_on(B, move || async move { remaining() }));
            assert_eq!(alone.await.expect("it runs"), None);
            assert_eq!(remaining(), Some(8 * MS));
        });
        all.await.expect("in time");
        assert!(CallError::from(time::Elapsed).is_deadline() && ShardError::from(time::Elapsed).is_deadline());
        assert!(deadline::current().is_none());
        let none = call_async_on(B, async || deadline::current().is_none());
        assert!(none.await.expect("a core that runs"));
    });
}

#[test]
fn what_runs_past_its_deadline_ends_on_every_core() {
    with_paused_clock("deadlines end", scaled(10, 25), || async {
        let census = Census::default();
        let wait = |census: &Census| {
            let census = census.clone();
            async move || {
                let _bound = Homebound::new(&census);
                pending::<()>().await;
            }
        };
        let begun = time::now_ns();
        let (call, tasks, told) = deadline::within(5 * MS, async {
            let tasks = [spawn_on(B, wait(&census)), spawn_on(C, wait(&census)), spawn_on(A, wait(&census))];
            // One who is called finds its own call ended, and says so.
            let told = call_async_on(B, {
                let wait = wait(&census);
                async move || call_async_on(C, wait).await.map_err(|error| error.is_deadline())
            });
            let call = call_async_on(C, wait(&census));
            let (call, told) = futures::join!(call, told);
            (call, tasks, told)
        })
        .await
        .expect("its calls have ended");
        assert_eq!(time::now_ns() - begun, 5_000_000);
        assert!(call.as_ref().is_err_and(CallError::is_deadline), "{call:?}");
        assert!(matches!(told, Ok(Err(true))) || told.as_ref().is_err_and(CallError::is_deadline), "{told:?}");
        assert_eq!(call.unwrap_err().to_string(), "the deadline of the call has passed");
        for task in tasks {
            let error = task.await.expect_err("it has ended");
            assert!(error.is_deadline() && !error.is_cancelled() && !error.is_panic(), "{error:?}");
            assert_eq!(error.to_string(), "the deadline of the task has passed");
        }
        // One that is aborted by its handle says so, deadline or not.
        let aborted = deadline::within(MS, async {
            let task = spawn_on(B, wait(&census));
            task.abort();
            task.await
        });
        let error = aborted.await.expect("in time").expect_err("it has ended");
        assert!(error.is_cancelled() && !error.is_deadline(), "{error:?}");
        none_alive(census).await;
    });
}

#[test]
fn what_arrives_past_its_deadline_does_not_begin() {
    with_paused_clock("late arrivals", scaled(10, 25), || async {
        let (go, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (wait, tell) = (go.clone(), held.clone());
        // Keeps the core from looking.
        let hold = call_on(B, move || {
            tell.store(true, Ordering::Release);
            while !wait.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        });
        until(|| held.load(Ordering::Acquire)).await;
        let ran = Arc::new(AtomicUsize::new(0));
        let run = || {
            let ran = ran.clone();
            move || {
                ran.fetch_add(1, Ordering::Relaxed);
            }
        };
        let outcome = deadline::within(MS, async {
            let call = call_on(B, run());
            let (async_call, task) = (run(), run());
            let async_call = call_async_on(B, async move || async_call());
            let task = spawn_on(B, async move || task());
            assert!(call.is_sent() && async_call.is_sent());
            time::advance(2 * MS);
            // Nor is one sent that is late before it is sent.
            let late = call_on(C, run());
            assert!(!late.is_sent());
            assert!(late.await.is_err_and(|error| error.is_deadline()));
            assert!(call_async_on(C, async || ()).await.is_err_and(|error| error.is_deadline()));
            go.store(true, Ordering::Release);
            let (call, async_call, task) = futures::join!(call, async_call, task);
            assert!(call.is_err_and(|error| error.is_deadline()));
            assert!(async_call.is_err_and(|error| error.is_deadline()));
            assert!(task.is_err_and(|error| error.is_deadline()));
        });
        // It is late itself, however far it came.
        let _ = outcome.await;
        go.store(true, Ordering::Release);
        hold.await.expect("a core that runs");
        // What is behind it has been looked at.
        spawn_on(B, async || ()).await.expect("it runs");
        assert_eq!(ran.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_deadline_does_not_outlast_panics_and_drops() {
    on_three_cores("deadlines are put back", scaled(5, 12), |_| async {
        let long = Duration::from_secs(3600);
        let panicked = std::panic::AssertUnwindSafe(deadline::within(long, async { panic!("inside") })).catch_unwind();
        panicked.await.unwrap_err();
        assert!(deadline::current().is_none());
        struct Looks(Rc<Cell<bool>>);
        impl Drop for Looks {
            fn drop(&mut self) {
                self.0.set(deadline::current().is_some());
            }
        }
        let seen = Rc::new(Cell::new(false));
        let looks = Looks(seen.clone());
        let mut within = Box::pin(deadline::within(long, async move {
            let _looks = looks;
            pending::<()>().await;
        }));
        assert!(within.as_mut().now_or_never().is_none());
        assert!(deadline::current().is_none());
        drop(within);
        assert!(seen.get() && deadline::current().is_none());
    });
}

/// Ends when it is told to.
fn gated(gate: &Arc<AtomicBool>) -> impl AsyncFnOnce() -> CoreId + Send + 'static {
    let gate = gate.clone();
    async move || {
        until(|| gate.load(Ordering::Acquire)).await;
        core_id()
    }
}

#[test]
fn a_limit_that_rejects_says_so_and_admits_again() {
    with_watchdog("limits that reject", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(3).call_limit(Limit::reject(2)).build().expect("a runtime");
            runtime.block_on(|| async {
                let gate = Arc::new(AtomicBool::new(false));
                let [first, second, third] = [(); 3].map(|()| call_async_on(B, gated(&gate)));
                let error = third.await.unwrap_err();
                assert!(error.is_over_limit() && !error.is_panic(), "{error}");
                assert!(error.to_string().starts_with("2 calls are outstanding"), "{error}");
                error.try_into_panic().unwrap_err();
                // Another pair, and the same when one was dropped.
                let elsewhere = call_async_on(C, gated(&gate));
                drop(second);
                let second = call_async_on(B, gated(&gate));
                gate.store(true, Ordering::Release);
                for (call, core) in [(first, B), (second, B), (elsewhere, C)] {
                    assert_eq!(call.await.expect("within the limit"), core);
                }
            });
        });
    });
}

#[test]
fn a_limit_that_waits_admits_in_order_and_never_more() {
    with_watchdog("limits that wait", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).ring_capacity(4).call_limit(Limit::wait(3)).build().expect("a runtime");
            runtime.block_on(|| async {
                let (now, most, order) =
                    (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), mpsc::channel());
                let calls = (0..scaled(60, 150)).map(|index| {
                    let (now, most, order) = (now.clone(), most.clone(), order.0.clone());
                    let call = call_async_on(B, async move || {
                        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                        order.send(index).expect("a test that waits");
                        yield_now().await;
                        now.fetch_sub(1, Ordering::Relaxed);
                    });
                    // Every seventh leaves the line again.
                    (index % 7 != 6).then_some(call)
                });
                let calls: Vec<_> = calls.collect::<Vec<_>>().into_iter().flatten().collect();
                let count = calls.len();
                for outcome in join_all(calls).await {
                    outcome.expect("a core that runs");
                }
                let order: Vec<usize> = order.1.try_iter().collect();
                assert!(order.is_sorted() && order.len() >= count, "{order:?}");
                assert!(most.load(Ordering::Relaxed) <= 3);
            });
        });
    });
}

#[test]
fn who_waits_in_line_past_its_deadline_leaves_it() {
    with_watchdog("deadlines in line", LIMIT, || {
        let runtime = Runtime::builder().cores(2).paused_clock().call_limit(Limit::wait(1)).build().expect("a runtime");
        runtime.block_on(|| async {
            let gate = Arc::new(AtomicBool::new(false));
            let wake = spawn_local({
                let gate = gate.clone();
                async move {
                    time::sleep(5 * MS).await;
                    gate.store(true, Ordering::Release);
                }
            });
            let gate = gate.clone();
            let first = call_async_on(B, async move || {
                while !gate.load(Ordering::Acquire) {
                    time::sleep(MS).await;
                }
            });
            let line = deadline::within(2 * MS, async { call_async_on(B, async || ()).await });
            let third = call_async_on(B, async || core_id());
            let (first, line, third) = futures::join!(first, line, third);
            first.expect("it had the slot");
            assert!(line.expect("its call has ended").is_err_and(|error| error.is_deadline()));
            assert_eq!(third.expect("it was next"), B);
            wake.await.expect("no panic");
        });
    });
}

#[derive(Default)]
struct Cart {
    stock: RefCell<Option<Sharded<Stock>>>,
}

#[derive(Default)]
struct Stock {
    cart: RefCell<Option<Sharded<Cart>>>,
}

/// Two services that know each other, with room for one call of each pair of cores.
async fn shop() -> (Sharded<Cart>, Sharded<Stock>) {
    let cart = Sharded::start(async |_| Cart::default()).await.expect("no panic");
    let stock = Sharded::start(async |_| Stock::default()).await.expect("no panic");
    cart.set_call_limit(Limit::wait(1));
    stock.set_call_limit(Limit::wait(1));
    let (carts, stocks) = (cart.clone(), stock.clone());
    cart.map(move |cart| drop(cart.stock.replace(Some(stocks)))).await.expect("no panic");
    stock.map(move |stock| drop(stock.cart.replace(Some(carts)))).await.expect("no panic");
    (cart, stock)
}

/// Cart on core 1, stock on core 0, cart on core 1, and so on.
fn order(cart: &Sharded<Cart>, turns: usize) -> LocalBoxFuture<'static, Result<usize, ShardError>> {
    let call = cart.on(B).call_async(async move |cart: Shard<Cart>| {
        if turns == 0 {
            return Ok(0);
        }
        let stock = cart.stock.borrow().clone().expect("it was told");
        Ok(1 + look_up(&stock, turns - 1).await?)
    });
    async move { call.await? }.boxed_local()
}

fn look_up(stock: &Sharded<Stock>, turns: usize) -> LocalBoxFuture<'static, Result<usize, ShardError>> {
    let call = stock.on(A).call_async(async move |stock: Shard<Stock>| {
        if turns == 0 {
            return Ok(0);
        }
        let cart = stock.cart.borrow().clone().expect("it was told");
        Ok(1 + order(&cart, turns - 1).await?)
    });
    async move { call.await? }.boxed_local()
}

#[test]
fn circles_of_calls_do_not_wait_for_themselves_and_endless_ones_are_named() {
    on_three_cores("circles of calls", scaled(2, 5), |_| async {
        let (cart, stock) = shop().await;
        // From both ends at once: each meets the other at every gate.
        let carts = (0..8).map(|_| order(&cart, 20));
        let stocks = (0..8).map(|_| look_up(&stock, 21));
        let (carts, stocks) = futures::join!(join_all(carts), join_all(stocks));
        assert!(carts.into_iter().all(|turns| turns.expect("no circle waits") == 20));
        assert!(stocks.into_iter().all(|turns| turns.expect("no circle waits") == 21));
        let error = order(&cart, usize::MAX).await.unwrap_err();
        assert!(error.is_circular() && !error.is_panic(), "{error}");
        assert!(error.to_string().contains(": Cart@1 → Stock@0 → Cart@1;"), "{error}");
        // Nothing is held up by it.
        assert_eq!(order(&cart, Limit::DEEPEST - 1).await.expect("as deep as may be"), Limit::DEEPEST - 1);
        cart.stop().await.expect("no panic");
        stock.stop().await.expect("no panic");
    });
}

#[test]
fn circles_of_cores_do_not_wait_for_themselves_either() {
    fn around(turns: usize) -> LocalBoxFuture<'static, Result<usize, CallError>> {
        let next = CoreId::new((core_id().index() + 1) % 3);
        let call = call_async_on(next, async move || {
            // By way of a task that it spawns.
            if turns == 0 { Ok(0) } else { spawn_local(around(turns - 1)).await.expect("no panic") }
        });
        async move { Ok(1 + call.await??) }.boxed_local()
    }
    with_watchdog("circles of cores", LIMIT, || {
        let runtime = Runtime::builder().cores(3).call_limit(Limit::wait(1)).build().expect("a runtime");
        let handle = runtime.handle();
        let rings: Vec<_> = cores_of(&runtime)
            .flat_map(|core| [core; 4])
            .map(|core| handle.spawn_on(core, async || join_all((0..4).map(|_| around(25))).await))
            .collect();
        for ring in rings {
            let turns = Runtime::wait(ring).expect("no panic");
            assert!(turns.into_iter().all(|turns| turns.expect("no circle waits") == 26));
        }
        let error = runtime.block_on(|| around(usize::MAX)).unwrap_err();
        assert!(error.is_circular(), "{error}");
        assert!(error.to_string().contains("core 0 → core 1 → core 2 → core 0"), "{error}");
    });
}

fn cores_of(runtime: &Runtime) -> impl Iterator<Item = CoreId> + use<> {
    runtime.handle().cores()
}

#[test]
fn a_stop_that_would_wait_for_itself_says_so_and_the_service_stops() {
    on_three_cores("stops in uses", scaled(5, 12), |census| async move {
        let begin = async |census: &Census| {
            let census = census.clone();
            Sharded::start(move |_| async move { Homebound::new(&census) }).await.expect("no panic")
        };
        let refused = |stopped: Result<(), ipiq::sharded::StopError>| {
            let error = stopped.unwrap_err();
            assert!(error.is_own_use() && error.to_string().contains("do not await it"), "{error}");
            error.try_into_panic().unwrap_err();
        };
        for core in cores() {
            // In a task of a shard.
            let service = begin(&census).await;
            let own = service.clone();
            service.on(core).spawn(async move |_| refused(own.stop().await)).await.expect("a shard");
            service.stop().await.expect("it has stopped");
            // In a call, and in a call of another service from there.
            let (service, other) = (begin(&census).await, begin(&census).await);
            let (own, by) = (service.clone(), other.clone());
            let call = service.on(core).call_async(async move |_| {
                let own = own.clone();
                by.on(B).call_async(async move |_| refused(own.stop().await)).await.expect("a shard");
            });
            call.await.expect("a shard");
            service.stop().await.expect("it has stopped");
            // One service's use stops the other.
            let (user, own) = (begin(&census).await, other.clone());
            user.on(core).call_async(async move |_| own.stop().await.expect("another one's")).await.expect("a shard");
            user.stop().await.expect("it has stopped");
            assert!(other.try_local().is_none());
            // In the closure of the stop itself.
            let service = begin(&census).await;
            let own = service.clone();
            service.stop_with(async move |_| refused(own.stop().await)).await.expect("it has stopped");
            assert!(service.try_local().is_none());
        }
        none_alive(census).await;
    });
}

#[test]
fn a_use_under_a_call_is_known_too() {
    on_three_cores("stops in uses under calls", scaled(5, 12), |census| async move {
        let (user, bound) = (Sharded::start(async |_| ()).await.expect("no panic"), census.clone());
        let service = Sharded::start(move |_| async move { Homebound::new(&bound) }).await.expect("no panic");
        let (own, other) = (service.clone(), user.clone());
        // A call, in it a task with a use, in that a call, which waits for the end of the use.
        let call = user.on(B).call_async(async move |_| {
            let (used, by) = (own.clone(), other.clone());
            let task = used.on(C).spawn(async move |_| {
                let call = by.on(A).call_async(async move |_| own.stop().await.unwrap_err().is_own_use());
                call.await.expect("a shard")
            });
            task.await.expect("a shard")
        });
        assert!(call.await.expect("a shard"));
        service.stop().await.expect("it has stopped");
        user.stop().await.expect("it has stopped");
        none_alive(census).await;
    });
}

#[test]
fn a_limit_that_is_changed_holds_for_those_in_line_too() {
    with_watchdog("limits that change", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).build().expect("a runtime");
            runtime.block_on(|| async {
                let service = Sharded::start(async |_| ()).await.expect("no panic");
                let (now, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
                let call = |number: usize| {
                    let (now, gate) = (now.clone(), gate.clone());
                    service.on(B).call_async(async move |_| {
                        now.fetch_add(1, Ordering::Relaxed);
                        until(|| gate.load(Ordering::Acquire) > number).await;
                        now.fetch_sub(1, Ordering::Relaxed);
                    })
                };
                service.set_call_limit(Limit::wait(1));
                let mut calls: Vec<_> = (0..4).map(call).map(|call| spawn_local(call)).collect();
                until(|| now.load(Ordering::Relaxed) == 1).await;
                // Raised: as many run at once.
                service.set_call_limit(Limit::wait(5));
                calls.extend((4..8).map(call).map(|call| spawn_local(call)));
                until(|| now.load(Ordering::Relaxed) == 5).await;
                // Lowered: who ends makes room for nobody, until fewer are outstanding.
                service.set_call_limit(Limit::wait(2));
                calls.push(spawn_local(call(8)));
                gate.store(4, Ordering::Release);
                for ended in calls.drain(..4) {
                    ended.await.expect("no panic").expect("a shard");
                }
                until(|| now.load(Ordering::Relaxed) == 2).await;
                call_on(B, || ()).await.expect("a core that runs");
                assert_eq!(now.load(Ordering::Relaxed), 2);
                gate.store(9, Ordering::Release);
                for ended in calls {
                    ended.await.expect("no panic").expect("a shard");
                }
                service.stop().await.expect("no panic");
            });
        });
    });
}

/// What calls in a storm are made of.
#[derive(Clone)]
struct Storm {
    service: Sharded<()>,
    /// Counts those that run, or are under way.
    _alive: Arc<()>,
    random: fastrand::Rng,
}

/// Calls inside of calls, by way of services and tasks, that end in every way; none is awaited while another one of its maker's waits to be polled.
fn storm(mut at: Storm, depth: usize) -> LocalBoxFuture<'static, ()> {
    async move {
        let Some(below) = depth.checked_sub(1) else { return yield_now().await };
        let core = CoreId::new(at.random.usize(..3));
        let next = Storm { random: at.random.fork(), ..at.clone() };
        let plain = |next: Storm, panics: bool| {
            call_async_on(core, async move || {
                storm(next, below).await;
                assert!(!panics, "as it is to");
            })
        };
        match at.random.u8(..9) {
            0 | 1 => drop(plain(next, false).await),
            2 => drop(plain(next, true).await),
            3 => {
                let call = at.service.on(core).call_async(async move |_| storm(next, below).await);
                drop(call.await);
            }
            4 => drop(at.service.on(core).spawn(async move |_| storm(next, below).await).await),
            5 => drop(spawn_local(storm(next, below)).await),
            6 => {
                // Dropped after some polls, in line or sent.
                let mut call = plain(next, false);
                for _ in 0..at.random.u8(..4) {
                    if (&mut call).now_or_never().is_some() {
                        break;
                    }
                    yield_now().await;
                }
            }
            7 => {
                let limit = Duration::from_micros(at.random.u64(..100));
                let _ = deadline::within(limit, plain(next, false)).await;
            }
            _ => {
                let calls = (0..3).map(|_| plain(Storm { random: at.random.fork(), ..at.clone() }, false));
                join_all(calls.collect::<Vec<_>>()).await;
            }
        }
    }
    .boxed_local()
}

/// From here on every gate on the way around the cores has its one slot.
fn slots_are_free(service: Sharded<()>, depth: usize) -> LocalBoxFuture<'static, ()> {
    async move {
        let Some(below) = depth.checked_sub(1) else { return };
        for core in cores() {
            let (first, second) = (call_async_on(core, async || ()), call_async_on(core, async || ()));
            assert!(first.is_sent() && !second.is_sent(), "{core}, {depth} from the deepest");
            drop((first, second));
            let first = service.on(core).call_async(async |_| ());
            let second = service.on(core).call_async(async |_| ());
            assert!(second.await.is_err_and(|error| error.is_over_limit()), "{core}, {depth} from the deepest");
            first.await.expect("the one slot");
        }
        let next = CoreId::new((core_id().index() + 1) % 3);
        call_async_on(next, async move || slots_are_free(service, below).await).await.expect("no panic");
    }
    .boxed_local()
}

#[test]
fn no_storm_of_calls_waits_for_itself_or_loses_a_slot() {
    with_watchdog("storms of calls", LIMIT, || {
        let runtime = Runtime::builder().cores(3).call_limit(Limit::wait(1)).build().expect("a runtime");
        let (handle, alive) = (runtime.handle(), Arc::new(()));
        let service = runtime.block_on(|| async { Sharded::start(async |_| ()).await.expect("no panic") });
        for seed in 0..scaled(4, 10) as u64 {
            service.set_call_limit(Limit::wait(1));
            let storms = cores_of(&runtime).map(|core| {
                let random = fastrand::Rng::with_seed(seed * 3 + core.index() as u64);
                let mut at = Storm { service: service.clone(), _alive: alive.clone(), random };
                handle.spawn_on(core, move || async move {
                    for _ in 0..20 {
                        storm(Storm { random: at.random.fork(), ..at.clone() }, Limit::DEEPEST / 2).await;
                    }
                })
            });
            for storm in storms.collect::<Vec<_>>() {
                Runtime::wait(storm).expect("no panic");
            }
            while Arc::strong_count(&alive) > 1 {
                std::thread::yield_now();
            }
            service.set_call_limit(Limit::reject(1));
            let service = service.clone();
            runtime.block_on(move || slots_are_free(service, Limit::DEEPEST));
        }
    });
}

/// Async calls, each inside of what a call to `by` has spawned in the one before.
fn calls_by_way_of(by: CoreId, left: usize) -> LocalBoxFuture<'static, Result<(), CallError>> {
    let nested = async move {
        if left == 0 {
            return Ok(());
        }
        let call = call_async_on(A, async move || {
            let (say, told) = oneshot::channel();
            let spawn = move || drop(spawn_local(calls_by_way_of(by, left - 1).map(|outcome| say.send(outcome))));
            call_on(by, spawn).await?;
            told.await.expect("it says so")
        });
        call.await?
    };
    nested.boxed_local()
}

#[test]
fn what_a_call_to_the_own_core_or_another_one_spawns_begins_a_chain_of_its_own() {
    on_three_cores("chains that begin anew", scaled(3, 7), |_| async {
        for by in [A, B] {
            let outcome = calls_by_way_of(by, Limit::DEEPEST + 8).await;
            assert!(outcome.is_ok(), "by way of {by}: {outcome:?}");
        }
    });
}

#[test]
fn a_deadline_is_not_that_of_what_a_core_keeps() {
    on_three_cores("deadlines and core-locals", scaled(5, 12), |_| async {
        let local = CoreLocal::new(|| RefCell::new(Some(spawn_local(async { deadline::current() }))));
        let asked = deadline::within(Duration::from_secs(3600), async {
            local.get().take().expect("it was made").await.expect("no panic")
        });
        assert_eq!(asked.await.expect("no hour"), None);
    });
}

#[test]
fn shards_that_a_deadline_cuts_short_are_not_passed_over() {
    with_paused_clock("deadlines of all shards", scaled(3, 7), || async {
        let service = Sharded::start(async |_| ()).await.expect("no panic");
        let on_all = || {
            let late = service.map_async(async |_| {
                if core_id() == B {
                    pending().await
                }
            });
            (late, service.invoke_on_all(async |_| time::sleep(9 * MS).await))
        };
        let (mapped, invoked) = deadline::within(5 * MS, async { on_all() }).await.expect("at once");
        mapped.await.expect_err("one of three");
        invoked.await.expect_err("none");
        let task = deadline::within(MS, lazy(|_| service.on(B).spawn(async |_| pending::<()>().await)));
        let error = task.await.expect("at once").await.expect_err("it has ended");
        assert!(error.is_deadline() && !error.is_gone(), "{error:?}");
        service.stop().await.expect("no panic");
    });
}
