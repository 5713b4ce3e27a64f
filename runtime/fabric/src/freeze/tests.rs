//! What can be said on one thread, where nobody comes to let a frozen core go.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use super::*;
use crate::cpusync::CpuSync;
use crate::port::{Clock, FenceKind, InterruptSafe};
use crate::urgent::tests::{arrive, is_closed, machine};
use crate::{Config, Core, CoreSet, Fabric, Seat};

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

/// A machine that refuses every interrupt, and where a turn of a wait takes `turn_ns`.
struct Slow {
    now_ns: AtomicU64,
    turn_ns: u64,
    refused_ns: Mutex<Vec<u64>>,
}

// SAFETY: 1. the slot is always null, and nobody sets it. 2. the fence kind is symmetric: the heavy fence is never used. 3. and 4. the defaults.
unsafe impl Port for Slow {
    fn fence_kind(&self) -> FenceKind {
        FenceKind::Symmetric
    }
    fn heavy_fence(&self) -> bool {
        unreachable!("symmetric")
    }
    fn kick(&self, _target: CoreId) {}
    fn interrupt(&self, _target: CoreId) -> bool {
        self.refused_ns.lock().expect("not poisoned").push(Port::now_ns(self));
        false
    }
    fn relax(&self, _turn: u32) {
        self.now_ns.fetch_add(self.turn_ns, Ordering::Relaxed);
    }
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }
    fn current(&self) -> *const () {
        core::ptr::null()
    }
    unsafe fn set_current(&self, _slot: *const ()) {}
}

impl Clock for Slow {
    fn now_ns(&self) -> u64 {
        Port::now_ns(self)
    }
}

#[test]
fn sections_go_on_for_as_long_as_an_attempt_lasts_however_long_a_turn_takes() {
    for turn_ns in [1_000, 20_000, 3_000_000] {
        let port = Arc::new(Slow { now_ns: AtomicU64::new(1), turn_ns, refused_ns: Mutex::default() });
        let (_fabric, seats) =
            Fabric::new(Config { cores: 2, ..Config::default() }, port.clone()).expect("a configuration");
        let cores: Vec<Core> = seats.into_iter().map(Seat::enter).collect();
        let clock = port.clone();
        cores[0].lead(move |lead| {
            let deadline_ns = Some(1_000_000_000);
            let plan = CpuSync { set: late(), each: None, drain: false, deadline_ns, clock: &*clock };
            // SAFETY: 1. to 5. it does nothing.
            let body = unsafe { InterruptSafe::new(|_| ()) };
            assert!(lead.prompt(&plan, &body).expect_err("nobody can be frozen").is_timeout());
        });
        section(&cores[1], || {
            // SAFETY: 1. and 2. the test itself is the loop of this one too, and is not inside a read.
            unsafe { cores[0].safe_point() };
        });
        let refused = port.refused_ns.lock().expect("not poisoned");
        assert!(refused.len() > 10, "{} attempts", refused.len());
        let mut lasts_ns = FIRST_NS;
        for pair in refused.windows(2) {
            let rested_ns = pair[1] - pair[0];
            assert!((lasts_ns..lasts_ns + 4 * turn_ns).contains(&rested_ns), "{rested_ns} after {lasts_ns}");
            lasts_ns = LAST_NS.min(lasts_ns * 2);
        }
    }
}
