//! Scheduling classes: groups of tasks that get a core's time by their shares.
//!
//! Every task has a class. It is that of the task that spawns it, on this core or another one, or, in the function of a [`call_on`](crate::call_on), that of the task that
//! called; the first ones have the class `default`, of 100 shares. While tasks of several classes can run on a core, each class gets of its time in proportion to its
//! shares, however many tasks it has; what one does not want the others have. A class that has slept has saved nothing.
//!
//! ```
//! use std::time::Duration;
//!
//! use ipiq::classes::{self, ClassSpec};
//! use ipiq::Runtime;
//!
//! let runtime = Runtime::builder()
//!     .cores(1)
//!     .scheduling_class(ClassSpec::new("background").shares(10))
//!     .scheduling_class(ClassSpec::new("requests").shares(1000).latency_goal(Duration::from_millis(2)))
//!     .build()?;
//! let background = runtime.handle().scheduling_class("background").unwrap();
//! runtime.block_on(|| async move {
//!     let tidy = background.spawn_local(async {
//!         // What it spawns is in its class, too.
//!         ipiq::spawn_local(async { classes::current().name().to_owned() }).await.unwrap()
//!     });
//!     assert_eq!(tidy.await.unwrap(), "background");
//!     assert_eq!(classes::current().name(), "default");
//!     // At any time, from any thread.
//!     background.set_shares(50);
//! });
//! # Ok::<(), ipiq::BuildError>(())
//! ```
//!
//! A *latency goal* is for classes that want little, but at once: a task of such a class that can run waits for others no longer than the goal and one turn of
//! theirs, as long as the class does not want more than its shares and ten milliseconds. Others that ask [`should_yield`](crate::should_yield) are told to give way by then.
//!
//! Classes share a core's time between polls: nothing ends a poll that goes on. Messages, timers and I/O belong to no class and are served between turns. A core on which
//! only one class has tasks pays nothing for them; how it works is told in [`ipiq_executor::classes`].
//!
//! The idea is Seastar's scheduling groups and glommio's task queues with shares and latencies.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use ipiq_executor::classes::{ClassId, Terms};
use ipiq_executor::{Executor, JoinHandle, Remote};
use ipiq_fabric::{CoreId, assert_core};

use crate::Handle;
use crate::current::on_core;

pub use ipiq_executor::classes::{ClassCounters, ClassError, ClassSpec, DEFAULT_SHARES, MAX_CLASSES, MAX_SHARES};

/// A scheduling class of a runtime, from any thread. Clones are cheap; all mean the same class.
///
/// It is made by [`Builder::scheduling_class`](crate::Builder::scheduling_class) or [`Handle::create_class`], and lasts as long as the runtime.
#[derive(Clone)]
pub struct SchedulingClass {
    remote: Remote,
    id: ClassId,
}

impl fmt::Debug for SchedulingClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SchedulingClass").field(self.terms()).finish()
    }
}

impl SchedulingClass {
    fn terms(&self) -> &Terms {
        self.remote.class_terms(self.id)
    }

    /// Its name, which no other class of the runtime has.
    #[must_use]
    pub fn name(&self) -> &str {
        self.terms().name()
    }

    /// Its shares.
    #[must_use]
    pub fn shares(&self) -> u32 {
        self.terms().shares()
    }

    /// Changes the shares, on every core: 1 to [`MAX_SHARES`], or the nearest of those. What the class has had so far does not count for more or less time than it took.
    pub fn set_shares(&self, shares: u32) {
        self.terms().set_shares(shares);
    }

    /// How long a task of the class that can run should wait for others.
    #[must_use]
    pub fn latency_goal(&self) -> Option<Duration> {
        self.terms().latency_goal()
    }

    /// Changes the goal: a millisecond at least; `None`: the class waits for its turn like the others.
    pub fn set_latency_goal(&self, goal: impl Into<Option<Duration>>) {
        self.terms().set_latency_goal(goal.into());
    }

    /// The time slice of the class; `None`: that of the runtime.
    #[must_use]
    pub fn time_slice(&self) -> Option<Duration> {
        self.terms().time_slice()
    }

    /// Changes how long a turn of the class may take before [`should_yield`](crate::should_yield) tells it to give way: a millisecond at least; `None`: as
    /// [`Builder::time_slice`](crate::Builder::time_slice) says. A runtime that was built without time slices has none for classes.
    pub fn set_time_slice(&self, slice: impl Into<Option<Duration>>) {
        self.terms().set_time_slice(slice.into());
    }

    /// What `core` has counted of the class.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[must_use]
    #[track_caller]
    pub fn counters(&self, core: CoreId) -> ClassCounters {
        assert_core(core, self.remote.cores());
        self.remote.class_counters(core, self.id)
    }

    /// Spawns a task of this class on the calling core, as [`spawn_local`](crate::spawn_local) does.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the class's runtime.
    #[track_caller]
    pub fn spawn_local<Fut>(&self, future: Fut) -> JoinHandle<Fut::Output>
    where
        Fut: Future + 'static,
    {
        let spawned_at = Location::caller();
        let spawned = on_core("SchedulingClass::spawn_local", |executor| {
            executor.remote().is_same(&self.remote).then(|| executor.spawn_local_in(self.id, spawned_at, future))
        });
        match spawned {
            Some(task) => task,
            None => panic!("the scheduling class `{}` is of another runtime than the calling core", self.name()),
        }
    }

    /// Spawns a task of this class on `core`, as [`spawn_on`](crate::spawn_on) does; from any thread.
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
        self.remote.spawn_on_in(self.id, core, init)
    }
}

impl PartialEq for SchedulingClass {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.remote.is_same(&other.remote)
    }
}

impl Eq for SchedulingClass {}

/// The class of the running code: its task's; in the function of a call, that of the task that has called.
///
/// # Panics
///
/// On a thread that runs no core.
#[must_use]
#[track_caller]
pub fn current() -> SchedulingClass {
    let (remote, id) = on_core("classes::current", |executor: &Executor| (executor.remote().clone(), executor.class()));
    SchedulingClass { remote, id }
}

impl Handle {
    /// Makes a scheduling class. It lasts as long as the runtime, which may have [`MAX_CLASSES`].
    ///
    /// # Errors
    ///
    /// [`ClassError`]: another class has the name, or there are as many as there may be.
    pub fn create_class(&self, spec: ClassSpec) -> Result<SchedulingClass, ClassError> {
        let id = self.remote().create_class(spec)?;
        Ok(SchedulingClass { remote: self.remote().clone(), id })
    }

    /// The scheduling class of this name. The one that tasks have that were not spawned into another is `default`.
    #[must_use]
    pub fn scheduling_class(&self, name: &str) -> Option<SchedulingClass> {
        let id = self.remote().class_named(name)?;
        Some(SchedulingClass { remote: self.remote().clone(), id })
    }

    /// All scheduling classes, in the order in which they were made, `default` first.
    #[must_use]
    pub fn scheduling_classes(&self) -> Vec<SchedulingClass> {
        self.remote().class_ids().map(|id| SchedulingClass { remote: self.remote().clone(), id }).collect()
    }
}
