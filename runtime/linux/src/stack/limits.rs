//! Where the calling thread's stack lies.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;

thread_local! {
    /// No destructor and no lazy initialisation: handlers read it.
    static REMEMBERED: Cell<Limits> = const { Cell::new(Limits::NONE) };
}

/// From where to where a thread's stack may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    low: usize,
    high: usize,
}

impl Limits {
    /// Of a stack that may not be read at all.
    const NONE: Self = Self { low: 0, high: 0 };

    /// Finds out the calling thread's, for handlers that run on it later. Where that fails they read no stack.
    pub(crate) fn remember() {
        REMEMBERED.set(Self::current().unwrap_or(Self::NONE));
    }

    /// What the calling thread remembers of its own; async-signal-safe.
    pub(super) fn remembered() -> Self {
        REMEMBERED.get()
    }

    /// The calling thread's. Asks the C library, which may allocate and, on the main thread, read a file: not for handlers.
    ///
    /// # Errors
    ///
    /// What the C library says, when it is short of memory or `/proc` is hidden.
    ///
    /// ```
    /// let limits = ipiq_linux::stack::Limits::current()?;
    /// let local = 0;
    /// assert!(limits.contain(&raw const local as usize));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn current() -> io::Result<Self> {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        // SAFETY: 1. no pointers.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: 1. `this` is a thread that lives. 2. `attributes` is valid for writes.
        check(unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) })?;
        let (mut address, mut size) = (std::ptr::null_mut(), 0);
        // SAFETY: 1. `attributes` was filled by the call above. 2. the others are valid for writes.
        let got = check(unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut address, &raw mut size) });
        // SAFETY: 1. filled above, and not used again.
        unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
        got?;
        let low = address.addr();
        Ok(Self { low, high: low.saturating_add(size) })
    }

    /// Whether `address` lies in the stack.
    #[must_use]
    pub fn contain(&self, address: usize) -> bool {
        (self.low..self.high).contains(&address)
    }

    /// The lowest address.
    #[must_use]
    pub fn low(&self) -> usize {
        self.low
    }

    /// The first address above it.
    #[must_use]
    pub fn high(&self) -> usize {
        self.high
    }
}

fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
