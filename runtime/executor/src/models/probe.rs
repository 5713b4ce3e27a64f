//! A core that answers, and threads that ask it, one after the other or at once.

use ipiq_fabric::model_check::explore;

use crate::probe::cell::Cell;
use crate::sync::UnsafeCell;
use crate::sync::checker::{Arc, thread};

/// A cell, and a place for captures as the machine has one beside it.
struct Probed {
    cell: Cell<u32>,
    captured: UnsafeCell<u32>,
}

// SAFETY: 1. the model checker stops at the first access that races.
unsafe impl Sync for Probed {}

impl Probed {
    fn new() -> Arc<Self> {
        Arc::new(Self { cell: Cell::new(0), captured: UnsafeCell::new(0) })
    }

    /// The handler, which a trigger makes run at some time.
    fn handler(&self, answer: u32) {
        self.cell.answer(|note| {
            *note = answer;
            self.capture(answer);
        });
    }

    fn capture(&self, value: u32) {
        self.captured.with_mut(|captured| {
            // SAFETY: 1. the checker has found no access that races.
            unsafe { *captured = value };
        });
    }

    fn captured(&self) -> u32 {
        // SAFETY: 1. the checker has found no access that races.
        self.captured.with(|captured| unsafe { *captured })
    }

    /// Asks and looks once. `false`: it was not free.
    fn ask_once(&self) -> bool {
        if !self.cell.claim() {
            return false;
        }
        self.capture(0);
        self.cell.ask();
        self.look();
        self.cell.let_go();
        true
    }

    fn look(&self) -> bool {
        let answer = self.cell.take(|note| *note);
        if let Some(answer) = answer {
            assert_eq!(self.captured(), answer, "both are of one handler");
            assert_ne!(answer, 0);
        }
        answer.is_some()
    }
}

#[test]
fn an_asker_reads_whole_answers_or_none_however_often_it_asks() {
    explore(3, || {
        let probed = Probed::new();
        let core = thread::spawn({
            let probed = probed.clone();
            move || (1..=3).for_each(|answer| probed.handler(answer))
        });
        assert!(probed.cell.claim());
        probed.capture(0);
        probed.cell.ask();
        if probed.look() {
            // The next answer is written over this one.
            probed.cell.ask();
            probed.look();
        }
        probed.cell.let_go();
        core.join().expect("no panic");
        assert!(probed.cell.claim(), "free again");
    });
}

#[test]
fn askers_in_turn_and_a_late_answer_do_not_meet() {
    explore(3, || {
        let probed = Probed::new();
        let core = thread::spawn({
            let probed = probed.clone();
            move || (1..=2).for_each(|answer| probed.handler(answer))
        });
        let other = thread::spawn({
            let probed = probed.clone();
            move || probed.ask_once()
        });
        probed.ask_once();
        other.join().expect("no panic");
        core.join().expect("no panic");
        assert!(probed.cell.claim(), "free again");
    });
}

#[test]
fn a_question_that_stands_is_answered() {
    explore(3, || {
        let probed = Probed::new();
        let core = thread::spawn({
            let probed = probed.clone();
            move || probed.handler(1)
        });
        let asked_first = probed.ask_once();
        core.join().expect("no panic");
        assert!(asked_first && probed.cell.claim());
        probed.capture(0);
        probed.cell.ask();
        probed.handler(2);
        assert!(probed.look());
    });
}
