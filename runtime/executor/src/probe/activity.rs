//! What a core says of itself while it runs.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering, compiler_fence};

use crate::TaskName;
use crate::task::Kind;

/// One core's line: see the [state](super#state-and-who-writes-it).
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Activity {
    kind: AtomicPtr<Kind>,
    name: AtomicPtr<TaskName>,
}

impl Activity {
    /// Before a poll of a task of this kind.
    #[inline(always)]
    pub(crate) fn polls(&self, kind: &'static Kind) {
        // [probe C1] release: who finds it finds the core's turn to be this one or a later one. What it points to was there before the program began, so relaxed
        // would do for that.
        self.kind.store(ptr::from_ref(kind).cast_mut(), Ordering::Release);
    }

    /// After the last poll of a turn.
    #[inline(always)]
    pub(crate) fn polls_nothing(&self) {
        // [probe C1] relaxed: nothing is said of a turn.
        self.kind.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// The type of the future that is polled.
    pub(crate) fn kind(&self) -> Option<&'static Kind> {
        // Acquire: pairs with C1's release.
        let kind = self.kind.load(Ordering::Acquire);
        // SAFETY: 1. it is null or the address of what `polls` was given, which is `'static`.
        unsafe { kind.as_ref() }
    }

    /// Runs `f` under `name`; a name within a name hides the outer one. On the core's thread.
    pub(crate) fn during<R>(&self, name: &TaskName, f: impl FnOnce() -> R) -> R {
        let outer = self.name.load(Ordering::Relaxed);
        // [probe C2] release: a handler that finds it finds all of it. The handler is on this thread, so no instruction is needed for that on most machines.
        self.name.store(ptr::from_ref(name).cast_mut(), Ordering::Release);
        let _restore = Restore { activity: self, outer };
        f()
    }

    /// The innermost name.
    ///
    /// # Context
    ///
    /// On the core's thread, also in an interrupt.
    pub(crate) fn name(&self) -> Option<&TaskName> {
        let name = self.name.load(Ordering::Acquire);
        // SAFETY: 1. what is there is borrowed by a `during` further down this thread's stack, which takes it away before it returns.
        unsafe { name.as_ref() }
    }
}

struct Restore<'a> {
    activity: &'a Activity,
    outer: *mut TaskName,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // [probe C2]
        self.activity.name.store(self.outer, Ordering::Release);
        // The name's end stays behind it; a handler comes on the same thread.
        compiler_fence(Ordering::SeqCst);
    }
}
