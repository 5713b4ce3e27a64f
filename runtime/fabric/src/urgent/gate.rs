//! The gate of a thread: what holds its interrupts off.

use core::marker::PhantomData;
use core::ptr;

use super::serve;
use crate::CoreId;
use crate::fabric::Shared;
use crate::sync::{AtomicBool, AtomicPtr, AtomicU32, Ordering, compiler_fence, edge, mutant};

/// Holds the interrupts of one thread off, and knows which core runs there.
///
/// A machine with interrupts keeps one per thread, in memory that is there before the first interrupt. Only its thread and
/// what interrupts that touch it: hence plain loads and stores, and fences for the compiler alone.
#[derive(Debug)]
pub struct Gate {
    depth: AtomicU32,
    missed: AtomicBool,
    /// Null unless a core accepts interrupts here.
    target: AtomicPtr<Shared>,
    core: AtomicU32,
    one_thread: PhantomData<*const ()>,
}

macro_rules! make_new {
    ($($fn:tt)+) => {
        /// An open gate to no core.
        #[must_use]
        #[allow(clippy::new_without_default, reason = "made in place, once per thread")]
        pub $($fn)+ new() -> Self {
            Self {
                depth: AtomicU32::new(0),
                missed: AtomicBool::new(false),
                target: AtomicPtr::new(ptr::null_mut()),
                core: AtomicU32::new(0),
                one_thread: PhantomData,
            }
        }
    };
}

impl Gate {
    #[cfg(not(loom))]
    make_new!(const fn);
    #[cfg(loom)]
    make_new!(fn);

    /// Runs `f` with the thread's interrupts held off; what came meanwhile runs at the end of the outermost such section, also if `f` panics.
    #[inline(always)]
    pub fn critical<R>(&self, f: impl FnOnce() -> R) -> R {
        let _closed = self.close();
        // [urgent C2]
        f()
    }

    /// The thread was interrupted, by whatever: called by the machine, on the thread, at any instruction. Runs what is pending, unless the gate is
    /// closed or no core accepts interrupts here.
    ///
    /// Allocates nothing, takes no lock, and does not panic.
    pub fn arrive(&self) {
        let target = self.target.load(Ordering::Relaxed);
        if target.is_null() {
            return;
        }
        // SAFETY: 1. a target is the fabric of a core that accepts interrupts on this thread: it clears it before it lets go of the fabric. 2. the
        // reference ends with this call, which comes between two instructions of that core.
        let shared = unsafe { &*target };
        serve::arrive(shared, CoreId::new(self.core.load(Ordering::Relaxed) as usize), Some(self));
    }

    /// Whether a critical section or a round is on the thread's stack.
    #[must_use]
    #[inline(always)]
    pub fn is_closed(&self) -> bool {
        self.depth.load(Ordering::Relaxed) > 0
    }

    /// The core of `shared` that accepts interrupts here.
    pub(super) fn core_of(&self, shared: *const Shared) -> Option<CoreId> {
        let is_own = ptr::eq(self.target.load(Ordering::Relaxed), shared);
        is_own.then(|| CoreId::new(self.core.load(Ordering::Relaxed) as usize))
    }

    /// [urgent I1]
    pub(super) fn miss(&self) {
        if !mutant!("urgent-missed-unset") {
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn close(&self) -> Closed<'_> {
        self.raise();
        Closed(self)
    }

    /// C1.
    #[inline(always)]
    pub(super) fn raise(&self) {
        // [urgent C1] an interrupt between load and store leaves the depth as it finds it.
        self.depth.store(self.depth.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // What follows stays behind it; the interrupt is on the same thread, so the instruction is not needed.
        compiler_fence(Ordering::SeqCst);
        edge();
    }

    /// C3, and C4's check: `true` says that an interrupt was missed, and perhaps that it may be served now.
    #[inline(always)]
    fn lower(&self) -> bool {
        let missed_before = mutant!("urgent-check-first") && self.missed.load(Ordering::Relaxed);
        edge();
        compiler_fence(Ordering::SeqCst);
        // [urgent C3]
        self.depth.store(self.depth.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        edge();
        if mutant!("urgent-check-first") {
            return missed_before;
        }
        // [urgent C4] after C3: an interrupt from here on finds the gate open.
        self.missed.load(Ordering::Relaxed) && !mutant!("urgent-open-no-check")
    }

    /// Ends a round. `true`: another one is owed.
    pub(super) fn open(&self) -> bool {
        self.lower() && self.take_missed()
    }

    /// C4: `true` if the gate is open and a round is owed, which the caller makes.
    fn take_missed(&self) -> bool {
        let owed = !self.is_closed();
        if owed {
            self.missed.store(false, Ordering::Relaxed);
        }
        owed
    }

    /// [urgent A1] From here on interrupts reach `core` of `shared`. `false`: another core has entered.
    pub(super) fn enter(&self, shared: *const Shared, core: CoreId) -> bool {
        if !self.target.load(Ordering::Relaxed).is_null() {
            return false;
        }
        self.core.store(core.index() as u32, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // [urgent A1]
        self.target.store(shared.cast_mut(), Ordering::Relaxed);
        true
    }

    /// [urgent A1] From here on interrupts do not reach `core` of `shared`.
    pub(super) fn leave(&self, shared: *const Shared, core: CoreId) {
        if self.core_of(shared) == Some(core) {
            // [urgent A1]
            self.target.store(ptr::null_mut(), Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
        }
    }
}

/// A closed gate, until it is dropped.
struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.0.lower() {
            serve_missed(self.0);
        }
    }
}

#[cold]
#[inline(never)]
fn serve_missed(gate: &Gate) {
    if gate.take_missed() {
        gate.arrive();
    }
}
