//! Pinning the calling thread.

use std::fmt;

/// A thread that could not be pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinError {
    cpu: usize,
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel refused to pin the thread to CPU {}", self.cpu)
    }
}

impl std::error::Error for PinError {}

/// Pins the calling thread to `cpu`.
///
/// # Errors
///
/// If the kernel refuses.
pub fn pin_current(cpu: usize) -> Result<(), PinError> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) { Ok(()) } else { Err(PinError { cpu }) }
}
