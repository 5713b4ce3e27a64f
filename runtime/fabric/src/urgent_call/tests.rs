//! What urgent calls promise, on one thread, with interrupts made by hand.

use alloc::sync::Arc;
use alloc::task::Wake;
use core::pin::pin;
use core::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::urgent::tests::{arrive, critical, machine};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn times(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

fn safe<R, F: Fn(CoreId) -> R>(f: F) -> InterruptSafe<F> {
    // SAFETY: 1. to 5. interrupts are calls of the test here, in the middle of nothing.
    unsafe { InterruptSafe::new(f) }
}

fn poll<R>(call: &mut UrgentCall<R>) -> Poll<Outcome<R>> {
    Pin::new(call).poll(&mut Context::from_waker(Waker::noop()))
}

/// Counts what it is captured by as long as that lives.
fn captured() -> (Arc<()>, impl Fn() -> usize) {
    let token = Arc::new(());
    let weak = Arc::downgrade(&token);
    (token, move || weak.strong_count())
}

#[test]
fn an_interrupt_runs_the_function_and_its_callers_drain_brings_the_value() {
    let (port, fabric, mut cores) = machine(2);
    let caller = cores.remove(0);
    let accepting = cores[0].accept_interrupts();
    let (token, alive) = captured();
    let woken = Arc::new(Woken::default());
    let waker = woken.clone().into();
    let mut call = pin!(caller.call_urgent(B, safe(move |core| (core, Arc::strong_count(&token)))));
    assert_eq!(port.interrupted(), [B]);
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    arrive();
    assert_eq!((woken.times(), alive()), (0, 1), "the interrupt wakes nobody and frees nothing");
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!((caller.drain(64), woken.times()), (1, 1));
    let answer = call.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(matches!(answer, Poll::Ready(Ok((B, 1)))), "{answer:?}");
    assert_eq!(alive(), 0);
    assert_eq!(fabric.core_counters(B).urgent_run, 1);
    drop(accepting);
}

#[test]
fn calls_that_come_before_the_interrupt_share_it_and_run_in_order() {
    let (port, _fabric, cores) = machine(2);
    let accepting = cores[1].accept_interrupts();
    let turn = Arc::new(AtomicU32::new(0));
    let mut calls = [0, 1, 2].map(|_| {
        let turn = turn.clone();
        cores[0].call_urgent(B, safe(move |_| turn.fetch_add(1, Ordering::Relaxed)))
    });
    assert_eq!(port.interrupted(), [B]);
    arrive();
    cores[0].drain(64);
    for (call, expected) in calls.iter_mut().zip(0..) {
        assert!(matches!(poll(call), Poll::Ready(Ok(value)) if value == expected));
    }
    drop(accepting);
}

#[test]
fn a_core_that_cannot_be_interrupted_runs_it_when_it_looks() {
    let (_port, _fabric, cores) = machine(2);
    let mut call = cores[0].call_urgent(B, safe(|core| core));
    arrive();
    assert_eq!((cores[0].drain(64), cores[1].drain(64), cores[0].drain(64)), (0, 1, 1));
    assert!(matches!(poll(&mut call), Poll::Ready(Ok(B))));
}

#[test]
fn on_the_own_core_it_runs_inside_the_call_in_a_critical_section() {
    let (port, _fabric, cores) = machine(1);
    let accepting = cores[0].accept_interrupts();
    let closed = || crate::urgent::tests::is_closed();
    let mut call = cores[0].call_urgent(A, safe(move |core| (core, closed())));
    assert!(matches!(poll(&mut call), Poll::Ready(Ok((A, true)))));
    assert!(port.interrupted().is_empty() && !closed());
    drop(accepting);
}

#[test]
fn a_call_waits_for_the_end_of_a_critical_section() {
    let (_port, _fabric, cores) = machine(2);
    let accepting = cores[1].accept_interrupts();
    let mut call = cores[0].call_urgent(B, safe(|_| ()));
    critical(|| {
        arrive();
        assert_eq!(cores[0].drain(64), 0);
    });
    assert_eq!(cores[0].drain(64), 1);
    assert!(matches!(poll(&mut call), Poll::Ready(Ok(()))));
    drop(accepting);
}

#[test]
fn a_call_that_is_dropped_before_its_turn_does_not_run_and_is_freed_at_home() {
    let (_port, _fabric, cores) = machine(2);
    let accepting = cores[1].accept_interrupts();
    let ran = Arc::new(AtomicU32::new(0));
    let count = || {
        let ran = ran.clone();
        safe(move |_| ran.fetch_add(1, Ordering::Relaxed))
    };
    drop(cores[0].call_urgent(B, count()));
    assert!(cores[0].call_urgent(B, count()).cancel());
    arrive();
    assert_eq!((ran.load(Ordering::Relaxed), Arc::strong_count(&ran)), (0, 3), "not freed in the interrupt");
    cores[0].drain(64);
    assert_eq!(Arc::strong_count(&ran), 1);
    drop(accepting);
}

#[test]
fn the_value_of_a_call_that_is_dropped_later_is_dropped_at_home() {
    let (_port, _fabric, cores) = machine(2);
    let accepting = cores[1].accept_interrupts();
    for answer_first in [false, true] {
        let (token, alive) = captured();
        let call = cores[0].call_urgent(B, safe(move |_| token.clone()));
        arrive();
        assert_eq!(alive(), 2, "the function's and the value");
        if answer_first {
            cores[0].drain(64);
            assert!(!call.cancel());
        } else {
            assert!(!call.cancel());
            assert_eq!(alive(), 2);
            cores[0].drain(64);
        }
        assert_eq!(alive(), 0);
    }
    drop(accepting);
}

#[test]
fn a_target_that_leaves_sends_home_what_it_has_not_run() {
    let (_port, _fabric, mut cores) = machine(2);
    let (token, alive) = captured();
    let mut early = cores[0].call_urgent(B, safe(move |_| Arc::strong_count(&token)));
    cores.truncate(1);
    let (token, alive_late) = captured();
    let mut late = cores[0].call_urgent(B, safe(move |_| Arc::strong_count(&token)));
    cores[0].drain(64);
    for call in [&mut early, &mut late] {
        assert!(matches!(poll(call), Poll::Ready(Err(error)) if error.is_gone()));
    }
    assert_eq!((alive(), alive_late()), (0, 0));
}

#[test]
fn what_a_caller_that_leaves_has_called_is_freed_when_the_last_core_leaves() {
    let (_port, fabric, mut cores) = machine(2);
    let (token, alive) = captured();
    let held = fabric.clone();
    let call = cores[0].call_urgent(B, safe(move |_| (Arc::strong_count(&token), held.cores())));
    drop(call);
    cores.remove(0);
    cores[0].drain(64);
    assert_eq!(alive(), 1);
    cores.clear();
    assert_eq!(alive(), 0, "it held the fabric");
}

#[test]
fn a_future_that_outlives_its_core_learns_that_it_was_not_answered() {
    let (_port, _fabric, mut cores) = machine(2);
    let (token, alive) = captured();
    let mut call = cores[0].call_urgent(B, safe(move |_| drop(token.clone())));
    cores.clear();
    assert!(matches!(poll(&mut call), Poll::Ready(Err(error)) if error.is_gone()));
    assert_eq!(alive(), 0);
}

fn poll_foreign<R>(call: &mut ForeignUrgentCall<R>, waker: &Waker) -> Poll<Outcome<R>> {
    Pin::new(call).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_foreign_call_is_polled_again_until_the_interrupt_has_brought_its_value() {
    let (port, fabric, cores) = machine(1);
    let accepting = cores[0].accept_interrupts();
    let (token, alive) = captured();
    let woken = Arc::new(Woken::default());
    let waker = woken.clone().into();
    let mut call = fabric.call_urgent(A, safe(move |core| (core, token.clone())));
    assert_eq!(port.interrupted(), [A]);
    assert!(poll_foreign(&mut call, &waker).is_pending());
    assert_eq!(woken.times(), 1, "to be polled again");
    arrive();
    assert_eq!((woken.times(), alive()), (1, 2), "the interrupt wakes nobody and frees nothing");
    let Poll::Ready(Ok((A, value))) = poll_foreign(&mut call, &waker) else { panic!("it has been run") };
    assert_eq!(alive(), 1, "what was captured does not wait for a drain of the target");
    drop((value, accepting));
    assert_eq!(alive(), 0);
}

#[test]
fn a_core_that_cannot_be_interrupted_runs_a_foreign_call_when_it_looks() {
    let (_port, fabric, cores) = machine(1);
    let woken = Arc::new(Woken::default());
    let waker = woken.clone().into();
    let mut call = fabric.call_urgent(A, safe(|core| core));
    // An interrupt that finds nobody, and is over.
    arrive();
    cores[0].drain(64);
    assert!(matches!(poll_foreign(&mut call, &waker), Poll::Ready(Ok(A))));
    assert_eq!(woken.times(), 0);
}

#[test]
fn a_foreign_call_that_is_dropped_takes_its_function_back_or_drops_its_value() {
    let (_port, fabric, cores) = machine(1);
    let accepting = cores[0].accept_interrupts();
    for run_first in [false, true] {
        let (token, alive) = captured();
        let call = fabric.call_urgent(A, safe(move |_| token.clone()));
        if run_first {
            arrive();
            assert_eq!(alive(), 2, "the function's and the value");
        }
        assert_eq!(call.cancel(), !run_first);
        assert_eq!(alive(), usize::from(!run_first), "what has been run is the future's");
        arrive();
        assert_eq!(alive(), usize::from(!run_first), "not freed in the interrupt");
        cores[0].drain(64);
        assert_eq!(alive(), 0);
    }
    drop(accepting);
}

#[test]
fn a_foreign_call_that_was_dropped_is_freed_as_its_target_leaves_though_others_stay() {
    let (_port, fabric, mut cores) = machine(2);
    let accepting = cores[1].accept_interrupts();
    let (token, alive) = captured();
    drop(fabric.call_urgent(B, safe(move |_| Arc::strong_count(&token))));
    arrive();
    drop(accepting);
    assert_eq!(alive(), 1, "not freed in the interrupt");
    cores.truncate(1);
    assert_eq!(alive(), 0);
}

#[test]
fn a_target_that_leaves_ends_foreign_calls() {
    let (_port, fabric, mut cores) = machine(2);
    let (token, alive) = captured();
    let held = fabric.clone();
    let mut early = fabric.call_urgent(B, safe(move |_| (Arc::strong_count(&token), held.cores())));
    let (token, alive_dropped) = captured();
    drop(fabric.call_urgent(B, safe(move |_| Arc::strong_count(&token))));
    cores.truncate(1);
    assert_eq!(alive_dropped(), 0);
    let (token, alive_late) = captured();
    let mut late = fabric.call_urgent(B, safe(move |_| (Arc::strong_count(&token), 0)));
    for call in [&mut early, &mut late] {
        assert!(matches!(poll_foreign(call, Waker::noop()), Poll::Ready(Err(error)) if error.is_gone()));
    }
    assert_eq!((alive(), alive_late()), (0, 0), "with their ends");
    let mut refused = ForeignUrgentCall::<u32>::refused();
    assert!(matches!(poll_foreign(&mut refused, Waker::noop()), Poll::Ready(Err(error)) if error.is_gone()));
}

#[test]
fn what_a_core_has_run_before_it_leaves_is_answered() {
    let (_port, fabric, mut cores) = machine(1);
    let accepting = cores[0].accept_interrupts();
    let (token, alive) = captured();
    let call = fabric.call_urgent(A, safe(move |_| token.clone()));
    arrive();
    drop(accepting);
    cores.clear();
    assert_eq!(alive(), 2, "the function's and the value");
    let mut call = call;
    assert!(matches!(poll_foreign(&mut call, Waker::noop()), Poll::Ready(Ok(_))), "it ran before its core left");
    assert_eq!(alive(), 0);
}

#[test]
fn a_panic_in_an_urgent_call_ends_the_process_with_a_word_why() {
    // The harness must not be the one to go.
    if std::env::var_os("IPIQ_URGENT_PANIC").is_none() {
        let this = std::env::current_exe().expect("this program has a path");
        let mut child = std::process::Command::new(this);
        let name = "urgent_call::tests::a_panic_in_an_urgent_call_ends_the_process_with_a_word_why";
        child.args(["--exact", name, "--nocapture"]).env("IPIQ_URGENT_PANIC", "1");
        let output = child.output().expect("this program starts again");
        assert_eq!(output.status.code(), None, "killed by a signal: {output:?}");
        let text = alloc::string::String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("in a call") && text.contains("against its promise"), "{text}");
        return;
    }
    let (_port, _fabric, cores) = machine(2);
    let call = cores[0].call_urgent(B, safe(|_| panic!("in a call")));
    let _ = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| cores[1].drain(64)));
    drop(call);
}
