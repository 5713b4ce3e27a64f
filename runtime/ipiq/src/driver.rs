//! The calling core's I/O driver.

use std::cell::RefCell;

use ipiq_driver::Driver;

use crate::of_thread::{self, Hidden, Installed, Slot};

thread_local! {
    static DRIVER: Slot<Driver> = const { RefCell::new(None) };
}

/// Makes `driver` the calling thread's until the guard is dropped.
pub(crate) fn install(driver: Driver) -> Installed<Driver> {
    of_thread::install(&DRIVER, driver)
}

/// Until the guard is dropped the thread has no driver, as far as anybody on it can tell.
pub(crate) fn hide() -> Hidden<Driver> {
    of_thread::hide(&DRIVER)
}

/// The calling core's driver.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[allow(dead_code, reason = "the callers are behind features")]
#[track_caller]
pub(crate) fn current(what: &str) -> Driver {
    of_thread::get(&DRIVER, what)
}
