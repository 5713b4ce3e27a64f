//! Requests beside the rings.

use super::send::MAX_NESTING;
use super::{Core, WAIT_BUDGET};
use crate::doorbell::Ask;
use crate::shootdown::Lane;
use crate::sync::mutant;

impl Core {
    /// [doorbell A2], for what every drain serves. Returns whether there was any.
    #[inline(always)]
    pub(crate) fn serve_asked(&self) -> bool {
        if mutant!("replica-in-drains") && self.own().doorbell.take_asked(Ask::Update as u64) != 0 {
            self.serve_updates();
        }
        let asked = self.own().doorbell.is_asked(Ask::IN_DRAINS);
        if asked {
            self.serve_taken(Ask::IN_DRAINS);
        }
        asked
    }

    /// For a core that must run nothing else, but what interrupts it anyway. Returns whether there was any.
    pub(crate) fn serve_shootdowns_alone(&self) -> bool {
        let asked = self.own().doorbell.is_asked(Ask::STANDING_STILL);
        if asked {
            self.serve_taken(Ask::STANDING_STILL);
        }
        asked
    }

    #[cold]
    fn serve_taken(&self, what: u64) {
        let taken = self.own().doorbell.take_asked(what);
        if taken & Ask::Urgent as u64 != 0 {
            self.look_for_urgent();
        }
        if taken & Ask::Handlers as u64 != 0 {
            self.serve_handlers();
        }
        if taken & Ask::Answers as u64 != 0 {
            self.take_urgent_answers();
        }
        if taken & Ask::Shootdown as u64 != 0 {
            self.serve_shootdowns(Lane::InDrains);
        }
        if taken & Ask::Prompt as u64 != 0 {
            self.serve_shootdowns(Lane::Prompt);
        }
    }

    /// One turn of a wait: flushes, serves what was asked for and *runs messages*; at the depth where sends no longer wait, no
    /// messages. Returns how much there was.
    pub(crate) fn serve_one_turn(&self) -> usize {
        let moved = self.flush();
        if self.nesting() < MAX_NESTING {
            return moved + self.drain_all(WAIT_BUDGET);
        }
        self.serve_asked();
        moved
    }
}
