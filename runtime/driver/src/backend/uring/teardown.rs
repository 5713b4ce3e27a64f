//! The end of a driver: nothing is freed that the kernel may still use.

use io_uring::{opcode, types};

use super::Uring;
use super::slot::Phase;
use crate::table::Key;

impl Drop for Uring {
    /// Cancels everything and waits until the kernel has answered. [op S8]
    fn drop(&mut self) {
        // A buffer's own drop may panic; what is still flying is leaked then.
        let this = Leak(self);
        while this.0.flying.borrow().len() > 0 {
            let all =
                opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build().user_data(Key::NONE.to_bits());
            // SAFETY: 1. and 2. a cancel names neither memory nor a descriptor.
            unsafe { this.0.push(all) };
            if this.0.sleep(None).is_err() {
                return;
            }
        }
    }
}

/// Keeps buffers and descriptors of unanswered operations for ever rather than free them.
struct Leak<'a>(&'a mut Uring);

impl Drop for Leak<'_> {
    fn drop(&mut self) {
        for slot in self.0.flying.get_mut().drain() {
            debug_assert!(slot.phase.get() != Phase::Idle);
            std::mem::forget(slot);
        }
    }
}
