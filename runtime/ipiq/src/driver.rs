//! The calling core's I/O driver.

use std::cell::RefCell;

use ipiq_driver::Driver;

use crate::current::outside;

thread_local! {
    static DRIVER: RefCell<Option<Driver>> = const { RefCell::new(None) };
}

/// Makes `driver` the calling thread's until the guard is dropped.
pub(crate) fn install(driver: Driver) -> Installed {
    DRIVER.with(|slot| slot.replace(Some(driver)));
    Installed(())
}

/// Until the guard is dropped the thread has no driver, as far as anybody on it can tell.
pub(crate) fn hide() -> Hidden {
    Hidden(DRIVER.take())
}

pub(crate) struct Hidden(Option<Driver>);

impl Drop for Hidden {
    fn drop(&mut self) {
        DRIVER.set(self.0.take());
    }
}

pub(crate) struct Installed(());

impl Drop for Installed {
    fn drop(&mut self) {
        let driver = DRIVER.with(RefCell::take);
        drop(driver);
    }
}

/// The calling core's driver.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[allow(dead_code, reason = "the callers are behind features")]
#[track_caller]
pub(crate) fn current(what: &str) -> Driver {
    match DRIVER.with(|slot| slot.borrow().clone()) {
        Some(driver) => driver,
        None => outside(what),
    }
}
