//! Why cores cannot be interrupted.

use std::ffi::c_int;
use std::fmt;
use std::io;

/// Cores cannot be interrupted by a signal; says by which and why.
#[derive(Debug)]
pub struct InterruptError {
    signal: c_int,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Reserved,
    Ignored,
    Blocked,
    Refused(io::Error),
}

impl InterruptError {
    pub(super) fn reserved(signal: c_int) -> Self {
        Self { signal, reason: Reason::Reserved }
    }

    pub(super) fn ignored(signal: c_int) -> Self {
        Self { signal, reason: Reason::Ignored }
    }

    pub(super) fn blocked(signal: c_int) -> Self {
        Self { signal, reason: Reason::Blocked }
    }

    pub(super) fn refused(signal: c_int, error: io::Error) -> Self {
        Self { signal, reason: Reason::Refused(error) }
    }

    /// The signal's number.
    #[must_use]
    pub fn signal(&self) -> c_int {
        self.signal
    }

    /// Whether the signal is kept for something else, or there is none of that number.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        matches!(self.reason, Reason::Reserved)
    }

    /// Whether the process ignores the signal.
    #[must_use]
    pub fn is_ignored(&self) -> bool {
        matches!(self.reason, Reason::Ignored)
    }

    /// Whether the thread that asked, or the core's, blocks the signal.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        matches!(self.reason, Reason::Blocked)
    }
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cores cannot be interrupted by signal {}: ", self.signal)?;
        match &self.reason {
            Reason::Reserved => {
                write!(
                    f,
                    "it is kept for something else; choose SIGURG ({}), SIGUSR1, SIGUSR2, SIGIO, SIGWINCH or a real-time signal ({} to {})",
                    libc::SIGURG,
                    libc::SIGRTMIN(),
                    libc::SIGRTMAX()
                )
            }
            Reason::Ignored => {
                f.write_str("the process ignores it; choose another one, or set its action back to the default")
            }
            Reason::Blocked => {
                f.write_str(
                    "the thread blocks it; choose another one, or unblock it before the runtime starts and in `on_thread_start`",
                )
            }
            Reason::Refused(error) => {
                write!(f, "the kernel refused it ({error}); do without, or lift the restriction")
            }
        }
    }
}

impl std::error::Error for InterruptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Refused(error) => Some(error),
            Reason::Reserved | Reason::Ignored | Reason::Blocked => None,
        }
    }
}
