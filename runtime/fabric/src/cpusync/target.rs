//! A target's side.

use crate::cpusync::board::{Kind, Order};
use crate::sync::{edge, mutant};
use crate::watch::WaitKind;
use crate::{Core, catch};

impl Core {
    /// [cpusync C1] to [cpusync C6], at a safe point: stands still for as long as a stop wants it. `answered` runs after the first answer, if
    /// there is one; what a lead orders before it takes this core's bit is seen then.
    pub(crate) fn obey(&self, answered: impl FnOnce()) {
        let board = &self.shared().cpusync.board;
        let answer = &self.own().answer;
        let mut known = answer.last();
        let let_go = matches!(known.kind(), Kind::Go | Kind::Idle);
        let first = board.look();
        if first.kind() == Kind::Idle || let_go && first == known {
            // Its own request, or a late one of a stop that is over, or that this core left with `GO`.
            return;
        }
        let mut answered = Some(answered);
        let mut waiting = self.wait_for(board.lead(), WaitKind::Cpusync);
        // Done anything since the last answer? A message may have unwound the stop.
        let mut any = !let_go;
        loop {
            edge();
            // [cpusync C1]
            let order = board.look();
            match order.kind() {
                Kind::Idle => return,
                // It has been let go with the order.
                Kind::Go if order == known => return,
                // [cpusync C4]
                Kind::Serve | Kind::Drain if order == known => {
                    let served = self.serve_while_stopped();
                    any |= served;
                    waiting.turn(served);
                    continue;
                }
                // [cpusync C3]
                kind if kind == Kind::Change || order == known => {
                    waiting.turn(self.serve_shootdowns_alone());
                    continue;
                }
                _ => {}
            }
            // [cpusync C2]
            match board.is_for(order, self.id()) {
                None => continue,
                Some(false) => return,
                Some(true) => {}
            }
            let serves = matches!(order.kind(), Kind::Serve | Kind::Drain);
            match order.kind() {
                Kind::Drain => any |= self.drain_posted() | self.serve_while_stopped(),
                Kind::Serve => any |= self.serve_while_stopped(),
                Kind::Run | Kind::Go => self.do_job(order),
                // [cpusync C3]
                Kind::Hold | Kind::Idle | Kind::Change => {}
            }
            answer.give(order, any || serves && self.has_overflow_to(|other| board.concerns(other)));
            (known, any) = (order, false);
            if let Some(answered) = answered.take() {
                // [cpusync C7]
                answered();
                if order.kind() == Kind::Go && mutant!("cpusync-taken-unlooked") {
                    return;
                }
            } else if order.kind() == Kind::Go {
                return;
            }
        }
    }

    /// [cpusync C5], without the answer.
    fn do_job(&self, order: Order) {
        let answer = &self.own().answer;
        if mutant!("cpusync-answer-early") {
            answer.give(order, false);
        }
        // SAFETY: 1. C2 found this core in the set, and the answer comes after this function.
        let job = unsafe { self.shared().cpusync.board.job() };
        // [cpusync C5]
        // SAFETY: 1. as above: the lead waits for the answer.
        if let Err(payload) = catch(|| job.into_iter().for_each(|job| unsafe { job.run(self) })) {
            // SAFETY: 1. as above.
            unsafe { answer.set_panic(payload) };
        }
    }

    /// Runs messages, not tasks. Returns whether there was anything.
    pub(super) fn serve_while_stopped(&self) -> bool {
        // What a handler sends must be looked for, as what a message sends; also that of one which was asked for only now.
        let asked = self.serve_asked() && !mutant!("cpusync-handlers-uncounted");
        // [cpusync C4] before the rings: what a message of theirs adds is counted with it.
        let too = self.cpusync.too.get().is_some_and(|serve| serve(self));
        self.drain_rings(WHILE_STOPPED) + self.flush() > 0 || asked || too
    }

    /// What foreign threads have posted by now.
    pub(super) fn drain_posted(&self) -> bool {
        let posted = u32::try_from(self.own().injector.len()).unwrap_or(u32::MAX);
        self.drain_foreign(posted) > 0
    }
}

/// Messages of one source per look, while stopped.
const WHILE_STOPPED: u32 = 64;
