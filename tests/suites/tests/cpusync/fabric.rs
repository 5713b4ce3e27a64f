//! The fabric's stops on threads: what each form promises, one by one.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ipiq_fabric::cpusync::{CpuSync, CpuSyncError, Lead, Pause};
use ipiq_fabric::port::Clock;
use ipiq_fabric::{Config, Core, CoreId, CoreSet, Panic};
use ipiq_linux::clock::MonotonicClock;
use ipiq_linux::port::FenceChoice;
use ipiq_suites::cores::{FENCES, Seated, on_cores};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use crate::add;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);
/// More than a core needs to get a CPU and stop.
const LONG_NS: u64 = 300_000_000;

fn set<const N: usize>(cores: [CoreId; N]) -> CoreSet {
    cores.into_iter().collect()
}

fn plan(set: CoreSet) -> CpuSync<'static> {
    CpuSync { set, each: None, drain: false, deadline_ns: None, clock: &MonotonicClock }
}

fn config(cores: usize, ring_capacity: usize) -> Config {
    Config { cores, ring_capacity, ..Config::default() }
}

/// Runs `scenario` as the lead of core A, with both fences, while the other cores serve until it is over.
fn led(cores: usize, scenario: impl Fn(&Lead<'_>) + Clone + Send + Sync + 'static) {
    for fence in FENCES {
        let over = Arc::new(AtomicBool::new(false));
        on_cores(config(cores, 8), fence, |seated| {
            if seated.id() == A {
                lead_and_wait(seated, scenario.clone());
                over.store(true, Ordering::Release);
            }
            serve_to_the_end(seated, &over);
        });
    }
}

/// Serves until `over`, and then until all others have come so far.
fn serve_to_the_end(seated: &mut Seated<'_>, over: &AtomicBool) {
    let mut turn = 0;
    while !over.load(Ordering::Acquire) {
        turn = if seated.serve() == 0 { turn + 1 } else { 0 };
        seated.core.port().relax(turn);
    }
    seated.serve_until_all_are_done();
}

/// Waits without a safe point, as a long poll does.
fn hold_up_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

/// A poll of core C that ends when it is told to.
#[derive(Default)]
struct LongPoll {
    begun: AtomicBool,
    over: AtomicBool,
}

impl LongPoll {
    fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}

/// Runs `scenario` as the lead of core A of three, once core C is inside of a long poll, which the scenario ends.
fn led_beside_a_long_poll(scenario: impl Fn(&Lead<'_>, &LongPoll) + Clone + Send + Sync + 'static) {
    let (poll, over) = (Arc::new(LongPoll::default()), AtomicBool::new(false));
    on_cores(config(3, 8), FenceChoice::Auto, |seated| {
        if seated.id() == C {
            poll.begun.store(true, Ordering::Release);
            hold_up_until(|| poll.over.load(Ordering::Acquire));
        }
        if seated.id() == A {
            hold_up_until(|| poll.begun.load(Ordering::Acquire));
            let (scenario, poll) = (scenario.clone(), poll.clone());
            lead_and_wait(seated, move |lead| scenario(lead, &poll));
            over.store(true, Ordering::Release);
        }
        serve_to_the_end(seated, &over);
    });
}

fn lead_and_wait(seated: &Seated<'_>, f: impl FnOnce(&Lead<'_>) + 'static) {
    let led = Rc::new(Cell::new(false));
    let done = led.clone();
    seated.core.lead(move |lead| {
        let _told = Tell(done);
        f(lead);
    });
    while !led.get() {
        seated.serve();
    }
}

/// Says that the lead is over, also when it panicked.
struct Tell(Rc<Cell<bool>>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.set(true);
        // A failed assertion must not be taken for a panic of a stop that reaches nobody.
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn value<R>(stopped: Result<(R, Pause), CpuSyncError>) -> R {
    stopped.expect("no limit and no panic").0
}

#[test]
fn an_empty_set_and_the_own_core_alone_wait_for_nobody() {
    let _watch = watch("an_empty_set_and_the_own_core_alone_wait_for_nobody");
    // The other core never comes to a safe point.
    let over = AtomicBool::new(false);
    on_cores(config(2, 8), FenceChoice::Auto, |seated| {
        if seated.id() == B {
            hold_up_until(|| over.load(Ordering::Acquire));
        } else {
            lead_and_wait(seated, |lead| {
                let ran = AtomicU64::new(0);
                let each = |_: &Core| add(&ran, 1);
                let with_each = |set| CpuSync { each: Some(&each), drain: true, ..plan(set) };
                assert!(value(lead.cpusync(&with_each(CoreSet::empty()), |held| held.cores().is_empty())));
                assert_eq!(ran.load(Ordering::Relaxed), 0, "the own core is not in the set");
                assert_eq!(value(lead.cpusync(&with_each(set([A])), |held| held.cores())), set([A]));
                assert_eq!(ran.load(Ordering::Relaxed), 1);
                assert!(lead.quick(&CoreSet::empty(), &each).is_ok());
                assert!(lead.quick(&set([A]), &each).is_ok());
                assert_eq!(ran.load(Ordering::Relaxed), 2);
            });
            over.store(true, Ordering::Release);
        }
        seated.serve_until_all_are_done();
    });
}

#[test]
fn the_functions_of_a_set_run_on_its_cores_alone_and_see_the_bodys_writes() {
    let _watch = watch("the_functions_of_a_set_run_on_its_cores_alone_and_see_the_bodys_writes");
    led(4, |lead| {
        for targets in [set([A, C]), set([B]), set([B, C]), CoreSet::first(4)] {
            let (written, ran) = (AtomicU64::new(0), AtomicU64::new(0));
            let each = |core: &Core| {
                assert_eq!(written.load(Ordering::Relaxed), 7);
                ran.fetch_add(1 << (8 * core.id().index()), Ordering::Relaxed);
            };
            let held = value(lead.cpusync(&CpuSync { each: Some(&each), ..plan(targets) }, |held| {
                written.store(7, Ordering::Relaxed);
                held.cores()
            }));
            // What they ran on is freed now: the acknowledgement was the last touch.
            assert_eq!(held, targets);
            assert_eq!(ran.into_inner(), targets.iter().map(|core| 1 << (8 * core.index())).sum::<u64>());
        }
    });
}

#[test]
fn while_a_body_runs_no_message_runs_anywhere() {
    let _watch = watch("while_a_body_runs_no_message_runs_anywhere");
    for fence in FENCES {
        let over = AtomicBool::new(false);
        let ran: [Arc<AtomicU64>; 3] = Default::default();
        on_cores(config(3, 64), fence, |seated| {
            if seated.id() == A {
                for _ in 0..200 {
                    let ran = ran.clone();
                    lead_and_wait(seated, move |lead| {
                        let count = || ran.each_ref().map(|ran| ran.load(Ordering::Relaxed));
                        let (before, after) = value(lead.cpusync(&plan(CoreSet::first(3)), |_| {
                            let before = count();
                            (0..2_000).for_each(|_| std::hint::spin_loop());
                            (before, count())
                        }));
                        assert_eq!(before, after);
                    });
                }
                over.store(true, Ordering::Release);
            }
            // The others send to each other all the time.
            while !over.load(Ordering::Acquire) {
                for target in [B, C].into_iter().filter(|target| *target != seated.id()) {
                    let ran = ran[target.index()].clone();
                    let _ = seated.core.try_send(target, move |_, _| {
                        ran.store(ran.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    });
                }
                seated.serve();
            }
            seated.serve_until_all_are_done();
        });
    }
}

#[test]
fn a_body_may_run_functions_on_its_cores_as_often_as_it_likes() {
    let _watch = watch("a_body_may_run_functions_on_its_cores_as_often_as_it_likes");
    led(3, |lead| {
        let sum = AtomicU64::new(0);
        value(lead.cpusync(&plan(set([B, C])), |held| {
            for round in 1..=5 {
                held.on_each(&|_: &Core| add(&sum, 1)).expect("no panic");
                assert_eq!(sum.load(Ordering::Relaxed), 2 * round);
            }
        }));
    });
}

/// The kernels' `td_cscount` of two.
#[test]
fn a_stop_inside_a_body_is_part_of_the_same_stop_and_may_stop_more_cores() {
    let _watch = watch("a_stop_inside_a_body_is_part_of_the_same_stop_and_may_stop_more_cores");
    led(4, |lead| {
        let (outer, inner) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = |counter: &AtomicU64, core: &Core| add(counter, 1 << (8 * core.id().index()));
        let of_outer = |core: &Core| count(&outer, core);
        let of_inner = |core: &Core| count(&inner, core);
        let plan_outer = CpuSync { each: Some(&of_outer), ..plan(set([A, B])) };
        value(lead.cpusync(&plan_outer, |held| {
            for drain in [false, true] {
                let plan_inner = CpuSync { each: Some(&of_inner), drain, ..plan(set([B, C])) };
                let seen = value(held.cpusync(&plan_inner, |held| {
                    assert_eq!(outer.load(Ordering::Relaxed), 0);
                    held.cores()
                }));
                assert_eq!(seen, set([B, C]));
            }
            // B still stands, C runs again, and an inner stop of nobody new is fine.
            value(held.cpusync(&plan(set([B])), |held| assert_eq!(held.cores(), set([B]))));
            held.on_each(&of_inner).expect("no panic");
        }));
        assert_eq!(outer.into_inner(), 1 | 1 << 8);
        assert_eq!(inner.into_inner(), 1 | 3 << 8 | 2 << 16);
    });
}

#[test]
fn the_quick_form_runs_a_function_once_on_every_core_without_a_common_stop() {
    let _watch = watch("the_quick_form_runs_a_function_once_on_every_core_without_a_common_stop");
    led(4, |lead| {
        let ran = AtomicU64::new(0);
        let f = |core: &Core| add(&ran, 1 << (8 * core.id().index()));
        for round in 1..=50 {
            assert!(lead.quick(&CoreSet::first(4), &f).is_ok());
            assert_eq!(ran.load(Ordering::Relaxed), 0x0101_0101 * round);
        }
    });
}

#[test]
fn a_panic_of_body_or_function_reaches_the_lead_and_everyone_goes_on() {
    let _watch = watch("a_panic_of_body_or_function_reaches_the_lead_and_everyone_goes_on");
    led(3, |lead| {
        let text = |error: CpuSyncError| Panic::new(error.try_into_panic().expect("a panic")).text().to_owned();
        let all = CoreSet::first(3);
        let ran = AtomicU64::new(0);
        let each = |core: &Core| {
            ran.fetch_add(1, Ordering::Relaxed);
            assert!(core.id() == A, "of {}", core.id());
        };
        for _ in 0..3 {
            let error = lead.cpusync(&CpuSync { each: Some(&each), ..plan(all) }, |_| panic!("of the {}", "body"));
            assert_eq!(text(error.map(|((), _)| ()).expect_err("the body's panic")), "of the body");
            assert_eq!(ran.load(Ordering::Relaxed), 0, "no function runs after that");
            let error = lead.cpusync(&CpuSync { each: Some(&each), ..plan(all) }, |_| ());
            assert_eq!(text(error.map(|((), _)| ()).expect_err("the functions' panic")), "of core 1");
            assert_eq!(ran.swap(0, Ordering::Relaxed), 3);
            assert!(lead.quick(&all, &each).is_err());
            assert_eq!(ran.swap(0, Ordering::Relaxed), 3);
            value(lead.cpusync(&plan(all), |held| {
                assert!(held.on_each(&each).is_err());
                assert_eq!(ran.swap(0, Ordering::Relaxed), 3);
            }));
        }
    });
}

/// The lead stops one core, which runs such messages in stops alone, while a third core sends more of them.
#[test]
fn a_message_that_panics_in_a_stop_reaches_the_stopped_core_and_holds_up_nobody() {
    let _watch = watch("a_message_that_panics_in_a_stop_reaches_the_stopped_core_and_holds_up_nobody");
    let throw = |_: &Core, _: CoreId| resume_unwind(Box::new(()));
    for fence in FENCES {
        let over = AtomicBool::new(false);
        let [sent, caught, senders] = [0, 0, 2].map(AtomicU64::new);
        on_cores(config(3, 8), fence, |seated| {
            let core = &seated.core;
            let send = || add(&sent, u64::from(core.try_send(B, throw).is_ok()));
            if seated.id() == A {
                for _ in 0..scaled(20, 100) {
                    send();
                    lead_and_wait(seated, |lead| {
                        let stopped = lead.cpusync(&CpuSync { drain: true, ..plan(set([B])) }, |_| ());
                        assert!(stopped.as_ref().err().is_none_or(CpuSyncError::is_restless));
                    });
                }
                over.store(true, Ordering::Release);
                senders.fetch_sub(1, Ordering::AcqRel);
            } else if seated.id() == B {
                let ran = Rc::new(Cell::new(false));
                let seen = ran.clone();
                core.at_safe_point(move |_| seen.set(true));
                let run = |f: &dyn Fn()| add(&caught, u64::from(catch_unwind(AssertUnwindSafe(f)).is_err()));
                while !over.load(Ordering::Acquire) {
                    // SAFETY: 1. and 2. nothing else is on the stack.
                    run(&|| _ = unsafe { core.safe_point() });
                }
                assert!(ran.get(), "what was put off has run");
                while senders.load(Ordering::Acquire) > 0
                    || caught.load(Ordering::Relaxed) < sent.load(Ordering::Relaxed)
                {
                    run(&|| _ = core.drain_all(64));
                }
            } else {
                while !over.load(Ordering::Acquire) {
                    send();
                    seated.serve();
                }
                senders.fetch_sub(1, Ordering::AcqRel);
            }
            seated.serve_until_all_are_done();
        });
        assert_eq!(caught.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
    }
}

#[test]
fn a_stop_asked_for_in_a_message_begins_when_the_message_has_ended() {
    let _watch = watch("a_stop_asked_for_in_a_message_begins_when_the_message_has_ended");
    for fence in FENCES {
        let over = Arc::new(AtomicBool::new(false));
        on_cores(config(2, 8), fence, |seated| {
            if seated.id() == A {
                let over = over.clone();
                let lead_there = move |core: &Core, _: CoreId| {
                    core.lead(move |lead| {
                        assert_eq!(lead.core().nesting(), 0);
                        value(lead.cpusync(&plan(set([A, B])), |_| ()));
                        over.store(true, Ordering::Release);
                    });
                };
                seated.core.try_send(B, lead_there).map_err(drop).expect("space");
            }
            serve_to_the_end(seated, &over);
        });
    }
}

#[test]
fn a_stop_that_drains_does_not_wait_for_space_on_the_way_to_a_core_that_is_not_stopped() {
    let _watch = watch("a_stop_that_drains_does_not_wait_for_space_on_the_way_to_a_core_that_is_not_stopped");
    for fence in FENCES {
        let (over, listed) = (AtomicBool::new(false), AtomicU64::new(0));
        on_cores(config(3, 8), fence, |seated| {
            if seated.id() == C {
                // In a long poll.
                hold_up_until(|| over.load(Ordering::Acquire));
            } else {
                (0..20).for_each(|_| seated.core.send_or_list(C, |_, _| ()));
                add(&listed, 1);
            }
            if seated.id() == A {
                hold_up_until(|| listed.load(Ordering::Acquire) == 2);
                lead_and_wait(seated, |lead| {
                    let held = lead.cpusync(&CpuSync { drain: true, ..plan(set([A, B])) }, |held| held.cores());
                    assert_eq!(value(held), set([A, B]));
                    assert!(lead.core().has_overflow());
                });
                over.store(true, Ordering::Release);
            }
            serve_to_the_end(seated, &over);
        });
    }
}

#[test]
fn a_stop_that_gives_up_names_who_was_late_and_lets_the_others_go() {
    let _watch = watch("a_stop_that_gives_up_names_who_was_late_and_lets_the_others_go");
    for drain in [false, true] {
        led_beside_a_long_poll(move |lead, poll| {
            let all = CoreSet::first(3);
            let soon = MonotonicClock.now_ns() + LONG_NS;
            let late = CpuSync { deadline_ns: Some(soon), drain, ..plan(all) };
            let error = lead.cpusync(&late, |_| ()).expect_err("core 2 is busy");
            assert_eq!(error.not_stopped(), Some(set([C])));
            assert!(error.is_timeout() && error.to_string().contains("[2]"), "{error}");
            // Core 1 goes on, and can be stopped again at once.
            assert_eq!(value(lead.cpusync(&plan(set([B])), |held| held.cores())), set([B]));
            poll.end();
            assert_eq!(value(lead.cpusync(&plan(all), |held| held.cores())), all);
        });
    }
}

#[test]
fn an_inner_stop_that_gives_up_leaves_the_outer_one_standing() {
    let _watch = watch("an_inner_stop_that_gives_up_leaves_the_outer_one_standing");
    led_beside_a_long_poll(|lead, poll| {
        let ran = AtomicU64::new(0);
        let each = |core: &Core| add(&ran, 1 << (8 * core.id().index()));
        value(lead.cpusync(&CpuSync { each: Some(&each), ..plan(set([B])) }, |held| {
            let soon = MonotonicClock.now_ns() + LONG_NS;
            let late = CpuSync { deadline_ns: Some(soon), ..plan(CoreSet::first(3)) };
            let error = held.cpusync(&late, |_| ()).expect_err("core 2 is busy");
            assert_eq!(error.not_stopped(), Some(set([C])));
            held.on_each(&each).expect("no panic");
            assert_eq!(ran.load(Ordering::Relaxed), 1 << 8, "core 1 stands, core 2 is not part of it");
            poll.end();
            assert_eq!(value(held.cpusync(&plan(set([C])), |held| held.cores())), set([C]));
        }));
        assert_eq!(ran.into_inner(), 2 << 8);
    });
}

/// Each of the messages needs the other core's, so that nothing goes on unless the lead serves, also when it is unwound already.
#[test]
fn messages_that_panic_while_an_inner_stop_ends_leave_the_outer_one_standing() {
    let _watch = watch("messages_that_panic_while_an_inner_stop_ends_leave_the_outer_one_standing");
    led(2, |lead| {
        let busy = Arc::new(AtomicBool::new(false));
        let throw = |what: u32| move |_: &Core, _: CoreId| resume_unwind(Box::new(what));
        value(lead.cpusync(&plan(set([B])), |held| {
            let begun = busy.clone();
            held.on_each(&|core: &Core| {
                let begun = begun.clone();
                let first = move |core: &Core, source: CoreId| {
                    hold_up_until(|| begun.load(Ordering::Acquire));
                    throw(1)(core, source);
                };
                core.try_send(A, first).map_err(drop).expect("space");
            })
            .expect("no panic");
            let begun = busy.clone();
            let wait_for_the_lead = move |core: &Core, source: CoreId| {
                begun.store(true, Ordering::Release);
                core.try_send(source, throw(2)).map_err(drop).expect("space");
                core.wait_executed(source, core.sequence(source));
                begun.store(false, Ordering::Release);
            };
            held.core().try_send(B, wait_for_the_lead).map_err(drop).expect("space");
            let inner = || drop(held.cpusync(&CpuSync { drain: true, ..plan(set([B])) }, |_| ()));
            let thrown = catch_unwind(AssertUnwindSafe(inner)).expect_err("the first message's panic");
            assert_eq!(thrown.downcast_ref(), Some(&1_u32));
            assert!(!busy.load(Ordering::Acquire), "core 1 stands still again");
        }));
    });
}

/// A function that waits for space in a ring to a core that stands still already.
#[test]
fn a_core_that_waits_for_one_that_stands_still_holds_up_no_stop() {
    let _watch = watch("a_core_that_waits_for_one_that_stands_still_holds_up_no_stop");
    for (fence, drain) in [(FenceChoice::Auto, false), (FenceChoice::Symmetric, true)] {
        let (over, sent) = (AtomicBool::new(false), Arc::new(AtomicU64::new(0)));
        on_cores(config(3, 2), fence, |seated| {
            if seated.id() == A {
                for _ in 0..50 {
                    let sent = sent.clone();
                    // C begins a function that sends to B more than the ring takes, while the stop comes.
                    let push = move |core: &Core, _: CoreId| {
                        for _ in 0..20 {
                            let sent = sent.clone();
                            let note = move |_: &Core, _: CoreId| add(&sent, 1);
                            core.send(B, note).map_err(drop).expect("it has not left");
                        }
                    };
                    seated.core.send(C, push).map_err(drop).expect("it has not left");
                    let all = CoreSet::first(3);
                    lead_and_wait(seated, move |lead| {
                        let cut = CpuSync { drain, ..plan(all) };
                        assert_eq!(value(lead.cpusync(&cut, |held| held.cores())), all);
                    });
                }
                over.store(true, Ordering::Release);
            }
            serve_to_the_end(seated, &over);
        });
        assert_eq!(sent.load(Ordering::Relaxed), 50 * 20);
    }
}

#[test]
fn messages_that_never_end_make_a_drain_give_up_and_a_plain_stop_stands() {
    let _watch = watch("messages_that_never_end_make_a_drain_give_up_and_a_plain_stop_stands");
    fn for_ever(core: &Core, source: CoreId, over: &Arc<AtomicBool>) {
        if !over.load(Ordering::Acquire) {
            let over = over.clone();
            core.send_or_list(source, move |core, source| for_ever(core, source, &over));
        }
    }
    let over = Arc::new(AtomicBool::new(false));
    on_cores(config(2, 8), FenceChoice::Auto, |seated| {
        if seated.id() == A {
            for_ever(&seated.core, B, &over);
            lead_and_wait(seated, |lead| {
                let all = set([A, B]);
                let error = lead.cpusync(&CpuSync { drain: true, ..plan(all) }, |_| ()).expect_err("no end");
                assert!(error.is_restless() && !error.is_timeout() && !error.is_panic(), "{error:?}");
                value(lead.cpusync(&plan(all), |_| ()));
            });
            over.store(true, Ordering::Release);
        }
        serve_to_the_end(seated, &over);
    });
}

#[test]
fn cores_that_leave_while_others_stop_them_are_waited_for_by_nobody() {
    let _watch = watch("cores_that_leave_while_others_stop_them_are_waited_for_by_nobody");
    for round in 0..40 {
        let fence = FENCES[round % 2];
        let left = AtomicU64::new(0);
        on_cores(config(4, 8), fence, |seated| {
            if seated.id().index() > 1 {
                // It may leave with a turn that it waits for.
                seated.core.lead(|lead| drop(lead.cpusync(&plan(CoreSet::first(4)), |_| ())));
                for _ in 0..round {
                    seated.serve();
                }
                seated.leave();
                left.fetch_add(1, Ordering::AcqRel);
                return;
            }
            for _ in 0..20 {
                lead_and_wait(seated, |lead| {
                    let held = value(lead.cpusync(&plan(CoreSet::first(4)), |held| held.cores()));
                    assert!(held.contains(A) && held.contains(B));
                    assert!(lead.quick(&CoreSet::first(4), &|_: &Core| ()).is_ok());
                });
            }
            seated.serve_until_all_are_done();
        });
        assert_eq!(left.into_inner(), 2);
    }
}
