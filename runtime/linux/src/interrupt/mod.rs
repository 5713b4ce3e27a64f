#![doc = include_str!("README.md")]

mod action;
mod error;
mod handler;
mod stack;
#[cfg(test)]
mod tests;
mod thread;

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use ipiq_fabric::port::Gate;

pub use action::is_default;
pub use error::InterruptError;
pub use thread::CoreThread;
pub(crate) use thread::Target;

/// The signal that cores are interrupted by, if nothing else is said: debuggers pass it on, libraries leave it alone, and its default is to do nothing.
pub const DEFAULT_SIGNAL: c_int = libc::SIGURG;

thread_local! {
    /// No destructor and no lazy initialisation: it is there at any time of the thread's life, in a signal handler too.
    static GATE: Gate = const { Gate::new() };
    /// What the kernel has handed to the handler that is telling the gate.
    static CONTEXT: Cell<*const c_void> = const { Cell::new(ptr::null()) };
}

/// What the calling urgent handler interrupts: the `ucontext_t` that the kernel has made of it, until the handler ends. Null if it interrupts nothing, because its
/// core looked by itself or a [`critical`] section has ended; and outside of urgent handlers.
///
/// Safe to call in a signal handler.
#[must_use]
pub fn context() -> *const c_void {
    CONTEXT.get()
}

/// The calling thread's gate; it lives as long as the thread.
pub(crate) fn gate() -> *const Gate {
    GATE.with(ptr::from_ref)
}

/// Runs `f` without urgent handlers on the calling thread; those triggered meanwhile run at the end of the outermost such section, also if `f` panics.
///
/// For memory that code of a core shares with urgent handlers of the same core, where atomics alone do not do. Costs an increment, a decrement and a check of thread-local
/// words. Keep it short: it holds off everything urgent on this core. Signals as such are not blocked. Other cores do not care.
///
/// ```
/// let (mut low, mut high) = (0, 0);
/// ipiq_linux::interrupt::critical(|| {
///     low += 1;
///     high += 1;
/// });
/// # assert_eq!((low, high), (1, 1));
/// ```
#[inline(always)]
pub fn critical<R>(f: impl FnOnce() -> R) -> R {
    GATE.with(|gate| gate.critical(f))
}

/// A signal by which cores can be interrupted, with our handler; the previous action comes back when the last of these for one signal is dropped.
#[derive(Debug)]
pub struct Interrupts {
    signal: c_int,
}

impl Interrupts {
    /// Installs the handler for `signal`.
    ///
    /// # Errors
    ///
    /// [`InterruptError`]: the signal is kept for something else, ignored by choice, blocked in the calling thread, or the kernel refuses.
    pub fn install(signal: c_int) -> Result<Self, InterruptError> {
        // [interrupt P1]
        if !is_suitable(signal) {
            return Err(InterruptError::reserved(signal));
        }
        // [interrupt P2]
        if thread::blocks(signal) {
            return Err(InterruptError::blocked(signal));
        }
        action::acquire(signal)?;
        Ok(Self { signal })
    }

    /// Blocks the signal for the calling thread, which runs no core: what is not meant for it goes elsewhere.
    pub fn keep_out(&self) {
        // [interrupt P5]
        thread::block(self.signal);
    }

    /// Its number.
    #[must_use]
    pub fn signal(&self) -> c_int {
        self.signal
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        action::release(self.signal);
    }
}

/// Whether the handler may take `signal`: faults, job control, the ends of processes and children are others' business.
fn is_suitable(signal: c_int) -> bool {
    let named = [libc::SIGURG, libc::SIGUSR1, libc::SIGUSR2, libc::SIGIO, libc::SIGWINCH];
    // The C library keeps the first real-time signals for itself.
    named.contains(&signal) || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
}
