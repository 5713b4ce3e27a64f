//! Why a task has no value.

use core::fmt;

use ipiq_fabric::PanicPayload;
use ipiq_fabric::call::panic_text;

/// Why a task has no value.
pub struct JoinError {
    cause: Cause,
}

enum Cause {
    Cancelled,
    Panicked(PanicPayload),
}

impl JoinError {
    pub(super) fn cancelled() -> Self {
        Self { cause: Cause::Cancelled }
    }

    pub(super) fn panicked(payload: PanicPayload) -> Self {
        Self { cause: Cause::Panicked(payload) }
    }

    /// Whether the task was aborted, or its core had left or was shutting down.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.cause, Cause::Cancelled)
    }

    /// Whether the task, or a destructor that it ran, panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.cause, Cause::Panicked(_))
    }

    /// What the task panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Panicked(payload) => Ok(payload),
            Cause::Cancelled => Err(self),
        }
    }
}

// SAFETY: 1. a shared reference reads a panic's payload only as a `&str` or `String`, which are `Sync`; any other payload can
// be reached by value only (`try_into_panic`).
unsafe impl Sync for JoinError {}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("JoinError::Cancelled"),
            Cause::Panicked(payload) => write!(f, "JoinError::Panicked({:?})", panic_text(payload)),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("the task was cancelled"),
            Cause::Panicked(payload) => write!(f, "the task panicked: {}", panic_text(payload)),
        }
    }
}

impl core::error::Error for JoinError {}
