//! The cores of a runtime as any thread sees them.

use alloc::sync::Arc;
use core::fmt;
use core::future::Future;
use core::panic::Location;
use core::pin::Pin;
use core::task::{Context, Poll};

use futures_channel::oneshot;
use ipiq_fabric::call::CallError;
use ipiq_fabric::port::Clock;
use ipiq_fabric::urgent::InterruptSafe;
use ipiq_fabric::urgent_call::ForeignUrgentCall;
use ipiq_fabric::{CoreId, Fabric, Message, assert_core, catch, contain};

use crate::Executor;
use crate::classes::{CoreClasses, Table};
use crate::core_loop::Lifecycle;
use crate::counts::{CoreLoad, Counts};
use crate::executor::with_current;
use crate::probe::Activity;
use crate::task::{Home, JoinHandle, Origin, refuse, spawn_there};

/// The way to a set of cores from any thread. Clones are cheap and refer to the same cores.
#[derive(Clone)]
pub struct Remote {
    homes: Arc<[Arc<Home>]>,
    activities: Arc<[Arc<Activity>]>,
    counts: Arc<[Arc<Counts>]>,
    classes: Arc<Table>,
    core_classes: Arc<[Arc<CoreClasses>]>,
    lifecycle: Arc<Lifecycle>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("cores", &self.cores()).finish_non_exhaustive()
    }
}

impl Remote {
    /// The cores of `fabric`.
    #[must_use]
    pub fn new(fabric: &Fabric) -> Self {
        let home =
            |index| Arc::new(Home { id: CoreId::new(index), fabric: fabric.clone(), port: fabric.port().clone() });
        Self {
            homes: (0..fabric.cores()).map(home).collect(),
            activities: (0..fabric.cores()).map(|_| Arc::default()).collect(),
            counts: (0..fabric.cores()).map(|_| Arc::default()).collect(),
            classes: Arc::new(Table::new()),
            core_classes: (0..fabric.cores()).map(|_| Arc::default()).collect(),
            lifecycle: Arc::new(Lifecycle::new(fabric.cores())),
        }
    }

    /// Whether both mean the same cores.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.homes, &other.homes)
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.homes.len()
    }

    /// The fabric that connects them.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.homes[0].fabric
    }

    #[track_caller]
    pub(crate) fn home(&self, core: CoreId) -> &Arc<Home> {
        assert_core(core, self.cores());
        &self.homes[core.index()]
    }

    #[track_caller]
    pub(crate) fn activity(&self, core: CoreId) -> &Arc<Activity> {
        assert_core(core, self.cores());
        &self.activities[core.index()]
    }

    #[track_caller]
    pub(crate) fn counts(&self, core: CoreId) -> &Arc<Counts> {
        assert_core(core, self.cores());
        &self.counts[core.index()]
    }

    /// What `core` has run, and how long it did what, by the `clock` that its executor was given. From any thread.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    #[track_caller]
    pub fn load(&self, core: CoreId, clock: &dyn Clock) -> CoreLoad {
        self.counts(core).read(|| clock.now_ns())
    }

    /// How many tasks `core` had to poll in its last turn, about: a hint, which costs the core nothing.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    #[track_caller]
    pub fn recent_tasks(&self, core: CoreId) -> usize {
        self.activity(core).load()
    }

    pub(crate) fn activities(&self) -> &Arc<[Arc<Activity>]> {
        &self.activities
    }

    #[inline(always)]
    pub(crate) fn classes(&self) -> &Table {
        &self.classes
    }

    pub(crate) fn core_classes(&self, core: CoreId) -> &Arc<CoreClasses> {
        &self.core_classes[core.index()]
    }

    pub(crate) fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }

    /// Spawns on `core` the future that `init` makes there, in the default class, or on one of the cores that of the running code. `init` crosses; the future need
    /// not be `Send`.
    ///
    /// Never waits. On a runtime that has been told to stop the task is cancelled at once.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[track_caller]
    pub fn spawn_on<Init, Fut>(&self, core: CoreId, init: Init) -> JoinHandle<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        self.spawn_on_at(Location::caller(), core, init)
    }

    /// As [`spawn_on`](Self::spawn_on), for a caller that knows better where the task is spawned.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[track_caller]
    pub fn spawn_on_at<Init, Fut>(
        &self,
        spawned_at: &'static Location<'static>,
        core: CoreId,
        init: Init,
    ) -> JoinHandle<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        // [classes C1]
        self.spawn_from(Origin { spawned_at, class: self.caller_class() }, core, init)
    }

    /// That of the running code, if the calling thread is one of these cores.
    fn caller_class(&self) -> u8 {
        let class = |executor: &Executor| executor.is_peer(&self.homes[0]).then(|| executor.core().tag());
        with_current(&**self.fabric().port(), class).flatten().unwrap_or(0)
    }

    #[inline(always)]
    #[track_caller]
    pub(crate) fn spawn_from<Init, Fut>(&self, origin: Origin, core: CoreId, init: Init) -> JoinHandle<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        if self.lifecycle.is_stopping() {
            return self.spawn_while_stopping(origin, core, init);
        }
        spawn_there(self.home(core), origin, init)
    }

    #[cold]
    #[track_caller]
    fn spawn_while_stopping<Init, Fut>(&self, origin: Origin, core: CoreId, init: Init) -> JoinHandle<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let home = self.home(core);
        if self.refuses_caller() { refuse(home, origin, init) } else { spawn_there(home, origin, init) }
    }

    /// [loop E1]: the calling thread is none of the cores, and they have been told to end.
    pub(crate) fn refuses_caller(&self) -> bool {
        // [loop E1] threads that go on spawning and calling would keep the cores from ever running out of work.
        self.lifecycle.is_stopping()
            && with_current(&**self.fabric().port(), |executor| executor.is_peer(&self.homes[0])) != Some(true)
    }

    /// Runs `f` on `core`, between two of its polls, from any thread.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[track_caller]
    pub fn call_on<F, R>(&self, core: CoreId, f: F) -> RemoteCall<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let home = self.home(core);
        if self.refuses_caller() {
            return RemoteCall { receiver, told: false };
        }
        // [classes C1]
        let class = self.caller_class();
        let message = Message::foreign(move |core, _| {
            if core.is_closing() {
                // `f` is dropped here, and then the sender, which says "gone".
                contain(|| drop(f));
            } else {
                // Nobody waits any more: the value is dropped here.
                contain(|| drop(sender.send(core.with_tag(class, || catch(f)))));
            }
        });
        // A core that has left gives the message back; dropping it ends the channel.
        drop(home.fabric.post(core, message));
        RemoteCall { receiver, told: false }
    }

    /// Runs `f` on `core`, in the middle of whatever that does, from any thread: see [`Fabric::call_urgent`].
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[track_caller]
    pub fn call_urgent<F, R>(&self, core: CoreId, f: InterruptSafe<F>) -> ForeignUrgentCall<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        let home = self.home(core);
        if self.refuses_caller() { ForeignUrgentCall::refused() } else { home.fabric.call_urgent(core, f) }
    }

    /// Whether the cores have been told to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.lifecycle.is_stopping()
    }

    /// Has other threads be refused as if the cores had been told to end, and tells the cores nothing: for a process that has none of their threads, because it is a forked
    /// child.
    pub fn abandon(&self) {
        self.lifecycle.stop();
    }

    /// Tells every core to end. Each cancels its tasks and leaves.
    pub fn stop(&self) {
        self.lifecycle.stop();
        (0..self.cores()).map(CoreId::new).for_each(|core| self.fabric().nudge(core));
    }
}

/// The value of a closure that runs on a core, awaited from any thread.
///
/// # Cancel safety
///
/// Dropping it does not stop the closure; its value is dropped.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct RemoteCall<R> {
    receiver: oneshot::Receiver<Result<R, ipiq_fabric::PanicPayload>>,
    /// Nothing is left in it.
    told: bool,
}

impl<R> Drop for RemoteCall<R> {
    /// A value that nobody wants is dropped here, and a panic of its destructor reaches nobody.
    fn drop(&mut self) {
        if !self.told {
            // What comes from here on is given back to who sends it.
            self.receiver.close();
            contain(|| drop(self.receiver.try_recv()));
        }
    }
}

impl<R> Future for RemoteCall<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = core::task::ready!(Pin::new(&mut self.receiver).poll(cx));
        self.told = true;
        Poll::Ready(match received {
            Ok(outcome) => outcome.map_err(CallError::panicked),
            Err(oneshot::Canceled) => Err(CallError::gone()),
        })
    }
}
