//! Why a shootdown failed.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use crate::{CoreId, Panic, PanicPayload};

/// An operation panicked on one of the cores, the first to say so, or the initiator's core left before all had acknowledged.
///
/// Where it did not panic it was executed on every core that had not left.
pub struct ShootdownError {
    cause: Cause,
}

enum Cause {
    Panicked(CoreId, Panic),
    Gone,
}

impl ShootdownError {
    pub(crate) fn panicked(core: CoreId, payload: PanicPayload) -> Self {
        Self { cause: Cause::Panicked(core, Panic::new(payload)) }
    }

    /// The initiator's core left, or the runtime was stopped, before all had acknowledged.
    #[must_use]
    pub fn gone() -> Self {
        Self { cause: Cause::Gone }
    }

    /// The same news for somebody else: a payload cannot be cloned, its text can.
    pub(crate) fn again(&self) -> Self {
        match &self.cause {
            Cause::Panicked(core, panic) => Self::panicked(*core, Box::new(String::from(panic.text()))),
            Cause::Gone => Self::gone(),
        }
    }

    /// Whether the initiator's core left, or the runtime was stopped; some cores may have executed it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.cause, Cause::Gone)
    }

    /// The core on which the operation, or its preparation, panicked.
    #[must_use]
    pub fn panicked_on(&self) -> Option<CoreId> {
        match &self.cause {
            Cause::Panicked(core, _) => Some(*core),
            Cause::Gone => None,
        }
    }

    /// What it panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Panicked(_, panic) => Ok(panic.into_payload()),
            Cause::Gone => Err(self),
        }
    }
}

impl fmt::Debug for ShootdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Panicked(core, panic) => write!(f, "ShootdownError::Panicked({core}, {:?})", panic.text()),
            Cause::Gone => f.write_str("ShootdownError::Gone"),
        }
    }
}

impl fmt::Display for ShootdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Panicked(core, panic) => write!(f, "the operation panicked on {core}: {panic}"),
            Cause::Gone => f.write_str("the runtime has stopped, or the initiating core has left, before every core acknowledged: some may have executed it"),
        }
    }
}

impl core::error::Error for ShootdownError {}
