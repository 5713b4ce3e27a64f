#![doc = include_str!("README.md")]

mod counters;
mod policy;
mod queues;
mod table;

pub use counters::ClassCounters;
pub(crate) use counters::CoreClasses;
pub(crate) use queues::Queues;
pub(crate) use table::Table;
pub use table::{ClassError, ClassSpec, Terms};

use core::future::Future;
use core::panic::Location;
use core::time::Duration;

use ipiq_fabric::{CoreId, assert_core};

use crate::task::{Origin, spawn_here};
use crate::{Executor, JoinHandle, Remote};

/// How many classes a set of cores may have, the default one among them.
pub const MAX_CLASSES: usize = 32;
/// Shares of the default class, and of one that says nothing else.
pub const DEFAULT_SHARES: u32 = 100;
/// The most shares of a class.
pub const MAX_SHARES: u32 = 10_000;

/// A scheduling class of some set of cores, which the holder has to know: a number below [`MAX_CLASSES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u8);

impl ClassId {
    /// The class of tasks that were not spawned into another.
    pub const DEFAULT: Self = Self(0);

    fn new(index: usize) -> Self {
        Self(u8::try_from(index).expect("there are few classes"))
    }

    /// Its number.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }
}

impl Remote {
    /// Makes a class. It lasts as long as the cores.
    ///
    /// # Errors
    ///
    /// [`ClassError`]: another one has this name, or there are [`MAX_CLASSES`].
    pub fn create_class(&self, spec: ClassSpec) -> Result<ClassId, ClassError> {
        self.classes().create(spec).map(ClassId::new)
    }

    /// The class of this name.
    #[must_use]
    pub fn class_named(&self, name: &str) -> Option<ClassId> {
        self.class_ids().find(|class| self.class_terms(*class).name() == name)
    }

    /// All classes, the default one first.
    pub fn class_ids(&self) -> impl Iterator<Item = ClassId> {
        (0..self.classes().len()).map(ClassId::new)
    }

    /// What `class` is called and promised, to be read and changed from any thread.
    ///
    /// # Panics
    ///
    /// If these cores have no such class.
    #[must_use]
    #[track_caller]
    pub fn class_terms(&self, class: ClassId) -> &Terms {
        self.classes().get(class.index()).expect("a class of these cores")
    }

    /// What `core` has counted of `class`.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    #[track_caller]
    pub fn class_counters(&self, core: CoreId, class: ClassId) -> ClassCounters {
        assert_core(core, self.cores());
        self.core_classes(core).read(class)
    }

    /// For how long `core` may run its present turn before it is asked to end it, where it is `time_slice` for classes that have no time slice of their own.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    #[track_caller]
    pub fn turn_limit(&self, core: CoreId, time_slice: Duration) -> Duration {
        assert_core(core, self.cores());
        let (running, used) = self.core_classes(core).watched();
        // [classes C7]
        let terms = |class| self.classes().get(class);
        let own = terms(running).and_then(Terms::time_slice).unwrap_or(time_slice);
        let goal = |class| terms(class).and_then(Terms::latency_goal);
        let others = policy::bits(used).filter(|class| *class != running);
        others.filter_map(goal).fold(own, Duration::min)
    }

    /// The shortest time that [`turn_limit`](Self::turn_limit) may say.
    #[must_use]
    pub fn shortest_turn_limit(&self, time_slice: Duration) -> Duration {
        let terms = self.class_ids().map(|class| self.class_terms(class));
        let limits = terms.flat_map(|terms| [terms.time_slice(), terms.latency_goal()]);
        limits.flatten().fold(time_slice, Duration::min)
    }

    /// As [`spawn_on`](Self::spawn_on), into `class`.
    ///
    /// # Panics
    ///
    /// If there is no such core or class.
    #[track_caller]
    pub fn spawn_on_in<Init, Fut>(&self, class: ClassId, core: CoreId, init: Init) -> JoinHandle<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let _ = self.class_terms(class);
        self.spawn_from(Origin { spawned_at: Location::caller(), class: class.bits() }, core, init)
    }
}

impl Executor {
    /// The class of the running code: its task's, or that of the task that has called it. The default one outside of tasks.
    #[must_use]
    pub fn class(&self) -> ClassId {
        // [classes C1]
        ClassId(self.core().tag())
    }

    /// As [`spawn_at`](Self::spawn_at), into `class`.
    ///
    /// # Panics
    ///
    /// If these cores have no such class.
    #[track_caller]
    pub fn spawn_local_in<Fut>(
        &self,
        class: ClassId,
        spawned_at: &'static Location<'static>,
        future: Fut,
    ) -> JoinHandle<Fut::Output>
    where
        Fut: Future + 'static,
    {
        let _ = self.remote().class_terms(class);
        spawn_here(self, Origin { spawned_at, class: class.bits() }, future)
    }
}
