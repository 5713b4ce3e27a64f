//! Hints to the machine's caches. Without effect on results, and on machines that have none.

/// Asks for the line at `address` in a state in which it can be written.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
pub(crate) fn prefetch_for_write(address: *const i8) {
    // The intrinsic becomes a read prefetch unless the build names the feature, and that would cost a transfer more.
    // SAFETY: 1. a prefetch never faults, whatever the address; every x86-64 CPU executes it, some as a no-op.
    unsafe { core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly)) };
}

/// Asks for the line at `address` in a state in which it can be written.
#[cfg(any(not(target_arch = "x86_64"), loom))]
#[inline(always)]
pub(crate) fn prefetch_for_write(_address: *const i8) {}
