//! Containing panics, where the machine can.

use alloc::boxed::Box;
use core::any::Any;

/// What a panic carries.
pub type PanicPayload = Box<dyn Any + Send>;

/// Runs `f` and returns its value, or what it panicked with.
///
/// # Errors
///
/// The payload of the panic. Without the feature `std` there is no unwinding, and this never fails.
#[cfg(any(feature = "std", test, loom))]
#[inline(always)]
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, PanicPayload> {
    std::panic::catch_unwind(core::panic::AssertUnwindSafe(f))
}

/// Runs `f` and returns its value.
///
/// # Errors
///
/// Never: without the feature `std` a panic does not unwind.
#[cfg(not(any(feature = "std", test, loom)))]
#[inline(always)]
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, PanicPayload> {
    Ok(f())
}

/// Runs `f`, whose panic reaches nobody: for destructors of what nobody wants any more.
pub fn contain(f: impl FnOnce()) {
    if let Err(payload) = catch(f)
        && let Err(second) = catch(|| drop(payload))
    {
        // A payload whose destructor panics: the chain ends here, leaked.
        core::mem::forget(second);
    }
}
