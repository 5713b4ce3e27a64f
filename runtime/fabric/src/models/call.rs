//! [Calls](crate::call) with real endpoints: both cores sleep whenever they find nothing.

use alloc::sync::Arc;
use core::task::{Context, Poll, Waker};

use super::{A, B, Ended, Machine, Woken, explore, leaver};
use crate::call::{CallError, PendingCall};
use crate::port::FenceKind;
use crate::sync::Counter;
use crate::sync::checker::thread;
use crate::{Core, Seat};

/// Polls `call` when it was woken, and serves `core` meanwhile.
fn outcome<F, R>(machine: &Machine, core: &Core, mut call: PendingCall<F, R>) -> Result<R, CallError>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    loop {
        let seen = woken.0.get();
        if let Poll::Ready(outcome) = call.poll(core, &mut Context::from_waker(&waker)) {
            return outcome;
        }
        machine.serve(core, || woken.0.get() != seen);
    }
}

/// A core that serves until `calls` closures have run.
fn callee(machine: &Arc<Machine>, seat: Seat, ran: &Arc<Counter>, calls: u64) -> thread::JoinHandle<Ended> {
    let (machine, ran) = (machine.clone(), ran.clone());
    thread::spawn(move || {
        let core = seat.enter();
        machine.serve(&core, || ran.get() == calls);
        Ended(core)
    })
}

#[test]
fn a_call_brings_its_value_to_a_caller_that_sleeps() {
    explore(3, || {
        let (machine, _fabric, (home, target)) = Machine::pair(FenceKind::Symmetric);
        let ran = Arc::new(Counter::default());
        let callee = callee(&machine, target, &ran, 1);
        let home = home.enter();
        let call = PendingCall::new(&home, B, move || {
            ran.add(1);
            7
        });
        assert!(matches!(outcome(&machine, &home, call), Ok(7)));
        drop(callee.join().expect("no panic"));
    });
}

#[test]
fn a_call_dropped_at_any_time_disturbs_no_later_one_and_leaks_nothing() {
    explore(2, || {
        let (machine, _fabric, (home, target)) = Machine::pair(FenceKind::Symmetric);
        let ran = Arc::new(Counter::default());
        let callee = callee(&machine, target, &ran, 2);
        let home = home.enter();
        let token = Arc::new(());
        let call = |n: u32| {
            let (ran, held) = (ran.clone(), token.clone());
            PendingCall::new(&home, B, move || {
                ran.add(1);
                (n, held)
            })
        };
        drop(call(1));
        let (n, held) = outcome(&machine, &home, call(2)).expect("a value");
        assert_eq!(n, 2);
        drop(held);
        drop(callee.join().expect("no panic"));
        assert_eq!(Arc::strong_count(&token), 1);
    });
}

#[test]
fn a_call_ends_although_the_core_that_answers_leaves_with_full_rings() {
    explore(2, || {
        let (machine, _fabric, (home, target)) = Machine::pair(FenceKind::Symmetric);
        let leaver = thread::spawn(move || {
            let core = target.enter();
            (0..2).for_each(|_| core.send_or_list(A, |_, _| ()));
            core.drain_all(8);
            drop(core);
        });
        let home = home.enter();
        let call = PendingCall::new(&home, B, || 7);
        let outcome = outcome(&machine, &home, call);
        assert!(outcome.as_ref().map_or_else(CallError::is_gone, |&value| value == 7), "{outcome:?}");
        leaver.join().expect("no panic");
    });
}

#[test]
fn a_call_to_a_core_that_leaves_ends_with_its_value_or_with_gone() {
    explore(3, || {
        let (machine, _fabric, (home, target)) = Machine::pair(FenceKind::Symmetric);
        let leaver = leaver(target);
        let home = home.enter();
        let token = Arc::new(());
        let held = token.clone();
        let call = PendingCall::new(&home, B, move || held);
        let outcome = outcome(&machine, &home, call);
        assert!(outcome.as_ref().err().is_none_or(CallError::is_gone));
        drop(outcome);
        leaver.join().expect("no panic");
        assert_eq!(Arc::strong_count(&token), 1);
    });
}
