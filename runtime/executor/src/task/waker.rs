//! The waker of a task's future, and the references to the task that it is made of.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};

use alloc::sync::Arc;
use ipiq_fabric::Message;

use super::word::Released;
use super::{Home, Meta};
use crate::Executor;
use crate::executor::with_current;

/// A counted reference to a task: while it lives, so do the task's metadata and its home.
pub(super) struct Reference(NonNull<Meta>);

// SAFETY: 1. the metadata is `Sync`, and who drops the last reference may be anybody.
unsafe impl Send for Reference {}

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, release);

/// The waker that a poll lends to the task's future. It counts as no reference: the runnable keeps the task meanwhile.
pub(super) fn lend(meta: &Meta) -> ManuallyDrop<Waker> {
    // SAFETY: 1. the functions of the table treat the pointer as a `Meta`, which it is, and are thread safe. 2. never dropped here,
    // the waker gives up no reference; what the future clones is counted.
    ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(core::ptr::from_ref(meta).cast(), &VTABLE)) })
}

/// Runs `f` if the calling thread is running the loop of `meta`'s home.
#[inline(always)]
fn at_home<R>(meta: &Meta, f: impl FnOnce(&Executor) -> R) -> Option<R> {
    let home = meta.home();
    let here = |executor: &Executor| core::ptr::eq(&**executor.home(), home).then(|| f(executor));
    with_current(&*home.port, here).flatten()
}

/// # Safety
///
/// 1. `data` comes from a waker of this module that is alive, so the metadata lives.
unsafe fn meta<'a>(data: *const ()) -> &'a Meta {
    // SAFETY: 1. as required.
    unsafe { &*data.cast::<Meta>() }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: 1. a waker's functions are called while it lives.
    let meta = unsafe { meta(data) };
    // [task R1]
    if at_home(meta, |_| meta.count_own(1)) != Some(true) {
        // [task R2]
        meta.word.add();
    }
    RawWaker::new(data, &VTABLE)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: 1. a waker's functions are called while it lives.
    let meta = unsafe { meta(data) };
    let reference = Reference(NonNull::from(meta));
    // The reference goes along, or ends here.
    reference.wake();
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: 1. a waker's functions are called while it lives.
    let meta = unsafe { meta(data) };
    // [task T2]
    if at_home(meta, |executor| executor.wake(meta)).is_none() && meta.word.notify() {
        meta.word.add();
        Reference(NonNull::from(meta)).travel();
    }
}

unsafe fn release(data: *const ()) {
    // SAFETY: 1. a waker's functions are called while it lives.
    let meta = unsafe { meta(data) };
    drop(Reference(NonNull::from(meta)));
}

/// Aborts the task whose own waker this is, as its [`JoinHandle`](super::JoinHandle) does. `false`: it is no task's.
pub fn abort_by(waker: &Waker) -> bool {
    of_task(waker).map(Meta::abort).is_some()
}

/// Ends the task whose own waker this is, and which is being polled, as [`abort_by`] does, with an error that says that its deadline has passed. `false`: it is no task's.
pub fn expire_by(waker: &Waker) -> bool {
    of_task(waker).map(Meta::expire).is_some()
}

/// The task whose own waker this is.
fn of_task(waker: &Waker) -> Option<&Meta> {
    let is_own = core::ptr::eq(waker.vtable(), &VTABLE);
    // SAFETY: 1. the table is that of wakers of this module, and it is borrowed for as long as what is returned.
    is_own.then(|| unsafe { meta(waker.data()) })
}

impl Reference {
    /// # Safety
    ///
    /// 1. A reference to the task has been counted for it.
    pub(super) unsafe fn counted(meta: &Meta) -> Self {
        Self(NonNull::from(meta))
    }

    fn meta(&self) -> &Meta {
        // SAFETY: 1. a counted reference keeps the metadata.
        unsafe { self.0.as_ref() }
    }

    /// Wakes the task, from any thread.
    pub(super) fn wake(self) {
        let meta = self.meta();
        // [task T2]
        if at_home(meta, |executor| executor.wake(meta)).is_none() && meta.word.notify() {
            self.travel();
        }
    }

    /// Brings the wake-up home.
    fn travel(self) {
        let home = NonNull::from(self.meta().home());
        // SAFETY: 1. the reference, which is on its way or in `wakeup` while this is used, keeps the home.
        let home = unsafe { home.as_ref() };
        let mut wakeup = Some(Wakeup(Some(self)));
        with_current(&*home.port, |executor| {
            if executor.is_peer(home)
                && let Some(wakeup) = wakeup.take()
            {
                // [task T3]
                executor.core().send_or_list(home.id, move |_, _| wakeup.arrive());
            }
        });
        // Where no core took it, its drop brings it home.
    }

    /// [task T4]
    fn post(self) {
        let home = self.meta().home();
        // [task T4] the home may end as soon as the reference is with it: the fabric is cloned before.
        let (fabric, id) = (home.fabric.clone(), home.id);
        // A home that has left gives the message back, whose drop ends the reference.
        drop(fabric.post(id, Message::foreign(move |_, _| self.arrive())));
    }

    /// On the home's thread. Where its loop does not run, the task has finished or a panic has torn the loop down.
    fn arrive(self) {
        let meta = self.meta();
        // [task T3]
        meta.word.take_notified();
        at_home(meta, |executor| executor.wake(meta));
    }
}

/// A wake-up in a message of a core. A message may be dropped on its way, by a core that leaves or a panic; the task waits on.
struct Wakeup(Option<Reference>);

impl Wakeup {
    fn arrive(mut self) {
        if let Some(reference) = self.0.take() {
            reference.arrive();
        }
    }
}

impl Drop for Wakeup {
    fn drop(&mut self) {
        if let Some(reference) = self.0.take() {
            // [task T4]
            reference.post();
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let meta = self.meta();
        // [task R1]
        if at_home(meta, |_| meta.count_own(-1)) == Some(true) {
            return;
        }
        // [task R2]
        if meta.word.release() == Released::Last {
            // SAFETY: 1. the task has finished and this was the last reference.
            drop(unsafe { Kept::take(self.0) });
        }
    }
}

/// What a finished task leaves to those who refer to it: its allocation and its home.
pub(super) struct Kept {
    /// The waker that `async-task` counts.
    _allocation: Waker,
    _home: Arc<Home>,
}

impl Kept {
    /// Keeps the allocation and the home of a task that is about to finish, in two words of its metadata.
    pub(super) fn put(meta: &Meta, counted_by_async_task: &Waker) {
        let allocation = ManuallyDrop::new(counted_by_async_task.clone());
        meta.first.set(allocation.data());
        meta.second.set(core::ptr::from_ref(allocation.vtable()).cast());
        // SAFETY: 1. the pointer is that of the `Arc` which the home's loop holds: the task is finishing there.
        unsafe { Arc::increment_strong_count(meta.home.get().as_ptr()) };
    }

    /// # Safety
    ///
    /// 1. `put` was called for the task, and this is called once after it. 2. Nobody else refers to the task.
    pub(super) unsafe fn take(meta: NonNull<Meta>) -> Self {
        // SAFETY: 1. what was put keeps the allocation until the end of this function at least.
        let meta = unsafe { meta.as_ref() };
        let vtable = meta.second.get().cast::<RawWakerVTable>();
        // SAFETY: 1. `put` stored the address of a table that is `'static`.
        let vtable: &'static RawWakerVTable = unsafe { &*vtable };
        // SAFETY: 1. both are those of the waker that `put` forgot.
        let allocation = unsafe { Waker::from_raw(RawWaker::new(meta.first.get(), vtable)) };
        // SAFETY: 1. `put` took this count.
        let home = unsafe { Arc::from_raw(meta.home.get().as_ptr()) };
        Self { _allocation: allocation, _home: home }
    }
}
