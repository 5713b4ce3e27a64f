#![doc = include_str!("README.md")]

mod activity;
pub(crate) mod cell;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::panic::Location;

use ipiq_fabric::handlers::TriggerError;
use ipiq_fabric::urgent::{InterruptSafe, TableFull, UrgentId};
use ipiq_fabric::{CoreId, Fabric};

use crate::task::Kind;
use crate::{Executor, Remote, TaskName};
pub(crate) use activity::Activity;
use cell::Cell;

/// Bytes of a name that an answer has room for.
const NAME_BYTES: usize = 64;

/// What a core's handler writes down.
struct Note {
    polled: Option<(&'static Kind, &'static Location<'static>)>,
    /// Where the name was given; none: there is none.
    named_at: Option<&'static Location<'static>>,
    name: [u8; NAME_BYTES],
    name_bytes: usize,
    name_is_cut: bool,
}

impl Note {
    fn new() -> Self {
        Self { polled: None, named_at: None, name: [0; NAME_BYTES], name_bytes: 0, name_is_cut: false }
    }

    /// H2. In an interrupt: it allocates nothing and does not panic.
    fn write(&mut self, activity: &Activity) {
        self.polled = activity.polled();
        self.named_at = None;
        let Some(name) = activity.name() else { return };
        self.named_at = Some(name.location());
        let text = name.text().as_bytes();
        self.name_bytes = 0;
        for (place, byte) in self.name.iter_mut().zip(text) {
            *place = *byte;
            self.name_bytes += 1;
        }
        self.name_is_cut = text.len() > NAME_BYTES;
    }

    fn read(&self) -> Answer {
        let name = self.named_at.map(|location| {
            let bytes = &self.name[..self.name_bytes];
            let text = match String::from_utf8_lossy(bytes) {
                // What is cut may be cut within a character.
                text if self.name_is_cut => alloc::format!("{}…", text.trim_end_matches(char::REPLACEMENT_CHARACTER)),
                text => text.into_owned(),
            };
            TaskName::new(Cow::Owned(text), location)
        });
        Answer { polled: self.polled.map(Polled::new), name }
    }
}

/// A task that a core polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The type of its future.
    pub future: &'static str,
    /// Where it was spawned.
    pub spawned_at: &'static Location<'static>,
}

impl Polled {
    fn new((kind, spawned_at): (&'static Kind, &'static Location<'static>)) -> Self {
        Self { future: kind.name(), spawned_at }
    }
}

/// What a core has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The task that it polls.
    pub polled: Option<Polled>,
    /// The innermost name that it polls under; a long one is cut.
    pub name: Option<TaskName>,
}

/// Asks cores what they are in the middle of. Clones ask with the same cells.
#[derive(Clone)]
pub struct Probe {
    asking: Arc<Asking>,
}

struct Asking {
    cells: Arc<[Cell<Note>]>,
    fabric: Fabric,
    id: UrgentId,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("cores", &self.asking.cells.len()).finish_non_exhaustive()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // An error: the cores have left, and took the handler with them.
        drop(self.fabric.unregister_urgent(self.id));
    }
}

impl Executor {
    /// Runs `f`, a part of the polled task that was spawned by itself, at `spawned_at`: whoever asks is told that place meanwhile.
    #[inline]
    pub fn during_part<R>(&self, spawned_at: &'static Location<'static>, f: impl FnOnce() -> R) -> R {
        self.activity().during_part(spawned_at, f)
    }
}

impl Remote {
    /// A probe of these cores. `capture` runs on the core that is asked, in the middle of what it does, as part of each answer: it writes down whatever
    /// the machine knows of that. The probe takes one urgent handler for as long as it lives.
    ///
    /// # Errors
    ///
    /// [`TableFull`]: no urgent handler is left.
    pub fn probe<F>(&self, capture: InterruptSafe<F>) -> Result<Probe, TableFull>
    where
        F: Fn(CoreId) + Send + Sync + 'static,
    {
        let cells: Arc<[_]> = (0..self.cores()).map(|_| Cell::new(Note::new())).collect();
        let (asked, activities) = (cells.clone(), self.activities().clone());
        let handler = move |core: CoreId| {
            let (Some(cell), Some(activity)) = (asked.get(core.index()), activities.get(core.index())) else { return };
            cell.answer(|note| {
                // [probe H2]
                note.write(activity);
                capture.get()(core);
            });
        };
        // SAFETY: 1. nothing is allocated, and the clones of the closure's are not dropped in it. 2. no lock, no wait. 3. no thread-local variable. 4. a cell's atomics and
        // its note, which is this handler's while it answers; of the core's own memory two atomics, and a name that nothing changes while it stands there. 5. it calls
        // `capture`, which promises the same.
        let handler = unsafe { InterruptSafe::new(handler) };
        let id = self.fabric().register_urgent(handler)?;
        Ok(Probe { asking: Arc::new(Asking { cells, fabric: self.fabric().clone(), id }) })
    }

    /// The task that `core` polls, as far as one can see from here: it may be the one before, and while the core goes on to another one, the type of the one with the
    /// place of the other.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    #[track_caller]
    pub fn polled_task(&self, core: CoreId) -> Option<Polled> {
        self.activity(core).polled().map(Polled::new)
    }
}

impl Probe {
    /// The right to ask `core`, until it is dropped. `None`: somebody else has it, or the core is still busy with an answer that nobody waits for any more.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    pub fn claim(&self, core: CoreId) -> Option<Claim> {
        self.asking.cells[core.index()].claim().then(|| Claim { asking: self.asking.clone(), core })
    }
}

/// The right to ask one core.
#[must_use = "a core is asked by `ask`"]
pub struct Claim {
    asking: Arc<Asking>,
    core: CoreId,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Claim {
    fn cell(&self) -> &Cell<Note> {
        &self.asking.cells[self.core.index()]
    }

    /// The core in question.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Asks the core: interrupts it, if it is in the middle of something. Never waits. Called again, it asks again: an [answer](Self::answer) that is there
    /// is void.
    ///
    /// # Errors
    ///
    /// [`TriggerError`]: the core has left.
    pub fn ask(&self) -> Result<(), TriggerError> {
        self.cell().ask();
        self.asking.fabric.trigger_urgent(self.asking.id, self.core)
    }

    /// The answer, once it is there.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        self.cell().take(Note::read)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cell().let_go();
    }
}
