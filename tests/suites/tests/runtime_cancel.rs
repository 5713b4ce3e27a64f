//! Ends of tasks: tokens, abort handles, and the variables that a task has until its end.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::{Pending, pending};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use ipiq::{
    AbortHandle, CancellationToken, CoreId, JoinSet, Runtime, cores, deadline, spawn_local, spawn_on, task_local,
    yield_now,
};
use ipiq_suites::homebound::Homebound;
use ipiq_suites::runtimes::{Census, each_kind, on_three_cores};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const B: CoreId = CoreId::new(1);

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

#[test]
fn a_token_ends_every_task_that_waits_for_it_on_every_core_and_thread() {
    on_three_cores("tokens", scaled(5, 12), |census| async move {
        let token = CancellationToken::new();
        let (elsewhere, thread) = (token.clone(), token.clone());
        let thread = std::thread::spawn(move || Runtime::wait(thread.cancelled()));
        let mut set = JoinSet::new();
        for (index, core) in cores().cycle().take(30).enumerate() {
            let (token, census) = (token.child_token(), census.clone());
            set.spawn_on(core, move || async move {
                let bound = Homebound::new(&census);
                match index % 3 {
                    0 => token.cancelled().await,
                    1 => token.clone().cancelled_owned().await,
                    _ => assert!(token.run_until_cancelled(pending::<()>()).await.is_none()),
                }
                assert!(token.is_cancelled());
                drop(bound);
            });
        }
        until(|| census.alive() == 30).await;
        assert!(set.join_next().now_or_never().is_none());
        spawn_on(B, move || async move { elsewhere.cancel() }).await.expect("no panic");
        while let Some(outcome) = set.join_next().await {
            outcome.expect("no panic");
        }
        thread.join().expect("it was woken");
        token.cancelled().await;
        assert_eq!(token.run_until_cancelled(async { unreachable!("it is not polled") }).await, None::<()>);
        assert!(token.child_token().is_cancelled());
    });
}

#[test]
fn a_child_is_cancelled_with_its_parent_and_alone() {
    let root = CancellationToken::new();
    let [left, right] = [(); 2].map(|()| root.child_token());
    let leaf = left.child_token();
    right.cancel();
    right.cancel();
    assert_eq!([&root, &left, &right, &leaf].map(CancellationToken::is_cancelled), [false, false, true, false]);
    // What is between is gone, and the line is not.
    drop(left);
    root.cancel();
    assert!(leaf.is_cancelled() && root.is_cancelled());
}

#[test]
fn a_guard_cancels_unless_it_is_disarmed() {
    let token = CancellationToken::new();
    drop(token.clone().drop_guard().disarm());
    assert!(!token.is_cancelled());
    let guard = token.child_token().drop_guard();
    drop(guard);
    assert!(!token.is_cancelled());
    drop(token.clone().drop_guard());
    assert!(token.is_cancelled());
}

#[test]
fn a_line_of_a_hundred_thousand_children_is_cancelled_and_dropped() {
    let root = CancellationToken::new();
    let mut last = root.clone();
    for _ in 0..100_000 {
        last = last.child_token();
    }
    root.cancel();
    assert!(last.is_cancelled());
    drop((root, last));
    // And one that nobody has cancelled.
    let mut last = CancellationToken::new();
    for _ in 0..100_000 {
        last = last.child_token();
    }
}

#[test]
fn waits_for_a_token_come_and_go_while_it_is_cancelled() {
    with_watchdog("tokens, raced", LIMIT, || {
        let runtime = Runtime::builder().cores(3).build().expect("a runtime");
        let handle = runtime.handle();
        for round in 0..scaled(100, 500) {
            let token = CancellationToken::new();
            let tasks = cores_of(&runtime).map(|core| {
                let token = token.clone();
                handle.spawn_on(core, move || async move {
                    for _ in 0..round % 50 {
                        // One that is dropped after a poll.
                        let _ = token.cancelled().now_or_never();
                        yield_now().await;
                        drop(token.child_token());
                    }
                    token.child_token().cancelled().await;
                })
            });
            let tasks: Vec<_> = tasks.collect();
            token.cancel();
            for task in tasks {
                Runtime::wait(task).expect("it has seen the end");
            }
        }
    });
}

fn cores_of(runtime: &Runtime) -> impl Iterator<Item = CoreId> + use<> {
    runtime.handle().cores()
}

#[test]
fn a_runtime_may_end_while_its_tasks_wait_for_a_token_and_the_token_be_cancelled_then() {
    with_watchdog("tokens outlast runtimes", LIMIT, || {
        each_kind(|builder| {
            let (token, census) = (CancellationToken::new(), Census::default());
            let runtime = builder.cores(2).build().expect("a runtime");
            let tasks = cores_of(&runtime).map(|core| {
                let (token, census) = (token.child_token(), census.clone());
                runtime.handle().spawn_on(core, move || async move {
                    let _bound = Homebound::new(&census);
                    token.cancelled().await;
                })
            });
            let tasks: Vec<_> = tasks.collect();
            while census.alive() < 2 {
                std::thread::yield_now();
            }
            drop(runtime);
            assert_eq!(census.alive(), 0);
            token.cancel();
            for task in tasks {
                assert!(Runtime::wait(task).is_err_and(|error| error.is_cancelled()));
            }
        });
    });
}

#[test]
fn an_abort_handle_ends_its_task_in_every_state_from_everywhere() {
    on_three_cores("abort handles", scaled(5, 12), |census| async move {
        for core in cores() {
            let spawn = |polls: usize| {
                let census = census.clone();
                AbortHandle::spawn_on(core, move || async move {
                    let _bound = Homebound::new(&census);
                    for _ in 0..polls {
                        yield_now().await;
                    }
                    polls
                })
            };
            // Before it begins, perhaps.
            let (task, abort) = spawn(usize::MAX);
            abort.abort();
            abort.clone().abort();
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
            assert!(abort.is_finished());
            // Wherever it is.
            let (task, abort) = AbortHandle::spawn_any(pending::<()>);
            abort.abort();
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
            // While it runs, by another core, and by a thread.
            let (task, abort) = spawn(usize::MAX);
            until(|| census.alive() > 0).await;
            assert!(!abort.is_finished());
            spawn_on(B, move || async move { abort.abort() }).await.expect("no panic");
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
            let (task, abort) = spawn(usize::MAX);
            std::thread::spawn(move || abort.abort()).join().expect("no panic");
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
            // While it waits and its handle is gone.
            let theirs = census.clone();
            let (task, abort) = AbortHandle::spawn_on(core, move || async move {
                let _bound = Homebound::new(&theirs);
                pending::<()>().await;
            });
            drop(task);
            until(|| census.alive() > 0).await;
            abort.abort();
            until(|| abort.is_finished()).await;
            // When it has ended.
            let (task, abort) = spawn(2);
            let mut set = JoinSet::new();
            set.insert(task);
            until(|| abort.is_finished()).await;
            abort.abort();
            assert_eq!(set.join_next().await.expect("a task").expect("its value"), 2);
            abort.abort();
            drop(spawn(3));
        }
        // By itself.
        let own: Rc<Cell<Option<AbortHandle>>> = Rc::default();
        let theirs = own.clone();
        let (task, abort) = AbortHandle::spawn_local(async move {
            theirs.take().expect("a handle").abort();
            yield_now().await;
        });
        own.set(Some(abort));
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    });
}

#[test]
fn an_abort_handle_outlives_the_runtime() {
    with_watchdog("abort handles outlast runtimes", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).build().expect("a runtime");
            let handles = runtime.block_on(|| async {
                let handles = cores().map(|core| AbortHandle::spawn_on(core, pending::<()>).1).collect::<Vec<_>>();
                yield_now().await;
                handles
            });
            drop(runtime);
            for handle in handles {
                assert!(handle.is_finished());
                handle.abort();
            }
        });
    });
}

task_local! {
    static NAME: String;
    static DEPTH: usize;
}

/// Notes what it finds when it is dropped.
struct Looks(Rc<Cell<Option<usize>>>);

impl Drop for Looks {
    fn drop(&mut self) {
        self.0.set(DEPTH.try_with(|depth| *depth).ok());
    }
}

#[test]
fn task_locals_belong_to_a_future_wherever_it_is_polled_and_dropped() {
    on_three_cores("task-locals", scaled(5, 12), |_| async {
        let tasks = cores().cycle().take(12).enumerate().map(|(index, core)| {
            spawn_on(core, move || {
                NAME.scope(format!("task {index}"), async move {
                    for depth in 0..5 {
                        yield_now().await;
                        NAME.with(|name| assert_eq!(*name, format!("task {index}")));
                        let inner = NAME.scope("inner".to_owned(), async move {
                            yield_now().await;
                            NAME.get()
                        });
                        assert_eq!(DEPTH.scope(depth, inner).await, "inner");
                        assert!(DEPTH.try_with(|_| ()).is_err());
                    }
                    // Nobody inherits it.
                    assert!(spawn_local(async { NAME.try_with(|_| ()).is_err() }).await.expect("no panic"));
                    assert!(spawn_on(B, || async { NAME.try_with(|_| ()).is_err() }).await.expect("no panic"));
                })
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("no panic");
        }
        assert!(NAME.try_with(|_| ()).is_err());
        assert_eq!(DEPTH.sync_scope(1, || (DEPTH.sync_scope(2, || DEPTH.get()), DEPTH.get())), (2, 1));
    });
}

#[test]
fn task_locals_do_not_outlast_panics_and_are_there_for_destructors() {
    on_three_cores("task-locals, put back", scaled(5, 12), |_| async {
        let panics = DEPTH.scope(2, async {
            yield_now().await;
            panic!("inside")
        });
        let outer = DEPTH.scope(1, async {
            AssertUnwindSafe(panics).catch_unwind().await.expect_err("a panic");
            DEPTH.get()
        });
        assert_eq!(outer.await, 1);
        assert!(DEPTH.try_with(|_| ()).is_err());
        let seen: Rc<Cell<Option<usize>>> = Rc::default();
        // Dropped while it waits, unpolled, and when it is ready.
        for polls in 0..3 {
            let looks = Looks(seen.clone());
            let mut scope = Box::pin(DEPTH.scope(polls, async move {
                let _looks = looks;
                yield_now().await;
            }));
            for poll in 0..polls {
                assert_eq!(scope.as_mut().now_or_never().is_some(), poll == 1);
            }
            DEPTH.sync_scope(9, || drop(scope));
            assert_eq!(seen.take(), Some(polls));
        }
        let panicked = std::panic::catch_unwind(|| DEPTH.with(|_| ())).expect_err("it has no value");
        let text = panicked.downcast_ref::<String>().expect("a text");
        assert!(text.contains("`scope` gives it one"), "{text}");
    });
}

#[test]
fn a_set_gives_what_has_ended_and_all_that_ends() {
    on_three_cores("sets, tried", scaled(5, 12), |_| async {
        let mut set: JoinSet<usize> = JoinSet::new();
        assert!(set.try_join_next().is_none());
        let (ended, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for (index, core) in cores().cycle().take(9).enumerate() {
            let (ended, go) = (ended.clone(), go.clone());
            set.spawn_on(core, move || async move {
                until(|| go.load(Ordering::Acquire) > index % 3).await;
                ended.fetch_add(1, Ordering::AcqRel);
                index
            });
        }
        assert!(set.try_join_next().is_none());
        go.store(1, Ordering::Release);
        let mut first = Vec::new();
        while first.len() < 3 {
            yield_now().await;
            first.extend(set.try_join_next().map(|outcome| outcome.expect("no panic")));
        }
        first.sort_unstable();
        assert_eq!(first, [0, 3, 6]);
        assert!(set.try_join_next().is_none());
        set.spawn_local(async { panic!("the tenth") });
        go.store(3, Ordering::Release);
        let (rest, failed): (Vec<_>, Vec<_>) = set.join_all().await.into_iter().partition(Result::is_ok);
        let mut rest: Vec<_> = rest.into_iter().flatten().collect();
        rest.sort_unstable();
        assert_eq!((rest, failed.len()), (vec![1, 2, 4, 5, 7, 8], 1));
    });
}

#[test]
fn work_without_a_home_goes_to_cores_with_little_to_do() {
    with_watchdog("spawn_any", LIMIT, || {
        let runtime = Runtime::builder().cores(3).build().expect("a runtime");
        let handle = runtime.handle();
        let polls = Arc::new(AtomicUsize::new(0));
        let here = async || ipiq::core_id().index();
        let spread = move |rounds: usize| async move {
            let mut counts = [0; 3];
            for _ in 0..rounds {
                let tasks: Vec<_> = (0..30).map(|_| ipiq::spawn_any(here)).collect();
                for task in tasks {
                    counts[task.await.expect("no panic")] += 1;
                }
            }
            counts
        };
        let counts = runtime.block_on(move || spread(scaled(20, 50)));
        let in_a_set = runtime.block_on(move || async move {
            let mut set = JoinSet::new();
            (0..60).for_each(|_| set.spawn_any(here));
            set.join_all().await.into_iter().map(Result::unwrap).collect::<BTreeSet<_>>()
        });
        assert!(in_a_set.len() > 1, "one core has them all: {in_a_set:?}");
        let total: usize = counts.iter().sum();
        assert!(counts.iter().all(|count| *count > total / 20), "idle cores share it: {counts:?}");
        // Core 1 has so much to do that it counts for more than all that is sent.
        let busy: Vec<_> = (0..500)
            .map(|_| {
                let polls = polls.clone();
                handle.spawn_on(B, move || async move {
                    loop {
                        polls.fetch_add(1, Ordering::Relaxed);
                        yield_now().await;
                    }
                })
            })
            .collect::<Vec<ipiq::JoinHandle<()>>>();
        while polls.load(Ordering::Relaxed) < 2_000 {
            std::thread::yield_now();
        }
        let counts = runtime.block_on(move || spread(scaled(20, 50)));
        assert!(counts[1] < total / 20, "the busy core gets less: {counts:?}");
        let by_a_thread = (0..60).map(|_| Runtime::wait(handle.spawn_any(here)).expect("no panic"));
        assert!(by_a_thread.filter(|core| *core == 1).count() < 6);
        drop(busy);
    });
}

/// Asks when it is dropped whether its task has finished.
struct Asks(Rc<Cell<Option<AbortHandle>>>, Rc<Cell<Option<bool>>>);

impl Drop for Asks {
    fn drop(&mut self) {
        self.1.set(self.0.take().map(|abort| abort.is_finished()));
    }
}

#[test]
fn an_abort_handle_knows_when_its_task_is_gone_even_of_one_that_never_began() {
    on_three_cores("abort handles of tasks that never begin", scaled(5, 12), |_| async {
        // Where its deadline had passed, where making its future panics, where its core has left.
        let late = deadline::within(Duration::from_micros(10), async {
            while deadline::remaining() != Some(Duration::ZERO) {
                std::hint::spin_loop();
            }
            cores().map(|core| AbortHandle::spawn_on(core, pending::<()>)).collect::<Vec<_>>()
        });
        let mut spawned = late.await.unwrap_or_default();
        spawned.extend(cores().map(|core| AbortHandle::spawn_on(core, || -> Pending<()> { panic!("no future") })));
        for (task, abort) in spawned {
            task.await.unwrap_err();
            until(|| abort.is_finished()).await;
        }
        let (own, seen) = (Rc::default(), Rc::default());
        let asks = Asks(Rc::clone(&own), Rc::clone(&seen));
        let (task, abort) = AbortHandle::spawn_local(async move {
            let _asks = asks;
            yield_now().await;
        });
        own.set(Some(abort.clone()));
        task.await.expect("no panic");
        assert_eq!(seen.get(), Some(false), "its future was not gone yet");
        assert!(abort.is_finished());
    });
    with_watchdog("abort handles of tasks of a core that has left", LIMIT, || {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime");
        drop(runtime.handle().leave(B).expect("it may leave"));
        runtime.block_on(|| async {
            let (task, abort) = AbortHandle::spawn_on(B, pending::<()>);
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
            until(|| abort.is_finished()).await;
        });
    });
}

#[test]
fn a_scope_may_be_dropped_where_its_variable_is_read() {
    on_three_cores("task-locals, dropped while they are read", scaled(5, 12), |_| async {
        for polls in 0..3 {
            let mut scope = Box::pin(DEPTH.scope(polls, async { yield_now().await }));
            for _ in 0..polls {
                let _ = scope.as_mut().now_or_never();
            }
            DEPTH.sync_scope(9, || DEPTH.with(|_| drop(scope)));
            // In a panic it would be the second one.
            let scope = DEPTH.scope(polls, pending::<()>());
            let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
                DEPTH.sync_scope(9, || {
                    DEPTH.with(|_| {
                        let _scope = scope;
                        panic!("inside")
                    })
                })
            }));
            assert_eq!(*panicked.unwrap_err().downcast_ref::<&str>().expect("a text"), "inside");
            assert!(DEPTH.try_with(|_| ()).is_err());
        }
    });
}
