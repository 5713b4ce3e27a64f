//! The kernels' weaker rule.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ipiq_fabric::{Config, Core, CoreId, CoreSet};
use ipiq_linux::port::FenceChoice;
use ipiq_suites::cores::{FENCES, on_cores};
use ipiq_suites::scale::scaled_up_to;
use ipiq_suites::watchdog::watch;

use crate::add;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);

fn config(cores: usize, ring_capacity: usize) -> Config {
    Config { cores, ring_capacity, ..Config::default() }
}

#[test]
fn all_cores_lead_at_once_hold_each_other_and_all_come_through() {
    let _watch = watch("all_cores_lead_at_once_hold_each_other_and_all_come_through");
    for (cores, ring_capacity) in [(2, 8), (4, 2), (8, 16)] {
        let ran: Arc<Vec<AtomicU64>> = Arc::new((0..cores).map(|_| AtomicU64::new(0)).collect());
        let rounds = scaled_up_to(200, 2_000, 20_000);
        on_cores(config(cores, ring_capacity), FenceChoice::Auto, |seated| {
            for round in 1..=rounds {
                let (seen, written) = (ran.clone(), Arc::new(AtomicU64::new(0)));
                let of_body = written.clone();
                let each = move |core: &Core| {
                    assert_eq!(of_body.load(Ordering::Relaxed), round, "it sees what the body wrote");
                    seen[core.id().index()].fetch_add(1, Ordering::Relaxed);
                };
                let body = || written.store(round, Ordering::Relaxed);
                seated.core.cpusync_weak(&CoreSet::first(cores), each, body).expect("no panic");
            }
            seated.serve_until_all_are_done();
        });
        assert!(ran.iter().all(|ran| ran.load(Ordering::Relaxed) == rounds * cores as u64));
    }
}

/// `td_cscount` of two, and a master inside a handler.
#[test]
fn a_weak_stop_may_begin_in_a_message_and_in_the_body_of_another() {
    let _watch = watch("a_weak_stop_may_begin_in_a_message_and_in_the_body_of_another");
    for fence in FENCES {
        let ran = Arc::new(AtomicU64::new(0));
        on_cores(config(3, 8), fence, |seated| {
            if seated.id() == A {
                for _ in 0..100 {
                    let ran = ran.clone();
                    let inside = move |core: &Core, _: CoreId| {
                        let all = CoreSet::first(3);
                        let count = |ran: &Arc<AtomicU64>| {
                            let ran = ran.clone();
                            move |_: &Core| add(&ran, 1)
                        };
                        let inner = || core.cpusync_weak(&all, count(&ran), || ()).expect("no panic");
                        core.cpusync_weak(&all, count(&ran), inner).expect("no panic");
                    };
                    seated.core.send(B, inside).map_err(drop).expect("it has not left");
                }
                let sequence = seated.core.sequence(B);
                seated.core.wait_executed(B, sequence);
            }
            seated.serve_until_all_are_done();
        });
        assert_eq!(ran.load(Ordering::Relaxed), 100 * 2 * 3);
    }
}

#[test]
fn a_weakly_held_core_goes_on_running_messages() {
    let _watch = watch("a_weakly_held_core_goes_on_running_messages");
    thread_local!(static RAN: Cell<u64> = const { Cell::new(0) });
    on_cores(config(2, 8), FenceChoice::Auto, |seated| {
        if seated.id() == A {
            let set = [B].into_iter().collect();
            let ask = || {
                seated.core.send(B, |_, _| RAN.set(RAN.get() + 1)).map_err(drop).expect("it has not left");
                let sequence = seated.core.sequence(B);
                seated.core.wait_executed(B, sequence);
            };
            // It waits inside a message: what that one awaits is executed when it has ended.
            let body = || seated.core.send(B, |_, _| RAN.set(RAN.get() + 1)).map_err(drop).expect("it has not left");
            seated.core.cpusync_weak(&set, |_| assert!(RAN.get() <= 1), body).expect("no panic");
            ask();
        }
        seated.serve_until_all_are_done();
        if seated.id() == B {
            assert_eq!(RAN.get(), 2);
        }
    });
}

#[test]
fn a_panic_in_a_weak_stop_reaches_its_lead_and_everyone_is_released() {
    let _watch = watch("a_panic_in_a_weak_stop_reaches_its_lead_and_everyone_is_released");
    on_cores(config(3, 8), FenceChoice::Auto, |seated| {
        let all = CoreSet::first(3);
        if seated.id() == A {
            for _ in 0..20 {
                assert!(
                    seated.core.cpusync_weak(&all, |_| unreachable!("the body panicked"), || panic!("body")).is_err()
                );
                let one = |core: &Core| assert!(core.id() != B, "function");
                assert!(seated.core.cpusync_weak(&all, one, || ()).is_err());
                assert!(seated.core.cpusync_weak(&all, |_| (), || ()).is_ok());
            }
        }
        seated.serve_until_all_are_done();
    });
}

/// Throws when it runs, and says so first.
fn throw(ran: &Arc<AtomicBool>, what: u32) -> impl FnOnce(&Core, CoreId) + Send + 'static {
    let ran = ran.clone();
    move |_, _| {
        ran.store(true, Ordering::Release);
        resume_unwind(Box::new(what));
    }
}

fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
}

#[test]
fn a_message_that_panics_on_a_weakly_held_core_reaches_it_when_it_is_let_go() {
    let _watch = watch("a_message_that_panics_on_a_weakly_held_core_reaches_it_when_it_is_let_go");
    let (ran, over) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let functions = Arc::new(AtomicU64::new(0));
    on_cores(config(2, 8), FenceChoice::Auto, |seated| {
        if seated.id() == A {
            let counted = functions.clone();
            let body = || {
                seated.core.try_send(B, throw(&ran, 7)).map_err(drop).expect("space");
                until(&ran);
            };
            seated.core.cpusync_weak(&[B].into_iter().collect(), move |_| add(&counted, 1), body).expect("no panic");
            over.store(true, Ordering::Release);
        } else {
            let thrown = catch_unwind(AssertUnwindSafe(|| {
                while !over.load(Ordering::Acquire) {
                    seated.serve();
                }
            }));
            assert_eq!(thrown.expect_err("the message's panic").downcast_ref(), Some(&7_u32));
            assert_eq!(functions.load(Ordering::Relaxed), 1, "it was held all the time");
        }
        seated.serve_until_all_are_done();
    });
}

#[test]
fn a_lead_that_a_message_unwinds_stays_for_who_holds_it_whatever_panics_there() {
    let _watch = watch("a_lead_that_a_message_unwinds_stays_for_who_holds_it_whatever_panics_there");
    let [first, second, over] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
    let functions = Arc::new(AtomicU64::new(0));
    on_cores(config(3, 8), FenceChoice::Auto, |seated| {
        let set = |core: CoreId| [core].into_iter().collect();
        if seated.id() == A {
            // C does not come, so that A waits until it is unwound.
            let lead = || seated.core.cpusync_weak(&set(C), |_| unreachable!("dropped"), || ());
            let thrown = catch_unwind(AssertUnwindSafe(lead)).map(drop).expect_err("the first message's panic");
            assert_eq!(thrown.downcast_ref(), Some(&1_u32));
            assert_eq!(functions.load(Ordering::Relaxed), 1, "it stayed until it was let go");
            over.store(true, Ordering::Release);
        } else if seated.id() == B {
            let counted = functions.clone();
            let body = || {
                for (n, ran) in [(1, &first), (2, &second)] {
                    seated.core.try_send(A, throw(ran, n)).map_err(drop).expect("space");
                    until(ran);
                }
            };
            seated.core.cpusync_weak(&set(A), move |_| add(&counted, 1), body).expect("no panic");
        } else {
            until(&over);
        }
        seated.serve_until_all_are_done();
    });
}

#[test]
fn a_weak_stop_of_nobody_of_the_own_core_and_of_cores_that_have_left_waits_for_nobody() {
    let _watch = watch("a_weak_stop_of_nobody_of_the_own_core_and_of_cores_that_have_left_waits_for_nobody");
    on_cores(config(2, 8), FenceChoice::Auto, |seated| {
        if seated.id() == B {
            return seated.leave();
        }
        let ran = Arc::new(AtomicU64::new(0));
        for set in [CoreSet::empty(), [A].into_iter().collect(), CoreSet::first(2)] {
            let ran = ran.clone();
            let count = move |_: &Core| add(&ran, 1);
            seated.core.cpusync_weak(&set, count, || ()).expect("no panic");
        }
        assert!([2, 3].contains(&ran.load(Ordering::Relaxed)), "the other may have run it before it left");
        seated.serve_until_all_are_done();
    });
}
