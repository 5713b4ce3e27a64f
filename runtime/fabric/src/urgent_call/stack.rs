//! Stacks of blocks: pushed by anyone, taken as a whole.

use core::ptr::{self, NonNull};

use super::block::Header;
use crate::sync::{AtomicPtr, Ordering, mutant, relaxed_if};

/// Blocks that have come somewhere.
pub(super) struct Stack(AtomicPtr<Header>);

impl Stack {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Puts `block` on top. It may be gone as soon as it is there.
    ///
    /// # Safety
    ///
    /// 1. `block` is alive, and the caller's: on no stack, and nobody else pushes or takes it.
    pub(super) unsafe fn push(&self, block: NonNull<Header>, release: Ordering) {
        let mut top = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: 1. as required here: until the exchange it is the caller's.
            let next = unsafe { &block.as_ref().next };
            next.store(top, Ordering::Relaxed);
            match self.0.compare_exchange_weak(top, block.as_ptr(), release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Takes all, which are the caller's then; the oldest comes first.
    pub(super) fn take(&self) -> Taken {
        if self.0.load(Ordering::Relaxed).is_null() {
            return Taken(ptr::null_mut());
        }
        let acquire = relaxed_if(mutant!("urgent-call-take-relaxed"), Ordering::Acquire);
        let mut newest = self.0.swap(ptr::null_mut(), acquire);
        let mut oldest = ptr::null_mut();
        while let Some(block) = NonNull::new(newest) {
            // SAFETY: 1. the exchange took it out: it is alive, and the caller's.
            let next = unsafe { &block.as_ref().next };
            newest = next.load(Ordering::Relaxed);
            next.store(oldest, Ordering::Relaxed);
            oldest = block.as_ptr();
        }
        Taken(oldest)
    }
}

/// Blocks that were taken.
pub(super) struct Taken(*mut Header);

impl Iterator for Taken {
    type Item = NonNull<Header>;

    fn next(&mut self) -> Option<NonNull<Header>> {
        let block = NonNull::new(self.0)?;
        // SAFETY: 1. `take` took it out, and it has not been handed out yet.
        self.0 = unsafe { &block.as_ref().next }.load(Ordering::Relaxed);
        Some(block)
    }
}
