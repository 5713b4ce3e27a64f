//! Why a task has no value.

use alloc::boxed::Box;
use core::fmt;

use ipiq_fabric::{Panic, PanicPayload};

/// Why a task has no value.
pub struct JoinError {
    cause: Cause,
}

enum Cause {
    Cancelled,
    /// Or the deadline has passed: the payload is [`Late`] then, which keeps outcomes as short as they are.
    Panicked(Panic),
}

/// The payload of an error that is no panic. Its box is no allocation.
struct Late;

const _: () = assert!(size_of::<JoinError>() == size_of::<PanicPayload>());

impl JoinError {
    pub(super) fn cancelled() -> Self {
        Self { cause: Cause::Cancelled }
    }

    /// Of a task that was ended, because its deadline had passed or for another reason.
    pub(super) fn cut(expired: bool) -> Self {
        if expired { Self::panicked(Box::new(Late)) } else { Self::cancelled() }
    }

    pub(super) fn panicked(payload: PanicPayload) -> Self {
        Self { cause: Cause::Panicked(Panic::new(payload)) }
    }

    /// Whether the task was aborted, or its core had left or was shutting down.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.cause, Cause::Cancelled)
    }

    /// Whether the deadline under which the task was spawned had passed: it did not begin, or did not end.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        matches!(&self.cause, Cause::Panicked(panic) if is_late(panic))
    }

    /// Whether the task, or a destructor that it ran, panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(&self.cause, Cause::Panicked(panic) if !is_late(panic))
    }

    /// What the task panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Panicked(panic) if !is_late(&panic) => Ok(panic.into_payload()),
            cause => Err(Self { cause }),
        }
    }
}

fn is_late(panic: &Panic) -> bool {
    panic.carried::<Late>().is_some()
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("JoinError::Cancelled"),
            Cause::Panicked(panic) if is_late(panic) => f.write_str("JoinError::Deadline"),
            Cause::Panicked(panic) => write!(f, "JoinError::Panicked({:?})", panic.text()),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("the task was cancelled"),
            Cause::Panicked(panic) if is_late(panic) => f.write_str("the deadline of the task has passed"),
            Cause::Panicked(panic) => write!(f, "the task panicked: {panic}"),
        }
    }
}

impl core::error::Error for JoinError {}
