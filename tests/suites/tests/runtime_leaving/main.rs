//! Cores that leave, and come back, while the others run: nothing hangs, nothing is lost, nothing is left.

mod returning;

use std::cell::Cell;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use futures::future::join_all;
use ipiq::ipi::{Doorbell, TriggerError};
use ipiq::net::TcpListener;
use ipiq::sharded::{Shard, ShardError, Sharded};
use ipiq::urgent::InterruptSafe;
use ipiq::xcall::{self, Class};
use ipiq::{
    Builder, CoreId, CoreLocal, CoreSet, ForeignBox, Handle, JoinError, Pause, Replicated, Runtime, call_on, core_id,
    ipi, pause, pause_each, shootdown, spawn_blocking, spawn_local, spawn_on, synchronize, time, yield_now,
};
use ipiq_suites::alone::alone;
use ipiq_suites::process::{Holdings, holdings, usage};
use ipiq_suites::runtimes::{Census, Token, each_kind};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);

fn runtime(builder: &Builder, cores: usize) -> Runtime {
    builder.clone().cores(cores).ring_capacity(4).build().expect("a runtime")
}

/// Waits until threads and descriptors are what they were.
fn wait_for(before: Holdings) {
    while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
        thread::yield_now();
    }
}

/// Dropped on its core only.
struct AtHome {
    home: CoreId,
    _token: Token,
}

impl AtHome {
    fn here(token: Token) -> Self {
        Self { home: core_id(), _token: token }
    }
}

impl Drop for AtHome {
    fn drop(&mut self) {
        assert_eq!(core_id(), self.home);
    }
}

#[test]
fn a_core_that_leaves_drops_what_it_has_at_home_and_its_thread_ends() {
    alone("a_core_that_leaves_drops_what_it_has_at_home_and_its_thread_ends", LIMIT, || {
        each_kind(|builder| {
            let before = holdings();
            let runtime = runtime(&builder, 3);
            let (handle, census) = (runtime.handle(), Census::default());
            let waiting: Vec<_> = [B, C].into_iter().flat_map(|core| (0..10).map(move |_| core)).collect();
            let tasks: Vec<_> = waiting
                .into_iter()
                .map(|core| {
                    let token = census.token();
                    handle.spawn_on(core, move || {
                        let held = AtHome::here(token);
                        async move {
                            time::sleep(Duration::from_secs(3600)).await;
                            drop(held);
                        }
                    })
                })
                .collect();
            let running = holdings();
            Runtime::wait(handle.leave(B).expect("it may"));
            assert_eq!((census.alive(), usage("ipiq-1").threads), (10, 0));
            assert!(holdings().descriptors < running.descriptors, "its driver's are closed");
            let others: Vec<_> = tasks.iter().map(|task| task.is_finished()).collect();
            assert_eq!(others, [[true; 10], [false; 10]].concat());
            assert!(handle.has_left(B) && !handle.has_left(C));
            assert_eq!(runtime.block_on(|| async { call_on(C, core_id).await.expect("it runs") }), C);
            drop(runtime);
            assert_eq!(census.alive(), 0);
            drop(tasks);
            drop(handle);
            wait_for(before);
        });
    });
}

#[test]
fn a_departure_that_must_not_be_says_why() {
    alone("a_departure_that_must_not_be_says_why", LIMIT, || {
        let runtime = runtime(&Runtime::builder(), 2);
        let handle = runtime.handle();
        let refused = handle.leave(A).expect_err("it stays");
        assert!(refused.must_stay() && !refused.has_left() && !refused.is_stopping(), "{refused}");
        assert!(runtime.block_on(|| async { ipiq::leave() }).expect_err("it stays").must_stay());
        let leaving = handle.leave(B).expect("it may");
        assert_eq!(leaving.core(), B);
        assert!(handle.leave(B).expect_err("once").has_left());
        Runtime::wait(leaving);
        assert!(handle.leave(B).expect_err("once").has_left());
        handle.stop();
        assert!(handle.leave(B).expect_err("all do").is_stopping());
        assert!(handle.leave(A).expect_err("it stays").must_stay());
    });
}

/// How a call or a task ended.
#[derive(Default)]
struct Ends {
    ran: AtomicUsize,
    gone: AtomicUsize,
}

impl Ends {
    fn count<R, E>(&self, end: &Result<R, E>, is_gone: impl Fn(&E) -> bool) {
        match end {
            Ok(_) => self.ran.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                assert!(is_gone(error), "it ran, or its core has left");
                self.gone.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    fn total(&self) -> usize {
        self.ran.load(Ordering::Relaxed) + self.gone.load(Ordering::Relaxed)
    }
}

/// Calls and spawns, until one finds that `core` has left; then once more.
async fn use_core(core: CoreId, ends: Arc<Ends>, census: Census) {
    for more in [true, false] {
        loop {
            let calls = (0..8).map(|n| {
                let (token, back) = (census.token(), census.token());
                call_on(core, move || (n, token, back))
            });
            let tokens = (0..4).map(|_| census.token());
            let tasks: Vec<_> = tokens.map(|token| spawn_on(core, move || waits_once(token))).collect();
            for (n, end) in join_all(calls).await.into_iter().enumerate() {
                ends.count(&end, ipiq::CallError::is_gone);
                assert!(end.is_err() || end.is_ok_and(|(of, ..)| of == n));
            }
            let mut left = false;
            for task in tasks {
                let end = task.await;
                ends.count(&end, JoinError::is_cancelled);
                left |= end.is_err();
            }
            if left || !more {
                break;
            }
        }
    }
}

async fn waits_once(token: Token) {
    let _held = AtHome::here(token);
    yield_now().await;
}

#[test]
fn every_call_to_a_core_that_leaves_under_it_ends_once() {
    alone("every_call_to_a_core_that_leaves_under_it_ends_once", LIMIT, || {
        each_kind(|builder| {
            for seed in 0..scaled(5, 25) {
                leave_amid_calls(&runtime(&builder, 4), seed);
            }
        });
    });
}

fn leave_amid_calls(runtime: &Runtime, seed: u64) {
    let (handle, census, ends) = (runtime.handle(), Census::default(), Arc::new(Ends::default()));
    let users: Vec<_> = (0..4)
        .map(|core| {
            let (ends, census) = (ends.clone(), census.clone());
            let target = if core == 1 { C } else { B };
            handle.spawn_on(CoreId::new(core), move || use_core(target, ends, census))
        })
        .collect();
    let (foreign, their) = (handle.clone(), ends.clone());
    let plain = thread::spawn(move || {
        loop {
            let end = Runtime::wait(foreign.call_on(B, || ()));
            their.count(&end, ipiq::CallError::is_gone);
            if end.is_err() {
                break;
            }
        }
    });
    while ends.total() < (seed as usize % 7) * 10 {
        thread::yield_now();
    }
    // Both at once: the second calls the third, and all call the second.
    let leaving = [B, C].map(|core| handle.leave(core).expect("it may"));
    leaving.into_iter().for_each(Runtime::wait);
    plain.join().expect("no panic");
    for (core, user) in users.into_iter().enumerate() {
        let end = Runtime::wait(user);
        assert!(end.is_ok() || [1, 2].contains(&core) && end.is_err_and(|error| error.is_cancelled()));
    }
    assert_eq!(census.alive(), 0);
    assert!(ends.gone.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_core_that_leaves_in_the_middle_of_anything_is_out_when_that_has_ended() {
    alone("a_core_that_leaves_in_the_middle_of_anything_is_out_when_that_has_ended", LIMIT, || {
        each_kind(|builder| {
            for _ in 0..scaled(3, 12) {
                let before = holdings();
                let runtime = runtime(&builder, 3);
                let (handle, census) = (runtime.handle(), Census::default());
                let busy = start_busy(&handle, &census);
                Runtime::wait(handle.leave(B).expect("it may"));
                assert!(busy.ended.load(Ordering::Acquire), "the answer of a busy core is awaited");
                assert_eq!(census.alive(), 0);
                drop(handle);
                drop(runtime);
                wait_for(before);
            }
        });
    });
}

/// What a closure tells of itself while it runs, whoever looks late.
#[derive(Default)]
struct Progress {
    begun: AtomicBool,
    ended: AtomicBool,
}

/// Has the second core wait for everything there is, a closure that it has called on a busy core among it.
fn start_busy(handle: &Handle, census: &Census) -> Arc<Progress> {
    let progress = Arc::new(Progress::default());
    let (theirs, tokens) = (progress.clone(), [(); 7].map(|()| census.token()));
    let started = handle.call_on(B, move || {
        let [timer, io, blocking, task, call, urgent, paused] = tokens.map(AtHome::here);
        hold(timer, time::sleep(Duration::from_secs(3600)));
        hold(io, async {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
            drop(listener.accept().await.map(drop));
        });
        hold(blocking, async { drop(spawn_blocking(|| thread::sleep(Duration::from_millis(1))).await) });
        hold(task, async { drop(spawn_on(C, pending::<()>).await) });
        hold(call, async {
            let mut call = call_on(C, move || {
                theirs.begun.store(true, Ordering::Release);
                thread::sleep(Duration::from_millis(2));
                theirs.ended.store(true, Ordering::Release);
            });
            // Sent, and not waited for: the core leaves in the middle of it.
            drop(futures::poll!(&mut call));
            pending::<()>().await;
        });
        // SAFETY: 1. to 5. it does nothing.
        let nothing = unsafe { InterruptSafe::new(|_| ()) };
        hold(urgent, async move { while ipiq::urgent::call_on(C, nothing).await.is_ok() {} });
        hold(paused, async { while pause(Pause::all(), |_| ()).await.is_ok() {} });
    });
    Runtime::wait(started).expect("it runs");
    while !progress.begun.load(Ordering::Acquire) {
        thread::yield_now();
    }
    progress
}

/// Has a task wait, and keep `held` for ever.
fn hold(held: AtHome, wait: impl Future<Output = ()> + 'static) {
    drop(spawn_local(async move {
        wait.await;
        pending::<()>().await;
        drop(held);
    }));
}

#[test]
fn a_runtime_that_stops_while_cores_leave_ends() {
    alone("a_runtime_that_stops_while_cores_leave_ends", LIMIT, || {
        each_kind(|builder| {
            let before = holdings();
            for seed in 0..scaled(20, 75) {
                let runtime = runtime(&builder, 4);
                let (handle, census, mut rng) = (runtime.handle(), Census::default(), Rng::with_seed(seed));
                for core in handle.cores() {
                    let (census, ends) = (census.clone(), Arc::new(Ends::default()));
                    let target = CoreId::new(rng.usize(0..4));
                    drop(handle.spawn_on(core, move || use_core(target, ends, census)));
                }
                let mut leaving: Vec<_> = (1..4).filter(|_| rng.bool()).map(CoreId::new).collect();
                rng.shuffle(&mut leaving);
                let leaving: Vec<_> = leaving.into_iter().map(|core| handle.leave(core).expect("it may")).collect();
                match rng.u8(0..3) {
                    0 => handle.stop(),
                    1 => leaving.into_iter().for_each(Runtime::wait),
                    _ => {}
                }
                drop(runtime);
                assert_eq!(census.alive(), 0);
            }
            wait_for(before);
        });
    });
}

/// Every way to reach all cores, on a core that stays, while `left` have left: none of them is waited for, or answers.
async fn reach_all(left: CoreSet) {
    let there = |core: CoreId| !left.contains(core);
    let count = ipiq::cores().filter(|&core| there(core)).count();
    for (core, answer) in xcall::high::broadcast(core_id).await {
        assert!(answer.map_or_else(|error| error.is_gone() && !there(core), |of| of == core && there(core)));
    }
    for (core, answer) in xcall::low::broadcast(|| async { core_id() }).await {
        assert!(answer.map_or_else(|error| error.is_cancelled() && !there(core), |of| of == core && there(core)));
    }
    // SAFETY: 1. to 5. it does nothing.
    let nothing = unsafe { InterruptSafe::new(|_| ()) };
    for (core, answer) in xcall::urgent::broadcast(nothing).await {
        assert!(answer.map_or_else(|error| error.is_gone() && !there(core), |()| there(core)));
    }
    for class in [Class::High, Class::Low] {
        xcall::barrier(class).await;
    }
    synchronize().await;
    let reached = Arc::new(AtomicUsize::new(0));
    let counted = || {
        let reached = reached.clone();
        move || {
            reached.fetch_add(1, Ordering::Relaxed);
        }
    };
    let came = || reached.swap(0, Ordering::Relaxed);
    assert_eq!((shootdown(counted()).await.expect("no panic"), came()), (count, count));
    for plan in [Pause::all().each(counted()), Pause::all().drain().each(counted())] {
        let (cores, _) = pause(plan, |paused| paused.cores()).await.expect("they stand still");
        assert_eq!((cores.len(), came()), (count, count));
        assert!(cores.into_iter().all(there));
    }
    pause_each(ipiq::cores(), counted()).await.expect("no panic");
    assert_eq!(came(), count);
    let all = CoreSet::first(ipiq::core_count());
    assert_eq!(
        ipi::multicast(&all, {
            let count = counted();
            move |_| count()
        })
        .await
        .expect("no panic"),
        count
    );
    assert_eq!(came(), count);
    reach_by_names(left, count).await;
}

/// By what was made for all cores.
async fn reach_by_names(left: CoreSet, count: usize) {
    let there = |core: CoreId| !left.contains(core);
    let gone = left.iter().next().expect("one has left");
    let seen = Arc::new(AtomicUsize::new(0));
    let told = seen.clone();
    let handler = ipi::register(move |_| {
        told.fetch_add(1, Ordering::Relaxed);
    })
    .expect("a free place");
    assert_eq!(handler.trigger(gone), Err(TriggerError::Gone));
    assert_eq!(handler.trigger_all().expect("registered"), count);
    while seen.load(Ordering::Relaxed) < count {
        yield_now().await;
    }
    handler.unregister().await;
    let value = Replicated::new(1);
    assert_eq!(value.local().get(), 1);
    value.replace(2).await.expect("no panic");
    assert_eq!(value.local().get(), 2);
    Doorbell::new().ring_all();
    let service = Sharded::start(|_| async { Cell::new(core_id().index()) }).await.expect("those that are there");
    let shards = service.map(Cell::get).await.expect("those that are there");
    let expected: Vec<_> = ipiq::cores().filter(|&core| there(core)).map(CoreId::index).collect();
    assert_eq!(shards, expected);
    service.invoke_on_all(async |shard: Shard<Cell<usize>>| shard.set(7)).await.expect("no panic");
    assert!(service.on(gone).call(|_| ()).await.is_err_and(|error| error.is_gone()));
    assert!(service.on(gone).spawn(async |_| ()).await.is_err_and(|error| error.is_gone()));
    assert_eq!(service.map_reduce(Cell::get, 0, |sum, shard| sum + shard).await.expect("no panic"), 7 * count);
    service.stop().await.expect("no panic");
}

#[test]
fn what_reaches_all_cores_passes_over_those_that_have_left() {
    alone("what_reaches_all_cores_passes_over_those_that_have_left", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 4);
            let handle = runtime.handle();
            let mut left = CoreSet::default();
            for core in [C, B, CoreId::new(3)] {
                Runtime::wait(handle.leave(core).expect("it may"));
                left.insert(core);
                runtime.block_on(move || reach_all(left));
                let answers = Runtime::wait(handle.broadcast_high(core_id));
                let answered = answers.into_iter().filter_map(|(_, answer)| answer.ok());
                assert!(answered.eq(handle.cores().filter(|&core| !left.contains(core))));
                Runtime::wait(handle.barrier(Class::High)).expect("no stop");
                assert!(Runtime::wait(handle.pause(core, Pause::all(), |_| ())).is_err_and(|error| error.is_gone()));
                Runtime::wait(handle.shootdown(|| ())).expect("no panic");
            }
        });
    });
}

#[test]
fn what_a_core_kept_for_others_is_gone_with_it() {
    alone("what_a_core_kept_for_others_is_gone_with_it", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 2);
            let (handle, census) = (runtime.handle(), Census::default());
            let counted = census.clone();
            let local = handle.core_local(move || AtHome::here(counted.token()));
            let (theirs, token) = (local.clone(), census.token());
            let boxed = handle.call_on(B, move || {
                drop(theirs.get());
                ForeignBox::new(AtHome::here(token))
            });
            let boxed = Runtime::wait(boxed).expect("it runs");
            let (leaves, tokens) = (runtime.handle(), census.clone());
            runtime.block_on(move || async move {
                let service = Sharded::start(move |_| {
                    let held = AtHome::here(tokens.token());
                    async move { held }
                });
                let service = service.await.expect("both");
                leaves.leave(B).expect("it may").await;
                assert!(boxed.call(|_| ()).await.is_err_and(|error| error.is_gone()));
                let error: ShardError = service.on(B).call(|_| ()).await.expect_err("it has left");
                assert!(error.is_gone() && !error.is_stopped());
                assert_eq!(service.map(|shard| shard.home).await.expect("one is there"), [A]);
                service.stop().await.expect("no panic");
            });
            assert_eq!(census.alive(), 0, "the box, the shards and the core-local's value");
            drop(local);
        });
    });
}

#[test]
fn cores_leave_while_the_others_reach_all_cores_in_every_way() {
    alone("cores_leave_while_the_others_reach_all_cores_in_every_way", LIMIT, || {
        each_kind(|builder| {
            let before = holdings();
            for seed in 0..scaled(5, 25) {
                leave_amid_everything(&runtime(&builder, 5), seed);
            }
            wait_for(before);
        });
    });
}

/// Some of everything, over and over, until told to end; outcomes may be of cores that have left.
async fn use_everything(over: Arc<AtomicBool>, value: Replicated<u64>, local: CoreLocal<AtHome>) {
    let handler = ipi::register(|_| ()).expect("a free place");
    let all = CoreSet::first(ipiq::core_count());
    // SAFETY: 1. to 5. it does nothing.
    let nothing = unsafe { InterruptSafe::new(|_| ()) };
    while !over.load(Ordering::Acquire) {
        drop(local.get());
        let answers = xcall::high::broadcast(core_id).await;
        assert!(answers.into_iter().all(|(core, answer)| answer.map_or_else(|error| error.is_gone(), |of| of == core)));
        drop(xcall::low::broadcast(yield_now).await);
        drop(xcall::urgent::broadcast(nothing).await);
        xcall::barrier(Class::High).await;
        handler.trigger_all().expect("registered");
        shootdown(|| ()).await.expect("no panic");
        value.modify(|value| *value += 1).await.expect("no panic");
        let paused = pause(Pause::all().drain(), |_| ()).await;
        assert!(paused.is_ok() || paused.is_err_and(|error| error.is_restless()));
        ipi::multicast(&all, |_| ()).await.expect("no panic");
        synchronize().await;
        let service = Sharded::start(|_| async { Cell::new(1) }).await.expect("those that are there");
        let sum = service.map_reduce(Cell::get, 0, |sum, one| sum + one).await.expect("those that are there");
        assert!((1..=5).contains(&sum));
        service.stop().await.expect("no panic");
    }
    handler.unregister().await;
}

fn leave_amid_everything(runtime: &Runtime, seed: u64) {
    let (handle, mut rng, over) = (runtime.handle(), Rng::with_seed(seed), Arc::new(AtomicBool::new(false)));
    let (value, census) = (handle.replicated(0), Census::default());
    let tokens = census.clone();
    let local = handle.core_local(move || AtHome::here(tokens.token()));
    let users: Vec<_> = handle
        .cores()
        .map(|core| {
            let (over, value, local) = (over.clone(), value.clone(), local.clone());
            handle.spawn_on(core, move || use_everything(over, value, local))
        })
        .collect();
    let mut order = [1, 2, 3, 4].map(CoreId::new);
    rng.shuffle(&mut order);
    for core in order {
        for _ in 0..rng.u8(0..3) {
            Runtime::wait(handle.call_on(A, || ())).expect("it stays");
        }
        let leaving = handle.leave(core).expect("it may");
        if rng.bool() {
            Runtime::wait(leaving);
        }
    }
    Runtime::wait(handle.call_on(A, || ())).expect("it stays");
    over.store(true, Ordering::Release);
    for (core, user) in users.into_iter().enumerate() {
        let end = Runtime::wait(user);
        assert!(end.is_ok() || core > 0 && end.is_err_and(|error| error.is_cancelled()));
    }
    let last = value.snapshot();
    assert_eq!(runtime.block_on(move || async move { value.local().get() }), *last);
    drop(local);
    Runtime::wait(handle.call_on(A, || ())).expect("it stays");
    while census.alive() > 0 {
        thread::yield_now();
    }
}
