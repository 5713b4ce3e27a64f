//! Asks for memory before it is needed.

/// The lines of a value, and of what comes after it, will be read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let first = core::ptr::from_ref(value).cast::<i8>();
    // SAFETY: 1. the machine has the instruction. It reads no memory as far as the program can tell, so that any address will do.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(first) };
    // SAFETY: 1. as above.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64)) };
}

/// Nothing, where no portable way exists.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn prefetch<T>(_value: &T) {}
