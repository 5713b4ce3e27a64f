//! A core's thread, as who interrupts it sees it.

use std::ffi::c_int;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipiq_fabric::CoreId;

use super::stack::AlternateStack;
use super::{InterruptError, Interrupts, action};
use crate::port::LinuxPort;
use crate::stack::Limits;

/// A sender, in the upper half of a target's word.
const SENDER: u64 = 1 << 32;
/// The thread's id, in the lower half; 0: there is none.
const THREAD: u64 = SENDER - 1;

/// Whom to interrupt, and who is about to.
#[derive(Debug, Default)]
pub(crate) struct Target {
    word: AtomicU64,
}

impl Target {
    /// Sends `signal` to the core's thread. `false`: it has none, or the kernel refused.
    pub(crate) fn interrupt(&self, signal: c_int) -> bool {
        // [interrupt T1] acquire: after what the thread did in C1. One word, so that there is no order to keep between counting and reading.
        let thread = self.word.fetch_add(SENDER, Ordering::Acquire) & THREAD;
        // [interrupt T2]
        let sent = thread != 0 && tgkill(thread as libc::pid_t, signal);
        // [interrupt T3] release: who sees no sender sees its signal sent.
        self.word.fetch_sub(SENDER, Ordering::Release);
        sent
    }
}

/// Sends `signal` to a thread of this process.
pub(super) fn tgkill(thread: libc::pid_t, signal: c_int) -> bool {
    // Asked for each time: a forked child is another process, without this thread.
    // SAFETY: 1. a question without pointers.
    let process = unsafe { libc::getpid() };
    // SAFETY: 1. no pointers; what the handler does is the receiver's business.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    result == 0
}

/// While it lives, on the core's thread, the core can be interrupted by signals.
#[must_use = "the core can be interrupted until it is dropped"]
pub struct CoreThread {
    port: Arc<LinuxPort>,
    core: CoreId,
    stack: Option<AlternateStack>,
    /// Keeps the handler installed.
    interrupts: Arc<Interrupts>,
    this_thread: PhantomData<*const ()>,
}

impl fmt::Debug for CoreThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreThread").field("core", &self.core).finish_non_exhaustive()
    }
}

impl CoreThread {
    /// Makes the calling thread the one that interrupts of `core` go to. `port` must have been made [with](LinuxPort::with_interrupts) the same `interrupts`.
    ///
    /// # Errors
    ///
    /// [`InterruptError`]: the thread blocks the signal, or there is no memory for a stack.
    ///
    /// # Panics
    ///
    /// If the port has no such core, or it has a thread already.
    pub fn enter(port: Arc<LinuxPort>, core: CoreId, interrupts: Arc<Interrupts>) -> Result<Self, InterruptError> {
        let signal = interrupts.signal();
        // [interrupt C1]
        if blocks(signal) {
            return Err(InterruptError::blocked(signal));
        }
        let stack = AlternateStack::ensure().map_err(|error| InterruptError::refused(signal, error))?;
        // [interrupt C1]
        let _ = super::gate();
        // [stack L1]
        Limits::remember();
        let word = &port.target(core).word;
        // SAFETY: 1. a question without pointers.
        let id = unsafe { libc::gettid() };
        let entered = |word| (word & THREAD == 0).then_some(word + u64::from(id.unsigned_abs()));
        // [interrupt C1] an exchange, for senders may be counted, and there may be a thread already. Release: with T1's acquire.
        let before = word.fetch_update(Ordering::Release, Ordering::Relaxed, entered);
        assert!(before.is_ok(), "{core} has a thread already");
        Ok(Self { port, core, stack, interrupts, this_thread: PhantomData })
    }
}

impl Drop for CoreThread {
    fn drop(&mut self) {
        let word = &self.port.target(self.core).word;
        // [interrupt C2] relaxed: what counts is the order within the word.
        word.fetch_and(!THREAD, Ordering::Relaxed);
        // [interrupt C2] acquire: with T3's release.
        while word.load(Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
        // [interrupt C2] a system call of no use but its return.
        // SAFETY: 1. a question without pointers.
        unsafe { libc::getppid() };
        let signal = self.interrupts.signal();
        // [interrupt C2] one that is blocked does not come now.
        if blocks(signal) && is_pending(signal) {
            action::keep(signal);
        }
        self.stack = None;
    }
}

/// Blocks `signal` for the calling thread.
pub(super) fn block(signal: c_int) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: 1. `set` is valid for a write.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: 1. a whole set by now, and a signal that there is.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: 1. a whole set. It cannot fail: the request is one that there is.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) };
}

/// Whether the calling thread blocks `signal`.
pub(super) fn blocks(signal: c_int) -> bool {
    let mut set = MaybeUninit::uninit();
    // SAFETY: 1. `set` is valid for a write; without a new set nothing changes.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr()) };
    if result != 0 {
        return false;
    }
    // SAFETY: 1. the call has succeeded, and filled it.
    let set = unsafe { set.assume_init() };
    // SAFETY: 1. a whole set, and a signal that there is.
    unsafe { libc::sigismember(&set, signal) == 1 }
}

/// Whether one waits for the calling thread, or for any thread of the process, to unblock it.
fn is_pending(signal: c_int) -> bool {
    let mut set = MaybeUninit::uninit();
    // SAFETY: 1. `set` is valid for a write.
    if unsafe { libc::sigpending(set.as_mut_ptr()) } != 0 {
        return true;
    }
    // SAFETY: 1. the call has succeeded, and filled it.
    let set = unsafe { set.assume_init() };
    // SAFETY: 1. a whole set, and a signal that there is.
    unsafe { libc::sigismember(&set, signal) != 0 }
}
