//! Why a task has no value.

use core::fmt;

use ipiq_fabric::{Panic, PanicPayload};

/// Why a task has no value.
pub struct JoinError {
    cause: Cause,
}

enum Cause {
    Cancelled,
    Panicked(Panic),
}

impl JoinError {
    pub(super) fn cancelled() -> Self {
        Self { cause: Cause::Cancelled }
    }

    pub(super) fn panicked(payload: PanicPayload) -> Self {
        Self { cause: Cause::Panicked(Panic::new(payload)) }
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
            Cause::Panicked(panic) => Ok(panic.into_payload()),
            Cause::Cancelled => Err(self),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("JoinError::Cancelled"),
            Cause::Panicked(panic) => write!(f, "JoinError::Panicked({:?})", panic.text()),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("the task was cancelled"),
            Cause::Panicked(panic) => write!(f, "the task panicked: {panic}"),
        }
    }
}

impl core::error::Error for JoinError {}
