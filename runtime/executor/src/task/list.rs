//! The home's list of tasks that wait for something, linked through their metadata.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::Meta;

/// A task's place in the list. Used at home only.
#[derive(Default)]
pub(super) struct Links {
    next: Cell<Option<NonNull<Meta>>>,
    previous: Cell<Option<NonNull<Meta>>>,
    linked: Cell<bool>,
}

impl Links {
    pub(super) fn is_linked(&self) -> bool {
        self.linked.get()
    }
}

/// The linked tasks of one core.
#[derive(Default)]
pub(crate) struct TaskList {
    head: Cell<Option<NonNull<Meta>>>,
    len: Cell<usize>,
}

/// Follows a link.
///
/// # Safety
///
/// 1. The task is linked, so its allocation lives.
unsafe fn follow<'a>(meta: NonNull<Meta>) -> &'a Meta {
    // SAFETY: 1. as required.
    unsafe { meta.as_ref() }
}

impl TaskList {
    pub(super) fn insert(&self, meta: &Meta) {
        let this = NonNull::from(meta);
        if let Some(head) = self.head.get() {
            // SAFETY: 1. the head is linked.
            unsafe { follow(head) }.links.previous.set(Some(this));
        }
        meta.links.next.set(self.head.get());
        meta.links.previous.set(None);
        meta.links.linked.set(true);
        self.head.set(Some(this));
        self.len.set(self.len.get() + 1);
    }

    pub(super) fn remove(&self, meta: &Meta) {
        let (next, previous) = (meta.links.next.get(), meta.links.previous.get());
        match previous {
            // SAFETY: 1. neighbours of a linked task are linked.
            Some(previous) => unsafe { follow(previous) }.links.next.set(next),
            None => self.head.set(next),
        }
        if let Some(next) = next {
            // SAFETY: 1. as above.
            unsafe { follow(next) }.links.previous.set(previous);
        }
        meta.links.linked.set(false);
        self.len.set(self.len.get() - 1);
    }

    /// How many tasks wait.
    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }

    /// Aborts every task of the list. Waking them runs nothing: it only schedules.
    pub(crate) fn abort_all(&self) {
        let mut next = self.head.get();
        while let Some(meta) = next {
            // SAFETY: 1. only polls and drops unlink, and none happens in this loop.
            let meta = unsafe { follow(meta) };
            next = meta.links.next.get();
            meta.abort.store(true, Ordering::Relaxed);
            meta.waker.wake();
        }
    }
}
