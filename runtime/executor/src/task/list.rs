//! The home's list of tasks that have waited for something and not finished.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::ptr::NonNull;

use super::Meta;

/// A place that is none.
pub(super) const UNLISTED: u32 = u32::MAX;

/// The listed tasks of one core. Each knows its place.
#[derive(Default)]
pub(crate) struct TaskList(RefCell<Vec<NonNull<Meta>>>);

impl TaskList {
    pub(super) fn insert(&self, meta: &Meta) {
        let mut tasks = self.0.borrow_mut();
        let place = u32::try_from(tasks.len()).ok().filter(|&place| place != UNLISTED);
        meta.place.set(place.expect("a core has fewer than 2^32 tasks that wait"));
        tasks.push(NonNull::from(meta));
    }

    pub(super) fn remove(&self, meta: &Meta) {
        let mut tasks = self.0.borrow_mut();
        let place = meta.place.replace(UNLISTED);
        tasks.swap_remove(place as usize);
        if let Some(moved) = tasks.get(place as usize) {
            // SAFETY: 1. a listed task is not finished, so its allocation lives.
            unsafe { moved.as_ref() }.place.set(place);
        }
    }

    /// How many tasks are listed.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Visits every listed task. `visit` must not poll or drop one.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Meta)) {
        for meta in self.0.borrow().iter() {
            // SAFETY: 1. as in `remove`.
            visit(unsafe { meta.as_ref() });
        }
    }
}
