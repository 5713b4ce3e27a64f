//! What is told of a core that is stuck.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use ipiq_executor::TaskName;
use ipiq_executor::probe::{Answer, Polled};
use ipiq_fabric::CoreId;
use ipiq_linux::stack::{Frame, Listing};

/// A core that did not come back to its loop for longer than [`Builder::stall_limit`](crate::Builder::stall_limit): see there.
///
/// Displayed it looks like this; the example `stall` prints it, in a release build with `debug = "line-tables-only"` (full debug information has the paths of inlined functions too; paths of files are
/// shortened here):
///
/// ```text
#[doc = include_str!("example.txt")]
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StallReport {
    /// The core.
    pub core: CoreId,
    /// For how long at least it has been in this poll, or in the messages before it, when the backtrace was taken; without one, when the stall was found.
    pub lasted: Duration,
    /// What it polls; `None`: a called closure, a message's function or the runtime itself.
    pub task: Option<PolledTask>,
    /// Where in its code it is.
    pub backtrace: Result<Backtrace, NoBacktrace>,
    /// Stalls of this core since its last report that were not reported: there were more than four in a second, or the callback was still busy with others.
    pub suppressed: u64,
}

impl fmt::Display for StallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { core, lasted, task, backtrace, suppressed } = self;
        write!(f, "{core} is stuck for {} ms in ", lasted.as_millis())?;
        write_task(f, task.as_ref())?;
        write_backtrace(f, backtrace)?;
        match suppressed {
            0 => Ok(()),
            1 => write!(f, "\n1 stall of this core before was not reported"),
            n => write!(f, "\n{n} stalls of this core before were not reported"),
        }
    }
}

/// The task that a core polls. Displayed as its name, if it has one, where it was spawned, and the type of its future.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolledTask {
    /// The type of the future that was spawned. That of an `async` block names the function in which it stands.
    pub future: &'static str,
    /// Where it was spawned: the line that calls [`spawn_on`](crate::spawn_on), [`JoinSet::spawn_local`](crate::JoinSet::spawn_local) or whatever else begins a task; in a
    /// [scope](crate::scope()), the line of its `spawn`.
    pub spawned_at: &'static Location<'static>,
    /// The innermost [name](crate::named()) under which it is polled, cut after 64 bytes, and where it was given. Only the core itself can tell it: `None` also if
    /// the core has not answered.
    pub name: Option<TaskName>,
}

impl PolledTask {
    pub(super) fn new(polled: Polled, name: Option<TaskName>) -> Self {
        Self { future: polled.future, spawned_at: polled.spawned_at, name }
    }

    pub(super) fn answered(answer: Answer) -> Option<Self> {
        answer.polled.map(|polled| Self::new(polled, answer.name))
    }
}

impl fmt::Display for PolledTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "task {name}")?,
            None => f.write_str("an unnamed task")?,
        }
        write!(f, ", spawned at {} ({})", self.spawned_at, self.future)
    }
}

/// The functions on a core's stack, innermost first.
///
/// Displayed as backtraces usually are, down to the poll: the runtime's own functions below it are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backtrace {
    frames: Vec<Frame>,
}

impl Backtrace {
    pub(super) fn new(frames: Vec<Frame>) -> Self {
        Self { frames }
    }

    /// All of them.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Those of the task that is polled.
    fn of_task(&self) -> &[Frame] {
        let end = self.frames.iter().position(polls_a_task).unwrap_or(self.frames.len());
        &self.frames[..end]
    }
}

/// Whether it is the runtime's function that polls a task. Builds with line tables alone know no more of an inlined function than its file and its name without a path.
fn polls_a_task(frame: &Frame) -> bool {
    let by_name = frame.function.as_ref().is_some_and(|name| name.contains("ipiq_executor::task::future::"));
    by_name || frame.file.as_ref().is_some_and(|file| file.ends_with("src/task/future.rs"))
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.of_task();
        write!(f, "{}", Listing(shown))?;
        match self.frames.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "      and {more} of the runtime"),
        }
    }
}

/// Why there is no backtrace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoBacktrace {
    /// The cores of this runtime are not interrupted: [`Builder::interrupts`](crate::Builder::interrupts).
    Off,
    /// The core has not answered in time: it is in a [critical section](crate::urgent::critical), blocks the signal, or its thread has no CPU.
    NoAnswer,
    /// The poll ended before the core could be interrupted.
    Ended,
    /// All 32 [urgent handlers](crate::urgent) are taken, of which this needs one.
    NoHandler,
    /// It is the core that asks.
    Asks,
}

impl fmt::Display for NoBacktrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "no backtrace: interrupts are off",
            Self::NoAnswer => {
                "no backtrace: the core did not answer in time; it is in a critical section, blocks the signal, or has no CPU"
            }
            Self::Ended => "no backtrace: it ended meanwhile",
            Self::NoHandler => "no backtrace: all urgent handlers are taken",
            Self::Asks => "no backtrace: it is the core that asks",
        })
    }
}

/// What one core is in the middle of: see [`Handle::backtrace_all_cores`](crate::Handle::backtrace_all_cores).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CoreBacktrace {
    /// The core.
    pub core: CoreId,
    /// What it does.
    pub state: CoreState,
    /// What it polls, if it is awake and polls something.
    pub task: Option<PolledTask>,
    /// Where in its code it is, if it is awake.
    pub backtrace: Option<Result<Backtrace, NoBacktrace>>,
}

impl fmt::Display for CoreBacktrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { core, state, task, backtrace } = self;
        match state {
            CoreState::Asleep => write!(f, "{core} is asleep"),
            CoreState::Gone => write!(f, "{core} has left"),
            CoreState::Awake { turn_lasted } => {
                match turn_lasted {
                    Some(lasted) => write!(f, "{core} is in a turn for {} ms, in ", lasted.as_millis())?,
                    None => write!(f, "{core} is awake, in ")?,
                }
                write_task(f, task.as_ref())?;
                backtrace.as_ref().map_or(Ok(()), |backtrace| write_backtrace(f, backtrace))
            }
        }
    }
}

/// What a core does, as far as others can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoreState {
    /// It sleeps.
    Asleep,
    /// It is in a turn of its loop.
    Awake {
        /// For how long at least, if it was in the same one when the thread that watches over [slices](crate::Builder::time_slice) and
        /// [stalls](crate::Builder::stall_limit) last looked.
        turn_lasted: Option<Duration>,
    },
    /// It has left.
    Gone,
}

/// What every core is in the middle of. Displayed one after the other.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CoreBacktraces {
    /// Each core's, in ascending order.
    pub cores: Vec<CoreBacktrace>,
}

impl fmt::Display for CoreBacktraces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cores.iter().try_for_each(|core| writeln!(f, "{core}"))
    }
}

fn write_task(f: &mut fmt::Formatter<'_>, task: Option<&PolledTask>) -> fmt::Result {
    match task {
        Some(task) => write!(f, "{task}"),
        None => f.write_str("a call, a message or the runtime itself"),
    }
}

fn write_backtrace(f: &mut fmt::Formatter<'_>, backtrace: &Result<Backtrace, NoBacktrace>) -> fmt::Result {
    match backtrace {
        Ok(backtrace) => write!(f, "\n{}", backtrace.to_string().trim_end()),
        Err(reason) => write!(f, "\n      ({reason})"),
    }
}
