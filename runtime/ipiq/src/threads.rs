//! The threads of a runtime's cores, and how one of them ends before the others.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle as ThreadHandle, ThreadId};

use futures_channel::oneshot;
use ipiq_executor::{LeaveError, Remote};
use ipiq_fabric::CoreId;

use crate::Handle;
use crate::blocking::Pool;
use crate::current::on_core;
use crate::of_thread::{self, Installed, Slot};

thread_local! {
    static CURRENT: Slot<Arc<Threads>> = const { RefCell::new(None) };
}

/// Makes `threads` those of the calling core's runtime until the guard is dropped.
pub(crate) fn install(threads: Arc<Threads>) -> Installed<Arc<Threads>> {
    of_thread::install(&CURRENT, threads)
}

/// Those of the calling core's runtime.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[track_caller]
pub(crate) fn current(what: &str) -> Arc<Threads> {
    of_thread::get(&CURRENT, what)
}

/// One runtime's.
pub(crate) struct Threads {
    remote: Remote,
    /// Joins those that end before the others.
    blocking: Arc<Pool>,
    cores: Mutex<Vec<OfCore>>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct OfCore {
    /// `None`: not started, or somebody joins it.
    thread: Option<ThreadHandle<()>>,
    /// Who waits for its end.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Threads {
    pub(crate) fn new(remote: Remote, blocking: Arc<Pool>) -> Arc<Self> {
        let cores = std::iter::repeat_with(OfCore::default).take(remote.cores()).collect();
        Arc::new(Self { remote, blocking, cores: Mutex::new(cores) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OfCore>> {
        // Nothing under the lock can panic half-way.
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The threads of all cores, in their order.
    pub(crate) fn started(&self, threads: Vec<ThreadHandle<()>>) {
        self.lock().iter_mut().zip(threads).for_each(|(core, thread)| core.thread = Some(thread));
    }

    /// Whether a thread is one of them.
    pub(crate) fn include(&self, thread: ThreadId) -> bool {
        self.lock().iter().filter_map(|core| core.thread.as_ref()).any(|of_core| of_core.thread().id() == thread)
    }

    /// Those that run still; whoever has them joins them.
    pub(crate) fn take(&self) -> Vec<ThreadHandle<()>> {
        self.lock().iter_mut().filter_map(|core| core.thread.take()).collect()
    }

    /// Asks `core` to leave.
    fn leave(&self, core: CoreId) -> Result<Leaving, LeaveError> {
        // Before it is asked: it may be over at once.
        let (tell, ended) = oneshot::channel();
        if let Some(of_core) = self.lock().get_mut(core.index()) {
            of_core.waiting.retain(|waiting| !waiting.is_canceled());
            of_core.waiting.push(tell);
        }
        self.remote.leave(core)?;
        Ok(Leaving { core, ended })
    }

    /// The calling thread, which ran `core`, is about to end.
    fn end(&self, core: CoreId) {
        if !self.remote.has_left(core) {
            // It ends with the others, which the runtime joins.
            return;
        }
        let OfCore { thread, waiting } = std::mem::take(&mut self.lock()[core.index()]);
        let ending = Ending { thread, _waiting: waiting };
        // Refused: nobody joins it, and it ends by itself.
        drop(self.blocking.push(Box::new(move || drop(ending))));
    }
}

/// In the closure of a core's thread: dropped last.
pub(crate) struct AtEnd {
    pub(crate) threads: Arc<Threads>,
    pub(crate) core: CoreId,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.threads.end(self.core);
    }
}

/// A thread to be joined, and then who waits for that, to be told by the drop of their channels.
struct Ending {
    thread: Option<ThreadHandle<()>>,
    _waiting: Vec<oneshot::Sender<()>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let this = thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != this) {
            // A core's panic aborts the process; there is no error to report.
            drop(thread.join());
        }
    }
}

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
    /// The core is out when polls, closures and pauses that are under way elsewhere, and that it has called, have ended; it finishes its own poll first. One
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
