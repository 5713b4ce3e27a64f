//! Cores that leave and come back while the others run: nothing of the former life reaches the next, and nothing is left.

use std::cell::Cell;
use std::future::pending;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use ipiq::mesh::{Mesh, Peers};
use ipiq::metrics::Metrics;
use ipiq::sharded::{Shard, Sharded};
use ipiq::sync::cross::{Semaphore, mpsc, oneshot, watch};
use ipiq::urgent::InterruptSafe;
use ipiq::xcall::{self, Class};
use ipiq::{
    CoreId, CoreLocal, ForeignBox, Handle, Limit, Pause, Placement, Replicated, Runtime, call_async_on, call_on,
    core_id, deadline, ipi, pause, shootdown, spawn_local, spawn_on, synchronize, time, yield_now,
};
use ipiq_linux::cpus::allowed;
use ipiq_suites::alone::alone;
use ipiq_suites::process::holdings;
use ipiq_suites::runtimes::{Census, Token, each_kind};
use ipiq_suites::scale::scaled;

use super::{A, B, runtime, wait_for};

const LIMIT: Duration = Duration::from_secs(240);

/// Out and in again.
fn cycle(handle: &Handle, core: CoreId) {
    Runtime::wait(handle.leave(core).expect("it may"));
    Runtime::wait(handle.bring_back(core).expect("it may")).expect("it can");
}

/// Dropped on its core only, in the life that made it.
struct AtHome {
    thread: thread::ThreadId,
    _token: Token,
}

impl AtHome {
    fn here(token: Token) -> Self {
        Self { thread: thread::current().id(), _token: token }
    }
}

impl Drop for AtHome {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.thread);
    }
}

#[test]
fn a_core_comes_back_thousands_of_times_with_the_same_id_and_leaves_nothing_behind() {
    alone("returning::a_core_comes_back_thousands_of_times_with_the_same_id_and_leaves_nothing_behind", LIMIT, || {
        each_kind(|builder| {
            let before = holdings();
            let runtime = runtime(&builder, 2);
            let handle = runtime.handle();
            cycle(&handle, B);
            let after_one = holdings();
            for _ in 0..scaled(250, 3_000) {
                cycle(&handle, B);
                assert_eq!(Runtime::wait(handle.call_on(B, core_id)).expect("it runs"), B);
            }
            assert_eq!(holdings().descriptors, after_one.descriptors);
            drop((runtime, handle));
            wait_for(before);
        });
    });
}

#[test]
fn a_return_that_must_not_be_says_why() {
    alone("returning::a_return_that_must_not_be_says_why", LIMIT, || {
        let runtime = runtime(&Runtime::builder(), 2);
        let handle = runtime.handle();
        assert!(handle.bring_back(B).expect_err("it runs").is_present());
        assert!(handle.bring_back(A).expect_err("it runs").is_present());
        let (enter, entered) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let held = handle.call_on(B, move || {
            enter.send(()).expect("a listener");
            ended.recv().expect("a word");
        });
        entered.recv().expect("the closure runs");
        let leaving = handle.leave(B).expect("it may");
        assert!(handle.bring_back(B).expect_err("it has not left yet").is_under_way());
        end.send(()).expect("it waits");
        Runtime::wait(held).expect("it ran");
        Runtime::wait(leaving);
        let back = handle.bring_back(B).expect("it may");
        Runtime::wait(back).expect("it can");
        assert!(!handle.has_left(B));
        Runtime::wait(handle.leave(B).expect("again"));
        handle.stop();
        assert!(handle.bring_back(B).expect_err("all end").is_stopping());
        drop(runtime);
        assert!(handle.bring_back(B).expect_err("all have ended").is_stopping());
    });
}

#[test]
fn a_thread_that_cannot_start_leaves_the_core_out() {
    alone("returning::a_thread_that_cannot_start_leaves_the_core_out", LIMIT, || {
        let refuses = Arc::new(AtomicBool::new(false));
        let asked = refuses.clone();
        let hook = move |_| assert!(!asked.load(Ordering::Relaxed), "refused");
        let runtime = runtime(&Runtime::builder().on_thread_start(hook), 2);
        let handle = runtime.handle();
        Runtime::wait(handle.leave(B).expect("it may"));
        refuses.store(true, Ordering::Relaxed);
        for _ in 0..scaled(50, 500) {
            let back = handle.bring_back(B).expect("it may: the thread that could not has ended");
            let error = Runtime::wait(back).expect_err("it panics");
            assert!(error.to_string().contains("refused"), "{error}");
        }
        refuses.store(false, Ordering::Relaxed);
        let back = handle.bring_back(B).expect("it may");
        Runtime::wait(back).expect("it can");
        assert_eq!(Runtime::wait(handle.call_on(B, core_id)).expect("it runs"), B);
    });
}

/// Calls, when it is dropped, the first of `cores`, with the rest of them to be dropped there.
struct CallsAtItsEnd(Vec<CoreId>);

impl Drop for CallsAtItsEnd {
    fn drop(&mut self) {
        let mut cores = std::mem::take(&mut self.0);
        if let Some(core) = cores.pop() {
            let rest = CallsAtItsEnd(cores);
            drop(xcall::high::unicast(core, move || drop(rest)));
        }
    }
}

#[test]
fn a_core_whose_destructors_call_as_it_leaves_comes_back() {
    alone("returning::a_core_whose_destructors_call_as_it_leaves_comes_back", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 2);
            let handle = runtime.handle();
            for calls in [vec![A], vec![A, B], vec![A, B, A, B], vec![A, B, B, A, B, B]] {
                let (enter, entered) = std::sync::mpsc::channel();
                drop(handle.spawn_on(B, move || async move {
                    let _calls = CallsAtItsEnd(calls);
                    enter.send(()).expect("a listener");
                    pending::<()>().await;
                }));
                entered.recv().expect("it runs");
                cycle(&handle, B);
            }
        });
    });
}

#[test]
fn a_core_that_is_back_has_what_every_core_has_and_nothing_of_its_former_life() {
    alone("returning::a_core_that_is_back_has_what_every_core_has_and_nothing_of_its_former_life", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 2);
            let (handle, census) = (runtime.handle(), Census::default());
            let seen = Arc::new(AtomicUsize::new(0));
            let told = seen.clone();
            let handler = handle.register_handler(move |core| {
                told.fetch_add(core.index(), Ordering::Relaxed);
            });
            let handler = handler.expect("a free place");
            let value = handle.replicated(1);
            let tokens = census.clone();
            let local = handle.core_local(move || AtHome::here(tokens.token()));
            let (theirs, replica) = (local.clone(), value.clone());
            let first = Runtime::wait(handle.call_on(B, move || {
                assert_eq!(replica.local().get(), 1);
                (theirs.get().thread, thread::current().id())
            }));
            let (of_local, former) = first.expect("it runs");
            assert_eq!(of_local, former);
            let inner = handle.clone();
            let (replica, theirs) = (value.clone(), local.clone());
            runtime.block_on(move || async move {
                let service = Sharded::start(|_| async { Cell::new(core_id().index()) }).await.expect("both");
                let ticket = spawn_on(B, || async { xcall::high::broadcast(|| ()).ticket() }).await.expect("it runs");
                inner.leave(B).expect("it may").await;
                replica.replace(2).await.expect("no panic");
                inner.bring_back(B).expect("it may").await.expect("it can");
                assert!(xcall::wait(ticket).await.is_err_and(|error| error.is_gone()));
                let current = replica.clone();
                assert_eq!(call_on(B, move || current.local().get()).await.expect("it runs"), 2);
                let thread = call_on(B, move || (theirs.get().thread, thread::current().id())).await.expect("it runs");
                assert!(thread.0 == thread.1 && thread.1 != former);
                let error = service.on(B).call(|_| ()).await.expect_err("no shard");
                assert!(error.is_absent() && !error.is_stopped() && !error.is_gone(), "{error}");
                assert!(service.on(B).spawn(async |_| ()).await.expect_err("no shard").is_absent());
                assert_eq!(service.map(Cell::get).await.expect("one has one"), [0]);
                service.invoke_on_all(async |_| ()).await.expect("one has one");
                service.stop().await.expect("no panic");
                assert!(service.on(B).call(|_| ()).await.expect_err("over").is_absent());
                assert!(service.on(A).call(|_| ()).await.expect_err("over").is_stopped());
                let anew = Sharded::start(|_| async { Cell::new(core_id().index()) }).await.expect("both");
                assert_eq!(anew.map(Cell::get).await.expect("both"), [0, 1]);
                anew.stop().await.expect("no panic");
                replica.replace(3).await.expect("no panic");
                assert_eq!(call_on(B, move || replica.local().get()).await.expect("it runs"), 3);
            });
            handler.trigger(B).expect("it is back");
            while seen.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            drop((local, runtime));
            assert_eq!(census.alive(), 0);
        });
    });
}

/// Until told to end: calls with tokens; and everything that reaches all cores.
async fn use_all(
    over: Arc<AtomicBool>,
    census: Census,
    value: Replicated<u64>,
    local: CoreLocal<Cell<u64>>,
    seed: u64,
) {
    let mut rng = Rng::with_seed(seed);
    // SAFETY: 1. to 5. it does nothing.
    let nothing = unsafe { InterruptSafe::new(|_| ()) };
    let handler = ipi::register(|_| ()).expect("a free place");
    while !over.load(Ordering::Acquire) {
        let target = CoreId::new(rng.usize(0..ipiq::core_count()));
        match rng.u8(0..11) {
            0 => {
                let calls: Vec<_> = (0..10)
                    .map(|n| {
                        let token = census.token();
                        call_on(target, move || (n, token))
                    })
                    .collect();
                for (n, end) in futures::future::join_all(calls).await.into_iter().enumerate() {
                    assert!(end.map_or_else(|error| error.is_gone(), |(of, _)| of == n));
                }
            }
            1 => {
                let token = census.token();
                let task = spawn_on(target, move || async move {
                    let held = AtHome::here(token);
                    yield_now().await;
                    drop(held);
                });
                assert!(task.await.map_or_else(|error| error.is_cancelled(), |()| true));
            }
            2 => {
                for (core, answer) in xcall::high::broadcast(core_id).await {
                    assert!(answer.map_or_else(|error| error.is_gone(), |of| of == core));
                }
            }
            3 => drop(xcall::urgent::broadcast(nothing).await),
            4 => xcall::barrier(Class::High).await,
            5 => drop(shootdown(|| ()).await.expect("no panic")),
            6 => value.modify(|value| *value += 1).await.expect("no panic"),
            7 => drop(pause(Pause::all(), |_| ()).await.expect("they stand still")),
            8 => {
                synchronize().await;
                handler.trigger_all().expect("registered");
                ipi::broadcast(|_| ()).await.expect("no panic");
            }
            9 => {
                let local = local.clone();
                drop(call_on(target, move || local.get().set(local.get().get() + 1)).await);
            }
            _ => {
                let service = Sharded::start(|_| async { Cell::new(1) }).await.expect("those that are there");
                let sum = service.map_reduce(Cell::get, 0, |sum, one| sum + one).await.expect("those that have one");
                assert!((1..=4).contains(&sum));
                service.stop().await.expect("no panic");
            }
        }
    }
    handler.unregister().await;
}

#[test]
fn cores_leave_and_come_back_while_all_use_all_in_every_way() {
    alone("returning::cores_leave_and_come_back_while_all_use_all_in_every_way", LIMIT, || {
        each_kind(|builder| {
            let before = holdings();
            for seed in 0..scaled(1, 10) {
                come_and_go(&runtime(&builder, 4), seed);
            }
            wait_for(before);
        });
    });
}

fn come_and_go(runtime: &Runtime, seed: u64) {
    let (handle, census, over) = (runtime.handle(), Census::default(), Arc::new(AtomicBool::new(false)));
    let (value, local) = (handle.replicated(0), handle.core_local(|| Cell::new(0)));
    let start = |core: CoreId, seed: u64| {
        let (over, census, value, local) = (over.clone(), census.clone(), value.clone(), local.clone());
        handle.spawn_on(core, move || use_all(over, census, value, local, seed))
    };
    let mut users: Vec<_> = handle.cores().map(|core| start(core, seed * 100 + core.index() as u64)).collect();
    let theirs = (handle.clone(), over.clone(), census.clone());
    let plain = thread::spawn(move || use_from_outside(theirs, seed));
    let mut rng = Rng::with_seed(seed);
    for cycle in 0..scaled(25, 300) {
        let core = CoreId::new(rng.usize(1..4));
        let leaving = handle.leave(core).expect("it may");
        for _ in 0..rng.u8(0..3) {
            drop(Runtime::wait(handle.call_on(core, || ())));
        }
        Runtime::wait(leaving);
        let user = std::mem::replace(&mut users[core.index()], handle.spawn_on(A, || async {}));
        assert!(Runtime::wait(user).expect_err("cut").is_cancelled());
        Runtime::wait(handle.bring_back(core).expect("it may")).expect("it can");
        users[core.index()] = start(core, seed * 100 + cycle);
    }
    over.store(true, Ordering::Release);
    users.into_iter().for_each(|user| Runtime::wait(user).expect("they all run"));
    plain.join().expect("no panic");
    let last = *value.snapshot();
    for core in handle.cores() {
        let value = value.clone();
        assert_eq!(Runtime::wait(handle.call_on(core, move || value.local().get())).expect("it runs"), last);
    }
    assert_eq!(census.alive(), 0);
}

/// A thread that is no core, posting to all.
fn use_from_outside((handle, over, census): (Handle, Arc<AtomicBool>, Census), seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let bell = handle.doorbell();
    while !over.load(Ordering::Acquire) {
        let core = CoreId::new(rng.usize(0..4));
        let token = census.token();
        match rng.u8(0..4) {
            0 => assert!(
                Runtime::wait(handle.call_on(core, move || drop(token)))
                    .map_or_else(|error| error.is_gone(), |()| true)
            ),
            1 => {
                let task = handle.spawn_on(core, move || async move {
                    let held = AtHome::here(token);
                    yield_now().await;
                    drop(held);
                });
                assert!(Runtime::wait(task).map_or_else(|error| error.is_cancelled(), |()| true));
            }
            2 => bell.ring(core),
            _ => drop(Runtime::wait(handle.broadcast_high(core_id))),
        }
    }
}

#[test]
fn a_runtime_that_stops_while_a_core_comes_back_ends() {
    alone("returning::a_runtime_that_stops_while_a_core_comes_back_ends", LIMIT, || {
        each_kind(|builder| {
            let before = holdings();
            for seed in 0..scaled(20, 300) {
                let (runtime, mut rng) = (runtime(&builder, 3), Rng::with_seed(seed));
                let (handle, census) = (runtime.handle(), Census::default());
                for core in [B, CoreId::new(2)] {
                    Runtime::wait(handle.leave(core).expect("it may"));
                }
                let backs = [B, CoreId::new(2)].map(|core| handle.bring_back(core).expect("it may"));
                let token = census.token();
                drop(handle.spawn_on(B, move || async move {
                    let _held = AtHome::here(token);
                    pending::<()>().await;
                }));
                let [first, second] = backs;
                if rng.bool() {
                    Runtime::wait(first).expect("it can");
                }
                if rng.bool() {
                    handle.stop();
                }
                drop(runtime);
                drop(second);
                assert_eq!(census.alive(), 0);
            }
            wait_for(before);
        });
    });
}

#[test]
fn a_queue_holds_no_more_of_a_core_for_what_its_former_lives_have_sent() {
    alone("returning::a_queue_holds_no_more_of_a_core_for_what_its_former_lives_have_sent", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 2);
            let handle = runtime.handle();
            runtime.block_on(move || async move {
                let (sender, mut receiver) = mpsc::channel(4);
                let fill = |sender: mpsc::Sender<usize>| {
                    call_on(B, move || (0..100).find(|n| sender.try_send(*n).is_err()).expect("an end"))
                };
                for _ in 0..5 {
                    assert_eq!(fill(sender.clone()).await.expect("it runs"), 4);
                    handle.leave(B).expect("it may").await;
                    handle.bring_back(B).expect("it may").await.expect("it can");
                    let theirs = sender.clone();
                    // It has a port before what the former one is owed comes.
                    call_on(B, move || theirs.try_send(4)).await.expect("it runs").expect("space");
                    for n in 0..5 {
                        assert_eq!(receiver.recv().await, Some(n));
                    }
                    // Behind what it is owed.
                    call_on(B, || ()).await.expect("it runs");
                    let theirs = sender.clone();
                    let sent = fill(theirs).await.expect("it runs");
                    assert!(sent <= 4, "{sent}");
                    for n in 0..sent {
                        assert_eq!(receiver.recv().await, Some(n));
                    }
                    handle.leave(B).expect("it may").await;
                    handle.bring_back(B).expect("it may").await.expect("it can");
                }
                drop(sender);
                assert_eq!(receiver.recv().await, None);
            });
        });
    });
}

#[test]
fn figures_go_on_from_life_to_life() {
    alone("returning::figures_go_on_from_life_to_life", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 2);
            let handle = runtime.handle();
            let of_b = |metrics: &Metrics| *metrics.core(B).expect("a core");
            for _ in 0..5 {
                Runtime::wait(handle.spawn_on(B, yield_now)).expect("it runs");
                Runtime::wait(handle.leave(B).expect("it may"));
                let before = of_b(&handle.metrics());
                assert_eq!(before.load.tasks_alive(), 0);
                Runtime::wait(handle.bring_back(B).expect("it may")).expect("it can");
                let mut metrics = handle.metrics();
                // It is woken from sleeps by the driver, or looks at it.
                while of_b(&metrics).driver.system_calls() <= before.driver.system_calls() {
                    Runtime::wait(handle.spawn_on(B, yield_now)).expect("it runs");
                    handle.read_metrics(&mut metrics);
                }
                let after = of_b(&metrics).load;
                assert!(after.polls >= before.load.polls && after.tasks_finished >= before.load.tasks_finished);
                assert!(after.up_ns >= before.load.up_ns);
            }
        });
    });
}

#[test]
fn calls_to_a_former_life_take_no_slot_of_those_to_the_next() {
    alone("returning::calls_to_a_former_life_take_no_slot_of_those_to_the_next", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder.call_limit(Limit::reject(2)), 2);
            let handle = runtime.handle();
            runtime.block_on(move || async move {
                for _ in 0..5 {
                    let calls = [(); 2].map(|()| call_async_on(B, async || pending::<()>().await));
                    assert!(call_async_on(B, async || ()).await.expect_err("two are under way").is_over_limit());
                    handle.leave(B).expect("it may").await;
                    handle.bring_back(B).expect("it may").await.expect("it can");
                    for call in calls {
                        assert!(call.await.expect_err("it has left").is_gone());
                    }
                    for call in [(); 2].map(|()| call_async_on(B, async || yield_now().await)) {
                        call.await.expect("it runs");
                    }
                    // Those of the core itself begin anew.
                    let back = spawn_on(B, async || {
                        drop([(); 2].map(|()| call_async_on(A, async || pending::<()>().await)));
                        call_async_on(A, async || ()).await
                    });
                    back.await.expect("it runs").expect("there is a slot");
                }
            });
        });
    });
}

/// What another core has of things whose home is the calling one.
struct Homes {
    boxed: ForeignBox<AtHome>,
    slot: oneshot::Sender<Token>,
    early: mpsc::Sender<Token>,
    late: mpsc::Sender<Token>,
    watched: watch::Receiver<u32>,
    permits: Semaphore,
}

impl Homes {
    /// Tasks here keep the other ends.
    fn make(census: &Census) -> Self {
        let (slot, receiver) = oneshot::channel();
        let ((early, first), (late, second)) = (mpsc::channel(4), mpsc::channel(4));
        let (sender, watched) = watch::channel(0);
        let permits = Semaphore::new(0);
        let theirs = (receiver, first, second, sender, permits.clone(), AtHome::here(census.token()));
        drop(spawn_local(async move {
            let _kept = theirs;
            pending::<()>().await;
        }));
        Self { boxed: ForeignBox::new(AtHome::here(census.token())), slot, early, late, watched, permits }
    }
}

#[test]
fn what_was_at_home_on_a_core_that_was_away_is_gone_for_good() {
    alone("returning::what_was_at_home_on_a_core_that_was_away_is_gone_for_good", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 2);
            let (handle, census) = (runtime.handle(), Census::default());
            runtime.block_on(move || async move {
                for _ in 0..scaled(5, 50) {
                    let tokens = census.clone();
                    let homes = spawn_on(B, move || async move { Homes::make(&tokens) });
                    let Homes { boxed, slot, early, late, mut watched, permits } = homes.await.expect("it runs");
                    early.try_send(census.token()).expect("space");
                    handle.leave(B).expect("it may").await;
                    handle.bring_back(B).expect("it may").await.expect("it can");
                    // Others have their places in the tables of the new life.
                    let tokens = census.clone();
                    let others = spawn_on(B, move || async move { Homes::make(&tokens) }).await.expect("it runs");
                    assert!(boxed.call(|_| ()).await.expect_err("it was dropped").is_gone());
                    let boxed = call_on(B, move || boxed.is_home() || boxed.try_into_inner().is_ok());
                    assert!(!boxed.await.expect("it runs"));
                    assert!(slot.send(census.token()).is_err());
                    early.closed().await;
                    for sender in [early, late] {
                        assert!(sender.try_send(census.token()).expect_err("no receiver").is_closed());
                        let token = census.token();
                        let there = spawn_on(B, move || async move { sender.send(token).await.is_err() });
                        assert!(there.await.expect("it runs"));
                    }
                    watched.changed().await.expect_err("no sender");
                    permits.acquire().await.expect_err("no permits");
                    let ends = Mesh::full(1).run(async |mut peers: Peers<CoreId>| {
                        for core in [A, B] {
                            peers.senders.to(core).expect("a pair").send(core_id()).await.expect("a receiver");
                        }
                        drop(peers.senders);
                        while let Some((source, told)) = peers.receivers.recv().await {
                            assert_eq!(source, told);
                        }
                    });
                    for (_, ended) in ends.await.expect("both are there") {
                        ended.expect("no panic");
                    }
                    drop(others);
                }
            });
        });
    });
}

#[test]
fn a_service_is_absent_where_it_never_was_and_stopped_where_it_was() {
    alone("returning::a_service_is_absent_where_it_never_was_and_stopped_where_it_was", LIMIT, || {
        each_kind(|builder| {
            let runtime = runtime(&builder, 3);
            let handle = runtime.handle();
            runtime.block_on(move || async move {
                let start = || Sharded::start(|_| async { Cell::new(core_id().index()) });
                for _ in 0..scaled(5, 50) {
                    let of_before = start().await.expect("all");
                    // Asked in the former life, and told of when the next one is there.
                    let cut = of_before.map_async(async |shard: Shard<Cell<usize>>| {
                        if core_id() == B {
                            pending::<()>().await;
                        }
                        shard.get()
                    });
                    handle.leave(B).expect("it may").await;
                    let of_meanwhile = start().await.expect("those that are there");
                    handle.bring_back(B).expect("it may").await.expect("it can");
                    assert_eq!(cut.await.expect("those that have one"), [0, 2]);
                    let of_now = start().await.expect("all");
                    for service in [&of_before, &of_meanwhile] {
                        let error = service.on(B).call(|_| ()).await.expect_err("no shard");
                        assert!(error.is_absent() && !error.is_stopped() && !error.is_gone(), "{error}");
                        let error = service.on(B).spawn(async |_| ()).await.expect_err("no shard");
                        assert!(error.is_absent(), "{error}");
                        let error = service.on(B).call_async(async |_| ()).await.expect_err("no shard");
                        assert!(error.is_absent(), "{error}");
                        let theirs = service.clone();
                        assert!(call_on(B, move || theirs.try_local().is_none()).await.expect("it runs"));
                        assert_eq!(service.map(Cell::get).await.expect("two have one"), [0, 2]);
                        assert_eq!(service.map_async(async |own| own.get()).await.expect("two have one"), [0, 2]);
                        service.stop().await.expect("no panic");
                        let error = service.on(A).call(|_| ()).await.expect_err("over");
                        assert!(error.is_stopped() && !error.is_absent(), "{error}");
                    }
                    assert_eq!(of_now.map(Cell::get).await.expect("all"), [0, 1, 2]);
                    // A deadline is told of where the core was there all the time.
                    let mut all = None;
                    let begin = async { all = Some(of_now.invoke_on_all(async |_| pending::<()>().await)) };
                    // Unless the deadline passes before it is polled.
                    let _ = deadline::within(Duration::from_millis(1), begin).await;
                    if let Some(all) = all {
                        assert!(all.await.expect_err("cut").is_deadline());
                    }
                    of_now.stop().await.expect("no panic");
                    let error = of_now.on(B).call(|_| ()).await.expect_err("over");
                    assert!(error.is_stopped() && !error.is_absent(), "{error}");
                }
            });
        });
    });
}

#[test]
fn a_paused_clock_waits_for_a_core_that_comes_back() {
    alone("returning::a_paused_clock_waits_for_a_core_that_comes_back", LIMIT, || {
        let builder = Runtime::builder().paused_clock();
        let runtime = runtime(&builder, 3);
        let handle = runtime.handle();
        runtime.block_on(move || async move {
            // The clock goes on whenever all cores sleep.
            drop(spawn_local(async {
                loop {
                    time::sleep(Duration::from_millis(1)).await;
                }
            }));
            for _ in 0..scaled(50, 500) {
                handle.leave(B).expect("it may").await;
                handle.bring_back(B).expect("it may").await.expect("it can");
                let before_ns = time::now_ns();
                let there_ns = call_on(B, time::now_ns).await.expect("it runs");
                assert_eq!((there_ns, time::now_ns()), (before_ns, before_ns), "it was awake");
                spawn_on(B, || time::sleep(Duration::from_millis(3))).await.expect("it runs");
                assert!(time::now_ns() >= before_ns + 3_000_000);
            }
        });
    });
}

#[test]
fn a_core_that_is_back_runs_where_the_topology_says() {
    alone("returning::a_core_that_is_back_runs_where_the_topology_says", LIMIT, || {
        for placement in [Placement::Auto, Placement::Nodes(Vec::new()), Placement::Unpinned] {
            let runtime = runtime(&Runtime::builder().placement(placement), 2);
            let handle = runtime.handle();
            let mask = || Runtime::wait(handle.call_on(B, || allowed().cpus)).expect("it runs");
            let before = (mask(), handle.topology().cores);
            cycle(&handle, B);
            assert_eq!((mask(), handle.topology().cores), before);
        }
    });
}

#[test]
fn a_core_that_there_is_not_is_refused_at_the_callers_line() {
    alone("returning::a_core_that_there_is_not_is_refused_at_the_callers_line", LIMIT, || {
        let runtime = runtime(&Runtime::builder(), 2);
        let handle = runtime.handle();
        let places = Arc::new(Mutex::new(Vec::new()));
        let told = places.clone();
        panic::set_hook(Box::new(move |panic| {
            let place = panic.location().expect("panics have one");
            told.lock().expect("not poisoned").push((place.file().to_owned(), place.line()));
        }));
        let line = line!();
        let left = panic::catch_unwind(AssertUnwindSafe(|| drop(handle.leave(CoreId::new(2)))));
        let back = panic::catch_unwind(AssertUnwindSafe(|| drop(handle.bring_back(CoreId::new(2)))));
        drop(panic::take_hook());
        assert!(left.is_err() && back.is_err());
        let places = places.lock().expect("not poisoned").clone();
        assert_eq!(places, [1, 2].map(|next| (file!().to_owned(), line + next)));
        cycle(&handle, B);
    });
}

#[test]
fn a_closure_on_the_only_thread_for_such_has_a_core_leave_and_come_back() {
    alone("returning::a_closure_on_the_only_thread_for_such_has_a_core_leave_and_come_back", LIMIT, || {
        each_kind(|builder| {
            let before = holdings();
            let runtime = runtime(&builder.blocking_threads(1), 2);
            let handle = runtime.handle();
            let closure = move || (0..scaled(5, 50)).for_each(|_| cycle(&handle, B));
            runtime.block_on(|| ipiq::spawn_blocking(closure)).expect("no panic");
            drop(runtime);
            wait_for(before);
        });
    });
}
