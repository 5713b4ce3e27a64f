//! The lead's side.

use super::Patience;
use crate::fabric::Shared;
use crate::sync::mutant;
use crate::urgent::trigger_freeze;
use crate::urgent_call::uninterrupted_by_panics;
use crate::{Core, CoreId, CoreSet};

/// What came of an attempt that succeeded.
pub(crate) struct Stood<R> {
    pub(crate) value: R,
    /// How many cores were frozen.
    pub(crate) frozen: usize,
    /// How long the body, and letting go, took.
    pub(crate) stood_ns: u64,
}

/// L1 to L5, on the lead `core`: runs `body` while the cores of `late` stand still, each frozen, or because it `has_answered`. `None`: they do not, and it has not run.
pub(crate) fn attempt<R>(
    core: &Core,
    late: &CoreSet,
    lasts_ns: u64,
    has_answered: impl Fn(CoreId) -> bool,
    body: impl FnOnce() -> R,
) -> Option<Stood<R>> {
    // A clock may make itself ready at its first look, which must not be when somebody is frozen.
    let patience = Patience::new(core.port(), lasts_ns);
    let run = || {
        let attempt = Attempt { shared: core.shared(), late: *late };
        let frozen = attempt.freeze(&patience, has_answered)?;
        let stands_ns = patience.so_far_ns();
        // [freeze L4]
        let value = uninterrupted_by_panics(body);
        drop(attempt);
        Some(Stood { value, frozen, stood_ns: patience.so_far_ns().saturating_sub(stands_ns) })
    };
    // [freeze L1]
    match core.gate() {
        Some(gate) => gate.critical(run),
        None => run(),
    }
}

/// From L2 on; dropped, L5.
struct Attempt<'a> {
    shared: &'a Shared,
    late: CoreSet,
}

impl Attempt<'_> {
    /// L2 to L4. Returns how many are frozen, and held.
    fn freeze(&self, patience: &Patience<'_>, has_answered: impl Fn(CoreId) -> bool) -> Option<usize> {
        let frost = |core| &self.shared.core(core).frost;
        self.late.iter().for_each(|core| frost(core).want());
        // [freeze L2]
        if !self.late.iter().all(|core| trigger_freeze(self.shared, core)) {
            return None;
        }
        let (mut moving, mut held) = (self.late, CoreSet::empty());
        let mut turn = 0;
        loop {
            for core in moving.iter() {
                // [freeze L3]
                if has_answered(core) {
                    moving.remove(core);
                } else if frost(core).is_frozen() {
                    moving.remove(core);
                    held.insert(core);
                }
            }
            if moving.is_empty() {
                // [freeze L4]
                return held.iter().all(|core| frost(core).hold()).then(|| held.len());
            }
            if patience.is_over(turn) {
                return None;
            }
            patience.port.relax(turn);
            turn = turn.saturating_add(1);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if mutant!("freeze-kept") {
            return;
        }
        // [freeze L5]
        self.late.iter().for_each(|core| self.shared.core(core).frost.let_go());
    }
}
