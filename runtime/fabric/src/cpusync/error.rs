//! Why a stop failed.

use core::fmt;

use crate::{CoreSet, Panic, PanicPayload};

/// Why a stop has no value. All its cores have been released.
pub struct CpuSyncError {
    cause: Cause,
}

pub(super) enum Cause {
    TimedOut(CoreSet),
    Restless,
    Panicked(Panic),
}

impl CpuSyncError {
    pub(super) fn new(cause: Cause) -> Self {
        Self { cause }
    }

    pub(super) fn map_not_stopped(self, f: impl FnOnce(CoreSet) -> CoreSet) -> Self {
        match self.cause {
            Cause::TimedOut(set) => Self::new(Cause::TimedOut(f(set))),
            _ => self,
        }
    }

    /// A function of the stop panicked with this payload.
    #[must_use]
    pub fn panicked(payload: PanicPayload) -> Self {
        Self::new(Cause::Panicked(Panic::new(payload)))
    }

    /// The cores that did not stop in time, if that is why; neither the body nor any function has run. The set is empty if
    /// they stopped, but did not become quiet in time.
    #[must_use]
    pub fn not_stopped(&self) -> Option<CoreSet> {
        match self.cause {
            Cause::TimedOut(set) => Some(set),
            _ => None,
        }
    }

    /// Whether the time limit was reached before all cores stood still.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::TimedOut(_))
    }

    /// Whether messages went on causing messages, or others than the stopped cores went on sending them, so that *drain* came to no end; neither the
    /// body nor any function has run.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        matches!(self.cause, Cause::Restless)
    }

    /// Whether the body or a function panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.cause, Cause::Panicked(_))
    }

    /// What the body, or the function of the lowest core, panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Panicked(panic) => Ok(panic.into_payload()),
            _ => Err(self),
        }
    }
}

impl fmt::Debug for CpuSyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::TimedOut(set) => f.debug_tuple("TimedOut").field(&Names(set)).finish(),
            Cause::Restless => f.write_str("Restless"),
            Cause::Panicked(panic) => write!(f, "Panicked({:?})", panic.text()),
        }
    }
}

impl fmt::Display for CpuSyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::TimedOut(set) if set.is_empty() => {
                f.write_str("the cores stopped, but did not become quiet in time: raise the limit or send less")
            }
            Cause::TimedOut(set) => {
                write!(f, "cores {:?} did not stop in time: look for a long poll there, or raise the limit", Names(set))
            }
            Cause::Restless => {
                f.write_str("messages went on causing messages, or coming from cores that were not to stop: end that before a stop that drains")
            }
            Cause::Panicked(panic) => write!(f, "a function of the stop panicked: {panic}"),
        }
    }
}

impl core::error::Error for CpuSyncError {}

struct Names<'a>(&'a CoreSet);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(crate::CoreId::index)).finish()
    }
}
