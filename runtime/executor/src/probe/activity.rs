//! What a core says of itself while it runs.

use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, compiler_fence};

use crate::TaskName;
use crate::task::Kind;

/// One core's line: see the [state](super#state-and-who-writes-it).
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Activity {
    kind: AtomicPtr<Kind>,
    spawned_at: AtomicPtr<Location<'static>>,
    name: AtomicPtr<TaskName>,
    load: AtomicUsize,
}

impl Activity {
    /// Before a poll of a task of this kind, spawned there.
    #[inline(always)]
    pub(crate) fn polls(&self, kind: &'static Kind, spawned_at: &'static Location<'static>) {
        // [probe C1] relaxed: who finds the kind finds this place or a later poll's.
        self.spawned_at.store(ptr::from_ref(spawned_at).cast_mut(), Ordering::Relaxed);
        // [probe C1] release: who finds it finds the core's turn to be this one or a later one. What it points to was there before the program began, so relaxed
        // would do for that.
        self.kind.store(ptr::from_ref(kind).cast_mut(), Ordering::Release);
    }

    /// After the last poll of a turn, in which so many tasks were polled or are left.
    #[inline(always)]
    pub(crate) fn polls_nothing(&self, load: usize) {
        // Relaxed: a hint for who looks for a core with little to do. The line is the core's own, and written anyway.
        self.load.store(load, Ordering::Relaxed);
        // [probe C1] relaxed: nothing is said of a turn.
        self.kind.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// How many tasks the core had to poll in its last turn, about.
    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// The kind of the task that is polled, and where it was spawned. To another thread the two may be of different polls.
    pub(crate) fn polled(&self) -> Option<(&'static Kind, &'static Location<'static>)> {
        // Acquire: pairs with C1's release.
        let kind = self.kind.load(Ordering::Acquire);
        let spawned_at = self.spawned_at.load(Ordering::Relaxed);
        // SAFETY: 1. it is null or the address of what `polls` was given, which is `'static`.
        let kind = unsafe { kind.as_ref() }?;
        // SAFETY: 1. as for the kind, before which it was stored.
        Some((kind, unsafe { spawned_at.as_ref() }?))
    }

    /// Runs `f`, a part of the polled task, which was spawned by itself at `spawned_at`. On the core's thread.
    #[inline]
    pub(crate) fn during_part<R>(&self, spawned_at: &'static Location<'static>, f: impl FnOnce() -> R) -> R {
        // [probe C3] relaxed: as in `polls`, and a hint to others.
        let outer = self.spawned_at.load(Ordering::Relaxed);
        self.spawned_at.store(ptr::from_ref(spawned_at).cast_mut(), Ordering::Relaxed);
        let _restore = RestorePlace { activity: self, outer };
        f()
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

struct RestorePlace<'a> {
    activity: &'a Activity,
    outer: *mut Location<'static>,
}

impl Drop for RestorePlace<'_> {
    fn drop(&mut self) {
        // [probe C3]
        self.activity.spawned_at.store(self.outer, Ordering::Relaxed);
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
