//! Calls to every core: what they bring back, when a wait for one ends, and what a barrier promises.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use futures::poll;
use ipiq::xcall::{self, Class, Ticket};
use ipiq::{CoreId, IdlePolicy, Runtime, core_id, spawn_local, spawn_on, yield_now};
use ipiq_suites::alone::alone;
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const CORES: usize = 3;
const CLASSES: [Class; 2] = [Class::Low, Class::High];

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);

/// Runs `scenario` on core 0 of three, of every kind.
fn on_three_cores<Fut: Future<Output = ()> + 'static>(scenario: fn() -> Fut) {
    on_cores(CORES, scenario);
}

fn on_cores<Fut: Future<Output = ()> + 'static>(cores: usize, scenario: fn() -> Fut) {
    each_kind(|builder| {
        let runtime = builder.cores(cores).ring_capacity(8).build().expect("a runtime");
        runtime.block_on(scenario);
    });
}

fn all_cores() -> impl Iterator<Item = CoreId> {
    (0..CORES).map(CoreId::new)
}

thread_local! {
    static BUSY: RefCell<u32> = const { RefCell::new(0) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

#[test]
fn every_core_answers_also_the_callers_own() {
    alone("every_core_answers_also_the_callers_own", LIMIT, || {
        on_three_cores(|| async {
            let high = xcall::high::broadcast(core_id).await;
            assert!(high.iter().map(|(core, _)| *core).eq(all_cores()));
            assert!(high.into_iter().all(|(core, answer)| answer.expect("a value") == core));
            // From another core too, and as a task that awaits.
            let low = spawn_on(C, || {
                xcall::low::broadcast(|| async {
                    yield_now().await;
                    core_id()
                })
            });
            let low = low.await.expect("no panic");
            assert!(low.iter().map(|(core, _)| *core).eq(all_cores()));
            assert!(low.into_iter().all(|(core, answer)| answer.expect("a value") == core));
            let sum = xcall::high::broadcast(|| core_id().index() + 1).fold(0, |sum, value| sum + value).await;
            assert_eq!(sum.expect("values"), 6);
            for core in all_cores() {
                assert_eq!(xcall::high::unicast(core, core_id).await.expect("a value"), core);
                assert_eq!(xcall::low::unicast(core, || async { core_id() }).await.expect("a value"), core);
            }
        });
    });
}

#[test]
fn a_high_function_runs_between_polls_on_the_callers_core_too() {
    alone("a_high_function_runs_between_polls_on_the_callers_core_too", LIMIT, || {
        on_three_cores(|| async {
            let call = BUSY.with_borrow_mut(|_| {
                // The function borrows it too: inside this poll it would panic.
                let call = xcall::high::broadcast(|| BUSY.with_borrow_mut(|busy| *busy += 1));
                thread::yield_now();
                call
            });
            assert_eq!(BUSY.with_borrow(|busy| *busy), 0, "not inside the call");
            assert!(call.await.into_iter().all(|(_, answer)| answer.is_ok()));
            assert_eq!(BUSY.with_borrow(|busy| *busy), 1);
            BUSY.set(0);
        });
    });
}

#[test]
fn a_panic_is_that_cores_error_and_nobody_elses() {
    std::panic::set_hook(Box::new(|_| {}));
    on_three_cores(|| async {
        let high = xcall::high::broadcast(|| assert_ne!(core_id(), B, "in a closure")).await;
        for (core, answer) in high {
            assert_eq!(answer.as_ref().is_err_and(|error| error.is_panic()), core == B, "{core}: {answer:?}");
        }
        // The own core's panic is no other case.
        let error = xcall::high::broadcast(|| assert_ne!(core_id(), A)).fold((), |(), ()| ()).await;
        assert!(error.expect_err("a panic").is_panic());
        let low = xcall::low::broadcast(|| async {
            yield_now().await;
            assert_ne!(core_id(), B, "in a task");
        });
        for (core, answer) in low.await {
            assert_eq!(answer.as_ref().is_err_and(|error| error.is_panic()), core == B, "{core}: {answer:?}");
        }
        // A wait for a call that panicked ends.
        let mut call = xcall::high::broadcast(|| panic!("everywhere"));
        xcall::wait(call.ticket()).await.expect("finished");
        assert!(call.await.into_iter().all(|(_, answer): (_, Result<(), _>)| answer.is_err()));
    });
    drop(std::panic::take_hook());
}

/// A call whose functions do not finish before the gate opens.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<AtomicBool>,
    finished: Arc<AtomicUsize>,
}

impl Gate {
    fn opener(&self) -> Opener {
        Opener(self.open.clone())
    }

    async fn pass(self) {
        while !self.open.load(Ordering::Acquire) {
            yield_now().await;
        }
        self.finished.fetch_add(1, Ordering::AcqRel);
    }

    /// Blocks its core.
    fn hold(self) {
        while !self.open.load(Ordering::Acquire) {
            thread::yield_now();
        }
        self.finished.fetch_add(1, Ordering::AcqRel);
    }

    fn finished(&self) -> usize {
        self.finished.load(Ordering::Acquire)
    }
}

/// Opens the gate when it is dropped, also by a test that fails: who waits there would hold up the end of the runtime.
struct Opener(Arc<AtomicBool>);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// In NetBSD's `xcall(9)` before 2016 all calls counted their finished functions together: those of a later call let the wait for an earlier
/// one end, while the earlier one's were still running.
#[test]
fn pr_kern_51632_a_wait_outlasts_the_end_of_later_calls() {
    alone("pr_kern_51632_a_wait_outlasts_the_end_of_later_calls", LIMIT, || {
        on_three_cores(|| async {
            let gate = Gate::default();
            let opener = gate.opener();
            let slow = gate.clone();
            let early = xcall::low::broadcast(move || slow.pass()).ticket();
            assert_eq!(early.class(), Class::Low);
            // Everybody who may wait: tasks of each core, and a thread that runs no core.
            let waits = all_cores().map(|core| {
                let gate = gate.clone();
                spawn_on(core, move || async move {
                    xcall::wait(early).await.expect("the home lives");
                    gate.finished()
                })
            });
            let waits: Vec<_> = waits.collect();
            let (handle, seen) = (ipiq::handle(), gate.clone());
            let thread = thread::spawn(move || {
                Runtime::wait(handle.wait_ticket(early)).expect("the home lives");
                seen.finished()
            });
            for _ in 0..10 {
                // As many functions as the early call has, and more.
                let late = xcall::low::broadcast(|| async {}).ticket();
                xcall::wait(late).await.expect("the home lives");
                let late = xcall::high::broadcast(|| ()).ticket();
                xcall::wait(late).await.expect("the home lives");
                assert!(poll!(std::pin::pin!(xcall::wait(early))).is_pending());
                assert!(waits.iter().all(|wait| !wait.is_finished()) && !thread.is_finished());
            }
            assert_eq!(gate.finished(), 0);
            drop(opener);
            for wait in waits {
                assert_eq!(wait.await.expect("no panic"), CORES, "a wait ended before all functions had");
            }
            assert_eq!(thread.join().expect("no panic"), CORES);
            // A wait that comes after the end.
            xcall::wait(early).await.expect("the home lives");
        });
    });
}

/// The same with functions between polls, one of which holds up its core.
#[test]
fn pr_kern_51632_holds_for_high_calls() {
    alone("pr_kern_51632_holds_for_high_calls", LIMIT, || {
        on_three_cores(|| async {
            let gate = Gate::default();
            let opener = gate.opener();
            let slow = gate.clone();
            let early = xcall::high::broadcast(move || {
                if core_id() == C {
                    slow.hold();
                }
            })
            .ticket();
            assert_eq!(early.class(), Class::High);
            for _ in 0..10 {
                for core in [A, B] {
                    let late = xcall::high::unicast(core, || ()).ticket();
                    xcall::wait(late).await.expect("the home lives");
                    assert!(poll!(std::pin::pin!(xcall::wait(early))).is_pending());
                }
            }
            assert_eq!(gate.finished(), 0);
            drop(opener);
            xcall::wait(early).await.expect("the home lives");
            assert_eq!(gate.finished(), 1);
        });
    });
}

#[test]
fn a_ticket_is_drawn_once_and_its_call_goes_on_without_its_holder() {
    alone("a_ticket_is_drawn_once_and_its_call_goes_on_without_its_holder", LIMIT, || {
        on_three_cores(|| async {
            let census = Census::default();
            let token = census.token();
            let ran = Arc::new(AtomicUsize::new(0));
            // Far more than the rings hold.
            let tickets: Vec<Ticket> = (0..200)
                .map(|_| {
                    let (ran, token) = (ran.clone(), Arc::new(census.token()));
                    let mut call = xcall::high::broadcast(move || {
                        ran.fetch_add(1, Ordering::Relaxed);
                        drop(token);
                    });
                    let ticket = call.ticket();
                    assert_eq!(call.ticket(), ticket);
                    ticket
                })
                .collect();
            for pair in tickets.windows(2) {
                assert!(pair[0].number() < pair[1].number());
            }
            join_all(tickets.iter().map(|&ticket| xcall::wait(ticket))).await;
            assert_eq!(ran.load(Ordering::Relaxed), 200 * CORES);
            drop(token);
            assert_eq!(census.alive(), 0);
            // Its values are its holder's also after a ticket was drawn.
            let mut call = xcall::low::broadcast(|| async { core_id().index() });
            let ticket = call.ticket();
            assert_eq!(call.fold(0, |sum, value| sum + value).await.expect("values"), 3);
            xcall::wait(ticket).await.expect("the home lives");
        });
    });
}

#[test]
fn calls_and_waits_dropped_at_any_time_leave_nothing() {
    alone("calls_and_waits_dropped_at_any_time_leave_nothing", LIMIT, || {
        each_kind(|builder| {
            let census = Census::default();
            let runtime = builder.cores(CORES).ring_capacity(2).build().expect("a runtime");
            let counted = census.clone();
            runtime.block_on(move || async move {
                for polls in 0..200 {
                    let token = Arc::new(counted.token());
                    let (low_token, value_token) = (token.clone(), token.clone());
                    let high = xcall::high::broadcast(move || token.clone());
                    let low = xcall::low::broadcast(move || async move { low_token });
                    let mut ticketed = xcall::high::broadcast(move || value_token.clone());
                    let ticket = ticketed.ticket();
                    let there = spawn_on(B, move || xcall::wait(ticket));
                    let here = xcall::wait(ticket);
                    let mut all = std::pin::pin!(async { futures::join!(high, low, here, ticketed, there) });
                    for _ in 0..polls % 7 {
                        if poll!(all.as_mut()).is_ready() {
                            break;
                        }
                        yield_now().await;
                    }
                }
                // What was sent before is through.
                for _ in 0..2 {
                    xcall::barrier(Class::Low).await;
                }
            });
            drop(runtime);
            assert_eq!(census.alive(), 0);
        });
    });
}

#[test]
fn calls_inside_calls_end() {
    alone("calls_inside_calls_end", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(CORES).ring_capacity(2).build().expect("a runtime");
            let ran = Arc::new(AtomicUsize::new(0));
            let count = ran.clone();
            runtime.block_on(move || async move {
                // Low in low in low, each on every core, awaited; and several of them at a time.
                let calls = (0..4).map(|_| {
                    let count = count.clone();
                    xcall::low::broadcast(move || async move {
                        let middle = xcall::low::broadcast(move || async move {
                            let inner = xcall::low::broadcast(move || async move {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                            inner.await.into_iter().for_each(|(_, answer)| answer.expect("a value"));
                            xcall::barrier(Class::Low).await;
                        });
                        middle.await.into_iter().for_each(|(_, answer)| answer.expect("a value"));
                        xcall::barrier(Class::High).await;
                    })
                });
                for answers in join_all(calls).await {
                    answers.into_iter().for_each(|(_, answer)| answer.expect("a value"));
                }
                // A high function issues calls of both classes; who called awaits them by ticket.
                let tickets = xcall::high::broadcast(|| {
                    let low = xcall::low::broadcast(|| async { COUNT.set(COUNT.get() + 1) }).ticket();
                    let high = xcall::high::broadcast(|| COUNT.set(COUNT.get() + 1)).ticket();
                    [low, high]
                });
                for (core, tickets) in tickets.await {
                    for ticket in tickets.expect("a value") {
                        assert_eq!(ticket.home(), core);
                        xcall::wait(ticket).await.expect("the home lives");
                    }
                }
                let counted = xcall::high::broadcast(|| COUNT.take()).fold(0, |sum, count| sum + count).await;
                assert_eq!(counted.expect("values"), 2 * CORES * CORES);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 4 * CORES * CORES * CORES);
        });
    });
}

#[test]
fn other_threads_call_every_core_and_wait_by_ticket() {
    alone("other_threads_call_every_core_and_wait_by_ticket", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(CORES).idle(IdlePolicy::Park).build().expect("a runtime");
            thread::scope(|scope| {
                for _ in 0..3 {
                    let handle = runtime.handle();
                    scope.spawn(move || {
                        for _ in 0..scaled(50, 1_000) {
                            let high = Runtime::wait(handle.broadcast_high(core_id));
                            assert!(high.iter().map(|(core, _)| *core).eq(all_cores()));
                            assert!(high.into_iter().all(|(core, answer)| answer.expect("a value") == core));
                            let low = Runtime::wait(handle.broadcast_low(|| async {
                                yield_now().await;
                                core_id()
                            }));
                            assert!(low.into_iter().all(|(core, answer)| answer.expect("a value") == core));
                            for class in CLASSES {
                                Runtime::wait(handle.barrier(class)).expect("it runs");
                            }
                            let issue = || async { xcall::low::broadcast(|| async { yield_now().await }).ticket() };
                            let ticket = Runtime::wait(handle.spawn_on(B, issue)).expect("no panic");
                            assert_eq!(ticket.home(), B);
                            Runtime::wait(handle.wait_ticket(ticket)).expect("it runs");
                        }
                    });
                }
            });
        });
    });
}

#[test]
fn what_is_under_way_at_the_end_of_a_runtime_ends_with_it() {
    alone("what_is_under_way_at_the_end_of_a_runtime_ends_with_it", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(CORES).build().expect("a runtime");
            let handle = runtime.handle();
            let ticket = runtime.block_on(|| async {
                drop(spawn_local(async {
                    xcall::low::broadcast(pending::<()>).await;
                }));
                xcall::low::broadcast(pending::<()>).ticket()
            });
            let waits: Vec<_> = (0..3)
                .map(|_| {
                    let handle = handle.clone();
                    thread::spawn(move || Runtime::wait(handle.wait_ticket(ticket)))
                })
                .collect();
            let low = handle.broadcast_low(pending::<()>);
            drop(handle.spawn_on(C, move || xcall::wait(ticket)));
            drop(runtime);
            for wait in waits {
                assert!(wait.join().expect("no panic").expect_err("nobody knows its end").is_gone());
            }
            assert!(Runtime::wait(low).into_iter().all(|(_, answer)| answer.is_err_and(|error| error.is_cancelled())));
            let late = Runtime::wait(handle.broadcast_high(|| ()));
            assert!(late.into_iter().all(|(_, answer)| answer.is_err_and(|error| error.is_gone())));
            for class in CLASSES {
                assert!(Runtime::wait(handle.barrier(class)).expect_err("nothing is promised").is_gone());
            }
        });
    });
}

#[test]
fn each_core_counts_the_calls_that_it_issued() {
    alone("each_core_counts_the_calls_that_it_issued", LIMIT, || {
        on_three_cores(|| async {
            let on_b = spawn_on(B, || async {
                for _ in 0..3 {
                    xcall::low::broadcast(|| async {}).await;
                }
                let ticket = xcall::high::unicast(C, || ()).ticket();
                xcall::wait(ticket).await.expect("the home lives");
                let _unfinished = xcall::low::broadcast(pending::<()>).ticket();
            });
            on_b.await.expect("no panic");
            let counters = xcall::high::broadcast(xcall::counters).await;
            let of = |core: CoreId| *counters[core.index()].1.as_ref().expect("a value");
            assert_eq!((of(A).broadcasts, of(A).unicasts, of(A).tickets), (1, 0, 0));
            assert_eq!((of(B).broadcasts, of(B).unicasts, of(B).tickets, of(B).finished), (4, 1, 2, 1));
            assert_eq!(of(C), xcall::Counters::default());
        });
    });
}

#[test]
fn a_low_barrier_comes_after_the_tasks_that_were_ready() {
    alone("a_low_barrier_comes_after_the_tasks_that_were_ready", LIMIT, || {
        on_three_cores(|| async {
            for round in 0..50 {
                let ran = Arc::new(AtomicUsize::new(0));
                for core in (0..30).map(|n| CoreId::new(n % CORES)) {
                    let ran = ran.clone();
                    drop(spawn_on(core, move || async move { ran.fetch_add(1, Ordering::Relaxed) }));
                }
                xcall::barrier(Class::Low).await;
                assert_eq!(ran.load(Ordering::Relaxed), 30, "round {round}");
            }
            // One that is ready without end holds no barrier up.
            let spinner = spawn_on(B, || async {
                loop {
                    yield_now().await;
                }
            });
            for class in CLASSES {
                xcall::barrier(class).await;
            }
            spinner.abort();
            let _cancelled: Result<(), _> = spinner.await;
        });
    });
}

/// Slots of which the tasks of other cores use the current one, without a fence or a count, from one await to the next.
struct Slots {
    current: AtomicUsize,
    valid: [AtomicBool; 64],
}

#[test]
fn after_a_barrier_no_poll_uses_what_was_seen_before_it() {
    alone("after_a_barrier_no_poll_uses_what_was_seen_before_it", LIMIT, || {
        on_three_cores(|| async {
            let slots =
                Arc::new(Slots { current: AtomicUsize::new(0), valid: std::array::from_fn(|_| AtomicBool::new(true)) });
            let stop = Arc::new(AtomicBool::new(false));
            let users: Vec<_> = [A, B, B]
                .into_iter()
                .map(|core| {
                    let (slots, stop) = (slots.clone(), stop.clone());
                    spawn_on(core, move || async move {
                        let mut uses = 0_u64;
                        while !stop.load(Ordering::Relaxed) {
                            let seen = slots.current.load(Ordering::Relaxed);
                            for _ in 0..uses % 50 {
                                std::hint::spin_loop();
                                assert!(slots.valid[seen].load(Ordering::Relaxed), "slot {seen} is in use");
                            }
                            uses += 1;
                            yield_now().await;
                        }
                    })
                })
                .collect();
            for round in 1..scaled(100, 10_000) {
                let (old, new) = ((round - 1) % 64, round % 64);
                slots.valid[new].store(true, Ordering::Relaxed);
                slots.current.store(new, Ordering::Relaxed);
                xcall::barrier(CLASSES[round % 2]).await;
                slots.valid[old].store(false, Ordering::Relaxed);
            }
            stop.store(true, Ordering::Relaxed);
            for user in users {
                user.await.expect("no slot was withdrawn under its user");
            }
        });
    });
}

/// Two words that one side writes and the other reads, crosswise.
#[derive(Default)]
struct Crossing {
    round: AtomicU64,
    answered: AtomicU64,
    mine: AtomicU64,
    theirs: AtomicU64,
    /// What the core without a barrier saw of `mine`.
    saw: AtomicU64,
}

impl Crossing {
    /// Writes one word and reads the other in one poll, without a fence between the two.
    fn cross(&self, round: u64) -> u64 {
        let (write, read) = (|| self.theirs.store(round, Ordering::Relaxed), || self.mine.load(Ordering::Relaxed));
        if round.is_multiple_of(3) {
            // Nothing keeps the CPU from doing it the other way round.
            write();
            return read();
        }
        let saw = read();
        for _ in 0..200 {
            std::hint::spin_loop();
        }
        write();
        saw
    }
}

/// Each side writes its word and reads the other's; one has a barrier between the two, the other does both in one poll. That poll is before the
/// barrier's point on its core, and seen, or after it, and sees.
#[test]
fn a_barrier_is_a_full_fence_on_every_core() {
    alone("a_barrier_is_a_full_fence_on_every_core", LIMIT, || {
        on_three_cores(|| async {
            let crossing = Arc::new(Crossing::default());
            let rounds = scaled(500, 50_000);
            let shared = crossing.clone();
            let other = spawn_on(B, move || async move {
                for round in 1..=rounds {
                    poll_fn(|cx| {
                        if shared.round.load(Ordering::Acquire) == round {
                            let saw = shared.cross(round);
                            shared.saw.store(saw, Ordering::Relaxed);
                            shared.answered.store(round, Ordering::Release);
                            return Poll::Ready(());
                        }
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    })
                    .await;
                }
            });
            for round in 1..=rounds {
                crossing.round.store(round, Ordering::Release);
                for _ in 0..round % 40 {
                    std::hint::spin_loop();
                }
                crossing.mine.store(round, Ordering::Relaxed);
                xcall::barrier(CLASSES[(round % 2) as usize]).await;
                let saw = crossing.theirs.load(Ordering::Relaxed);
                while crossing.answered.load(Ordering::Acquire) < round {
                    yield_now().await;
                }
                let other_saw = crossing.saw.load(Ordering::Relaxed);
                assert!(saw == round || other_saw == round, "round {round}: neither saw the other's write");
            }
            other.await.expect("no panic");
        });
    });
}
