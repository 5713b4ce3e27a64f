//! One thread: what a former life has left, and does not reach the next.

use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::task::Wake;
use std::thread;

use super::AdmitError;
use crate::call::PendingCall;
use crate::cpusync::CpuSync;
use crate::handlers::BellWait;
use crate::port::Clock;
use crate::synchronize::PendingSynchronize;
use crate::tests::cores;
use crate::urgent::{InterruptSafe, trigger_freeze};
use crate::{Core, CoreId, CoreSet, Seat};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A clock that stands still.
struct Noon;

impl Clock for Noon {
    fn now_ns(&self) -> u64 {
        12
    }
}

/// Has `lead` admit `core`, in a stop of itself: all others have left.
fn admit(lead: &Core, core: CoreId) -> Result<Seat, AdmitError> {
    let (outcome, own) = (Rc::new(Cell::new(None)), lead.id());
    let told = outcome.clone();
    lead.lead(move |lead| {
        let set = CoreSet::empty().with(own);
        let plan = CpuSync { set, each: None, drain: false, deadline_ns: None, clock: &Noon };
        let (admitted, _) = lead.cpusync(&plan, |held| held.admit(core)).expect("no panic");
        told.set(Some(admitted));
    });
    // SAFETY: 1. and 2. nothing of a message or of a read is on the stack.
    unsafe { lead.safe_point() };
    outcome.take().expect("its turn")
}

/// The two cores of a fabric; the second has `lived`, left, and come back.
fn again(ring: usize, lived: impl FnOnce(&Core, &Core)) -> (Core, Core) {
    let (_fabric, mut cores) = cores(2, ring);
    let (b, a) = (cores.pop().expect("two"), cores.pop().expect("two"));
    lived(&a, &b);
    drop(b);
    let seat = admit(&a, B).expect("it has left");
    (a, seat.enter())
}

#[test]
fn messages_go_both_ways_between_lives_in_order_and_rings_go_on_where_they_were() {
    let seen = Arc::new(AtomicU32::new(0));
    let next = |n: u32| {
        let seen = seen.clone();
        move |_: &Core, _: CoreId| assert_eq!(seen.swap(n, Ordering::Relaxed), n - 1)
    };
    let (a, b) = again(4, |a, b| {
        for n in 1..=3 {
            b.try_send(A, next(n)).expect("space");
        }
        a.try_send(B, |_, _| ()).expect("space");
        assert_eq!(b.drain(64), 1);
    });
    b.drain_all(64);
    b.try_send(A, next(4)).expect("the last place");
    assert!(b.try_send(A, next(5)).is_err_and(|error| error.is_full()));
    assert_eq!(a.drain_all(64), 4);
    for n in 5..20 {
        b.try_send(A, next(n)).expect("space");
        a.try_send(B, |_, _| ()).expect("space");
        assert_eq!((a.drain_all(64), b.drain_all(64)), (1, 1));
        assert!(b.has_executed(A, b.sequence(A)) && a.has_executed(B, a.sequence(B)));
    }
}

#[test]
fn what_was_sent_to_a_former_life_goes_back() {
    let token = Arc::new(());
    let (a, b) = again(2, |a, _| {
        for _ in 0..6 {
            let held = token.clone();
            a.send_or_list(B, move |_, _| drop(held));
        }
    });
    assert_eq!(Arc::strong_count(&token), 1);
    b.drain_all(64);
    assert_eq!(a.fabric().pair_counters(A, B).received, 0);
}

#[test]
fn a_call_to_a_former_life_is_gone_and_one_to_the_next_is_answered() {
    let early = RefCell::new(Vec::new());
    let (a, b) = again(4, |a, _| early.borrow_mut().push(PendingCall::new(a, B, || 1)));
    let mut cx = Context::from_waker(Waker::noop());
    let outcome = early.borrow_mut()[0].poll(&a, &mut cx);
    assert!(matches!(outcome, Poll::Ready(Err(error)) if error.is_gone()));
    let mut late = PendingCall::new(&a, B, || 2);
    b.drain_all(64);
    a.drain_all(64);
    assert!(matches!(late.poll(&a, &mut cx), Poll::Ready(Ok(2))));
    let mut back = PendingCall::new(&b, A, || 3);
    a.drain_all(64);
    b.drain_all(64);
    assert!(matches!(back.poll(&b, &mut cx), Poll::Ready(Ok(3))));
}

#[test]
fn a_core_that_left_with_a_call_under_way_does_not_come_back() {
    let (_fabric, mut cores) = cores(2, 4);
    let (b, a) = (cores.pop().expect("two"), cores.pop().expect("two"));
    assert!(admit(&a, B).expect_err("it runs").is_present());
    assert!(admit(&a, A).expect_err("it leads").is_present());
    drop(PendingCall::new(&b, A, || ()));
    assert!(b.awaits_answers());
    drop(b);
    assert!(admit(&a, B).expect_err("its answer is on its way").is_kept());
    a.drain_all(64);
    assert!(admit(&a, B).expect_err("for good").is_kept());
}

#[test]
fn a_core_that_no_stop_holds_admits_nobody() {
    let (_fabric, mut cores) = cores(3, 4);
    drop(cores.pop());
    let error = admit(&cores[0], C).expect_err("the second runs");
    assert!(!error.is_present() && !error.is_kept(), "{error}");
}

#[test]
fn answers_to_markers_of_a_former_life_end_no_wait_of_the_next() {
    let (a, b) = again(8, |_, b| {
        b.try_send(A, |_, _| ()).expect("space");
        let mut wait = PendingSynchronize::new(b);
        wait.cancel(b);
    });
    b.try_send(A, |_, _| ()).expect("space");
    let mut wait = PendingSynchronize::new(&b);
    let cx = Context::from_waker(Waker::noop());
    // Runs the marker of the former life, and what that had sent, but not the new marker.
    assert_eq!(a.drain(3), 3);
    b.drain_all(64);
    assert!(wait.poll(&b, &cx).is_pending());
    a.drain_all(64);
    b.drain_all(64);
    assert!(wait.poll(&b, &cx).is_ready());
}

#[test]
fn an_urgent_answer_to_a_former_life_wakes_nobody() {
    let (token, woken) = (Arc::new(()), Arc::new(Woken::default()));
    let waker = woken.clone().into();
    let calls = RefCell::new(Vec::new());
    let (a, b) = again(4, |_, b| {
        for _ in 0..2 {
            let held = token.clone();
            // SAFETY: 1. to 5. it looks at a counter.
            let f = unsafe { InterruptSafe::new(move |_: CoreId| Arc::strong_count(&held)) };
            let mut call = b.call_urgent(A, f);
            assert!(Pin::new(&mut call).poll(&mut Context::from_waker(&waker)).is_pending());
            calls.borrow_mut().push(call);
        }
        // One is not wanted any more.
        drop(calls.borrow_mut().pop());
    });
    a.drain_all(64);
    b.drain_all(64);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    // SAFETY: 1. to 5. it does nothing.
    let nothing = unsafe { InterruptSafe::new(|core: CoreId| core) };
    let mut call = b.call_urgent(A, nothing);
    assert!(Pin::new(&mut call).poll(&mut Context::from_waker(&waker)).is_pending());
    a.drain_all(64);
    b.drain_all(64);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "of this life");
    assert!(matches!(Pin::new(&mut call).poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(A))));
    drop(calls);
    assert_eq!(Arc::strong_count(&token), 1, "all blocks are freed");
}

#[test]
fn a_foreign_urgent_call_to_a_former_life_is_gone_and_one_to_the_next_is_answered() {
    let token = Arc::new(());
    let call = |fabric: &crate::Fabric| {
        let held = token.clone();
        // SAFETY: 1. to 5. it looks at a counter.
        let f = unsafe { InterruptSafe::new(move |_: CoreId| Arc::strong_count(&held)) };
        fabric.call_urgent(B, f)
    };
    let early = RefCell::new(Vec::new());
    let mut cx = Context::from_waker(Waker::noop());
    let (a, b) = again(4, |a, _| {
        early.borrow_mut().push(call(&a.fabric()));
        assert!(Pin::new(&mut early.borrow_mut()[0]).poll(&mut cx).is_pending());
    });
    let outcome = Pin::new(&mut early.borrow_mut()[0]).poll(&mut cx);
    assert!(matches!(outcome, Poll::Ready(Err(error)) if error.is_gone()));
    let mut late = call(&a.fabric());
    b.drain_all(64);
    assert!(matches!(Pin::new(&mut late).poll(&mut cx), Poll::Ready(Ok(_))));
    b.drain_all(64);
    drop((early, late));
    assert_eq!(Arc::strong_count(&token), 1, "all blocks are freed");
}

#[test]
fn a_bell_that_was_rung_for_a_core_that_was_away_is_heard_by_its_next_life() {
    let (fabric, mut cores) = cores(2, 4);
    let (b, a) = (cores.pop().expect("two"), cores.pop().expect("two"));
    let (bell, woken) = (fabric.bell(), Arc::new(Woken::default()));
    let waker = woken.clone().into();
    let cx = Context::from_waker(&waker);
    let mut wait = BellWait::default();
    assert!(b.poll_bell(&bell, &mut wait, &cx).is_pending());
    drop(b);
    bell.ring(B);
    let b = admit(&a, B).expect("it has left").enter();
    b.drain_all(64);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0, "who waited has left");
    let mut wait = BellWait::default();
    assert!(b.poll_bell(&bell, &mut wait, &cx).is_ready());
    assert!(b.poll_bell(&bell, &mut wait, &cx).is_pending());
    bell.ring(B);
    b.drain_all(64);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    b.end_bell_wait(&bell, &mut wait);
    drop((a, b));
}

#[test]
fn a_shootdown_passes_over_a_core_that_has_left_and_reaches_it_when_it_is_back() {
    let ran = Arc::new(AtomicU32::new(0));
    let count = |on: CoreId| {
        let ran = ran.clone();
        move |core: &Core| {
            if core.id() == on {
                ran.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let landed = Arc::new(AtomicU32::new(0));
    let (a, b) = again(4, |a, b| {
        // Under way in both directions.
        let told = landed.clone();
        let all = CoreSet::first(2);
        a.start_shootdown(&all, count(B), move |_, outcome| {
            told.store(outcome.expect("no panic") as u32, Ordering::Relaxed)
        });
        b.start_shootdown(&all, count(A), |_, outcome| drop(outcome));
    });
    assert_eq!(
        (landed.load(Ordering::Relaxed), ran.swap(0, Ordering::Relaxed)),
        (1, 1),
        "without it; its own was executed"
    );
    b.drain_all(64);
    assert_eq!(ran.load(Ordering::Relaxed), 0, "nothing is executed twice, or late");
    for (from, on, other) in [(&a, B, &b), (&b, A, &a)] {
        from.start_shootdown(&CoreSet::first(2), count(on), |_, outcome| assert_eq!(outcome.expect("no panic"), 2));
        other.drain_all(64);
        from.drain_all(64);
        assert_eq!(ran.swap(0, Ordering::Relaxed), 1);
    }
}

#[test]
fn handlers_run_on_the_next_life_and_stale_bits_of_dead_ones_do_not() {
    let (fabric, mut cores) = cores(2, 4);
    let (b, a) = (cores.pop().expect("two"), cores.pop().expect("two"));
    let ran = Arc::new(AtomicU32::new(0));
    let counts = || {
        let ran = ran.clone();
        move || {
            ran.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (plain, urgent) = (counts(), counts());
    // SAFETY: 1. to 5. it counts.
    let urgent = unsafe { InterruptSafe::new(move |_: CoreId| urgent()) };
    let dead = fabric.register_handler(move |_| plain(), |_, _| ()).expect("a free slot");
    let dead_urgent = fabric.register_urgent(urgent).expect("a free slot");
    drop(b);
    assert!(fabric.trigger(dead, B).is_err() && fabric.trigger_urgent(dead_urgent, B).is_err());
    drop(fabric.unregister_handler(dead).expect("registered"));
    drop(fabric.unregister_urgent(dead_urgent).expect("registered"));
    // The other core's passes end what nobody waits for.
    for _ in 0..4 {
        a.drain_all(64);
    }
    let b = admit(&a, B).expect("it has left").enter();
    b.drain_all(64);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    let (plain, urgent) = (counts(), counts());
    // SAFETY: 1. to 5. it counts.
    let urgent = unsafe { InterruptSafe::new(move |_: CoreId| urgent()) };
    let live = fabric.register_handler(move |_| plain(), |_, _| ()).expect("a free slot");
    let live_urgent = fabric.register_urgent(urgent).expect("a free slot");
    fabric.trigger(live, B).expect("it is back");
    fabric.trigger_urgent(live_urgent, B).expect("it is back");
    b.drain_all(64);
    assert_eq!(ran.load(Ordering::Relaxed), 2);
    drop((a, b));
}

#[test]
fn lives_follow_each_other_on_many_threads_and_nothing_is_left() {
    let token = Arc::new(());
    let (_fabric, mut cores) = cores(3, 2);
    drop(cores.drain(1..));
    let a = cores.pop().expect("one");
    for life in 0..500_u32 {
        let core = CoreId::new(1 + life as usize % 2);
        let seat = admit(&a, core).expect("it has left");
        let held = token.clone();
        thread::scope(|scope| {
            scope.spawn(move || {
                let core = seat.enter();
                for _ in 0..5 {
                    let held = held.clone();
                    core.send_or_list(A, move |_, _| drop(held));
                }
            });
        });
        if life % 3 == 0 {
            a.drain_all(64);
            a.drain_foreign(64);
        }
        let held = token.clone();
        a.send_or_list(core, move |_, _| drop(held));
        a.flush();
    }
    a.drain_foreign(u32::MAX);
    a.drain_all(64);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn a_freeze_that_a_former_life_has_not_seen_is_neither_a_handler_nor_a_freeze_of_the_next() {
    let (_a, b) = again(4, |a, _| {
        a.shared().core(B).frost.want();
        let _ = trigger_freeze(a.shared(), B);
        a.shared().core(B).frost.let_go();
    });
    b.drain_all(64);
    assert_eq!(b.fabric().core_counters(B).urgent_run, 0);
}
