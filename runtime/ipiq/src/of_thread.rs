//! What a core's thread has of its runtime, while it runs the core: its driver, its runtime's pool and so on, each in a slot of its own module.

use std::cell::RefCell;
use std::thread::LocalKey;

use crate::current::outside;

/// A thread-local variable for one thing.
pub(crate) type Slot<T> = RefCell<Option<T>>;

/// Makes `value` the calling thread's until the guard is dropped.
pub(crate) fn install<T>(slot: &'static LocalKey<Slot<T>>, value: T) -> Installed<T> {
    slot.set(Some(value));
    Installed(slot)
}

pub(crate) struct Installed<T: 'static>(&'static LocalKey<Slot<T>>);

impl<T> Drop for Installed<T> {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

/// Until the guard is dropped the thread has none, as far as anybody on it can tell.
pub(crate) fn hide<T>(slot: &'static LocalKey<Slot<T>>) -> Hidden<T> {
    Hidden(slot, slot.take())
}

pub(crate) struct Hidden<T: 'static>(&'static LocalKey<Slot<T>>, Option<T>);

impl<T> Drop for Hidden<T> {
    fn drop(&mut self) {
        self.0.set(self.1.take());
    }
}

/// The calling thread's.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[track_caller]
pub(crate) fn get<T: Clone>(slot: &'static LocalKey<Slot<T>>, what: &str) -> T {
    match slot.with_borrow(Clone::clone) {
        Some(value) => value,
        None => outside(what),
    }
}
