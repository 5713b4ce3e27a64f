//! The seam for the atomics of a task's word: `core`'s, or with `--cfg loom` the model checker's.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};

/// What the models need besides.
#[cfg(all(loom, test))]
pub(crate) mod checker {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::model::Builder;
    pub(crate) use loom::sync::{Arc, Mutex, Notify};
    pub(crate) use loom::thread;
}

/// `true` while the model checker runs the mutant of this name: the step it guards is then left out, and a model must
/// fail. Always `false` in a normal build.
macro_rules! mutant {
    ($name:literal) => {{
        #[cfg(loom)]
        let on = $crate::sync::mutant_is($name);
        #[cfg(not(loom))]
        let on = false;
        on
    }};
}
pub(crate) use mutant;

/// `order`, or none at all under a mutant.
#[inline(always)]
pub(crate) const fn relaxed_if(mutant: bool, order: Ordering) -> Ordering {
    if mutant { Ordering::Relaxed } else { order }
}

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

#[cfg(loom)]
pub(crate) fn mutant_is(name: &str) -> bool {
    extern crate std;
    static NAME: std::sync::OnceLock<std::string::String> = std::sync::OnceLock::new();
    *NAME.get_or_init(|| std::env::var("IPIQ_MUTANT").unwrap_or_default()) == name
}
