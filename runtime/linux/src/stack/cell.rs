//! The way of a capture from the handler to whoever reads it.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::capture::Buffer;
use super::{Limits, Trace, arch};

const EMPTY: u32 = 0;
const FILLING: u32 = 1;
const FULL: u32 = 2;
const TAKING: u32 = 3;

/// Room for one capture: a handler fills it, any thread takes it out.
///
/// ```no_run
/// use std::ffi::{c_int, c_void};
/// use std::sync::OnceLock;
/// use ipiq_linux::stack::{Limits, TraceCell};
///
/// static WATCHED: OnceLock<(TraceCell, Limits)> = OnceLock::new();
///
/// extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
///     if let Some((cell, limits)) = WATCHED.get() {
///         // SAFETY: 1. what the kernel handed over. 2. the signal is sent to the thread that set them.
///         unsafe { cell.fill(context, limits) };
///     }
/// }
/// # let install_and_send = || {};
/// // On the thread to be watched:
/// WATCHED.set((TraceCell::new(16 << 10), Limits::current()?)).expect("once");
/// // On another thread, after the signal:
/// if let Some(trace) = WATCHED.get().and_then(|(cell, _)| cell.take()) {
///     println!("{}", ipiq_linux::stack::Listing(&trace.symbolise()));
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TraceCell {
    state: AtomicU32,
    buffer: UnsafeCell<Buffer>,
}

// SAFETY: 1. the buffer is accessed by who has moved `state` to `FILLING` or `TAKING`, one thread at a time.
unsafe impl Sync for TraceCell {}

impl fmt::Debug for TraceCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = self.state.load(Ordering::Relaxed) == FULL;
        f.debug_struct("TraceCell").field("full", &full).finish_non_exhaustive()
    }
}

impl TraceCell {
    /// An empty cell, with room for a copy of `stack_bytes` bytes of the stack beside the frame records. With 0, frames are found by
    /// frame pointers alone. Allocates; nothing else of a capture does.
    #[must_use]
    pub fn new(stack_bytes: usize) -> Self {
        Self { state: AtomicU32::new(EMPTY), buffer: UnsafeCell::new(Buffer::new(stack_bytes)) }
    }

    /// Takes down what the handler's thread was in the middle of. `false`: the last capture has not been taken out yet.
    ///
    /// Context: a signal handler, on any stack. Async-signal-safe: no allocation, no lock, no wait, no panic.
    ///
    /// # Safety
    ///
    /// 1. `context` is the third argument of a handler (`SA_SIGINFO`) that is running on the calling thread.
    /// 2. `limits` are the calling thread's.
    pub unsafe fn fill(&self, context: *const c_void, limits: &Limits) -> bool {
        // [stack F1] acquire: pairs with T1's release; what was read out has been read.
        if self.state.compare_exchange(EMPTY, FILLING, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        // [stack F2]
        // SAFETY: 1. condition 1.
        let registers = unsafe { arch::registers(context) };
        // SAFETY: 1. `FILLING` is ours.
        let buffer = unsafe { &mut *self.buffer.get() };
        // SAFETY: 1. condition 1. 2. condition 2.
        unsafe { buffer.fill(registers, limits) };
        // [stack F6] release: who takes sees all of it.
        self.state.store(FULL, Ordering::Release);
        true
    }

    /// Takes the capture out, if there is one. Allocates: not for handlers.
    #[must_use]
    pub fn take(&self) -> Option<Trace> {
        // [stack T1] acquire: pairs with F6.
        self.state.compare_exchange(FULL, TAKING, Ordering::Acquire, Ordering::Relaxed).ok()?;
        // SAFETY: 1. `TAKING` is ours.
        let trace = unsafe { &*self.buffer.get() }.to_trace();
        self.state.store(EMPTY, Ordering::Release);
        Some(trace)
    }
}
