//! What is measured: the list of works, and the trait through which a peer does them.

use std::time::Duration;

use crate::machine::CpuPair;

/// What a message of the work `post` carries: as much as a line of the fabric's rings has room for, and as much for every peer.
pub type PostPayload = [u64; 6];

/// How much of a work to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// CPU of the caller and CPU of the target.
    pub cpus: CpuPair,
    /// How long a timed section lasts.
    pub section: Duration,
    /// Tasks or messages of a work that is counted, not timed.
    pub items: usize,
}

/// What a value is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Compared with the floor.
    Nanoseconds,
    /// Things, which no floor says anything about.
    Count,
    /// Of memory; as above.
    Bytes,
}

impl Unit {
    /// As JSON tells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Count => "count",
            Self::Bytes => "bytes",
        }
    }
}

/// One measured value: what it is, and how large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Name of the value, such as `p50` or `per_call`.
    pub metric: &'static str,
    /// The value.
    pub value: f64,
    /// What it is counted in.
    pub unit: Unit,
}

impl Figure {
    /// Names a value in nanoseconds.
    #[must_use]
    pub fn new(metric: &'static str, value_ns: f64) -> Self {
        Self { metric, value: value_ns, unit: Unit::Nanoseconds }
    }

    /// Names a number of things.
    #[must_use]
    pub fn count(metric: &'static str, count: u64) -> Self {
        Self { metric, value: count as f64, unit: Unit::Count }
    }

    /// Names an amount of memory.
    #[must_use]
    pub fn bytes(metric: &'static str, bytes: f64) -> Self {
        Self { metric, value: bytes, unit: Unit::Bytes }
    }
}

/// What a peer made of a work.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It did the work.
    Figures(Vec<Figure>),
    /// It has no means to do it; said as such, never as zero.
    NotOffered,
    /// The variant makes no difference to this work: another one of the runtime shows it.
    Elsewhere,
}

impl From<Vec<Figure>> for Outcome {
    fn from(figures: Vec<Figure>) -> Self {
        Self::Figures(figures)
    }
}

/// A runtime in one way of using it. Works it does not implement count as not offered.
///
/// Each method builds the runtime anew with one thread pinned to each CPU of the plan, measures
/// on the first, and has stopped all its threads when it returns.
pub trait Peer: Sync {
    /// Name of the runtime.
    fn runtime(&self) -> &'static str;

    /// Name of the way of using it.
    fn variant(&self) -> &'static str;

    /// What a reader has to know to compare this variant with others.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// A bare loop without a runtime, shown only beside the works it is the reference of.
    fn is_reference(&self) -> bool {
        false
    }

    /// Awaits the answer of the other core, one call at a time.
    fn call_rtt(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Keeps `outstanding` calls to the other core under way.
    fn call_pipelined(&self, _plan: Plan, _outstanding: usize) -> Outcome {
        Outcome::NotOffered
    }

    /// Spawns trivial tasks on the other core and joins them, at most 4096 at a time.
    fn spawn_on(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Spawns trivial tasks on the own core and joins them.
    fn spawn_local(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Lets other tasks run while there are none.
    fn yield_now(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Sends messages of a [`PostPayload`] to the other core without an answer. The receiver counts them where nobody else looks.
    fn post(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Awaits the answer of the other core while both park as soon as they have nothing to do.
    fn wake_parked(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Runs a closure on every core, the own one too, and awaits all answers.
    fn broadcast(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Makes every core come to a point and go on from there together.
    fn cpusync(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Makes every core drop something it has cached, and awaits that all have.
    fn shootdown(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Computes without an end, giving way when it is time to, beside two tasks of the same core that talk.
    fn preempt(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Sleeps for random times in many tasks of one core.
    fn timers(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }

    /// Has many tasks wait, and many calls under way.
    fn memory(&self, _plan: Plan) -> Outcome {
        Outcome::NotOffered
    }
}

/// What a figure is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yardstick {
    /// Round trip of one cache line between two pinned threads.
    Line,
    /// Round trip of two pinned threads that sleep in a futex between turns.
    Futex,
}

/// The most that a figure of ipiq may cost, as a multiple of the yardstick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// The figure it binds.
    pub metric: &'static str,
    /// The multiple.
    pub at_most: f64,
}

/// A work: its name, its budget and how a peer is asked to do it.
pub struct Work {
    /// Name in the table and for `--only`; what follows a slash is a parameter.
    pub name: &'static str,
    /// What its figures are divided by.
    pub yardstick: Yardstick,
    /// Budgets of its figures, near each other.
    pub budgets: &'static [Budget],
    /// Asks a peer to do it.
    pub run: fn(&dyn Peer, Plan) -> Outcome,
}

impl Work {
    /// Budget of a figure of this work.
    #[must_use]
    pub fn budget(&self, metric: &str) -> Option<f64> {
        self.budgets.iter().find(|budget| budget.metric == metric).map(|budget| budget.at_most)
    }

    /// Whether `--only NAME` means this work: its whole name, or the part before the slash.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.name.split('/').next() == Some(name)
    }
}

/// The work of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Work> {
    WORKS.iter().find(|work| work.name == name)
}

/// All works, in the order of the table.
pub static WORKS: &[Work] = &[
    work("call_rtt", &[at_most("p50", 2.5)], |peer, plan| peer.call_rtt(plan)),
    work("call_pipelined/1", &[], |peer, plan| peer.call_pipelined(plan, 1)),
    work("call_pipelined/16", &[], |peer, plan| peer.call_pipelined(plan, 16)),
    work("call_pipelined/256", &[at_most("per_call", 0.7)], |peer, plan| peer.call_pipelined(plan, 256)),
    work("call_pipelined/1024", &[], |peer, plan| peer.call_pipelined(plan, 1024)),
    work("spawn_on", &[at_most("per_task", 1.0)], |peer, plan| peer.spawn_on(plan)),
    work("spawn_local", &[at_most("per_task_batch", 1.2)], |peer, plan| peer.spawn_local(plan)),
    work("yield", &[at_most("per_yield", 0.5)], |peer, plan| peer.yield_now(plan)),
    work("post", &[at_most("per_message", 0.2)], |peer, plan| peer.post(plan)),
    Work {
        yardstick: Yardstick::Futex,
        ..work("wake_parked", &[at_most("p50", 1.05)], |peer, plan| peer.wake_parked(plan))
    },
    work("broadcast", &[at_most("p50", 4.0)], |peer, plan| peer.broadcast(plan)),
    work("cpusync", &[at_most("p50", 6.0)], |peer, plan| peer.cpusync(plan)),
    work("shootdown", &[], |peer, plan| peer.shootdown(plan)),
    work("preempt", &[], |peer, plan| peer.preempt(plan)),
    work("timers", &[], |peer, plan| peer.timers(plan)),
    work("memory", &[], |peer, plan| peer.memory(plan)),
];

/// A work of awake cores.
const fn work(name: &'static str, budgets: &'static [Budget], run: fn(&dyn Peer, Plan) -> Outcome) -> Work {
    Work { name, yardstick: Yardstick::Line, budgets, run }
}

const fn at_most(metric: &'static str, at_most: f64) -> Budget {
    Budget { metric, at_most }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_parameter_means_every_parameter() {
        let named: Vec<_> =
            WORKS.iter().filter(|work| work.answers_to("call_pipelined")).map(|work| work.name).collect();
        assert_eq!(named, ["call_pipelined/1", "call_pipelined/16", "call_pipelined/256", "call_pipelined/1024"],);
        assert!(find("call_pipelined/16").unwrap().answers_to("call_pipelined/16"));
        assert!(!find("call_pipelined/16").unwrap().answers_to("call_pipelined/1"));
    }

    #[test]
    fn a_budget_binds_one_figure() {
        let work = find("call_rtt").unwrap();
        assert_eq!(work.budget("p50"), Some(2.5));
        assert_eq!(work.budget("p99"), None);
    }
}
