//! The seam for atomics: the only module of this crate that names the machine's atomics or the model checker's.
//!
//! Built with `--cfg loom`, every shared word of the protocols is one of loom's; otherwise `core`'s.

#[cfg(not(loom))]
mod machine {
    pub(crate) use alloc::sync::Arc;
    pub(crate) use atomic_waker::AtomicWaker;
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
    pub(crate) use crossbeam_queue::SegQueue as Injector;

    /// `core`'s cell behind the model checker's interface.
    pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod machine {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

    /// The model checker reorders memory itself; the compiler's part is void there.
    pub(crate) fn compiler_fence(_order: Ordering) {}

    /// One waker that any thread may use and one at a time replaces: a wake that misses it comes before what its owner reads next.
    pub(crate) struct AtomicWaker(loom::sync::Mutex<Option<core::task::Waker>>);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Mutex::new(None))
        }

        pub(crate) fn register(&self, waker: &core::task::Waker) {
            *self.0.lock().expect("not poisoned") = Some(waker.clone());
        }

        pub(crate) fn wake(&self) {
            let waker = self.0.lock().expect("not poisoned").take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// An unbounded queue from any thread, as weak as its callers may assume: a look may miss a push that nothing orders before it.
    pub(crate) struct Injector<T> {
        items: loom::sync::Mutex<alloc::collections::VecDeque<T>>,
        len: AtomicU32,
    }

    impl<T> Injector<T> {
        pub(crate) fn new() -> Self {
            Self { items: loom::sync::Mutex::default(), len: AtomicU32::new(0) }
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len.load(Ordering::Relaxed) == 0
        }

        pub(crate) fn len(&self) -> usize {
            self.len.load(Ordering::Relaxed) as usize
        }

        pub(crate) fn push(&self, item: T) {
            self.items.lock().expect("not poisoned").push_back(item);
            self.len.fetch_add(1, Ordering::Release);
        }

        pub(crate) fn pop(&self) -> Option<T> {
            if self.is_empty() {
                return None;
            }
            let item = self.items.lock().expect("not poisoned").pop_front();
            if item.is_some() {
                self.len.fetch_sub(1, Ordering::Release);
            }
            item
        }
    }
}

/// The model checker, for the models.
#[cfg(loom)]
pub(crate) mod checker {
    pub(crate) use loom::model::Builder;
    #[cfg(test)]
    pub(crate) use loom::sync::{Mutex, Notify};
    #[cfg(test)]
    pub(crate) use loom::thread;

    #[cfg(test)]
    loom::thread_local! {
        /// What interrupts the thread, if anything does.
        pub(crate) static INTERRUPTS: core::cell::RefCell<Option<alloc::rc::Rc<dyn Fn()>>> = core::cell::RefCell::default();
        /// The thread's gate.
        pub(crate) static GATE: core::cell::Cell<*const crate::urgent::Gate> = core::cell::Cell::new(core::ptr::null());
    }
}

/// A point at which an interrupt may come. Only the model checker needs to be told.
#[inline(always)]
pub(crate) fn edge() {
    #[cfg(all(loom, test))]
    if !unwinds_in_a_model() {
        let interrupt = checker::INTERRUPTS.with(|interrupts| interrupts.borrow().clone());
        if let Some(interrupt) = interrupt {
            interrupt();
        }
    }
}

pub(crate) use crate::model_check::{mutant, relaxed_if};
pub(crate) use machine::*;

/// A count that anyone may read, written by one core with plain loads and stores; never part of a protocol.
///
/// Never one of the model checker's, so that counting does not multiply its states.
#[derive(Default)]
#[allow(unused_qualifications, reason = "under the model checker the short name is another type")]
pub(crate) struct Counter(core::sync::atomic::AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning core may call this.
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds `n`, from any thread, if every other addition is made so too.
    pub(crate) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Puts `value` in its place. Only the owning core may call this.
    #[inline(always)]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Keeps a value on cache lines of its own: two, because the neighbour line is prefetched with it.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> core::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Whether the model checker has found a fault and takes its threads down: a destructor that waits would wait for ever.
pub(crate) fn unwinds_in_a_model() -> bool {
    #[cfg(loom)]
    return std::thread::panicking();
    #[cfg(not(loom))]
    false
}

/// Whether `IPIQ_MUTANT` names this mutant.
#[cfg(loom)]
pub fn mutant_is(name: &str) -> bool {
    extern crate std;
    static NAME: std::sync::OnceLock<std::string::String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("IPIQ_MUTANT").unwrap_or_default()).split('+').any(|on| on == name)
}
