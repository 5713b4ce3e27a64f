//! Waits for everything sent, step by step on one thread.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Waker};
use std::vec::Vec;

use super::PendingSynchronize;
use crate::tests::{cores, meddling, reached, reaching};
use crate::{Core, CoreId};

const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);

fn is_ready(wait: &mut PendingSynchronize, core: &Core) -> bool {
    wait.poll(core, &Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn nothing_sent_is_nothing_to_wait_for() {
    let (fabric, cores) = cores(3, 4);
    assert!(PendingSynchronize::new(&cores[0]).is_over());
    cores[0].try_send(B, |_, _| ()).expect("space");
    cores[1].drain(64);
    assert!(PendingSynchronize::new(&cores[0]).is_over(), "it has run already");
    assert_eq!(fabric.pair_counters(cores[0].id(), B).sent, 1, "no marker was sent");
}

#[test]
fn it_ends_when_the_last_core_has_run_what_was_sent_to_it() {
    let (_fabric, cores) = cores(3, 2);
    let ran = Arc::new(AtomicUsize::new(0));
    for target in [B, C] {
        // Beyond the ring's capacity: what is listed counts as sent.
        for _ in 0..5 {
            let ran = ran.clone();
            cores[0].send_or_list(target, move |_, _| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    let mut wait = PendingSynchronize::new(&cores[0]);
    while !is_ready(&mut wait, &cores[0]) {
        assert!(ran.load(Ordering::Relaxed) <= 10);
        for core in cores.iter().rev() {
            core.drain(1);
            core.flush();
        }
    }
    assert_eq!(ran.load(Ordering::Relaxed), 10);
}

#[test]
fn a_marker_in_a_nested_pass_does_not_end_it_before_the_outer_message() {
    let (_fabric, cores) = cores(2, 8);
    let finished = Arc::new(AtomicUsize::new(0));
    let note = finished.clone();
    // The first message's function runs the marker, and everything that could bring the answer home.
    let nesting = move |core: &Core, _: CoreId| {
        assert_eq!(core.drain_all(64), 1, "the marker");
        core.flush();
        reached(0).expect("the source").drain_all(64);
        note.fetch_add(1, Ordering::Relaxed);
    };
    cores[0].try_send(B, nesting).expect("space");
    let mut wait = PendingSynchronize::new(&cores[0]);
    reaching(cores, || {
        let (source, target) = (reached(0).expect("the source"), reached(1).expect("the target"));
        target.drain_all(64);
        source.drain_all(64);
        assert!(!is_ready(&mut wait, &source), "the answer is owed until the outer pass has ended");
        target.flush();
        source.drain_all(64);
        assert_eq!(finished.load(Ordering::Relaxed), 1);
        assert!(is_ready(&mut wait, &source));
    });
}

#[test]
fn cores_that_leave_before_or_meanwhile_are_not_waited_for() {
    let (_fabric, mut cores) = cores(4, 4);
    drop(cores.pop());
    for target in (1..4).map(CoreId::new) {
        cores[0].send_or_list(target, |_, _| ());
    }
    let mut wait = PendingSynchronize::new(&cores[0]);
    cores[1].drain(64);
    cores[0].drain(64);
    assert!(!is_ready(&mut wait, &cores[0]), "core 2 has run nothing");
    drop(cores.pop());
    cores[0].flush();
    assert!(is_ready(&mut wait, &cores[0]));
    cores[0].synchronize_blocking();
}

#[test]
fn a_wait_that_was_dropped_leaves_nothing_behind() {
    let (_fabric, cores) = cores(2, 4);
    let mut waits: Vec<_> = (0..3)
        .map(|_| {
            cores[0].send_or_list(B, |_, _| ());
            PendingSynchronize::new(&cores[0])
        })
        .collect();
    waits[1].cancel(&cores[0]);
    assert!(waits[1].is_over());
    while !is_ready(&mut waits[0], &cores[0]) || !is_ready(&mut waits[2], &cores[0]) {
        cores[1].drain(64);
        cores[1].flush();
        cores[0].drain(64);
        cores[0].flush();
    }
    assert!(cores[0].synchronizations().pending.borrow().is_empty());
}

#[test]
fn the_last_answer_may_come_in_the_middle_of_a_wakers_clone() {
    let (_fabric, cores) = cores(2, 4);
    reaching(cores, || {
        let core = reached(0).expect("the source");
        core.try_send(B, |_, _| ()).expect("space");
        let mut wait = PendingSynchronize::new(&core);
        let waker = meddling(|| [1, 0].into_iter().filter_map(reached).for_each(|core| _ = core.drain_all(64)));
        assert!(wait.poll(&core, &Context::from_waker(&waker)).is_ready());
    });
}
