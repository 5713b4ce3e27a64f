//! Two bare threads: what the works cost without any runtime.

use crate::floor;
use crate::stats::Times;
use crate::work::{Figure, Outcome, Peer, Plan};

/// Round trip of one cache line.
pub(super) static LINE: Raw = Raw { variant: "line" };

/// Round trip of two threads that sleep in a futex.
pub(super) static FUTEX: Raw = Raw { variant: "futex" };

/// An index-based ring of 64-byte items.
pub(super) static RING: Raw = Raw { variant: "ring" };

/// Two threads that meet at a `std::sync::Barrier`.
pub(super) static BARRIER: Raw = Raw { variant: "std-barrier" };

/// A loop of [`floor`].
pub(super) struct Raw {
    variant: &'static str,
}

impl Peer for Raw {
    fn runtime(&self) -> &'static str {
        "raw"
    }

    fn variant(&self) -> &'static str {
        self.variant
    }

    fn is_reference(&self) -> bool {
        true
    }

    fn call_rtt(&self, plan: Plan) -> Outcome {
        if self.variant != LINE.variant {
            return Outcome::NotOffered;
        }
        let mean = floor::line_round_trip_ns(plan.cpus, plan.section);
        vec![Figure::new("per_call", mean)].into()
    }

    fn post(&self, plan: Plan) -> Outcome {
        if self.variant != RING.variant {
            return Outcome::NotOffered;
        }
        vec![
            Figure::new("per_message", floor::ring_one_way_ns::<1>(plan.cpus, plan.items)),
            Figure::new("per_message_by_32", floor::ring_one_way_ns::<32>(plan.cpus, plan.items)),
        ]
        .into()
    }

    fn wake_parked(&self, plan: Plan) -> Outcome {
        if self.variant != FUTEX.variant {
            return Outcome::NotOffered;
        }
        figures(&floor::futex_round_trips(plan.cpus, plan.section))
    }

    fn broadcast(&self, plan: Plan) -> Outcome {
        self.meet(plan)
    }

    fn cpusync(&self, plan: Plan) -> Outcome {
        self.meet(plan)
    }
}

impl Raw {
    fn meet(&self, plan: Plan) -> Outcome {
        if self.variant != BARRIER.variant {
            return Outcome::NotOffered;
        }
        figures(&floor::barrier_meetings(plan.cpus, plan.section))
    }
}

fn figures(times: &Times) -> Outcome {
    vec![
        Figure::new("p50", times.percentile_ns(50.0)),
        Figure::new("p99", times.percentile_ns(99.0)),
        Figure::new("per_call", times.mean_ns()),
    ]
    .into()
}
