//! Values that stay on their core while their names travel: core-locals and foreign boxes.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

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
