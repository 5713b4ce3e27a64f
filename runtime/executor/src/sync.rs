//! The seam for the atomics of a task's word: `core`'s, or with `--cfg loom` the model checker's.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};

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
