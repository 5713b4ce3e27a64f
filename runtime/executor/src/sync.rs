//! The seam for the atomics of a task's word and of a probe: `core`'s, or with `--cfg loom` the model checker's.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The model checker's cell, as far as it is needed.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// What the models need besides.
#[cfg(all(loom, test))]
pub(crate) mod checker {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::{Arc, Mutex, Notify};
    pub(crate) use loom::thread;
}

pub(crate) use ipiq_fabric::model_check::{mutant, relaxed_if};

/// Acquire and release, or only one of them under a mutant.
#[inline(always)]
pub(crate) const fn acq_rel_unless(no_acquire: bool, no_release: bool) -> Ordering {
    match (no_acquire, no_release) {
        (false, false) => Ordering::AcqRel,
        (true, false) => Ordering::Release,
        (false, true) => Ordering::Acquire,
        (true, true) => Ordering::Relaxed,
    }
}
