//! A core that comes back, as users see it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_channel::oneshot;
use ipiq_fabric::CoreId;

use super::Threads;
use crate::crew::{Arrival, Crew};
use crate::{BuildError, Handle};

/// A core that comes back, from [`Handle::bring_back`]. Ready when it runs.
///
/// # Errors
///
/// [`ReturnError`]: its thread could not start, or the runtime has been told to stop. The core stays out, and may be [brought back](Handle::bring_back) again at once.
///
/// # Cancel safety
///
/// Dropping it stops nothing: the core comes back.
#[derive(Debug)]
#[must_use = "the core comes back in any case, and may not be there before this is ready"]
pub struct Returning {
    core: CoreId,
    told: oneshot::Receiver<Result<(), ReturnError>>,
}

impl Future for Returning {
    type Output = Result<(), ReturnError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let core = self.core;
        let told = std::task::ready!(Pin::new(&mut self.told).poll(cx));
        Poll::Ready(told.unwrap_or(Err(ReturnError { core, cause: Cause::Stopping })))
    }
}

/// Why a core does not come back.
#[derive(Debug)]
pub struct ReturnError {
    core: CoreId,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Present,
    Leaving,
    Stopping,
    Start(BuildError),
    Refused(ipiq_executor::ReturnError),
}

impl ReturnError {
    pub(crate) fn start(core: CoreId, cause: crate::builder::Cause) -> Self {
        Self { core, cause: Cause::Start(BuildError::new(cause)) }
    }

    pub(crate) fn refused(core: CoreId, error: ipiq_executor::ReturnError) -> Self {
        Self { core, cause: if error.is_stopping() { Cause::Stopping } else { Cause::Refused(error) } }
    }

    /// Whether the core has not left.
    #[must_use]
    pub fn is_present(&self) -> bool {
        matches!(self.cause, Cause::Present)
    }

    /// Whether the core is in the middle of leaving or coming back: await the one before the other. One that left by [`leave`](crate::leave()), which tells nobody of its end, may be tried again.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self.cause, Cause::Leaving)
    }

    /// Whether the runtime has been told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        matches!(self.cause, Cause::Stopping)
    }
}

impl fmt::Display for ReturnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core;
        match &self.cause {
            Cause::Present => write!(f, "{core} does not come back: it has not left"),
            Cause::Leaving => write!(f, "{core} is leaving, or coming back: await that first"),
            Cause::Stopping => write!(f, "{core} does not come back: the runtime has been told to stop"),
            Cause::Start(error) => write!(f, "{core} does not come back: {error}"),
            Cause::Refused(error) => error.fmt(f),
        }
    }
}

impl Error for ReturnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Start(error) => Some(error),
            _ => None,
        }
    }
}

impl Handle {
    /// Starts `core`, which has [left](Self::leave), anew: on a new thread, with the same id.
    ///
    /// Nothing of its former life reaches it: what was sent to that goes back to who sent it. It has no [shard](crate::sharded) of services that were started before
    /// and makes its values of [`CoreLocal`](crate::CoreLocal)s anew; handlers run there, and it reads what [`Replicated`](crate::Replicated) values are now.
    /// The thread starts as those before, with [`Builder::on_thread_start`](crate::Builder::on_thread_start).
    ///
    /// All cores stand still for a moment, as in a [`pause`](crate::pause()): it takes as long as their longest poll.
    ///
    /// ```
    /// use ipiq::{CoreId, Runtime};
    ///
    /// let runtime = Runtime::builder().cores(2).build()?;
    /// let (handle, second) = (runtime.handle(), CoreId::new(1));
    /// let answer = runtime.block_on(move || async move {
    ///     handle.leave(second)?.await;
    ///     handle.bring_back(second)?.await?;
    ///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(ipiq::call_on(second, ipiq::core_id).await?)
    /// });
    /// assert_eq!(answer.unwrap(), second);
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReturnError`]: the core has not left, or not yet; the runtime has been told to stop; or the system has no thread.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[doc(alias = "online")]
    #[track_caller]
    pub fn bring_back(&self, core: CoreId) -> Result<Returning, ReturnError> {
        self.threads().bring_back(core)
    }
}

impl Threads {
    /// Starts a thread for `core` anew.
    #[track_caller]
    fn bring_back(self: &Arc<Self>, core: CoreId) -> Result<Returning, ReturnError> {
        let refused = |cause| Err(ReturnError { core, cause });
        ipiq_fabric::assert_core(core, self.remote.cores());
        let (tell, told) = oneshot::channel();
        // Without the lock, which in a forked child nobody may ever let go.
        let crew = if self.remote.is_stopping() { None } else { self.lock().crew.clone() };
        let Some(crew) = crew else { return refused(Cause::Stopping) };
        // A user's function: not under the lock.
        let name = (crew.thread_name)(core);
        let mut state = self.lock();
        // [threads E1]
        if state.crew.is_none() {
            return refused(Cause::Stopping);
        }
        let of_core = &mut state.cores[core.index()];
        if !self.remote.has_left(core) {
            return refused(Cause::Present);
        }
        // [threads R1]
        if !of_core.is_over || !self.remote.prepare_return(core) {
            return refused(Cause::Leaving);
        }
        let start = crew.start(core, self, of_core.former.clone(), Arrival::Again(tell));
        match Crew::spawn(name, start) {
            Ok(thread) => {
                of_core.thread = Some(thread);
                of_core.is_over = false;
                Ok(Returning { core, told })
            }
            Err(error) => {
                self.remote.give_up_return(core);
                refused(Cause::Start(BuildError::new(crate::builder::Cause::Thread(core, error))))
            }
        }
    }
}
