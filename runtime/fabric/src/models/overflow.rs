//! The [overflow](crate::overflow) list with real endpoints and rings of two slots.

use alloc::sync::Arc;
use core::task::{Context, Waker};

use super::{A, B, Ended, Machine, Woken, explore};
use crate::port::FenceKind;
use crate::sync::Counter;
use crate::sync::checker::thread;
use crate::{Core, CoreId, Seat, SpaceWait};

fn note(got: &Arc<Counter>, n: u64) -> impl FnOnce(&Core, CoreId) + Send + 'static {
    let got = got.clone();
    move |_, _| {
        assert_eq!(got.get(), n, "in order, each once");
        got.add(1);
    }
}

/// The source sleeps until the target has made space, whatever the order of the two.
fn sleeping_source(fence: FenceKind) {
    explore(3, move || {
        let (machine, _fabric, (source, target)) = Machine::pair(fence);
        let got = Arc::new(Counter::default());
        let source = source.enter();
        overfill(&source, &got);
        let drainer = drainer(target);
        machine.serve(&source, || !source.has_overflow());
        drop(drainer.join().expect("no panic"));
        // The third only if it was flushed while the pass was still going on.
        assert!((2..=3).contains(&got.get()));
    });
}

/// A core that makes space once.
fn drainer(seat: Seat) -> thread::JoinHandle<Ended> {
    thread::spawn(move || {
        let core = seat.enter();
        core.drain_all(8);
        Ended(core)
    })
}

#[test]
fn a_source_that_sleeps_for_space_is_kicked_with_symmetric_fences() {
    sleeping_source(FenceKind::Symmetric);
}

#[test]
fn a_source_that_sleeps_for_space_is_kicked_with_asymmetric_fences() {
    sleeping_source(FenceKind::Asymmetric);
}

/// One message more than the ring to B has slots: the third is listed if none was taken meanwhile.
fn overfill(source: &Core, got: &Arc<Counter>) {
    (0..3).for_each(|n| source.send_or_list(B, note(got, n)));
}

#[test]
fn listed_messages_reach_a_target_that_sleeps_from_a_source_that_sleeps() {
    explore(2, || {
        let (machine, _fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let got = Arc::new(Counter::default());
        let sender = thread::spawn({
            let (machine, got) = (machine.clone(), got.clone());
            move || {
                let core = source.enter();
                overfill(&core, &got);
                machine.serve(&core, || !core.has_overflow());
                Ended(core)
            }
        });
        let target = target.enter();
        machine.serve(&target, || got.get() == 3);
        drop(sender.join().expect("no panic"));
    });
}

#[test]
fn listed_messages_to_a_core_that_leaves_are_taken_back_once() {
    explore(2, || {
        let (machine, _fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let got = Arc::new(Counter::default());
        let source = source.enter();
        overfill(&source, &got);
        let leaver = thread::spawn(move || {
            let core = target.enter();
            core.drain_all(1);
            drop(core);
        });
        // Only this thread's count is left when each message has run or been dropped.
        machine.serve(&source, || Arc::strong_count(&got) == 1);
        leaver.join().expect("no panic");
        assert!(!source.has_overflow());
    });
}

#[test]
fn a_waiter_for_space_is_woken_when_its_core_sleeps() {
    explore(2, || {
        let (machine, _fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let got = Arc::new(Counter::default());
        let source = source.enter();
        for n in 0..2 {
            source.send_or_list(B, note(&got, n));
        }
        let drainer = drainer(target);
        let woken = Arc::new(Woken::default());
        let (waker, mut wait) = (Waker::from(woken.clone()), SpaceWait::default());
        while source.poll_space(B, &mut wait, &Context::from_waker(&waker)).is_pending() {
            let seen = woken.0.get();
            machine.serve(&source, || woken.0.get() != seen);
        }
        source.end_wait(&mut wait);
        source.try_send(B, |_, _| ()).expect("space");
        drop(drainer.join().expect("no panic"));
    });
}

#[test]
fn two_cores_that_wait_for_space_in_each_others_rings_both_get_it() {
    explore(2, || {
        let (_machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let got = Arc::new(Counter::default());
        let send_all = |seat: Seat, target, got: &Arc<Counter>| {
            let core = seat.enter();
            for _ in 0..3 {
                let got = got.clone();
                core.send(target, move |_, _| got.add(1)).expect("nobody leaves yet");
            }
            while got.get() < 6 {
                core.drain_all(8);
                thread::yield_now();
            }
            Ended(core)
        };
        let other = thread::spawn({
            let got = got.clone();
            move || send_all(there, A, &got)
        });
        let here = send_all(here, B, &got);
        drop((here, other.join().expect("no panic")));
    });
}

/// Each core is inside a message of the other that sends back more than fits: only a nested drain that sees the ring of the very source whose
/// message is running lets them go on.
#[test]
fn two_cores_inside_each_others_messages_drain_each_other() {
    explore(2, || {
        let (_machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (here, there) = (here.enter(), there.enter());
        let got = Arc::new(Counter::default());
        let ask = |got: &Arc<Counter>| {
            let got = got.clone();
            move |core: &Core, source: CoreId| {
                for _ in 0..3 {
                    let got = got.clone();
                    core.send(source, move |_, _| got.add(1)).expect("nobody leaves yet");
                }
            }
        };
        here.try_send(B, ask(&got)).expect("space");
        there.try_send(A, ask(&got)).expect("space");
        let serve = |core: &Core, got: &Counter| {
            while got.get() < 6 {
                core.drain_all(8);
                thread::yield_now();
            }
        };
        let (there, seen) = (Ended(there), got.clone());
        let other = thread::spawn(move || {
            let there = there;
            serve(&there.0, &seen);
            there
        });
        serve(&here, &got);
        drop((here, other.join().expect("no panic")));
    });
}

#[test]
fn a_later_send_overtakes_no_listed_message() {
    explore(3, || {
        let (_machine, _fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let got = Arc::new(Counter::default());
        let source = source.enter();
        overfill(&source, &got);
        let sender = thread::spawn({
            let got = got.clone();
            let source = Ended(source);
            move || {
                let source = source;
                source.0.send_or_list(B, note(&got, 3));
                while source.0.has_overflow() {
                    source.0.flush();
                    thread::yield_now();
                }
                source
            }
        });
        let target = target.enter();
        while got.get() < 4 {
            target.drain_all(1);
            thread::yield_now();
        }
        drop(sender.join().expect("no panic"));
    });
}
