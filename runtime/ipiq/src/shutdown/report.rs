//! How an end went.

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use ipiq_executor::CutTask;
use ipiq_fabric::CoreId;

/// How the phases of a runtime's end went: from [`Handle::shutdown`](crate::Handle::shutdown).
///
/// Displayed as a line per phase, each followed by what it has cut.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The phases, in their order.
    pub phases: Vec<PhaseReport>,
    /// Tasks that had begun and were dropped unfinished, the first 64 of each core; it is unknown of cores that [kept `cancel` open](PhaseReport::cores).
    pub tasks_cut: Vec<(CoreId, CutTask)>,
    /// How many tasks were cut besides.
    pub more_tasks_cut: usize,
    /// Why the runtime was stopped at once, without phases: the system had no thread to go through them.
    pub refused: Option<String>,
}

/// How a phase went.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PhaseReport {
    /// Its name.
    pub name: Cow<'static, str>,
    /// How long it might take.
    pub limit: Duration,
    /// How long it took; `None`: it did not begin, because the runtime was stopped.
    pub took: Option<Duration>,
    /// Who held it open until it was cut; empty: nobody.
    pub held_by: Vec<PhaseHolder>,
    /// Cores that held it open: in `cancel` those that still had tasks, in `join` those whose thread had not ended.
    pub cores: Vec<StuckCore>,
    /// Threads of [`spawn_blocking`](crate::spawn_blocking) that held `join` open.
    pub blocking: usize,
    /// What has failed in it, such as a service whose stop panicked; or that the runtime was [stopped](crate::Handle::stop) meanwhile.
    pub failures: Vec<String>,
}

/// Somebody who held a phase open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhaseHolder {
    /// What it said that it was.
    pub name: Cow<'static, str>,
    /// Where it was made.
    pub location: &'static Location<'static>,
    /// The core that made it; `None`: another thread did.
    pub core: Option<CoreId>,
}

/// A core that held a phase open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StuckCore {
    /// Which one.
    pub core: CoreId,
    /// The type of the future in whose poll it was.
    pub polls: Option<&'static str>,
}

impl ShutdownReport {
    /// Whether every phase began and came to its end in time, nothing failed, and no task was cut.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let no_task = self.tasks_cut.is_empty() && self.more_tasks_cut == 0;
        self.refused.is_none() && no_task && self.phases.iter().all(PhaseReport::is_clean)
    }

    /// The report of a phase.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&PhaseReport> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

impl PhaseReport {
    /// The runtime was stopped meanwhile; whether somebody was in the middle of something then is not known where nobody holds it any more.
    pub(super) fn cut_by_stop(&mut self, held_by: Vec<PhaseHolder>) {
        if held_by.is_empty() {
            self.failures.push("the runtime was stopped meanwhile".into());
        }
        self.held_by = held_by;
    }

    /// Whether it began, came to its end in time, and nothing failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.took.is_some() && !self.is_cut() && self.failures.is_empty()
    }

    /// Whether somebody held it open when its time was over.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.held_by.is_empty() || !self.cores.is_empty() || self.blocking > 0
    }
}

impl fmt::Display for PhaseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}:{}", self.name, self.location.file(), self.location.line())?;
        self.core.map_or(Ok(()), |core| write!(f, ", {core}"))
    }
}

impl fmt::Display for StuckCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)?;
        self.polls.map_or(Ok(()), |future| write!(f, ", in {future}"))
    }
}

impl fmt::Display for PhaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.took {
            None => write!(f, "{}: not begun", self.name),
            Some(took) if self.is_cut() => write!(f, "{}: cut after {took:.1?}", self.name),
            Some(took) => write!(f, "{}: {took:.1?}", self.name),
        }?;
        self.held_by.iter().try_for_each(|holder| write!(f, "\n  held by {holder}"))?;
        self.cores.iter().try_for_each(|core| write!(f, "\n  held by {core}"))?;
        if self.blocking > 0 {
            write!(f, "\n  held by {} blocking closures", self.blocking)?;
        }
        self.failures.iter().try_for_each(|failure| write!(f, "\n  failed: {failure}"))
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.refused {
            writeln!(f, "stopped at once: {reason}")?;
        }
        self.phases.iter().try_for_each(|phase| writeln!(f, "{phase}"))?;
        self.tasks_cut.iter().try_for_each(|(core, task)| writeln!(f, "cut on {core}: {task}"))?;
        if self.more_tasks_cut > 0 {
            writeln!(f, "cut: {} more tasks", self.more_tasks_cut)?;
        }
        Ok(())
    }
}
