//! aarch64.

use std::arch::asm;
use std::ffi::c_void;

use super::Registers;

const FRAME_POINTER: usize = 29;
const LINK: usize = 30;
/// User addresses have at most 52 bits; above them may be a signature.
const ADDRESS: usize = (1 << 52) - 1;

/// The registers of the interrupted code.
///
/// # Safety
///
/// 1. `context` is the third argument of a signal handler that is running.
pub(super) unsafe fn registers(context: *const c_void) -> Option<Registers> {
    // SAFETY: 1. the kernel has put one there, aligned, which lives as long as the handler runs.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let machine = &context.uc_mcontext;
    let [fp, lr] = [FRAME_POINTER, LINK].map(|register| machine.regs.get(register).map_or(0, |value| *value as usize));
    Some(Registers { pc: machine.pc as usize, sp: machine.sp as usize, fp, lr: plain(lr) })
}

/// Reads a word of the stack. By an instruction of its own: the word belongs to somebody else's variables, of which the compiler, or a sanitizer,
/// knows that nobody reads them here.
///
/// # Safety
///
/// 1. Eight bytes at `address` are mapped and readable.
#[inline(always)]
pub(super) unsafe fn load(address: usize) -> usize {
    let value;
    // SAFETY: 1. as required of the caller.
    unsafe {
        asm!("ldr {}, [{}]", out(reg) value, in(reg) address, options(nostack, readonly, preserves_flags));
    }
    value
}

/// An address without what the machine puts into its upper bits.
pub(super) fn plain(address: usize) -> usize {
    address & ADDRESS
}
