//! Figures of scheduling classes.

use std::sync::Arc;

use ipiq_executor::classes::{ClassCounters, ClassId};
use ipiq_fabric::CoreId;

use super::CoreMetrics;
use crate::Handle;

/// What one core has counted of one scheduling class.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassMetrics {
    /// Whose figures.
    pub core: CoreId,
    /// The name of the class.
    pub class: Arc<str>,
    /// Its shares now, on all cores.
    pub shares: u32,
    /// Polls, turns, waits and the depth of its queue.
    pub counters: ClassCounters,
    /// What of the core's [busy time](crate::metrics::CoreLoad::busy_ns) it has had, in nanoseconds: what its turns beside others took, which is measured, and of the rest a part as
    /// large as its part of the polls outside of such turns. So it is exact where one class runs alone or classes compete, and an estimate where they take turns without meeting;
    /// messages, timers and I/O, which belong to no class, are in it. Where there were such polls the classes' times
    /// add up to the core's.
    pub run_ns: u64,
}

impl ClassMetrics {
    fn lone_polls(&self) -> u64 {
        self.counters.polls.saturating_sub(self.counters.contended_polls)
    }
}

impl Handle {
    /// Ordered by class, as they were made, then core: classes come, and never go, so each keeps its place.
    pub(super) fn read_classes(&self, classes: &mut Vec<ClassMetrics>) {
        classes.clear();
        let remote = self.remote();
        let each = |class: ClassId| {
            let terms = remote.class_terms(class);
            self.cores().map(move |core| ClassMetrics {
                core,
                class: terms.shared_name().clone(),
                shares: terms.shares(),
                counters: remote.class_counters(core, class),
                run_ns: 0,
            })
        };
        classes.extend(remote.class_ids().flat_map(each));
    }
}

/// Gives each class its part of its core's busy time. `classes` are each class on each of `cores`, in this order.
pub(super) fn share_time(classes: &mut [ClassMetrics], cores: &[CoreMetrics]) {
    for (place, core) in cores.iter().enumerate() {
        let (mut contended_ns, mut polls) = (0, 0);
        for class in classes.iter().skip(place).step_by(cores.len()) {
            contended_ns += class.counters.contended_ns;
            polls += class.lone_polls();
        }
        // Figures are read one after the other: a turn that ends meanwhile may be in one and not yet in the other.
        let mut left_ns = core.load.busy_ns.saturating_sub(contended_ns);
        for class in classes.iter_mut().skip(place).step_by(cores.len()) {
            // Of what is left, so that nothing is lost by rounding.
            let part_ns = match polls {
                0 => 0,
                polls => (u128::from(left_ns) * u128::from(class.lone_polls()) / u128::from(polls)) as u64,
            };
            polls -= class.lone_polls();
            left_ns -= part_ns;
            class.run_ns = class.counters.contended_ns + part_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(core: usize, polls: u64, contended_polls: u64, contended_ns: u64) -> ClassMetrics {
        let mut counters = ClassCounters::default();
        (counters.polls, counters.contended_polls, counters.contended_ns) = (polls, contended_polls, contended_ns);
        ClassMetrics { core: CoreId::new(core), class: "class".into(), shares: 1, counters, run_ns: 0 }
    }

    fn core(core: usize, busy_ns: u64) -> CoreMetrics {
        let mut load = crate::metrics::CoreLoad::default();
        load.busy_ns = busy_ns;
        CoreMetrics {
            core: CoreId::new(core),
            load,
            counters: Default::default(),
            driver: Default::default(),
            stalls: 0,
        }
    }

    #[test]
    fn what_was_not_measured_goes_by_polls_and_all_of_it_adds_up() {
        let cores = [core(0, 1000), core(1, 77), core(2, 5)];
        let mut classes = [
            class(0, 10, 4, 100),
            class(1, 3, 0, 0),
            class(2, 0, 0, 0),
            class(0, 5, 4, 203),
            class(1, 0, 0, 0),
            class(2, 1, 1, 6),
        ];
        share_time(&mut classes, &cores);
        let times: Vec<_> = classes.iter().map(|class| class.run_ns).collect();
        // 697 are left on the first core: 597 for six polls, 100 for one. A turn on the third ended after its busy time was read.
        assert_eq!(times, [100 + 597, 77, 0, 203 + 100, 0, 6]);
    }
}
