//! Values that stay on their core while their names travel: core-locals and foreign boxes.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use ipiq::{CallError, CoreId, CoreLocal, ForeignBox, Handle, Runtime, call_on, cores, spawn_on, xcall, yield_now};
use ipiq_suites::homebound::Homebound;
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// Two cores, each kind of runtime, `rounds` times, under a watchdog; nothing is left after each runtime.
fn each_runtime(what: &str, rounds: usize, scenario: impl Fn(&Runtime, &Census)) {
    with_watchdog(what, LIMIT, || {
        each_kind(|builder| {
            for _ in 0..rounds {
                let census = Census::default();
                let runtime = builder.clone().cores(2).ring_capacity(2).build().expect("a runtime");
                scenario(&runtime, &census);
                drop(runtime);
                assert_eq!(census.alive(), 0);
            }
        });
    });
}

async fn none_alive(census: &Census) {
    while census.alive() > 0 {
        yield_now().await;
    }
}

#[test]
fn every_core_has_its_own_value_made_once_and_dropped_with_the_variable() {
    each_runtime("core-locals", scaled(5, 50), |runtime, census| {
        let (counted, made) = (census.clone(), Arc::new(AtomicUsize::new(0)));
        let count = made.clone();
        let variable = runtime.handle().core_local(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Homebound::new(&counted)
        });
        let (census, theirs) = (census.clone(), variable.clone());
        runtime.block_on(move || async move {
            for round in 1..4 {
                let variable = theirs.clone();
                let own = xcall::high::broadcast(move || {
                    let own = variable.get();
                    own.count.set(own.count.get() + 1);
                    (own.home, own.count.get())
                });
                for (core, own) in own.await {
                    assert_eq!(own.expect("no panic"), (core, round));
                }
            }
            let used = theirs.get();
            drop(theirs);
            assert_eq!(used.count.get(), 3);
        });
        assert_eq!(made.load(Ordering::Relaxed), 2);
        // On this thread, which runs no core.
        drop(variable);
        runtime.block_on(move || async move { none_alive(&census).await });
    });
}

#[test]
fn a_variable_that_is_asked_for_by_its_own_making_has_one_value() {
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    runtime.block_on(|| async {
        thread_local!(static ITSELF: RefCell<Option<CoreLocal<u32>>> = const { RefCell::new(None) });
        thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });
        let variable = CoreLocal::new(|| {
            DEPTH.set(DEPTH.get() + 1);
            let depth = DEPTH.get();
            let itself = ITSELF.with_borrow(Clone::clone).expect("set before");
            if depth < 3 { *itself.get() } else { depth }
        });
        ITSELF.set(Some(variable.clone()));
        assert_eq!((*variable.get(), *variable.get(), DEPTH.get()), (3, 3, 3));
        ITSELF.set(None);
    });
}

#[test]
fn a_box_is_used_at_home_from_every_core_and_dropped_there_from_any_thread() {
    each_runtime("foreign boxes", scaled(20, 200), |runtime, census| {
        let counted = census.clone();
        let boxes = runtime.block_on(|| async move {
            let mut boxes = Vec::new();
            for core in cores() {
                for _ in 0..3 {
                    let counted = counted.clone();
                    let made = call_on(core, move || ForeignBox::new(Homebound::new(&counted))).await;
                    boxes.push(made.expect("no panic"));
                }
            }
            for core in cores() {
                boxes = spawn_on(core, move || async move {
                    for foreign in &boxes {
                        assert_eq!(foreign.is_home(), foreign.home() == core);
                        let home = foreign.call(|own| {
                            own.count.set(own.count.get() + 1);
                            own.home
                        });
                        assert_eq!(home.await.expect("a core that runs"), foreign.home());
                    }
                    boxes
                })
                .await
                .expect("no panic");
            }
            boxes
        });
        // One dropped at home, one on the other core, one on this thread, on either core.
        let mut boxes = boxes.into_iter();
        for home in [A, B] {
            let [one, two, three] = [(); 3].map(|()| boxes.next().expect("six boxes"));
            let handle: Handle = runtime.handle();
            let other = CoreId::new(1 - home.index());
            let dropped = handle.call_on(home, move || drop(one));
            let far = handle.call_on(other, move || drop(two));
            Runtime::wait(dropped).expect("no panic");
            Runtime::wait(far).expect("no panic");
            drop(three);
        }
        let census = census.clone();
        runtime.block_on(move || async move { none_alive(&census).await });
    });
}

#[test]
fn a_box_gives_its_value_back_at_home_alone() {
    each_runtime("foreign boxes, opened", scaled(5, 50), |runtime, census| {
        let counted = census.clone();
        runtime.block_on(|| async move {
            let foreign = ForeignBox::new(Homebound::new(&counted));
            let foreign =
                call_on(B, move || foreign.try_into_inner().expect_err("not at home")).await.expect("no panic");
            let value = foreign.try_into_inner().expect("at home");
            assert_eq!(value.home, A);
        });
        assert_eq!(census.alive(), 0);
    });
}

#[test]
fn boxes_and_variables_outlive_their_runtime_empty() {
    each_runtime("foreign boxes, the runtime's end", scaled(10, 100), |runtime, census| {
        let counted = census.clone();
        let (foreign, variable) = runtime.block_on(|| async move {
            let counts = counted.clone();
            let variable = CoreLocal::new(move || Homebound::new(&counts));
            let _ = variable.get();
            (ForeignBox::new(Homebound::new(&counted)), variable)
        });
        let dropped_late = {
            let handle = runtime.handle();
            thread::spawn(move || {
                // Before the runtime's end, during it, or after it.
                for _ in 0..fastrand::u32(..200) {
                    thread::yield_now();
                }
                drop((foreign, variable, handle));
            })
        };
        runtime.handle().stop();
        dropped_late.join().expect("no panic");
    });
}

#[test]
fn a_panic_of_a_call_to_a_box_reaches_its_caller_and_leaves_the_value() {
    let one = Runtime::builder().cores(2).build().expect("a runtime");
    let outcome = one.block_on(|| async {
        let foreign = ForeignBox::new(1);
        let panicked = foreign.call(|_| panic!("oh")).await;
        assert!(panicked.is_err_and(|error: CallError| error.is_panic()));
        foreign.call(|one| *one).await
    });
    assert_eq!(outcome.expect("a core that runs"), 1);
}

#[test]
#[should_panic(expected = "on the cores of its own runtime")]
fn a_variable_is_not_asked_for_on_another_runtime() {
    let one = Runtime::builder().cores(1).build().expect("a runtime");
    let other = Runtime::builder().cores(1).build().expect("a runtime");
    let variable = one.handle().core_local(|| 1);
    other.block_on(move || async move { *variable.get() });
}

#[test]
fn a_call_to_a_box_that_nobody_awaits_runs_although_the_box_is_dropped() {
    with_watchdog("foreign boxes, dropped after a call", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).ring_capacity(1024).build().expect("a runtime");
            for _ in 0..scaled(5, 50) {
                let (census, ran) = (Census::default(), Arc::new(AtomicUsize::new(0)));
                let (counted, runs) = (census.clone(), ran.clone());
                runtime.block_on(|| async move {
                    let made = call_on(B, move || ForeignBox::new(Homebound::new(&counted)));
                    let foreign = made.await.expect("no panic");
                    // More than one turn of its core takes, and its core does not take any before all are there.
                    let (hold, held) = std::sync::mpsc::channel::<()>();
                    drop(call_on(B, move || _ = held.recv()));
                    for _ in 0..200 {
                        drop(call_on(B, || ()));
                    }
                    drop(foreign.call(move |_| _ = runs.fetch_add(1, Ordering::Relaxed)));
                    drop(foreign);
                    drop(hold);
                    none_alive(&census).await;
                });
                assert_eq!(ran.load(Ordering::Relaxed), 1);
            }
        });
    });
}

#[test]
fn a_box_that_is_in_use_is_not_opened_and_keeps_its_value() {
    thread_local!(static KEPT: RefCell<Option<ForeignBox<u32>>> = const { RefCell::new(None) });
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    let outcome = runtime.block_on(|| async {
        let foreign = ForeignBox::new(7);
        let hold = Arc::new(AtomicUsize::new(0));
        let open = hold.clone();
        let foreign = spawn_on(B, move || async move {
            // Nobody awaits it: the box goes home before it has run.
            drop(foreign.call(move |_| {
                let kept = KEPT.take().expect("it came home");
                let kept = kept.try_into_inner().expect_err("it is in use");
                KEPT.set(Some(kept));
                open.store(1, Ordering::Release);
            }));
            foreign
        });
        // No message is taken meanwhile: nothing is awaited.
        while !foreign.is_finished() {
            thread::yield_now();
        }
        let foreign = foreign.now_or_never().expect("it is finished").expect("no panic");
        KEPT.set(Some(foreign));
        while hold.load(Ordering::Acquire) == 0 {
            yield_now().await;
        }
        KEPT.take().expect("it is back").try_into_inner().ok()
    });
    assert_eq!(outcome, Some(7));
}

#[test]
fn a_box_in_a_thread_local_is_dropped_with_its_thread() {
    thread_local!(static KEPT: RefCell<Option<ForeignBox<Homebound>>> = const { RefCell::new(None) });
    each_runtime("foreign boxes in thread-locals", scaled(3, 20), |runtime, census| {
        let counted = census.clone();
        runtime.block_on(|| async move {
            // Before the core has boxes of its own: it is dropped after those.
            KEPT.set(None);
            KEPT.set(Some(ForeignBox::new(Homebound::new(&counted))));
        });
    });
}

#[test]
fn core_locals_that_use_each_other_when_they_are_dropped_let_the_runtime_end() {
    static LEFT: OnceLock<CoreLocal<Chatty>> = OnceLock::new();
    static RIGHT: OnceLock<CoreLocal<Chatty>> = OnceLock::new();
    struct Chatty {
        other: &'static OnceLock<CoreLocal<Chatty>>,
        said: Cell<u32>,
    }
    impl Drop for Chatty {
        fn drop(&mut self) {
            let other = self.other.get().expect("both are there").get();
            other.said.set(other.said.get() + 1);
        }
    }
    with_watchdog("core-locals that use each other", LIMIT, || {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime");
        let make = |other: &'static OnceLock<CoreLocal<Chatty>>| {
            runtime.handle().core_local(move || Chatty { other, said: Cell::new(0) })
        };
        assert!(LEFT.set(make(&RIGHT)).is_ok() && RIGHT.set(make(&LEFT)).is_ok());
        runtime.block_on(|| async {
            for core in cores() {
                call_on(core, || LEFT.get().expect("set").get().said.get()).await.expect("no panic");
            }
        });
        drop(runtime);
    });
}

#[test]
fn a_core_that_keeps_very_many_boxes_ends_as_soon_as_each_is_dropped() {
    with_watchdog("very many boxes", LIMIT, || {
        let (census, count) = (Census::default(), scaled(300_000, 1_000_000));
        let runtime = Runtime::builder().cores(1).build().expect("a runtime");
        let counted = census.clone();
        let boxes: Vec<ForeignBox<Homebound>> = runtime
            .block_on(move || async move { (0..count).map(|_| ForeignBox::new(Homebound::new(&counted))).collect() });
        // Its core drops them all: each look for the next one must not go past all that were.
        drop(runtime);
        assert_eq!(census.alive(), 0);
        drop(boxes);
    });
}
