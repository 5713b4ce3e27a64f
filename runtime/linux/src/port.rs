//! The fabric's port.

use std::cell::Cell;
use std::ptr;
use std::sync::{Arc, OnceLock};

use ipiq_fabric::CoreId;
use ipiq_fabric::port::{Clock, FenceKind, Port};

use crate::clock::MonotonicClock;
use crate::kick::Kick;
use crate::membarrier::Membarrier;

thread_local! {
    /// No destructor and no lazy initialisation: a plain load, at any time of the thread's life.
    static CURRENT: Cell<*const ()> = const { Cell::new(ptr::null()) };
}

/// Turns of a wait loop before the CPU is given away.
const PAUSES: u32 = 64;

/// Which fences to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FenceChoice {
    /// `membarrier` where the kernel grants it, fences on both sides elsewhere.
    #[default]
    Auto,
    /// Fences on both sides.
    Symmetric,
}

/// Linux threads as cores.
pub struct LinuxPort {
    membarrier: Option<Membarrier>,
    kickers: Vec<OnceLock<Arc<dyn Kick>>>,
}

impl std::fmt::Debug for LinuxPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinuxPort").field("fence", &self.fence_kind()).field("cores", &self.kickers.len()).finish()
    }
}

impl LinuxPort {
    /// A port for `cores` cores. Registers `membarrier` if it is to be used: make it before the process has threads.
    #[must_use]
    pub fn new(cores: usize, fence: FenceChoice) -> Self {
        let membarrier = match fence {
            FenceChoice::Auto => Membarrier::register().ok(),
            FenceChoice::Symmetric => None,
        };
        Self { membarrier, kickers: (0..cores).map(|_| OnceLock::new()).collect() }
    }

    /// A port that knows the calling thread's slot and nothing else.
    #[must_use]
    #[inline]
    pub fn thread() -> &'static Self {
        static THREAD: LinuxPort = LinuxPort { membarrier: None, kickers: Vec::new() };
        &THREAD
    }

    /// Says how to end the sleeps of `core`. Kicks before this are lost: call it before the core first parks.
    ///
    /// # Panics
    ///
    /// If the port has no such core, or it has a kicker already.
    pub fn set_kicker(&self, core: CoreId, kicker: Arc<dyn Kick>) {
        assert!(self.kickers[core.index()].set(kicker).is_ok(), "{core} has a kicker already");
    }
}

// SAFETY: 1. the slot is a cell of the calling thread. 2. `membarrier(PRIVATE_EXPEDITED)` fences every running thread of the
// process before it returns.
unsafe impl Port for LinuxPort {
    fn fence_kind(&self) -> FenceKind {
        if self.membarrier.is_some() { FenceKind::Asymmetric } else { FenceKind::Symmetric }
    }

    fn heavy_fence(&self) -> bool {
        self.membarrier.is_some_and(Membarrier::try_heavy)
    }

    fn kick(&self, target: CoreId) {
        if let Some(kicker) = self.kickers[target.index()].get() {
            kicker.kick();
        }
    }

    fn relax(&self, turn: u32) {
        if turn < PAUSES {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }

    fn now_ns(&self) -> u64 {
        MonotonicClock.now_ns()
    }

    #[inline]
    fn current(&self) -> *const () {
        CURRENT.get()
    }

    unsafe fn set_current(&self, slot: *const ()) {
        CURRENT.set(slot);
    }
}
