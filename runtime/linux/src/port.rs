//! The fabric's port.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering, fence};
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

/// In place of a thread's id: the core has had several.
const SEVERAL: libc::pid_t = -1;

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
    /// By core, the thread that has entered it; 0: none yet.
    threads: Vec<AtomicI32>,
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
        let threads = (0..cores).map(|_| AtomicI32::new(0)).collect();
        let targets = (0..cores).map(|_| Target::default()).collect();
        Self { membarrier, kickers, pinned, threads, targets, signal: None }
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
        static THREAD: LinuxPort = LinuxPort {
            membarrier: None,
            kickers: Vec::new(),
            pinned: Vec::new(),
            threads: Vec::new(),
            targets: Vec::new(),
            signal: None,
        };
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

    /// Says that the thread of `core` is pinned, so that a fence of it alone disturbs no other CPU. A claim of another thread than the one that has entered `core` is
    /// believed by nobody: then the fence is everyone's.
    ///
    /// # Panics
    ///
    /// If the port has no such core, or it has been said already.
    pub fn set_pinned(&self, core: CoreId, pinned: Pinned) {
        assert!(self.pinned[core.index()].set(pinned).is_ok(), "{core} is pinned already");
    }

    /// The claim of the one thread that runs `core`, if there is one.
    fn pinned(&self, core: CoreId) -> Option<&Pinned> {
        let pinned = self.pinned[core.index()].get()?;
        // [membarrier O4] pairs with P2's fence: who is not seen here has executed it since.
        fence(Ordering::SeqCst);
        let thread = self.threads[core.index()].load(Ordering::Relaxed);
        (thread == pinned.thread()).then_some(pinned)
    }
}

// SAFETY: 1. the slot is a cell of the calling thread. 2. `membarrier(PRIVATE_EXPEDITED)` fences every running thread of the
// process before it returns. 3. `pinned` has compared the claim's thread with the one that entered the core, and `try_heavy_on` fences that, or everyone. 4. a thread's gate is a
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
        match self.pinned(target) {
            Some(pinned) => membarrier.try_heavy_on(pinned),
            None => membarrier.try_heavy(),
        }
    }

    fn entered(&self, core: CoreId) {
        // SAFETY: 1. a question without pointers.
        let thread = unsafe { libc::gettid() };
        let entered = &self.threads[core.index()];
        // [membarrier P2] relaxed: the fence below orders it.
        let first = entered.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|other| other != thread) {
            // The core of another fabric on this port, or one that has come back: a claim is of one of the two threads.
            entered.store(SEVERAL, Ordering::Relaxed);
        }
        // [membarrier P2]
        fence(Ordering::SeqCst);
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
