//! What can be said on one thread, where nobody comes to let a frozen core go.

use core::sync::atomic::Ordering;

use super::*;
use crate::urgent::tests::{arrive, is_closed, machine};
use crate::{Core, CoreSet};

const B: CoreId = CoreId::new(1);

fn frost(core: &Core) -> &Frost {
    &core.shared().core(B).frost
}

fn late() -> CoreSet {
    [B].into_iter().collect()
}

/// Runs `f` in a section of `core`.
fn section(core: &Core, f: impl FnOnce()) {
    // SAFETY: 1. and 2. the test itself is the loop, and is not inside a read.
    unsafe { core.preemptible(f, |_| ()) };
}

#[test]
fn a_core_is_wanted_frozen_held_and_let_go() {
    let frost = Frost::new();
    assert!(frost.freeze().is_none() && !frost.is_frozen() && !frost.hold());
    frost.want();
    assert!(!frost.is_frozen() && !frost.hold());
    let frozen = frost.freeze().expect("wanted");
    assert!(frost.is_frozen() && frost.stands(frozen) && frost.freeze().is_none());
    assert!(frost.hold() && frost.stands(frozen) && !frost.is_frozen());
    assert!(!frost.thaw(frozen), "it is held");
    frost.let_go();
    assert!(!frost.stands(frozen) && frost.freeze().is_none());
    // The next attempt is not the last one.
    frost.want();
    assert!(!frost.stands(frozen) && !frost.thaw(frozen));
    let again = frost.freeze().expect("wanted again");
    assert!(frost.stands(again) && !frost.stands(frozen));
    assert!(frost.thaw(again) && !frost.hold() && !frost.stands(again));
}

#[test]
fn what_was_withdrawn_freezes_nobody() {
    let frost = Frost::new();
    frost.want();
    frost.let_go();
    assert!(frost.freeze().is_none());
}

#[test]
fn nobody_is_frozen_outside_of_sections_and_nobody_for_ever() {
    let (_port, _fabric, cores) = machine(2);
    frost(&cores[0]).want();
    stand(cores[1].shared(), B);
    assert!(!frost(&cores[0]).is_frozen());
    // Where it begins it stands, and gives up: nobody holds it.
    section(&cores[1], || {
        assert!(!frost(&cores[0]).hold());
        frost(&cores[0]).want();
        stand(cores[1].shared(), B);
        assert!(!frost(&cores[0]).hold());
    });
}

#[test]
fn an_attempt_at_a_core_that_does_not_come_ends_and_runs_nothing() {
    let (port, _fabric, cores) = machine(2);
    let accepting = cores[1].accept_interrupts().expect("a gate");
    section(&cores[1], || {
        let stood = attempt(&cores[0], &late(), FIRST_NS, |_| false, || unreachable!("it does not stand"));
        assert!(stood.is_none() && !is_closed());
        assert_eq!(port.interrupted(), [B]);
        // It comes after the end.
        arrive();
        port.refuses.store(true, Ordering::Relaxed);
        let stood = attempt(&cores[0], &late(), u64::MAX, |_| false, || unreachable!("refused"));
        assert!(stood.is_none() && frost(&cores[0]).freeze().is_none());
    });
    drop(accepting);
}

#[test]
fn who_has_answered_need_not_freeze() {
    let (_port, _fabric, cores) = machine(2);
    let stood = attempt(&cores[0], &late(), FIRST_NS, |core| core == B, is_closed).expect("it stands");
    assert!(stood.value && stood.frozen == 0 && !is_closed());
    let alone = attempt(&cores[0], &CoreSet::empty(), FIRST_NS, |_| false, || 7).expect("nobody is late");
    assert_eq!((alone.value, alone.frozen), (7, 0));
}
