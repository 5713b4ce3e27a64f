//! The target's side: the own row.

use super::board::Code;
use super::{Lane, ShootdownError};
use crate::doorbell::Rung;
use crate::fabric;
use crate::sync::mutant;
use crate::unwind::contain;
use crate::{Core, CoreId};

impl fabric::Shared {
    /// [preemptible Q3] and [preemptible Q4], of one slot, in an interrupt of `core`.
    pub(crate) fn acknowledge_in_section(&self, lane: Lane, core: CoreId, initiator: CoreId) {
        let board = &self.boards[lane as usize];
        let Some(body) = board.take(core, initiator) else { return };
        let early = mutant!("preemptible-acknowledge-first").then(|| board.acknowledge(core, initiator, &body));
        match (lane, body.in_section) {
            // [preemptible Q3] rounds alone are on this lane.
            (Lane::AtSafePoints, _) => self.core(core).doorbell.section.owe(),
            // [preemptible Q4]
            // SAFETY: 1. it lives as long as its operation, which the initiator keeps while a slot is pending.
            (_, Some(prompt)) => unsafe { prompt.as_ref() }.acknowledge(core),
            (_, None) => return,
        }
        let last = early.unwrap_or_else(|| board.acknowledge(core, initiator, &body));
        if last && self.core(initiator).doorbell.ask(lane.ask()) == Rung::Kick {
            // [shootdown T5]
            self.port.kick(initiator);
        }
    }
}

impl Core {
    /// [shootdown T1] to [shootdown T5], after the lane's bit was taken; then whatever the own flights wait for.
    #[cold]
    pub(crate) fn serve_shootdowns(&self, lane: Lane) {
        let (cores, own) = (self.cores(), self.id().index());
        // [shootdown T1]
        for step in 0..cores {
            self.serve_column(lane, CoreId::new((own + step) % cores));
        }
        self.pump_shootdowns(lane);
    }

    fn serve_column(&self, lane: Lane, initiator: CoreId) {
        let board = &self.shared.boards[lane as usize];
        let mine = self.shootdowns.lane(lane);
        let mut taken = mine.taken.get();
        if taken.contains(initiator) {
            return;
        }
        // [shootdown T2]
        let Some(body) = board.take(self.id(), initiator) else { return };
        match body.code {
            Code::Early(op) => {
                // [shootdown T3]
                let last = board.acknowledge(self.id(), initiator, &body);
                self.answer_initiator(lane, initiator, last);
                // [shootdown T3]
                contain(|| drop(self.operate(|| op.execute(self))));
            }
            Code::Late(op) => {
                if mutant!("shootdown-late-is-early") {
                    let last = board.acknowledge(self.id(), initiator, &body);
                    self.answer_initiator(lane, initiator, last);
                }
                // [shootdown T4]
                taken.insert(initiator);
                mine.taken.set(taken);
                // SAFETY: 1. the slot was pending, and it is acknowledged below only.
                if let Err(payload) = self.operate(|| unsafe { op.execute(self) }) {
                    board.fail(initiator, ShootdownError::panicked(self.id(), payload));
                }
                let mut taken = mine.taken.get();
                taken.remove(initiator);
                mine.taken.set(taken);
                if !mutant!("shootdown-late-is-early") {
                    let last = board.acknowledge(self.id(), initiator, &body);
                    self.answer_initiator(lane, initiator, last);
                }
            }
        }
    }

    fn answer_initiator(&self, lane: Lane, initiator: CoreId, last: bool) {
        if last && !mutant!("shootdown-no-wake") {
            // [shootdown T5]
            self.ask(lane, initiator);
        }
    }
}
