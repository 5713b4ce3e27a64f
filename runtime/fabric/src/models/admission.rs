//! Cores that leave and come back, with real endpoints.

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::Cell;

use super::{A, B, Machine, Plain, explore};
use crate::cpusync::CpuSync;
use crate::port::{Clock, FenceKind};
use crate::sync::Counter;
use crate::sync::checker::thread;
use crate::{Core, CoreSet, Message, Seat};

/// A clock that stands still.
struct Noon;

impl Clock for Noon {
    fn now_ns(&self) -> u64 {
        12
    }
}

/// Has `core`, the only other one, admit B when that has left.
fn admit(core: &Core) -> Seat {
    let admitted = Rc::new(Cell::new(None));
    loop {
        let told = admitted.clone();
        core.lead(move |lead| {
            let own = lead.core().id();
            let plan =
                CpuSync { set: CoreSet::empty().with(own), each: None, drain: false, deadline_ns: None, clock: &Noon };
            let (seat, _) = lead.cpusync(&plan, |held| held.admit(B)).expect("no panic");
            told.set(seat.ok());
        });
        // SAFETY: 1. and 2. this is the loop; nothing of a message is on the stack.
        unsafe { core.safe_point() };
        if let Some(seat) = admitted.take() {
            return seat;
        }
        thread::yield_now();
    }
}

/// A message of the former life's, and what the next one finds.
#[test]
fn what_was_sent_to_the_former_life_does_not_reach_the_next_and_what_is_sent_to_it_does() {
    for fence in [FenceKind::Symmetric, FenceKind::Asymmetric] {
        explore(2, move || {
            let (_machine, _fabric, (a, b)) = Machine::pair(fence);
            let leaver = thread::spawn(move || drop(b.enter()));
            let a = a.enter();
            let (early, late) = (Arc::new(()), Arc::new(Counter::default()));
            let held = early.clone();
            // Run by nobody: the former life drains nothing.
            a.send_or_list(B, move |_, _| drop(held));
            let seat = admit(&a);
            assert_eq!(Arc::strong_count(&early), 1, "taken back");
            let counted = late.clone();
            a.send_or_list(B, move |_, _| counted.add(1));
            let next = seat.enter();
            next.drain_all(8);
            assert_eq!(late.get(), 1);
            leaver.join().expect("no panic");
        });
    }
}

/// The memory of the former life is the next one's.
#[test]
fn the_next_life_comes_after_all_of_the_former_one() {
    explore(3, || {
        let (_machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let cell = Plain::new();
        let theirs = cell.clone();
        let leaver = thread::spawn(move || {
            let core = b.enter();
            theirs.write(7);
            core.try_send(A, |_, _| ()).map(drop).expect("space");
        });
        let a = a.enter();
        let next = admit(&a).enter();
        assert_eq!(cell.read(), 7);
        cell.write(8);
        // It goes on where the former life was.
        next.try_send(A, |_, _| ()).map(drop).expect("space");
        assert_eq!(a.drain_all(8), 2);
        leaver.join().expect("no panic");
    });
}

/// A thread that finds the core gone, or not, while it comes back.
#[test]
fn a_message_of_a_thread_is_run_by_the_next_life_or_dropped_and_takes_no_other_with_it() {
    explore(3, || {
        let (_machine, fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let early = Arc::new(Counter::default());
        let sender = thread::spawn({
            let (fabric, held) = (fabric.clone(), early.clone());
            move || drop(fabric.post(B, Message::foreign(move |_, _| held.add(1))))
        });
        let a = a.enter();
        drop(b.enter());
        let next = admit(&a).enter();
        let late = Arc::new(Counter::default());
        let held = late.clone();
        assert!(fabric.post(B, Message::foreign(move |_, _| held.add(1))).is_ok());
        next.drain_foreign(8);
        sender.join().expect("no panic");
        next.drain_foreign(8);
        assert_eq!(late.get(), 1, "who acts for the former life leaves it alone");
        assert_eq!(Arc::strong_count(&early), 1, "run or dropped");
        assert!(early.get() <= 1);
    });
}
