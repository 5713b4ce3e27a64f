//! Tasks and futures in groups: sets that are joined, scopes that borrow.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::{FutureExt, Stream};
use ipiq::{CoreId, JoinSet, Runtime, Scope, call_on, cores, scope, spawn_local, spawn_on, yield_now};
use ipiq_suites::homebound::Homebound;
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);

async fn yields(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

async fn none_alive(census: &Census) {
    while census.alive() > 0 {
        yield_now().await;
    }
}

/// On core 0 of three, under a watchdog.
fn on_three_cores<Fut: Future<Output = ()> + 'static>(what: &str, rounds: usize, scenario: fn(Census) -> Fut) {
    with_watchdog(what, LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(3).ring_capacity(4).build().expect("a runtime");
            for _ in 0..rounds {
                let census = Census::default();
                let theirs = census.clone();
                runtime.block_on(move || scenario(theirs));
                assert_eq!(census.alive(), 0);
            }
        });
    });
}

#[test]
fn a_set_joins_every_task_of_every_core_once() {
    on_three_cores("a set joins", scaled(5, 50), |_| async {
        let mut set = JoinSet::new();
        let mut expected = Vec::new();
        for (index, core) in cores().cycle().take(30).enumerate() {
            if index % 4 == 0 {
                set.spawn_local(yields(index % 7).map(move |()| index));
            } else {
                set.spawn_on(core, move || async move {
                    yields(index % 5).await;
                    assert_ne!(index % 10, 9, "the ninth");
                    index
                });
            }
            if index % 10 != 9 || index % 4 == 0 {
                expected.push(index);
            }
        }
        let (mut joined, mut panicked) = (Vec::new(), 0);
        assert_eq!(set.len(), 30);
        while let Some(outcome) = set.join_next().await {
            match outcome {
                Ok(index) => joined.push(index),
                Err(error) => panicked += usize::from(error.is_panic()),
            }
        }
        joined.sort_unstable();
        assert_eq!(joined, expected);
        assert_eq!((panicked, set.len(), set.is_empty()), (30 - expected.len(), 0, true));
        assert!(set.join_next().await.is_none());
    });
}

#[test]
fn who_awaits_a_set_is_woken_although_it_has_looked_in_between() {
    on_three_cores("a look in between", scaled(5, 50), |_| async {
        for core in cores() {
            let (end, ended) = oneshot::channel();
            let mut set = JoinSet::new();
            set.spawn_on(core, move || ended);
            let (say, looked) = oneshot::channel();
            let mut say = Some(say);
            let waiting = spawn_local(poll_fn(move |cx| {
                if let Poll::Ready(joined) = Pin::new(&mut set).poll_next(cx) {
                    return Poll::Ready(joined);
                }
                let joined = set.try_join_next();
                let _ = say.take().map(|say| say.send(()));
                joined.map_or(Poll::Pending, |joined| Poll::Ready(Some(joined)))
            }));
            looked.await.expect("it looks");
            end.send(7).expect("it waits");
            let joined = waiting.await.expect("no panic").expect("there is one").expect("no panic");
            assert_eq!(joined, Ok(7));
        }
    });
}

#[test]
fn a_set_that_is_dropped_or_shut_down_ends_its_tasks_and_one_that_lets_go_does_not() {
    on_three_cores("a set ends", scaled(5, 50), |census| async move {
        let fill = |census: &Census| {
            cores()
                .map(|core| {
                    let census = census.clone();
                    spawn_on(core, move || async move {
                        let _bound = Homebound::new(&census);
                        pending::<()>().await;
                    })
                })
                .collect::<JoinSet<()>>()
        };
        let mut set = fill(&census);
        while census.alive() < 3 {
            yield_now().await;
        }
        set.shutdown().await;
        assert_eq!((census.alive(), set.len()), (0, 0));
        drop(fill(&census));
        none_alive(&census).await;
        let (done, go) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (tell, look) = (done.clone(), go.clone());
        let mut set = JoinSet::new();
        set.spawn_local(async move {
            while !look.get() {
                yield_now().await;
            }
            tell.set(true);
        });
        set.detach_all();
        drop(set);
        go.set(true);
        while !done.get() {
            yield_now().await;
        }
    });
}

#[test]
fn what_a_scope_spawns_borrows_and_has_ended_with_it() {
    on_three_cores("a scope borrows", scaled(10, 100), |_| async {
        let words = ["a", "few", "words"].map(String::from);
        let seen = RefCell::new(Vec::new());
        let total = scope(async |scope| {
            let handles: Vec<_> = words
                .iter()
                .enumerate()
                .map(|(index, word)| {
                    let seen = &seen;
                    scope.spawn(async move {
                        // Part of it on another core.
                        let length = word.len();
                        let doubled = call_on(CoreId::new(index), move || 2 * length).await.expect("a core that runs");
                        seen.borrow_mut().push(word.as_str());
                        doubled
                    })
                })
                .collect();
            // Nobody awaits this one, but the scope.
            drop(scope.spawn(async {
                yields(20).await;
                seen.borrow_mut().push("late");
            }));
            let mut total = 0;
            for handle in handles {
                total += handle.await;
            }
            total
        })
        .await;
        assert_eq!(total, 18);
        let mut seen = seen.into_inner();
        seen.sort_unstable();
        assert_eq!(seen, ["a", "few", "late", "words"]);
    });
}

/// A tree of futures, each spawned by its parent.
async fn grow<'a>(scope: Scope<'a>, depth: usize, leaves: &'a Cell<usize>) {
    if depth == 0 {
        leaves.set(leaves.get() + 1);
        return;
    }
    yield_now().await;
    for _ in 0..2 {
        drop(scope.spawn(Box::pin(grow(scope.clone(), depth - 1, leaves))));
    }
}

#[test]
fn what_a_scope_spawns_may_spawn() {
    on_three_cores("a scope grows", scaled(3, 30), |_| async {
        let leaves = Cell::new(0);
        scope(async |scope| grow(scope, 8, &leaves).await).await;
        assert_eq!(leaves.get(), 256);
    });
}

#[test]
fn a_scope_that_is_dropped_drops_what_it_holds_at_once() {
    on_three_cores("a scope is dropped", scaled(5, 50), |census| async move {
        let held = &census;
        let mut scoped = Box::pin(scope(async |scope: Scope<'_>| {
            for _ in 0..3 {
                let inner = scope.clone();
                drop(scope.spawn(async move {
                    let _bound = Homebound::new(held);
                    // Never polled, and holding the scope that holds it.
                    let (own, unpolled) = (inner.clone(), Homebound::new(held));
                    pending::<()>().await;
                    drop(inner.spawn(async move { drop((own, unpolled)) }));
                }));
            }
            let unpolled = (scope.clone(), Homebound::new(held));
            yields(1).await;
            drop(scope.spawn(async move { drop(unpolled) }));
            pending::<()>().await;
        }));
        for _ in 0..fastrand::usize(..3) {
            assert!(scoped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            yield_now().await;
        }
        drop(scoped);
        assert_eq!(census.alive(), 0);
    });
}

#[test]
fn panics_in_a_scope_reach_who_awaits_them_or_else_the_scope() {
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    runtime.block_on(|| async {
        let text = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<&str>().expect("a text");
        let awaited = scope(async |scope| {
            let handle = scope.spawn(async { panic!("awaited") });
            let panic = AssertUnwindSafe(handle).catch_unwind().await;
            let beside = scope.spawn(async { 3 });
            (panic.map(|()| ""), beside.await)
        });
        let (panic, beside) = awaited.await;
        assert_eq!((panic.map_err(text), beside), (Err("awaited"), 3));
        let others = Cell::new(0);
        let alone = scope(async |scope| {
            drop(scope.spawn(async { panic!("alone") }));
            drop(scope.spawn(yields(5).map(|()| others.set(1))));
        });
        let panic = AssertUnwindSafe(alone).catch_unwind().await;
        assert_eq!((panic.map_err(text), others.get()), (Err("alone"), 1));
        let unlooked_at = scope(async |scope| {
            let handle = scope.spawn(async { panic!("dropped after it had panicked") });
            yields(3).await;
            drop(handle);
        });
        let panic = AssertUnwindSafe(unlooked_at).catch_unwind().await;
        assert_eq!(panic.map_err(text), Err("dropped after it had panicked"));
    });
}

#[test]
fn a_scope_that_has_ended_runs_nothing() {
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    runtime.block_on(|| async {
        let over = scope(async |scope| scope).await;
        let dropped = Rc::new(());
        let held = (over.clone(), dropped.clone());
        let mut handle = pin!(over.spawn(async move { drop(held) }));
        assert_eq!(Rc::strong_count(&dropped), 1, "it is dropped at once");
        assert!(handle.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    });
}

#[test]
fn a_scope_in_a_task_that_is_aborted_leaves_nothing() {
    on_three_cores("a scope is aborted", scaled(5, 50), |census| async move {
        let held = census.clone();
        let task = spawn_local(async move {
            scope(async |scope: Scope<'_>| {
                for _ in 0..5 {
                    drop(scope.spawn(async {
                        let _bound = Homebound::new(&held);
                        pending::<()>().await;
                    }));
                }
            })
            .await;
        });
        while census.alive() < 5 {
            yield_now().await;
        }
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(census.alive(), 0);
    });
}

/// Panics when it is dropped, after it has told.
struct Grumpy<'a>(&'a Cell<u32>);

impl Drop for Grumpy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        panic!("grumpy");
    }
}

#[test]
fn a_destructor_that_panics_keeps_nothing_else_of_a_dropped_scope_from_being_dropped() {
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    runtime.block_on(|| async {
        let dropped = Cell::new(0);
        let mut scoped = Box::pin(scope(async |scope: Scope<'_>| {
            for _ in 0..3 {
                let grumpy = Grumpy(&dropped);
                drop(scope.spawn(async move {
                    let _grumpy = grumpy;
                    pending::<()>().await;
                }));
            }
            pending::<()>().await;
        }));
        assert!(scoped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(scoped);
        assert_eq!(dropped.get(), 3);
    });
}

#[test]
fn a_destructor_that_panics_at_the_end_is_a_panic_of_what_was_spawned() {
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    runtime.block_on(|| async {
        let (dropped, others) = (Cell::new(0), Cell::new(0));
        let text = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<&str>().expect("a text");
        // Of the future, which had its value; somebody awaits it.
        let awaited = scope(async |scope| {
            let grumpy = Grumpy(&dropped);
            let handle = scope.spawn(poll_fn(move |_| {
                let _ = &grumpy;
                Poll::Ready(3)
            }));
            drop(scope.spawn(yields(5).map(|()| others.set(others.get() + 1))));
            AssertUnwindSafe(handle).catch_unwind().await
        });
        assert_eq!(awaited.await.map_err(text), Err("grumpy"));
        assert_eq!((dropped.get(), others.get()), (1, 1));
        // Of a value that nobody wants.
        let unwanted = scope(async |scope| {
            drop(scope.spawn(async { Grumpy(&dropped) }));
            drop(scope.spawn(yields(5).map(|()| others.set(others.get() + 1))));
        });
        assert_eq!(AssertUnwindSafe(unwanted).catch_unwind().await.map_err(text), Err("grumpy"));
        assert_eq!((dropped.get(), others.get()), (2, 2));
    });
}

#[test]
fn a_scope_that_spawns_for_ever_leaves_the_core_to_others() {
    /// Never waits.
    async fn again<'a>(scope: Scope<'a>, enough: &'a Cell<bool>) {
        if !enough.get() {
            drop(scope.spawn(Box::pin(again(scope.clone(), enough))));
        }
    }
    on_three_cores("a scope spawns for ever", scaled(3, 30), |_| async {
        let enough = Rc::new(Cell::new(false));
        let seen = enough.clone();
        let spawner = spawn_local(async move { scope(async |scope| again(scope, &seen).await).await });
        // Its turn comes.
        yields(3).await;
        enough.set(true);
        spawner.await.expect("no panic");
    });
}
