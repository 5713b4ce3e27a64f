//! Which phases there are.

use std::borrow::Cow;
use std::time::Duration;

/// Listeners stop to accept connections.
pub const STOP_ACCEPTING: &str = "stop accepting";
/// What is under way goes through to its end, then services stop.
pub const DRAIN: &str = "drain";
/// Tasks are dropped.
pub const CANCEL: &str = "cancel";
/// The threads end.
pub const JOIN: &str = "join";

/// A phase, and how long it may take.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) name: Cow<'static, str>,
    pub(crate) limit: Duration,
}

/// The phases, in their order; the last two are [`CANCEL`] and [`JOIN`].
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    steps: Vec<Step>,
}

impl Default for Plan {
    fn default() -> Self {
        let seconds = [(STOP_ACCEPTING, 1), (DRAIN, 30), (CANCEL, 5), (JOIN, 5)];
        let step = |(name, seconds)| Step { name: Cow::Borrowed(name), limit: Duration::from_secs(seconds) };
        Self { steps: seconds.map(step).into() }
    }
}

impl Plan {
    /// Sets the limit of a phase; one that is new comes before [`CANCEL`].
    pub(crate) fn set(&mut self, name: Cow<'static, str>, limit: Duration) {
        match self.steps.iter_mut().find(|step| step.name == name) {
            Some(step) => step.limit = limit,
            None => self.steps.insert(self.steps.len() - 2, Step { name, limit }),
        }
    }

    /// The phases that may be awaited and held open.
    pub(crate) fn held(&self) -> &[Step] {
        &self.steps[..self.steps.len() - 2]
    }

    pub(crate) fn cancel(&self) -> &Step {
        &self.steps[self.steps.len() - 2]
    }

    pub(crate) fn join(&self) -> &Step {
        &self.steps[self.steps.len() - 1]
    }

    /// The place of a phase that may be held open.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.held().iter().position(|step| step.name == name)
    }
}
