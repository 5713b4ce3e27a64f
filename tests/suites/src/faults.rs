//! A machine with faults: what the fabric must put up with, done on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipiq_fabric::CoreId;
use ipiq_fabric::port::{FenceKind, Gate, Port};
use ipiq_linux::port::LinuxPort;

/// [`LinuxPort`], except for the faults that are asked for. Each counter says how many of them are still to come.
#[derive(Debug)]
pub struct FaultyPort {
    port: LinuxPort,
    /// Kicks to lose.
    pub lose_kicks: AtomicU32,
    /// Kicks that do not come before [`held`](Self::held) is 0, as when the kicker has lost its CPU.
    pub hold_kicks: AtomicU32,
    /// See [`hold_kicks`](Self::hold_kicks).
    pub held: AtomicU32,
    /// Heavy fences to refuse.
    pub refuse_fences: AtomicU32,
}

impl FaultyPort {
    /// `port` without faults yet.
    #[must_use]
    pub fn new(port: LinuxPort) -> Arc<Self> {
        Arc::new(Self {
            port,
            lose_kicks: AtomicU32::new(0),
            hold_kicks: AtomicU32::new(0),
            held: AtomicU32::new(0),
            refuse_fences: AtomicU32::new(0),
        })
    }

    /// The machine behind it.
    #[must_use]
    pub fn port(&self) -> &LinuxPort {
        &self.port
    }
}

/// Takes one fault, if one is left.
fn take(faults: &AtomicU32) -> bool {
    faults.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
}

// SAFETY: 1. the slot is `LinuxPort`'s. 2. and 3. a heavy fence that is not refused is `LinuxPort`'s. 4. gates are `LinuxPort`'s.
unsafe impl Port for FaultyPort {
    fn fence_kind(&self) -> FenceKind {
        self.port.fence_kind()
    }

    fn heavy_fence(&self) -> bool {
        !take(&self.refuse_fences) && self.port.heavy_fence()
    }

    fn heavy_fence_on(&self, target: CoreId) -> bool {
        !take(&self.refuse_fences) && self.port.heavy_fence_on(target)
    }

    fn entered(&self, core: CoreId) {
        self.port.entered(core);
    }

    fn kick(&self, target: CoreId) {
        if take(&self.lose_kicks) {
            return;
        }
        if take(&self.hold_kicks) {
            while self.held.load(Ordering::Acquire) > 0 {
                std::thread::yield_now();
            }
        }
        self.port.kick(target);
    }

    fn interrupt(&self, target: CoreId) -> bool {
        self.port.interrupt(target)
    }

    fn gate(&self) -> *const Gate {
        self.port.gate()
    }

    fn relax(&self, turn: u32) {
        self.port.relax(turn);
    }

    fn now_ns(&self) -> u64 {
        self.port.now_ns()
    }

    fn current(&self) -> *const () {
        self.port.current()
    }

    unsafe fn set_current(&self, slot: *const ()) {
        // SAFETY: 1. as required of the caller.
        unsafe { self.port.set_current(slot) };
    }
}
