//! Requests beside the rings.

use super::Core;
use crate::doorbell::Ask;

impl Core {
    /// [doorbell A2], for what every drain serves.
    #[inline(always)]
    pub(super) fn serve_asked(&self) {
        if self.own().doorbell.is_asked(Ask::IN_DRAINS) {
            self.serve_taken();
        }
    }

    #[cold]
    fn serve_taken(&self) {
        let taken = self.own().doorbell.take_asked(Ask::IN_DRAINS);
        if taken & Ask::Handlers as u64 != 0 {
            self.serve_handlers();
        }
        if taken & Ask::Shootdown as u64 != 0 {
            // shootdown
        }
    }
}
