//! One core's executor: its endpoint, run queue, timers and tasks.

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::panic::Location;

use ipiq_fabric::port::{Clock, Port};
use ipiq_fabric::{Core, CoreId};

use crate::classes::{CoreClasses, Queues};
use crate::core_loop::{Departure, Lifecycle, Spin, SpinPolicy};
use crate::counts::Counts;
use crate::cuts::Recorder;
use crate::probe::Activity;
use crate::remote::Remote;
use crate::task::{Home, JoinHandle, Meta, Origin, TaskList, spawn_here};
use crate::time::Timers;
use crate::xcall::{OwnQueue, Table};

/// What one core runs. It stays on the thread that made it.
pub struct Executor {
    core: Core,
    home: Arc<Home>,
    remote: Remote,
    queues: Queues,
    tasks: TaskList,
    timers: Rc<Timers>,
    xcalls: Rc<Table>,
    own_calls: OwnQueue,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) spin: Spin,
    polls: Cell<u64>,
    spawned: Cell<u64>,
    /// Tasks that have been polled once.
    begun: Cell<u64>,
    panicked: Cell<u64>,
    classes: Arc<CoreClasses>,
    activity: Arc<Activity>,
    counts: Arc<Counts>,
    /// Behind the endpoint, which is dropped first.
    departure: RefCell<Option<Departure>>,
    cuts: Recorder,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("core", &self.core.id()).finish_non_exhaustive()
    }
}

impl Executor {
    /// The executor of `core`, whose fabric `remote` knows.
    ///
    /// # Panics
    ///
    /// If `core` is of another fabric than `remote`.
    #[must_use]
    pub fn new(core: Core, remote: Remote, clock: Arc<dyn Clock>, spin: SpinPolicy) -> Self {
        assert!(remote.fabric().has(&core), "an executor's core and remote are of one fabric");
        let home = remote.home(core.id()).clone();
        // [xcall C1]
        core.serve_too(serve_own_calls);
        let activity = remote.activity(core.id()).clone();
        let counts = remote.counts(core.id()).clone();
        let classes = remote.core_classes(core.id()).clone();
        classes.begin();
        let xcalls = Rc::new(Table::following(counts.next_ticket.get()));
        activity.polls_nothing(0);
        Self {
            core,
            home,
            lifecycle: remote.lifecycle().clone(),
            remote,
            queues: Queues::new(),
            tasks: TaskList::default(),
            timers: Rc::new(Timers::new(clock)),
            xcalls,
            own_calls: OwnQueue::default(),
            spin: Spin::new(spin),
            // A core goes on where one of its number has left off.
            polls: Cell::new(counts.polls.get()),
            spawned: Cell::new(counts.spawned.get()),
            begun: Cell::new(counts.finished.get()),
            panicked: Cell::new(counts.panicked.get()),
            classes,
            activity,
            counts,
            departure: RefCell::default(),
            cuts: Recorder::default(),
        }
    }

    /// The core's endpoint.
    #[must_use]
    #[inline(always)]
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The way to this and the other cores from any thread.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    #[inline(always)]
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(crate) fn is_peer(&self, home: &Home) -> bool {
        home.fabric.is_same(&self.home.fabric)
    }

    /// Polls that a turn has made, and how many of them were the first one of their task.
    #[inline(always)]
    pub(crate) fn count_polls(&self, polls: u32, begun: u64) {
        self.polls.set(self.polls.get() + u64::from(polls));
        self.begun.set(self.begun.get() + begun);
    }

    #[inline(always)]
    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }

    #[inline(always)]
    pub(crate) fn classes(&self) -> &CoreClasses {
        &self.classes
    }

    pub(crate) fn tasks(&self) -> &TaskList {
        &self.tasks
    }

    pub(crate) fn timers(&self) -> &Rc<Timers> {
        &self.timers
    }

    pub(crate) fn xcalls(&self) -> &Rc<Table> {
        &self.xcalls
    }

    #[inline(always)]
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    pub(crate) fn cuts(&self) -> &Recorder {
        &self.cuts
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A task is taken in here.
    #[inline(always)]
    pub(crate) fn count_spawned(&self) {
        self.spawned.set(self.spawned.get() + 1);
    }

    /// A task of this core ends by a panic.
    pub(crate) fn count_panicked(&self) {
        self.panicked.set(self.panicked.get() + 1);
    }

    /// Tells other threads what was counted. What was spawned before what has ended, and that before what has panicked: a reader goes the other way.
    pub(crate) fn tell(&self) {
        let counts = &*self.counts;
        counts.polls.set(self.polls.get());
        counts.spawned.set(self.spawned.get());
        // Who has been polled and is not listed has ended.
        counts.finished.set(self.begun.get() - self.tasks.len() as u64);
        counts.panicked.set(self.panicked.get());
        counts.ready.set(self.queues.ready() as u64);
        counts.timers.set(self.timers.len() as u64);
    }

    pub(crate) fn own_calls(&self) -> &OwnQueue {
        &self.own_calls
    }

    /// Runs high functions for this core, between two polls. Returns how many.
    #[inline(always)]
    pub(crate) fn run_own_calls(&self) -> usize {
        if self.own_calls.is_empty() { 0 } else { self.own_calls.run(self.core.is_closing(), self.under_class()) }
    }

    /// Runs something in a class.
    fn under_class(&self) -> impl Fn(u8, &dyn Fn()) {
        // [classes C1]
        |class, run| self.core.with_tag(class, run)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.timers.clock()
    }

    /// Nanoseconds of the core's clock.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.timers.now_ns()
    }

    /// How many polls of tasks this core has made.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// How many tasks can run on this core now, beside the one that is polled.
    #[must_use]
    pub fn ready_tasks(&self) -> usize {
        self.queues.ready()
    }

    /// Spawns a future on this core, in the [class](Self::class) of the running code; it need not be `Send`. While the core shuts down the task ends at once, cancelled.
    #[inline(always)]
    #[track_caller]
    pub fn spawn<Fut>(&self, future: Fut) -> JoinHandle<Fut::Output>
    where
        Fut: Future + 'static,
    {
        self.spawn_at(Location::caller(), future)
    }

    /// As [`spawn`](Self::spawn), for a caller that knows better where the task is spawned.
    #[inline(always)]
    pub fn spawn_at<Fut>(&self, spawned_at: &'static Location<'static>, future: Fut) -> JoinHandle<Fut::Output>
    where
        Fut: Future + 'static,
    {
        spawn_here(self, self.origin(spawned_at), future)
    }

    /// Spawns on `core` the future that `init` makes there, in the [class](Self::class) of the running code. `init` crosses; the future need not be `Send`.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[inline(always)]
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
    #[inline(always)]
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
        self.remote.spawn_from(self.origin(spawned_at), core, init)
    }

    #[inline(always)]
    fn origin(&self, spawned_at: &'static Location<'static>) -> Origin {
        // [classes C1]
        Origin { spawned_at, class: self.core.tag() }
    }

    /// [loop E1]: every task that is here ends at its next poll, and is scheduled for it.
    pub(crate) fn cancel_all(&self) {
        // [loop E1] tasks in a queue are told when they leave it.
        self.core.close();
        self.queues.close();
        // Waking runs nothing: it only queues.
        self.tasks.for_each(|task| {
            task.cancel();
            self.wake(task);
        });
    }

    /// [loop D4], once the endpoint has been dropped.
    pub(crate) fn departs(&self) {
        *self.departure.borrow_mut() = Some(Departure::new(self.lifecycle.clone(), self.core.id()));
    }

    pub(crate) fn has_runnable(&self) -> bool {
        !self.queues.is_empty() || !self.own_calls.is_empty()
    }

    /// Makes this the calling thread's executor until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered<'_> {
        assert!(self.core.port().current().is_null(), "one thread runs one core at a time");
        self.take_over()
    }

    /// Until the guard is dropped the calling thread, which is this executor's, runs none as far as anybody there can tell.
    pub(crate) fn step_aside(&self) -> Entered<'_> {
        let port = self.core.port();
        let entered = Entered { executor: self, before: port.current() };
        // SAFETY: 1. nobody follows a null slot; what was there is put back before it can go away.
        unsafe { port.set_current(core::ptr::null()) };
        entered
    }

    /// As [`enter`](Self::enter), also inside a poll of another executor, which is the thread's again afterwards.
    fn take_over(&self) -> Entered<'_> {
        let port = self.core.port();
        let entered = Entered { executor: self, before: port.current() };
        // SAFETY: 1. only this module stores and follows the slot; it is given back before `self` can go away.
        unsafe { port.set_current(core::ptr::from_ref(self).cast()) };
        entered
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // After a loop that ended by itself there is nothing left. Another executor may be polling the task that drops this one: what is
        // dropped here is at home here.
        let _entered = self.take_over();
        self.cancel_all();
        while self.run_tasks(u32::MAX) > 0 {}
    }
}

/// While it lives, the thread's slot points to its executor.
pub(crate) struct Entered<'a> {
    executor: &'a Executor,
    before: *const (),
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // SAFETY: 1. what was there is null or an executor that entered further down this stack, where it still lives.
        unsafe { self.executor.core.port().set_current(self.before) };
    }
}

/// Runs `f` with the calling thread's executor; `None` on a thread that runs no core.
#[inline(always)]
pub fn with_current<P: Port + ?Sized, R>(port: &P, f: impl FnOnce(&Executor) -> R) -> Option<R> {
    let slot = port.current().cast::<Executor>();
    if slot.is_null() {
        return None;
    }
    // SAFETY: 1. a port returns what was stored on this thread, and only `enter` stores: an executor that lives until
    // its guard stores null. 2. the reference ends with `f`, on the same thread, inside the guard's scope.
    Some(f(unsafe { &*slot }))
}

/// [`Executor::run_own_calls`] in a stop, where nothing runs that is like a task. Returns whether there were any.
fn serve_own_calls(core: &Core) -> bool {
    let ran = with_current(core.port(), |executor| {
        // A stop is obeyed inside the core's own loop.
        debug_assert!(core::ptr::eq(executor.core(), core));
        if executor.own_calls.is_empty() {
            return 0;
        }
        executor.own_calls.run_all_but_sections(executor.core.is_closing(), executor.under_class())
    });
    ran.is_some_and(|ran| ran > 0)
}

/// Runs `f` with the executor of a task's home, on the home's thread.
pub(crate) fn with_executor(meta: &Meta, f: impl FnOnce(&Executor)) {
    with_current(&*meta.home().port, |executor| {
        debug_assert_eq!(executor.core.id(), meta.home().id);
        f(executor);
    });
}
