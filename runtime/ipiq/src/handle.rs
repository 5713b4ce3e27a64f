//! A runtime as other threads see it.

use std::future::Future;
use std::sync::Arc;

use ipiq_executor::xcall::{Class, RemoteBarrier, RemoteHighBroadcast, RemoteLowBroadcast, RemoteWait, Ticket};
use ipiq_executor::{JoinHandle, Remote, RemoteCall};
use ipiq_fabric::watch::Wait;
use ipiq_fabric::{CoreCounters, CoreId, PairCounters, assert_core};

use crate::Cores;
use crate::blocking::{self, Blocking, Pool};
use crate::calls::{RemoteAsyncCall, remote_async_call};
use crate::shutdown::Board;
use crate::stalls::Inspect;
use crate::threads::Threads;
use crate::topology::Topology;

/// The way into a runtime from any thread, also one that runs no core. Clones are cheap; it does not keep the runtime
/// alive, though one file descriptor of each core.
///
/// ```
/// use ipiq::{CoreId, Runtime};
///
/// let runtime = Runtime::builder().cores(2).build()?;
/// let handle = runtime.handle();
/// let plain_thread = std::thread::spawn(move || {
///     let call = handle.call_on(CoreId::new(1), || ipiq::core_id().index());
///     let task = handle.spawn_on(CoreId::new(0), || async {
///         ipiq::yield_now().await;
///         ipiq::core_count()
///     });
///     (Runtime::wait(call).unwrap(), Runtime::wait(task).unwrap())
/// });
/// assert_eq!(plain_thread.join().unwrap(), (1, 2));
/// # Ok::<(), ipiq::BuildError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    remote: Remote,
    inspect: Arc<Inspect>,
    board: Arc<Board>,
    threads: Arc<Threads>,
    blocking: Arc<Pool>,
}

impl Handle {
    pub(crate) fn new(
        remote: Remote,
        inspect: Arc<Inspect>,
        board: Arc<Board>,
        threads: Arc<Threads>,
        blocking: Arc<Pool>,
    ) -> Self {
        Self { remote, inspect, board, threads, blocking }
    }

    pub(crate) fn threads(&self) -> &Arc<Threads> {
        self.notice_fork();
        &self.threads
    }

    pub(crate) fn inspect(&self) -> &Inspect {
        &self.inspect
    }

    pub(crate) fn board(&self) -> &Arc<Board> {
        self.notice_fork();
        &self.board
    }

    pub(crate) fn remote(&self) -> &Remote {
        self.notice_fork();
        &self.remote
    }

    fn notice_fork(&self) {
        if self.board.is_orphaned() {
            self.remote.abandon();
            self.board.abandon();
        }
    }

    /// Spawns a task on `core`, as [`spawn_on`](crate::spawn_on) does. Never waits. Once the runtime has stopped the task ends at
    /// once, cancelled.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[track_caller]
    pub fn spawn_on<Init, Fut>(&self, core: CoreId, init: Init) -> JoinHandle<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        self.remote().spawn_on(core, init)
    }

    /// Runs `f` on `core`, between two of its polls. The future may be awaited anywhere, also by
    /// [`Runtime::wait`](crate::Runtime::wait) on a plain thread.
    ///
    /// # Errors
    ///
    /// The future resolves to [`CallError`](crate::CallError) if `f` panicked, or the runtime has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop `f`; its value is dropped.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[doc(alias = "submit_to")]
    #[track_caller]
    pub fn call_on<F, R>(&self, core: CoreId, f: F) -> RemoteCall<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        self.remote().call_on(core, f)
    }

    /// Runs the async closure `f` on `core`, as a task there. The future may be awaited anywhere; dropped, it cancels what runs there.
    ///
    /// No [limit](crate::Limit) holds for it, and no [deadline](crate::deadline) goes along.
    ///
    /// ```
    /// use ipiq::{CoreId, Runtime};
    ///
    /// let runtime = Runtime::builder().cores(2).build()?;
    /// let answer = runtime.handle().call_async_on(CoreId::new(1), async || {
    ///     ipiq::yield_now().await;
    ///     ipiq::core_id().index()
    /// });
    /// assert_eq!(Runtime::wait(answer).unwrap(), 1);
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The future resolves to [`CallError`](crate::CallError) if `f` panicked, or the runtime has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels what runs on `core`: it is dropped there in place of its next poll.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[track_caller]
    pub fn call_async_on<F, R>(&self, core: CoreId, f: F) -> RemoteAsyncCall<R>
    where
        F: AsyncFnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        remote_async_call(self.remote(), core, f)
    }

    /// Runs `f` on every core, as [`xcall::high::broadcast`](crate::xcall::high::broadcast) does. The future may be awaited anywhere.
    ///
    /// ```
    /// use ipiq::Runtime;
    ///
    /// let runtime = Runtime::builder().cores(2).build()?;
    /// let answers = Runtime::wait(runtime.handle().broadcast_high(|| ipiq::core_id()));
    /// assert!(answers.into_iter().all(|(core, answer)| answer.unwrap() == core));
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Each core's value is a [`CallError`](crate::CallError) if `f` panicked there, or the runtime has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops no function; values are dropped.
    pub fn broadcast_high<F, R>(&self, f: F) -> RemoteHighBroadcast<R>
    where
        F: FnOnce() -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        self.remote().high_broadcast(f)
    }

    /// Spawns a task on every core, as [`xcall::low::broadcast`](crate::xcall::low::broadcast) does. The future may be awaited anywhere.
    ///
    /// # Errors
    ///
    /// Each core's value is a [`JoinError`](crate::JoinError) if its task panicked, or the runtime has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops no task; values are dropped.
    #[track_caller]
    pub fn broadcast_low<Init, Fut>(&self, init: Init) -> RemoteLowBroadcast<Fut::Output>
    where
        Init: FnOnce() -> Fut + Clone + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        self.remote().low_broadcast(init)
    }

    /// Awaits that every core has passed a point between polls, as [`xcall::barrier`](crate::xcall::barrier) does. The future may be
    /// awaited anywhere.
    ///
    /// # Errors
    ///
    /// The future resolves to a [`CallError`](crate::CallError) if the runtime had been told to stop: nothing is promised then.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is promised; the cores pass it all the same.
    pub fn barrier(&self, class: Class) -> RemoteBarrier {
        self.remote().barrier(class)
    }

    /// Awaits the end of a call that a core has issued, as [`xcall::wait`](crate::xcall::wait) does. The future may be awaited anywhere.
    ///
    /// # Errors
    ///
    /// The future resolves to a [`CallError`](crate::CallError) if the runtime has stopped; whether the call has finished is then unknown.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    ///
    /// # Panics
    ///
    /// If the ticket names a core that there is not.
    #[track_caller]
    pub fn wait_ticket(&self, ticket: Ticket) -> RemoteWait {
        self.remote().wait_ticket(ticket)
    }

    /// Runs `f`, which may block, on one of the runtime's threads for that, as [`spawn_blocking`](crate::spawn_blocking) does. The future may be awaited anywhere.
    ///
    /// ```
    /// use ipiq::Runtime;
    ///
    /// let runtime = Runtime::builder().cores(1).build()?;
    /// let handle = runtime.handle();
    /// assert_eq!(Runtime::wait(handle.spawn_blocking(|| 6 * 7)).unwrap(), 42);
    /// drop(runtime);
    /// assert!(Runtime::wait(handle.spawn_blocking(|| ())).unwrap_err().is_ended());
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The future resolves to [`BlockingError`](crate::BlockingError) if `f` panicked, the runtime has ended, or the system has no thread for it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop `f`, once it is queued; its value is dropped.
    pub fn spawn_blocking<F, R>(&self, f: F) -> Blocking<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        blocking::spawn_in(&self.blocking, f)
    }

    /// How many cores the runtime has, those that have [left](Self::leave) too.
    #[must_use]
    pub fn core_count(&self) -> usize {
        self.remote().cores()
    }

    /// The runtime's cores, in ascending order.
    pub fn cores(&self) -> Cores {
        Cores::first(self.core_count())
    }

    /// What the runtime runs on: the CPUs that it may use, their nodes, packages and caches, and which core is on which of them, or why on none.
    ///
    /// What it may use is of the time when it started, and each core's place of when that started, or came [back](Self::bring_back) last; sysfs is read once per process.
    ///
    /// ```
    /// let runtime = ipiq::Runtime::builder().cores(1).build()?;
    /// println!("{}", runtime.handle().topology()); // a table
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.inspect.instruments().topology()
    }

    /// What `core` has counted of itself.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[must_use]
    #[track_caller]
    pub fn core_counters(&self, core: CoreId) -> CoreCounters {
        assert_core(core, self.core_count());
        self.remote().fabric().core_counters(core)
    }

    /// What was counted of messages from `source` to `target`.
    ///
    /// # Panics
    ///
    /// If there are no such cores.
    #[must_use]
    #[track_caller]
    pub fn pair_counters(&self, source: CoreId, target: CoreId) -> PairCounters {
        assert_core(source, self.core_count());
        assert_core(target, self.core_count());
        self.remote().fabric().pair_counters(source, target)
    }

    /// What cores wait for right now: those that loop for another one (a stop, a full ring), and those with messages that the other one has
    /// not run when they last looked, which is when they went to sleep, and now and then while they are awake.
    ///
    /// A snapshot for people and dashboards: empty when all goes well, or nearly so.
    ///
    /// ```
    /// let runtime = ipiq::Runtime::builder().cores(2).build()?;
    /// for wait in runtime.handle().waits() {
    ///     println!("{wait}"); // core 1 waits for core 0, 1.2 s, in call
    /// }
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    #[must_use]
    pub fn waits(&self) -> Vec<Wait> {
        self.remote().fabric().waits()
    }

    /// Asks the runtime to stop: every core cancels its tasks and ends. Returns at once; dropping the
    /// [`Runtime`](crate::Runtime) waits for it. [`shutdown`](Self::shutdown) is the end in phases, which this cuts short.
    pub fn stop(&self) {
        self.remote().stop();
        // [shutdown B3]
        self.board.ring();
    }
}
