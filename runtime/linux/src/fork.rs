//! Whether this process is a forked child of the one that started something.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static FORKS: AtomicU32 = AtomicU32::new(0);

/// By how many calls of `fork` this process descends from the one that asked first: it differs between a process and its children. Children made without the C
/// library are not counted.
#[must_use]
pub fn generation() -> u32 {
    // Relaxed: a child has one thread when it is counted.
    FORKS.load(Ordering::Relaxed)
}

/// Has forks be counted from now on.
pub fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        // SAFETY: 1. the function that runs in a child is async-signal-safe: an atomic addition. 2. it is there as long as the process.
        // Where the library has no memory for it, forks are not seen.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(count)) };
    });
}

extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}
