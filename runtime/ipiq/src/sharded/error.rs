//! Why a shard gives no value.

use std::error::Error;
use std::fmt;

use ipiq_executor::time::Elapsed;
use ipiq_executor::{CallError, JoinError};
use ipiq_fabric::{CoreId, PanicPayload};

use crate::home::{self, Key};

/// The answer of a core whose seat is closed or not there.
#[derive(Debug)]
pub struct Stopped {
    /// The service is older than the core's life.
    is_absent: bool,
}

impl Stopped {
    /// Of the calling core, which has no open seat of `service`.
    pub(super) fn here(service: Key) -> Self {
        // [sharded L2]
        Self { is_absent: home::is_of_former_life(service) }
    }
}

/// Why a call to a shard has no value.
#[derive(Debug)]
pub struct ShardError {
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Stopped,
    /// The core has come back since the service was started.
    Absent,
    Call(CallError),
    Task(JoinError),
}

impl ShardError {
    /// Whether the service had stopped, or was stopping; the closure did not run.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.cause, Cause::Stopped)
    }

    /// Whether the core has [come back](crate::Handle::bring_back) since the service was started, and so has no shard of it, whether the service has stopped meanwhile or not. The closure did not run.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.cause, Cause::Absent)
    }

    /// Whether the core had [left](crate::Handle::leave), or was shutting down: a closure did not run, a task did not end. Also of a task that was [aborted](super::ShardTask::abort).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match &self.cause {
            Cause::Stopped | Cause::Absent => false,
            Cause::Call(error) => error.is_gone(),
            Cause::Task(error) => error.is_cancelled(),
        }
    }

    /// Whether the current [deadline](crate::deadline) had passed before there was a value.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        match &self.cause {
            Cause::Stopped | Cause::Absent => false,
            Cause::Call(error) => error.is_deadline(),
            Cause::Task(error) => error.is_deadline(),
        }
    }

    /// Whether the [limit](super::Sharded::set_call_limit) has refused the call.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        matches!(&self.cause, Cause::Call(error) if error.is_over_limit())
    }

    /// Whether calls inside of calls were [too deep](crate::CallError::is_circular), as when they go in a circle.
    #[must_use]
    pub fn is_circular(&self) -> bool {
        matches!(&self.cause, Cause::Call(error) if error.is_circular())
    }

    /// Whether the closure, or the task, panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        match &self.cause {
            Cause::Stopped | Cause::Absent => false,
            Cause::Call(error) => error.is_panic(),
            Cause::Task(error) => error.is_panic(),
        }
    }

    /// What the closure panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        let unchanged = |cause| Self { cause };
        match self.cause {
            cause @ (Cause::Stopped | Cause::Absent) => Err(unchanged(cause)),
            Cause::Call(error) => error.try_into_panic().map_err(|error| unchanged(Cause::Call(error))),
            Cause::Task(error) => error.try_into_panic().map_err(|error| unchanged(Cause::Task(error))),
        }
    }
}

impl From<Stopped> for ShardError {
    fn from(stopped: Stopped) -> Self {
        Self { cause: if stopped.is_absent { Cause::Absent } else { Cause::Stopped } }
    }
}

impl From<CallError> for ShardError {
    fn from(error: CallError) -> Self {
        Self { cause: Cause::Call(error) }
    }
}

/// An error that says that the [deadline](ShardError::is_deadline) has passed.
impl From<Elapsed> for ShardError {
    fn from(elapsed: Elapsed) -> Self {
        CallError::from(elapsed).into()
    }
}

impl From<JoinError> for ShardError {
    fn from(error: JoinError) -> Self {
        Self { cause: Cause::Task(error) }
    }
}

/// What a core answered, in one error.
pub(super) fn flatten<R, E>(answer: Result<Result<R, Stopped>, E>) -> Result<R, ShardError>
where
    ShardError: From<E>,
{
    Ok(answer??)
}

impl fmt::Display for ShardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Stopped => f.write_str("the service has stopped; the closure did not run"),
            Cause::Absent => f.write_str(
                "the core has come back since the service was started, and has no shard of it; the closure did not run",
            ),
            Cause::Call(error) => error.fmt(f),
            Cause::Task(error) => error.fmt(f),
        }
    }
}

impl Error for ShardError {}

/// Why a service did not start: the first core, in ascending order, that has no shard. The shards of the others have been dropped.
#[derive(Debug)]
pub struct StartError<E> {
    pub(super) core: CoreId,
    pub(super) cause: StartCause<E>,
}

#[derive(Debug)]
pub(super) enum StartCause<E> {
    Refused(E),
    Task(JoinError),
}

impl<E> StartError<E> {
    /// Which core.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// The error that making the shard ended with; `None`: it panicked, or the core was shutting down.
    #[must_use]
    pub fn into_inner(self) -> Option<E> {
        match self.cause {
            StartCause::Refused(error) => Some(error),
            StartCause::Task(_) => None,
        }
    }

    /// Whether making the shard panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(&self.cause, StartCause::Task(error) if error.is_panic())
    }
}

impl<E: fmt::Display> fmt::Display for StartError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shard of {} was not made: ", self.core)?;
        match &self.cause {
            StartCause::Refused(error) => error.fmt(f),
            StartCause::Task(error) => error.fmt(f),
        }
    }
}

impl<E: Error> Error for StartError<E> {}

/// What panicked while a service stopped, on the first core, in ascending order: the closure of the stop, or dropping a value. The service has stopped all the same. Or that
/// who awaited the stop would have waited for itself.
#[derive(Debug)]
pub struct StopError {
    pub(super) core: CoreId,
    pub(super) cause: StopCause,
}

#[derive(Debug)]
pub(super) enum StopCause {
    Task(JoinError),
    OwnUse,
}

impl StopError {
    /// Which core.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Whether the stop was awaited inside of a use of the service, which it waits for. The service stops when that has ended.
    #[must_use]
    pub fn is_own_use(&self) -> bool {
        matches!(self.cause, StopCause::OwnUse)
    }

    /// What it panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        let core = self.core;
        match self.cause {
            StopCause::Task(error) => {
                error.try_into_panic().map_err(|error| Self { core, cause: StopCause::Task(error) })
            }
            StopCause::OwnUse => Err(self),
        }
    }
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            StopCause::Task(error) => write!(f, "while its service stopped, on {}: {error}", self.core),
            StopCause::OwnUse => write!(
                f,
                "the stop of a service waits for its uses, and was awaited inside of one, on {}: begin it there and do not await it",
                self.core
            ),
        }
    }
}

impl Error for StopError {}
