//! What tasks wait for each other with, on one core and between cores: order, bounds, ends and drops in every state.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use ipiq::sync::cross::{self, mpsc, oneshot, watch};
use ipiq::sync::{self, Notify};
use ipiq::{CoreId, JoinHandle, JoinSet, Runtime, call_on, core_id, cores, spawn_local, spawn_on, yield_now};
use ipiq_suites::runtimes::{Census, Token, each_kind};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// Each kind of runtime, of two to four cores, `rounds` times, under a watchdog; nothing is left after each runtime.
fn each_runtime(what: &str, rounds: usize, scenario: impl Fn(&Runtime, &Ledger)) {
    with_watchdog(what, LIMIT, || {
        each_kind(|builder| {
            for round in 0..rounds {
                let ledger = Ledger::default();
                let runtime =
                    builder.clone().cores(2 + round % 3).ring_capacity(2).build().expect("a runtime of a few cores");
                scenario(&runtime, &ledger);
                drop(runtime);
                assert_eq!(ledger.census.alive(), 0, "{what}: a value is left");
                assert_eq!(ledger.astray.load(Ordering::Relaxed), 0, "{what}: a value was dropped elsewhere");
            }
        });
    });
}

/// What became of the values of a scenario.
#[derive(Clone, Debug, Default)]
struct Ledger {
    census: Census,
    astray: Arc<AtomicUsize>,
}

/// A value that is dropped where it was made or where it was sent to.
#[derive(Debug)]
struct Parcel {
    source: CoreId,
    number: usize,
    places: [ThreadId; 2],
    astray: Arc<AtomicUsize>,
    _token: Token,
}

impl Ledger {
    /// A value of the calling core for the core of thread `home`.
    fn parcel(&self, number: usize, home: ThreadId) -> Parcel {
        Parcel {
            source: core_id(),
            number,
            places: [thread::current().id(), home],
            astray: self.astray.clone(),
            _token: self.census.token(),
        }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // A panic may be contained, and nobody hear of it.
        if !self.places.contains(&thread::current().id()) {
            self.astray.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn home() -> ThreadId {
    thread::current().id()
}

async fn some_turns() {
    for _ in 0..fastrand::usize(..4) {
        yield_now().await;
    }
}

/// Polls once, and abandons what is not ready.
async fn briefly<F: Future>(future: F) -> Option<F::Output> {
    let future = pin!(future);
    let polled = future.now_or_never();
    if polled.is_none() {
        some_turns().await;
    }
    polled
}

/// What a core has sent, as far as the queue has said so.
type Accepted = Arc<Mutex<Vec<Vec<usize>>>>;

/// Sends in every way until `rounds` are over or the queue is closed.
async fn send_in_every_way(
    sender: mpsc::Sender<Parcel>,
    ledger: Ledger,
    home: ThreadId,
    accepted: Accepted,
    rounds: usize,
) {
    let accept = |number| accepted.lock().expect("not poisoned")[core_id().index()].push(number);
    for number in 0..rounds {
        let parcel = ledger.parcel(number, home);
        // Nothing else of this core comes between a send that is ready and its note.
        let sent = match fastrand::u32(..6) {
            0 | 1 => sender.send(parcel).await,
            2 => sender.try_send(parcel),
            3 => match sender.reserve().await {
                Ok(permit) => {
                    some_turns().await;
                    permit.send(parcel)
                }
                Err(_) => return,
            },
            4 => {
                // Space that is not used, or not waited for.
                drop(briefly(sender.reserve()).await);
                continue;
            }
            _ => match briefly(sender.clone().send(parcel)).await {
                Some(sent) => sent,
                None => continue,
            },
        };
        match sent {
            Ok(()) => accept(number),
            Err(back) if back.is_full() => assert_eq!(back.into_inner().number, number),
            Err(_) => return,
        }
    }
}

#[test]
fn what_a_queue_takes_arrives_in_order_until_either_end_closes_it() {
    each_runtime("cross mpsc", scaled(6, 15), |runtime, ledger| {
        let ledger = ledger.clone();
        runtime.block_on(|| async move {
            for close in [false, true] {
                let (sender, mut receiver) = mpsc::channel(fastrand::usize(1..5));
                let accepted: Accepted = Arc::new(Mutex::new(vec![Vec::new(); cores().count()]));
                let mut senders = JoinSet::new();
                let home = home();
                for core in cores() {
                    let (sender, ledger, accepted) = (sender.clone(), ledger.clone(), accepted.clone());
                    senders.spawn_on(core, move || send_in_every_way(sender, ledger, home, accepted, 60));
                }
                drop(sender);
                let mut received = vec![Vec::new(); cores().count()];
                let mut before_close = fastrand::usize(..60);
                while let Some(parcel) = receiver.recv().await {
                    received[parcel.source.index()].push(parcel.number);
                    if close && before_close == 0 {
                        receiver.close();
                    }
                    before_close = before_close.wrapping_sub(1);
                    if fastrand::u32(..8) == 0 {
                        yield_now().await;
                    }
                }
                while let Some(ended) = senders.join_next().await {
                    ended.expect("no panic");
                }
                assert_eq!(received, *accepted.lock().expect("not poisoned"));
                assert!(receiver.try_recv().is_err_and(|error| error.is_closed()));
            }
        });
    });
}

#[test]
fn a_core_has_at_most_the_capacity_under_way_and_every_waiter_gets_its_turn() {
    each_runtime("cross mpsc, bounds", scaled(4, 10), |runtime, ledger| {
        let ledger = ledger.clone();
        runtime.block_on(|| async move {
            let capacity = fastrand::usize(1..5);
            let (sender, mut receiver) = mpsc::channel(capacity);
            let [sent, received] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
            let home = home();
            // All but one of the credits are held for the whole time.
            let (senders, ledger_of, counts) = (sender.clone(), ledger.clone(), [sent.clone(), received.clone()]);
            let task = spawn_on(B, move || async move {
                let held: Vec<_> = (1..capacity).map(|_| senders.reserve().now_or_never().expect("space")).collect();
                let waiters: Vec<_> = (0..6)
                    .map(|first| {
                        let (sender, ledger, [sent, received]) = (senders.clone(), ledger_of.clone(), counts.clone());
                        spawn_local(async move {
                            for number in 0..10 {
                                sender.send(ledger.parcel(first * 10 + number, home)).await.expect("open");
                                let sent = sent.fetch_add(1, Ordering::AcqRel) + 1;
                                // One may be in the receiver's hands, who has not counted it.
                                assert!(sent <= received.load(Ordering::Acquire) + 2, "more than one under way");
                            }
                        })
                    })
                    .collect();
                for waiter in waiters {
                    waiter.await.expect("no panic");
                }
                drop(held);
            });
            drop(sender);
            let mut last = [None; 6];
            while let Some(parcel) = receiver.recv().await {
                received.fetch_add(1, Ordering::AcqRel);
                let own = &mut last[parcel.number / 10];
                assert!(*own < Some(parcel.number));
                *own = Some(parcel.number);
            }
            task.await.expect("no panic");
            assert_eq!(received.load(Ordering::Relaxed), 60);
        });
    });
}

#[test]
fn waiters_of_a_queue_whose_receiver_goes_have_their_values_back() {
    each_runtime("cross mpsc, receiver gone", scaled(6, 15), |runtime, ledger| {
        let ledger = ledger.clone();
        runtime.block_on(|| async move {
            for home_of_receiver in cores() {
                let (census, waiting) = (ledger.clone(), Arc::new(AtomicUsize::new(0)));
                let made = spawn_on(home_of_receiver, {
                    let waiting = waiting.clone();
                    move || async move {
                        let (sender, receiver) = mpsc::channel::<Parcel>(2);
                        let id = home();
                        let goes = spawn_local(async move {
                            // Two of each core have come, and one waits.
                            while waiting.load(Ordering::Acquire) < cores().count()
                                || receiver.len() < 2 * cores().count()
                            {
                                yield_now().await;
                            }
                            drop(receiver);
                        });
                        drop(goes);
                        (sender, id)
                    }
                });
                let (sender, id) = made.await.expect("no panic");
                let mut tasks = JoinSet::new();
                for core in cores() {
                    let (sender, ledger, waiting) = (sender.clone(), census.clone(), waiting.clone());
                    tasks.spawn_on(core, move || async move {
                        for number in 0..2 {
                            sender.send(ledger.parcel(number, id)).await.expect("space");
                        }
                        let (closed, mut reserve) = (sender.closed(), Box::pin(sender.reserve()));
                        assert!(reserve.as_mut().now_or_never().is_none());
                        waiting.fetch_add(1, Ordering::AcqRel);
                        assert!(reserve.await.is_err());
                        closed.await;
                        let back = sender.send(ledger.parcel(2, id)).await.expect_err("nobody receives");
                        assert!(back.is_closed() && back.into_inner().number == 2);
                        assert!(sender.is_closed() && sender.try_send(ledger.parcel(3, id)).is_err());
                    });
                }
                while let Some(ended) = tasks.join_next().await {
                    ended.expect("no panic");
                }
                // Those that had arrived went with the receiver.
                while ledger.census.alive() > 0 {
                    yield_now().await;
                }
            }
        });
    });
}

#[test]
fn a_queue_ends_by_the_last_sender_wherever_it_is_dropped() {
    each_runtime("cross mpsc, last sender", scaled(6, 15), |runtime, ledger| {
        for foreign in [false, true] {
            let ledger = ledger.clone();
            let handle = runtime.handle();
            runtime.block_on(move || async move {
                let (sender, mut receiver) = mpsc::channel(4);
                let home = home();
                // Sends on each core in turn, ends its life on one that has sent nothing last.
                let travels = async move |sender: mpsc::Sender<Parcel>, ledger: Ledger| {
                    let mut sender = sender;
                    for core in cores() {
                        let ledger = ledger.clone();
                        let task = spawn_on(core, move || async move {
                            for number in 0..6 {
                                sender.send(ledger.parcel(number, home)).await.expect("open");
                            }
                            sender
                        });
                        sender = task.await.expect("no panic");
                    }
                    sender
                };
                let count = cores().count() * 6;
                let sending = spawn_local(async move {
                    let sender = travels(sender, ledger).await;
                    if foreign {
                        thread::spawn(move || drop((sender, handle))).join().expect("no panic");
                    } else {
                        call_on(B, move || drop(sender)).await.expect("no panic");
                    }
                });
                let mut received = 0;
                while let Some(parcel) = receiver.recv().await {
                    assert_eq!(parcel.number, received % 6);
                    received += 1;
                }
                assert_eq!(received, count);
                sending.await.expect("no panic");
            });
        }
    });
}

#[test]
fn runtimes_that_end_take_every_wait_and_every_value_with_them() {
    each_runtime("cross, the runtime's end", scaled(10, 25), |runtime, ledger| {
        let turns = Arc::new(AtomicUsize::new(0));
        let ended: Vec<JoinHandle<()>> = (0..runtime.handle().core_count())
            .map(CoreId::new)
            .map(|core| {
                let (ledger, turns) = (ledger.clone(), turns.clone());
                runtime.handle().spawn_on(core, move || async move {
                    let (sender, mut receiver) = mpsc::channel(2);
                    let (permits, (value, watched)) = (cross::Semaphore::new(1), watch::channel(0));
                    let (promise, promised) = oneshot::channel::<()>();
                    let home = home();
                    let mut waits = JoinSet::new();
                    for core in cores() {
                        let (sender, ledger) = (sender.clone(), ledger.clone());
                        let (permits, mut watched) = (permits.clone(), watched.clone());
                        waits.spawn_on(core, move || async move {
                            for number in 0.. {
                                let _permit = permits.acquire().await;
                                let _ = sender.send(ledger.parcel(number, home)).await;
                                let _ = watched.changed().now_or_never();
                            }
                        });
                    }
                    for number in 0.. {
                        if fastrand::bool() {
                            drop(receiver.recv().await);
                        } else {
                            yield_now().await;
                        }
                        value.send(number);
                        turns.fetch_add(1, Ordering::AcqRel);
                    }
                    drop(promise);
                    let _ = promised.await;
                })
            })
            .collect();
        let enough = fastrand::usize(..60);
        while turns.load(Ordering::Acquire) < enough {
            thread::yield_now();
        }
        runtime.handle().stop();
        for task in ended {
            assert!(Runtime::wait(task).is_err());
        }
    });
}

#[test]
fn one_value_comes_from_any_thread_or_the_news_that_none_will() {
    each_runtime("cross oneshot", scaled(6, 15), |runtime, ledger| {
        let ledger = ledger.clone();
        runtime.block_on(|| async move {
            let home = home();
            for core in cores() {
                let (sender, receiver) = oneshot::channel();
                let own = ledger.clone();
                drop(spawn_on(core, move || async move { sender.send(own.parcel(7, home)).expect("it is there") }));
                assert_eq!(receiver.await.expect("a value").number, 7);

                let (sender, mut receiver) = oneshot::channel::<Parcel>();
                assert!(receiver.try_recv().is_err_and(|error| error.is_empty()));
                drop(spawn_on(core, move || async move { drop(sender) }));
                assert!(receiver.await.is_err());

                // The receiver goes before, or while it comes, or after.
                let (sender, receiver) = oneshot::channel();
                let own = ledger.clone();
                let task = spawn_on(core, move || async move { sender.send(own.parcel(8, home)) });
                some_turns().await;
                drop(receiver);
                assert!(task.await.expect("no panic").is_ok());
                while ledger.census.alive() > 0 {
                    yield_now().await;
                }
            }
            for send in [true, false] {
                let (sender, receiver) = oneshot::channel();
                let sent =
                    thread::spawn(move || if send { sender.send(9).expect("it is there") } else { drop(sender) });
                assert_eq!(receiver.await.ok(), send.then_some(9));
                sent.join().expect("no panic");
            }
        });
    });
}

#[test]
fn watchers_on_every_core_see_rising_values_and_the_last_one() {
    each_runtime("cross watch", scaled(6, 15), |runtime, _| {
        runtime.block_on(|| async {
            let (sender, first) = watch::channel(0);
            let mut watchers = JoinSet::new();
            for core in cores() {
                for impatient in [false, true] {
                    let mut watched = if fastrand::bool() { first.clone() } else { sender.subscribe() };
                    watchers.spawn_on(core, move || async move {
                        let mut last = watched.get().await.expect("the sender's core is there");
                        loop {
                            // What is not returned is not seen.
                            if impatient && let Some(Ok(value)) = briefly(watched.changed()).await {
                                last = value;
                            }
                            match watched.changed().await {
                                Ok(value) => {
                                    assert!(value >= last);
                                    last = value;
                                }
                                Err(sync::Closed) => break last,
                            }
                        }
                    });
                }
            }
            for value in 1..=100 {
                sender.send(value);
                some_turns().await;
            }
            assert_eq!(*sender.get(), 100);
            drop(sender);
            while let Some(last) = watchers.join_next().await {
                assert_eq!(last.expect("no panic"), 100);
            }
            assert_eq!(first.get().await, Ok(100));
        });
    });
}

#[test]
fn permits_are_held_by_so_many_at_a_time_and_all_come_back() {
    each_runtime("cross semaphore", scaled(6, 15), |runtime, _| {
        const PERMITS: usize = 3;
        let handle = runtime.handle();
        runtime.block_on(|| async move {
            let (permits, held) = (cross::Semaphore::new(PERMITS), Arc::new(AtomicUsize::new(0)));
            let mut tasks = JoinSet::new();
            for core in cores().flat_map(|core| [core; 3]) {
                let (permits, held) = (permits.clone(), held.clone());
                tasks.spawn_on(core, move || async move {
                    for _ in 0..15 {
                        let wanted = fastrand::usize(1..=PERMITS);
                        let permit = match fastrand::u32(..4) {
                            0 => briefly(permits.acquire_many(wanted)).await,
                            1 => permits.try_acquire_many(wanted).await.map(Ok),
                            _ => Some(permits.acquire_many(wanted).await),
                        };
                        let Some(permit) = permit else { continue };
                        let permit = permit.expect("open");
                        assert!(held.fetch_add(wanted, Ordering::AcqRel) + wanted <= PERMITS);
                        some_turns().await;
                        held.fetch_sub(wanted, Ordering::AcqRel);
                        if fastrand::bool() {
                            // Given back by another core.
                            drop(call_on(A, move || drop(permit)));
                        }
                    }
                });
            }
            // On a thread that runs no core.
            let theirs = permits.clone();
            let foreign = thread::spawn(move || {
                for _ in 0..10 {
                    drop(Runtime::wait(theirs.acquire()).expect("open"));
                }
                drop(handle);
            });
            while let Some(ended) = tasks.join_next().await {
                ended.expect("no panic");
            }
            while !foreign.is_finished() {
                yield_now().await;
            }
            foreign.join().expect("no panic");
            drop(permits.acquire_many(PERMITS).await.expect("open"));
            // More than there are, until there are enough; and a wait that ends with the semaphore.
            let (more, never) = (permits.clone(), permits.clone());
            let more = spawn_on(B, move || async move { more.acquire_many(PERMITS + 1).await });
            permits.add_permits(1);
            let all = more.await.expect("no panic").expect("open");
            let never = spawn_on(B, move || async move { never.acquire().await });
            some_turns().await;
            permits.close();
            assert!(never.await.expect("no panic").is_err());
            drop(all);
            assert!(permits.acquire().await.is_err());
        });
    });
}

#[test]
fn a_wait_that_went_away_holds_up_nobody_behind_it() {
    each_runtime("cross semaphore, abandoned", scaled(6, 15), |runtime, _| {
        runtime.block_on(|| async {
            for core in cores() {
                let permits = cross::Semaphore::new(1);
                let held = permits.acquire().await.expect("open");
                let next = spawn_on(core, move || async move {
                    // More than there will ever be.
                    drop(briefly(permits.acquire_many(2)).await);
                    drop(held);
                    permits.acquire().await.map(drop)
                });
                next.await.expect("no panic").expect("open");
            }
        });
    });
}

#[test]
fn a_home_that_leaves_ends_every_wait_for_it() {
    each_runtime("cross, the home leaves", scaled(6, 15), |runtime, ledger| {
        let (ledger, handle) = (ledger.clone(), runtime.handle());
        runtime.block_on(move || async move {
            let waiting = Arc::new(AtomicUsize::new(0));
            let made = spawn_on(B, move || async move {
                let (sender, receiver) = mpsc::channel::<Parcel>(2);
                let (value, watched) = watch::channel(0);
                let (promise, promised) = oneshot::channel::<Parcel>();
                let permits = cross::Semaphore::new(0);
                let ends = (sender, watched, promise, permits, home());
                drop(spawn_local(async move {
                    let _stay = (receiver, value, promised);
                    std::future::pending::<()>().await;
                }));
                ends
            });
            let (sender, mut watched, promise, permits, id) = made.await.expect("no panic");
            let mut tasks = JoinSet::new();
            for core in cores().filter(|core| *core != B) {
                let (sender, mut watched, permits) = (sender.clone(), watched.clone(), permits.clone());
                let (ledger, waiting) = (ledger.clone(), waiting.clone());
                tasks.spawn_on(core, move || async move {
                    for number in 0..2 {
                        sender.send(ledger.parcel(number, id)).await.expect("space");
                    }
                    let mut third = Box::pin(sender.send(ledger.parcel(2, id)));
                    assert!(third.as_mut().now_or_never().is_none());
                    waiting.fetch_add(1, Ordering::AcqRel);
                    let (third, changed, permit) = futures::join!(third, watched.changed(), permits.acquire());
                    assert_eq!(third.expect_err("nobody receives").into_inner().number, 2);
                    assert!(changed.is_err() && permit.is_err());
                });
            }
            while waiting.load(Ordering::Acquire) < cores().count() - 1 {
                yield_now().await;
            }
            handle.leave(B).expect("it may").await;
            while let Some(ended) = tasks.join_next().await {
                ended.expect("no panic");
            }
            let back = promise.send(ledger.parcel(3, id)).expect_err("it has left");
            assert_eq!(back.into_inner().number, 3);
            assert!(sender.is_closed() && sender.try_send(ledger.parcel(4, id)).is_err());
            assert!(watched.get().await.is_err() && watched.changed().await.is_err());
            assert!(permits.try_acquire().await.is_none());
        });
    });
}

#[test]
fn what_a_core_had_sent_arrives_after_it_has_left() {
    each_runtime("cross mpsc, a sender leaves", scaled(6, 15), |runtime, ledger| {
        let (ledger, handle) = (ledger.clone(), runtime.handle());
        runtime.block_on(move || async move {
            let (sender, mut receiver) = mpsc::channel(fastrand::usize(1..5));
            let accepted: Accepted = Arc::new(Mutex::new(vec![Vec::new(); cores().count()]));
            let home = home();
            for core in cores() {
                let (sender, ledger, accepted) = (sender.clone(), ledger.clone(), accepted.clone());
                let rounds = if core == B { usize::MAX } else { 40 };
                drop(spawn_on(core, move || send_in_every_way(sender, ledger, home, accepted, rounds)));
            }
            drop(sender);
            let mut received = vec![Vec::new(); cores().count()];
            let (mut leaving, enough) = (None, fastrand::usize(1..20));
            while let Some(parcel) = receiver.recv().await {
                received[parcel.source.index()].push(parcel.number);
                if leaving.is_none() && received[B.index()].len() >= enough {
                    leaving = Some(handle.leave(B).expect("it may"));
                }
            }
            leaving.expect("it has sent enough").await;
            assert_eq!(received, *accepted.lock().expect("not poisoned"));
        });
    });
}

#[test]
fn a_thread_that_runs_no_core_is_told_that_it_cannot_send() {
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    runtime.block_on(|| async {
        let (sender, mut receiver) = mpsc::channel(1);
        let theirs = sender.clone();
        let panic = thread::spawn(move || theirs.try_send(1)).join().expect_err("it runs no core");
        let text = panic.downcast_ref::<String>().expect("a text");
        assert!(text.contains("`Sender::try_send` was called on a thread that runs no core"), "{text}");
        drop(sender);
        assert_eq!(receiver.recv().await, None);
    });
}

#[test]
#[should_panic(expected = "on the cores of the runtime that it was made on")]
fn a_queue_is_not_sent_to_from_another_runtime() {
    let one = Runtime::builder().cores(1).build().expect("a runtime");
    let other = Runtime::builder().cores(1).build().expect("a runtime");
    let (sender, receiver) = one.block_on(|| async {
        let (sender, receiver) = mpsc::channel(1);
        (sender, ipiq::ForeignBox::new(receiver))
    });
    other.block_on(move || async move { sender.try_send(1).expect("it panics") });
    drop(receiver);
}

#[test]
fn a_turn_of_one_core_is_passed_on_by_tasks_that_are_aborted() {
    each_runtime("local locks, aborts", scaled(6, 15), |runtime, ledger| {
        let ledger = ledger.clone();
        runtime.block_on(|| async move {
            let (mutex, permits) = (Rc::new(sync::Mutex::new(0_u32)), Rc::new(sync::Semaphore::new(2)));
            let (lock, filled) = (Rc::new(sync::RwLock::new(0_u32)), Rc::new(Notify::new()));
            let busy = Rc::new(Cell::new(false));
            let mut rng = Rng::new();
            for round in 0..20 {
                let mut tasks: Vec<JoinHandle<()>> = Vec::new();
                for _ in 0..8 {
                    let (mutex, permits, lock) = (mutex.clone(), permits.clone(), lock.clone());
                    let (filled, busy) = (filled.clone(), busy.clone());
                    let token = ledger.census.token();
                    tasks.push(spawn_local(async move {
                        let _token = token;
                        let _permit = permits.acquire().await.expect("open");
                        let mut value = mutex.lock().await;
                        assert!(!busy.replace(true), "two hold it");
                        let free = Free(&busy);
                        some_turns().await;
                        *value += 1;
                        drop((free, value));
                        if fastrand::bool() {
                            *lock.write().await += 1
                        } else {
                            _ = *lock.read().await
                        }
                        filled.notify_one();
                        filled.notified().await;
                        filled.notify_one();
                    }));
                }
                for task in &tasks {
                    if rng.bool() {
                        task.abort();
                    }
                    some_turns().await;
                }
                for task in tasks {
                    if let Err(error) = task.await {
                        assert!(error.is_cancelled(), "round {round}: {error}");
                    }
                }
                assert_eq!(permits.available_permits(), 2);
                assert!(mutex.try_lock().is_some() && lock.try_write().is_some());
            }
        });
    });
}

/// Says that nobody holds it, also when who did is aborted.
struct Free<'a>(&'a Cell<bool>);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[test]
fn waits_of_one_core_end_with_the_runtime_in_every_state() {
    each_runtime("local, the runtime's end", scaled(6, 15), |runtime, ledger| {
        let ledger = ledger.clone();
        runtime.block_on(|| async move {
            let mutex = Rc::new(sync::Mutex::new(()));
            let (sender, receiver) = sync::mpsc::channel(1);
            let receiver = Rc::new(sync::Mutex::new(receiver));
            for _ in 0..6 {
                let (mutex, sender, receiver) = (mutex.clone(), sender.clone(), receiver.clone());
                let ledger = ledger.clone();
                drop(spawn_local(async move {
                    let _token = ledger.census.token();
                    let home = home();
                    loop {
                        // Held over awaits; new, in line, called, finished, whenever the end comes.
                        let held = mutex.lock().await;
                        some_turns().await;
                        drop(held);
                        let mut send = pin!(sender.send(ledger.parcel(0, home)));
                        let _ = send.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                        drop(receiver.lock().await.recv().now_or_never());
                    }
                }));
            }
            for _ in 0..fastrand::usize(..40) {
                yield_now().await;
            }
        });
    });
}

#[test]
fn turns_of_a_core_that_leaves_go_to_the_others() {
    each_runtime("cross, who waits leaves", scaled(6, 15), |runtime, ledger| {
        let (ledger, handle) = (ledger.clone(), runtime.handle());
        runtime.block_on(move || async move {
            const PERMITS: usize = 2;
            let permits = cross::Semaphore::new(PERMITS);
            let (value, watched) = watch::channel(0);
            let (sender, mut receiver) = mpsc::channel::<Parcel>(2);
            let (home, turns) = (home(), Arc::new(AtomicUsize::new(0)));
            for core in cores().flat_map(|core| [core; 3]) {
                let (permits, mut watched, sender) = (permits.clone(), watched.clone(), sender.clone());
                let (ledger, turns) = (ledger.clone(), turns.clone());
                drop(spawn_on(core, move || async move {
                    for number in 0..if core == B { usize::MAX } else { 10 } {
                        // Held, in line, called, on its way, when the core leaves.
                        let permit = permits.acquire_many(fastrand::usize(1..=PERMITS)).await.expect("open");
                        turns.fetch_add(1, Ordering::AcqRel);
                        some_turns().await;
                        drop(permit);
                        drop(briefly(permits.acquire()).await);
                        let _ = briefly(watched.changed()).await;
                        let _ = sender.send(ledger.parcel(number, home)).await;
                    }
                }));
            }
            drop((sender, watched));
            let enough = fastrand::usize(1..60);
            let leaves = async {
                while turns.load(Ordering::Acquire) < enough {
                    value.send(enough);
                    yield_now().await;
                }
                handle.leave(B).expect("it may").await;
            };
            let receives = async { while receiver.recv().await.is_some() {} };
            futures::join!(leaves, receives);
            // All have come back.
            drop(permits.acquire_many(PERMITS).await.expect("open"));
        });
    });
}

#[test]
fn ends_are_used_and_outlived_on_the_cores_of_another_runtime() {
    each_runtime("cross, another runtime", scaled(4, 10), |runtime, ledger| {
        let other = Runtime::builder().cores(2).ring_capacity(2).build().expect("a runtime");
        let ledger = ledger.clone();
        let (promise, permits, mut watched, sender) = runtime.block_on(|| async move {
            let (promise, promised) = oneshot::channel::<u32>();
            let (value, watched) = watch::channel(0);
            let (sender, mut receiver) = mpsc::channel::<Parcel>(1);
            let permits = cross::Semaphore::new(1);
            let id = home();
            let (own, filled) = (sender.clone(), ledger.clone());
            // One of each kind is in flight when the runtime ends.
            drop(spawn_on(B, move || async move { while own.send(filled.parcel(0, id)).await.is_ok() {} }));
            drop(receiver.recv().await);
            value.send(1);
            drop(spawn_local(async move {
                let _stay = (promised, value, receiver);
                std::future::pending::<()>().await;
            }));
            (promise, permits, watched, sender)
        });
        let waits = other.handle().spawn_on(B, move || async move {
            let permit = permits.acquire().await.expect("open");
            assert!(permits.try_acquire().await.is_none());
            assert_eq!(watched.changed().await, Ok(1));
            drop(briefly(permits.acquire()).await);
            drop(permit);
            let permit = permits.acquire().await.expect("open");
            let (ended, changed) = futures::join!(permits.acquire(), watched.changed());
            assert!(ended.is_err() && changed.is_err());
            drop((permit, permits, watched));
            assert!(promise.send(1).is_err_and(|back| back.is_closed()));
            drop(sender);
        });
        if fastrand::bool() {
            for _ in 0..fastrand::u32(..200) {
                thread::yield_now();
            }
        }
        runtime.handle().stop();
        let ended = other.block_on(|| waits);
        if let Err(error) = ended {
            // It was too late for the first permit.
            assert!(error.is_panic(), "{error}");
        }
    });
}
