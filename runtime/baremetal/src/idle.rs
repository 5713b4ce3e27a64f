//! Sleep without an operating system.

use ipiq_fabric::Armed;
use ipiq_fabric::port::Idle;

/// Sleeps in `hlt` until an interrupt comes: a kick, or the machine's timer.
#[derive(Debug)]
pub struct HaltIdle(());

impl HaltIdle {
    /// The calling core's sleep.
    ///
    /// # Safety
    ///
    /// 1. The core runs at the highest privilege with interrupts off, and every vector that may come has a handler. 2. If timers are used,
    ///    an interrupt comes at least as often as they are to be looked at: a timeout alone ends no sleep.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl Idle for HaltIdle {
    fn poll(&mut self) -> usize {
        0
    }

    fn park(&mut self, armed: &Armed<'_>, timeout_ns: Option<u64>) {
        if armed.is_kicked() || timeout_ns == Some(0) {
            return;
        }
        // SAFETY: 1. `new`: privilege and handlers. 2. `sti` takes effect after the next instruction, so an interrupt that is pending
        // already ends the `hlt`. 3. the stack is not used across it: interrupts push on it, hence no `nostack`.
        unsafe { core::arch::asm!("sti", "hlt", "cli") };
    }
}
