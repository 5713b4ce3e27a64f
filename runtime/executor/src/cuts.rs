//! What a core that shuts down had to cut.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use crate::{Executor, TaskName};

/// How many tasks a core remembers.
const KEPT: usize = 64;

/// A task that was cut, by the end of its runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutTask {
    /// The type of its future.
    pub future: &'static str,
    /// The outermost name that its future had.
    pub name: Option<TaskName>,
}

impl fmt::Display for CutTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => name.fmt(f),
            None => f.write_str(self.future),
        }
    }
}

/// The tasks that a core has cut: the first ones by name, the others by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// The first ones, 64 at most.
    pub first: Vec<CutTask>,
    /// How many there were besides.
    pub others: usize,
}

/// Who is told when the last task is gone.
type Told = Box<dyn FnOnce(Cuts)>;

/// A core's record of what it cuts. Nothing is written into it before the core shuts down for somebody who is told.
#[derive(Default)]
pub(crate) struct Recorder {
    told: Cell<Option<Told>>,
    recording: Cell<bool>,
    /// Whose future is being dropped.
    current: RefCell<Option<CutTask>>,
    cuts: RefCell<Cuts>,
}

impl Recorder {
    /// The core begins to cut.
    pub(crate) fn start(&self) {
        let told = self.told.take();
        self.recording.set(told.is_some());
        self.told.set(told);
    }

    /// The drop of a future begins.
    pub(crate) fn begin(&self, future: fn() -> &'static str) {
        if self.recording.get() {
            *self.current.borrow_mut() = Some(CutTask { future: future(), name: None });
        }
    }

    /// What is being dropped has a name.
    fn name(&self, name: &TaskName) {
        if self.recording.get()
            && let Some(task) = &mut *self.current.borrow_mut()
            && task.name.is_none()
        {
            task.name = Some(name.clone());
        }
    }

    /// The future is gone.
    pub(crate) fn end(&self) {
        let Some(task) = self.current.borrow_mut().take() else { return };
        let mut cuts = self.cuts.borrow_mut();
        if cuts.first.len() < KEPT { cuts.first.push(task) } else { cuts.others += 1 }
    }

    /// No task is left.
    pub(crate) fn tell(&self) {
        self.recording.set(false);
        if let Some(told) = self.told.take() {
            told(self.cuts.take());
        }
    }
}

impl Executor {
    /// Has `told` be called, on this core, when the core shuts down and its last task is gone, with those that had begun and were not finished by then.
    ///
    /// It must neither panic nor spawn.
    pub fn when_emptied(&self, told: impl FnOnce(Cuts) + 'static) {
        self.cuts().told.set(Some(Box::new(told)));
    }

    /// A future of that name is being dropped on this core.
    pub(crate) fn drops_named(&self, name: &TaskName) {
        self.cuts().name(name);
    }
}
