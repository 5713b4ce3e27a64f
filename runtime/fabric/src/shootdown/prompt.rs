//! Operations that a core in a [section](crate::preemptible) acknowledges, and what it does there.

use alloc::sync::Arc as StdArc;

use super::Operation;
use crate::preemptible::Notes;
use crate::urgent::InterruptSafe;
use crate::urgent_call::uninterrupted_by_panics;
use crate::{Core, CoreId};

/// What a prompt operation does in a section.
///
/// It runs in an interrupt: it allocates, frees and locks nothing.
pub(crate) trait InSection: Sync {
    /// [preemptible Q4], on `core`.
    fn acknowledge(&self, core: CoreId);
}

/// An operation in whose place a core's note is set.
pub(super) struct Noting<O> {
    pub(super) op: O,
    pub(super) notes: StdArc<Notes>,
}

impl<O: Operation> Operation for Noting<O> {
    fn prepare(&mut self, initiator: &Core) {
        self.op.prepare(initiator);
    }

    fn execute(&self, core: &Core) {
        self.op.execute(core);
    }
}

impl<O: Operation> InSection for Noting<O> {
    fn acknowledge(&self, core: CoreId) {
        self.notes.set(core);
    }
}

/// An operation that may interrupt what it likes.
pub(super) struct Interrupting<F>(pub(super) InterruptSafe<F>);

impl<F: Fn(CoreId) + Send + Sync> Operation for Interrupting<F> {
    fn execute(&self, core: &Core) {
        // As in an interrupt: urgent handlers come after it.
        let run = || self.acknowledge(core.id());
        core.gate().map_or_else(run, |gate| gate.critical(run));
    }
}

impl<F: Fn(CoreId) + Send + Sync> InSection for Interrupting<F> {
    fn acknowledge(&self, core: CoreId) {
        uninterrupted_by_panics(|| self.0.get()(core));
    }
}
