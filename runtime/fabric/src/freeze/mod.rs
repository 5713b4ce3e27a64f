#![doc = include_str!("README.md")]

mod attempt;
mod frost;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::CoreId;
use crate::fabric::Shared;
use crate::port::Port;
use crate::sync::mutant;

pub(crate) use attempt::{Stood, attempt};
pub(crate) use frost::Frost;

/// How long the first attempt may last.
pub(crate) const FIRST_NS: u64 = 1_000_000;
/// How long any may.
pub(crate) const LAST_NS: u64 = 100_000_000;
/// How long a target is frozen without being held: longer than any attempt lasts on a lead that has its CPU.
const PATIENCE_NS: u64 = 250_000_000;

/// Turns of a wait between two looks at the clock.
const LOOK_TURNS: u32 = if cfg!(loom) { 1 } else { 8 };
/// Turns that a wait has on a machine without a clock.
const MOST_TURNS: u32 = if cfg!(loom) { 4 } else { 1 << 20 };

/// How long one waits.
struct Patience<'a> {
    port: &'a dyn Port,
    began_ns: u64,
    lasts_ns: u64,
}

impl<'a> Patience<'a> {
    fn new(port: &'a dyn Port, lasts_ns: u64) -> Self {
        Self { port, began_ns: port.now_ns(), lasts_ns }
    }

    fn so_far_ns(&self) -> u64 {
        self.port.now_ns().saturating_sub(self.began_ns)
    }

    fn is_over(&self, turn: u32) -> bool {
        turn >= MOST_TURNS || turn % LOOK_TURNS == LOOK_TURNS - 1 && self.so_far_ns() >= self.lasts_ns
    }
}

/// F1 to F3, on `core`'s thread, with its gate closed. Allocates, locks and frees nothing.
pub(crate) fn stand(shared: &Shared, core: CoreId) {
    let own = shared.core(core);
    // [freeze F1]
    if !own.doorbell.section.is_preemptible() && !mutant!("freeze-outside") {
        return;
    }
    // [freeze F2]
    let Some(frozen) = own.frost.freeze() else { return };
    let patience = Patience::new(&*shared.port, PATIENCE_NS);
    let mut turn = 0;
    // [freeze F3]
    while own.frost.stands(frozen) {
        if patience.is_over(turn) && own.frost.thaw(frozen) {
            return;
        }
        shared.port.relax(turn);
        turn = turn.saturating_add(1);
    }
}
