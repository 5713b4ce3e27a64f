//! The fabric's port.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, OnceLock};

use ipiq_fabric::CoreId;
use ipiq_fabric::port::{Clock, FenceKind, Gate, Port};

use crate::clock::MonotonicClock;
use crate::interrupt::{self, Interrupts, Target};
use crate::kick::Kick;
use crate::membarrier::{Membarrier, Pinned};

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
    pinned: Vec<OnceLock<Pinned>>,
    /// By core; none without a signal.
    targets: Vec<Target>,
    signal: Option<c_int>,
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
        let (kickers, pinned) = (0..cores).map(|_| (OnceLock::new(), OnceLock::new())).unzip();
        let targets = (0..cores).map(|_| Target::default()).collect();
        Self { membarrier, kickers, pinned, targets, signal: None }
    }

    /// The port with interrupts: each core whose thread has [entered](crate::interrupt::CoreThread::enter) can be reached in the middle of a poll.
    #[must_use]
    pub fn with_interrupts(self, interrupts: &Interrupts) -> Self {
        Self { signal: Some(interrupts.signal()), ..self }
    }

    pub(crate) fn target(&self, core: CoreId) -> &Target {
        &self.targets[core.index()]
    }

    /// A port that knows the calling thread's slot and nothing else.
    #[must_use]
    #[inline]
    pub fn thread() -> &'static Self {
        static THREAD: LinuxPort =
            LinuxPort { membarrier: None, kickers: Vec::new(), pinned: Vec::new(), targets: Vec::new(), signal: None };
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

    /// Says that the thread of `core` is pinned, so that a fence of it alone disturbs no other CPU.
    ///
    /// # Panics
    ///
    /// If the port has no such core, or it has been said already.
    pub fn set_pinned(&self, core: CoreId, pinned: Pinned) {
        assert!(self.pinned[core.index()].set(pinned).is_ok(), "{core} is pinned already");
    }
}

// SAFETY: 1. the slot is a cell of the calling thread. 2. `membarrier(PRIVATE_EXPEDITED)` fences every running thread of the
// process before it returns. 3. the claim is of the thread that runs the core, and `try_heavy_on` fences that, or everyone. 4. a thread's gate is a
// thread-local variable without a destructor.
unsafe impl Port for LinuxPort {
    fn fence_kind(&self) -> FenceKind {
        if self.membarrier.is_some() { FenceKind::Asymmetric } else { FenceKind::Symmetric }
    }

    fn heavy_fence(&self) -> bool {
        self.membarrier.is_some_and(Membarrier::try_heavy)
    }

    fn heavy_fence_on(&self, target: CoreId) -> bool {
        let Some(membarrier) = self.membarrier else { return false };
        match self.pinned[target.index()].get() {
            Some(pinned) => membarrier.try_heavy_on(pinned),
            None => membarrier.try_heavy(),
        }
    }

    fn kick(&self, target: CoreId) {
        if let Some(kicker) = self.kickers[target.index()].get() {
            kicker.kick();
        }
    }

    fn interrupt(&self, target: CoreId) -> bool {
        self.signal.is_some_and(|signal| self.target(target).interrupt(signal))
    }

    fn gate(&self) -> *const Gate {
        interrupt::gate()
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
