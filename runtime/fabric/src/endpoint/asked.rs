//! Requests beside the rings.

use super::Core;
use crate::doorbell::Ask;

impl Core {
    /// [doorbell A2], for what every drain serves.
    #[inline(always)]
    pub(super) fn serve_asked(&self) {
        if self.own().doorbell.is_asked(Ask::IN_DRAINS) {
            self.serve_taken(Ask::IN_DRAINS);
        }
    }

    /// For a core that must run nothing else. Returns whether there was any.
    pub(crate) fn serve_shootdowns(&self) -> bool {
        let asked = self.own().doorbell.is_asked(Ask::Shootdown as u64);
        if asked {
            self.serve_taken(Ask::Shootdown as u64);
        }
        asked
    }

    #[cold]
    fn serve_taken(&self, what: u64) {
        let taken = self.own().doorbell.take_asked(what);
        if taken & Ask::Handlers as u64 != 0 {
            self.serve_handlers();
        }
        if taken & Ask::Shootdown as u64 != 0 {
            // shootdown
        }
    }
}
