//! Alternate stacks for handlers.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// What handlers may use, beside what the kernel puts there.
const ROOM: usize = 64 * 1024;

/// The calling thread's alternate stack, until it is dropped on the same thread; below it a page that nobody may touch.
pub(super) struct AlternateStack {
    map: *mut libc::c_void,
    len: usize,
    /// Where the stack begins.
    base: *mut libc::c_void,
    before: libc::stack_t,
}

impl AlternateStack {
    /// Makes sure that handlers of this thread have room. `None`: they have already.
    pub(super) fn ensure() -> io::Result<Option<Self>> {
        let (page, size) = (page_size(), frame_size() + ROOM);
        let size = size.next_multiple_of(page);
        let before = current()?;
        if before.ss_flags & libc::SS_DISABLE == 0 && before.ss_size >= size {
            return Ok(None);
        }
        let len = size + page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: 1. a new map, at a place that the kernel chooses.
        let map = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = map.wrapping_byte_add(page);
        let this = Self { map, len, base, before };
        // SAFETY: 1. all of the map but its first page, which nobody uses yet.
        if unsafe { libc::mprotect(base, size, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        set(&libc::stack_t { ss_sp: base, ss_flags: 0, ss_size: size })?;
        Ok(Some(this))
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        if current().is_ok_and(|current| current.ss_sp == self.base) && set(&self.before).is_err() {
            // A handler is on it: it stays.
            return;
        }
        // SAFETY: 1. the map of `ensure`; it is no stack of this thread any more, and never was one of another.
        unsafe { libc::munmap(self.map, self.len) };
    }
}

fn current() -> io::Result<libc::stack_t> {
    let mut stack = MaybeUninit::uninit();
    // SAFETY: 1. `stack` is valid for a write; nothing is set.
    if unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: 1. the call has succeeded, and filled it.
    Ok(unsafe { stack.assume_init() })
}

fn set(stack: &libc::stack_t) -> io::Result<()> {
    // SAFETY: 1. `stack` is a stack that lives until another one is set: `AlternateStack`'s, or what was set before.
    let result = unsafe { libc::sigaltstack(stack, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel puts on a stack for a signal: all registers, of which there are more on some CPUs.
fn frame_size() -> usize {
    // SAFETY: 1. reads the vector that the kernel gave the process; 0 if it says nothing.
    let said = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    usize::try_from(said).unwrap_or(0).max(libc::MINSIGSTKSZ)
}

fn page_size() -> usize {
    // SAFETY: 1. a question without pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
