//! A core that leaves, as users see it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::oneshot;
use ipiq_executor::LeaveError;
use ipiq_fabric::CoreId;

use super::Threads;
use crate::Handle;
use crate::current::on_core;

/// A core that leaves, from [`Handle::leave`]. Ready when its thread has ended.
///
/// # Cancel safety
///
/// Dropping it does not keep the core: it leaves.
#[derive(Debug)]
#[must_use = "the core leaves in any case, and has not left before this is ready"]
pub struct Leaving {
    core: CoreId,
    ended: oneshot::Receiver<()>,
}

impl Leaving {
    /// Which core.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }
}

impl Future for Leaving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Told by the drop of the sender.
        Pin::new(&mut self.ended).poll(cx).map(drop)
    }
}

impl Handle {
    /// Has `core` leave while the others go on: it cancels its tasks, on its own thread, awaits the answers that it is owed, and its thread ends.
    ///
    /// From the request on, calls to it resolve to errors whose `is_gone` says so, those that it has not run yet too, and tasks for it to errors whose
    /// `is_cancelled` does. What reaches every core ([`xcall`](crate::xcall), [`pause`](crate::pause()), [`shootdown`](crate::shootdown()), [`ipi`](crate::ipi),
    /// [`Replicated`](crate::Replicated), [`synchronize`](crate::synchronize)) goes on without it; an answer per core says that it is gone. Its shards of
    /// [services](crate::sharded) are dropped, and so are its values of [`CoreLocal`](crate::CoreLocal)s and [`ForeignBox`](crate::ForeignBox)es. It keeps its id, and
    /// is counted by [`core_count`](Self::core_count): ask [`has_left`](Self::has_left).
    ///
    /// Core 0 cannot leave: it runs what [`Runtime::block_on`](crate::Runtime::block_on) is given. So there is always a core.
    ///
    /// ```
    /// use ipiq::{CoreId, Runtime};
    ///
    /// let runtime = Runtime::builder().cores(2).build()?;
    /// let (handle, second) = (runtime.handle(), CoreId::new(1));
    /// runtime.block_on(move || async move {
    ///     handle.leave(second)?.await;
    ///     assert!(ipiq::call_on(second, || ()).await.unwrap_err().is_gone());
    ///     assert!(handle.leave(second).unwrap_err().has_left());
    ///     assert!(handle.leave(CoreId::new(0)).unwrap_err().must_stay());
    ///     Ok::<(), ipiq::LeaveError>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The core is out when polls, closures and pauses that are under way elsewhere, and that it has called, have ended; it finishes its own poll first. It waits for ever for a call whose future is never dropped: one that was leaked, or lies
    /// in a thread-local variable. It may [come back](Self::bring_back). One
    /// file descriptor, by which it was woken, is closed with the runtime.
    ///
    /// # Errors
    ///
    /// [`LeaveError`]: it is core 0, which stays; it has left; or the runtime has been told to stop.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[doc(alias = "offline")]
    #[track_caller]
    pub fn leave(&self, core: CoreId) -> Result<Leaving, LeaveError> {
        self.threads().leave(core)
    }

    /// Whether `core` has left, or has been asked to, while the runtime runs.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[must_use]
    #[track_caller]
    pub fn has_left(&self, core: CoreId) -> bool {
        self.remote().has_left(core)
    }
}

/// Has the calling core leave while the others go on: see [`Handle::leave`]. Returns at once; the calling task is dropped, as all others of this core are, when it
/// waits the next time.
///
/// ```
/// use ipiq::{CoreId, Runtime};
///
/// let runtime = Runtime::builder().cores(2).build()?;
/// let last = runtime.handle().spawn_on(CoreId::new(1), || async {
///     ipiq::leave()?;
///     std::future::pending::<Result<(), ipiq::LeaveError>>().await
/// });
/// assert!(Runtime::wait(last).unwrap_err().is_cancelled());
/// # Ok::<(), ipiq::BuildError>(())
/// ```
///
/// # Errors
///
/// As [`Handle::leave`].
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn leave() -> Result<(), LeaveError> {
    on_core("leave", |executor| executor.remote().leave(executor.core().id()))
}

impl Threads {
    /// Asks `core` to leave.
    #[track_caller]
    fn leave(&self, core: CoreId) -> Result<Leaving, LeaveError> {
        if self.remote.is_stopping() {
            // Refused, and without the lock, which in a forked child nobody may ever let go.
            self.remote.leave(core)?;
        }
        // [threads L1] before it is asked: it may be over at once.
        let (tell, ended) = oneshot::channel();
        if let Some(of_core) = self.lock().cores.get_mut(core.index()) {
            of_core.waiting.retain(|waiting| !waiting.is_canceled());
            of_core.waiting.push(tell);
        }
        // [threads L1]
        self.remote.leave(core)?;
        Ok(Leaving { core, ended })
    }
}
