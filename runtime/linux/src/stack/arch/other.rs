//! Machines whose stacks are not known.

use std::ffi::c_void;

use super::Registers;

/// Nothing.
///
/// # Safety
///
/// 1. None: nothing is read.
pub(super) unsafe fn registers(_context: *const c_void) -> Option<Registers> {
    None
}

/// Never called, since there are no registers.
///
/// # Safety
///
/// 1. None: nothing is read.
pub(super) unsafe fn load(_address: usize) -> usize {
    0
}

/// The address.
pub(super) fn plain(address: usize) -> usize {
    address
}
