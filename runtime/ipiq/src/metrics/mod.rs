//! What a running runtime has done: figures of each core, each scheduling class and each pair of cores, read from any thread.
//!
//! ```
//! use std::time::Duration;
//!
//! use ipiq::{CoreId, Runtime};
//!
//! let runtime = Runtime::builder().cores(2).build()?;
//! let before = runtime.handle().metrics();
//! runtime.block_on(|| async { ipiq::call_on(CoreId::new(1), || ()).await.unwrap() });
//! let between = runtime.handle().metrics() - &before;
//! assert_eq!(between.pair(CoreId::new(0), CoreId::new(1)).sent, 1);
//! println!("{between}"); // a table
//! # Ok::<(), ipiq::BuildError>(())
//! ```
//!
//! # What it costs
//!
//! Cores count in words of their own, with plain loads and stores, whether anybody reads or not; nobody asks them for anything. A reader moves the
//! lines that it reads, one to a few per core, class and pair, as a neighbour does who looks. The clock is read for nothing else than what the loop reads it
//! for anyway.
//!
//! # The table
//!
//! A [`Metrics`] shows as a table of counts; the fields tell more.
//!
//! | Column, of a core | |
//! |---|---|
//! | `busy`, `spin`, `park` | of the time that the core was up: working; looking for work; asleep |
//! | `polls` | polls of tasks |
//! | `tasks`, `ready` | tasks that have not ended; those of them that wait for their poll |
//! | `finished`, `panics` | tasks that have ended; those of them that panicked |
//! | `timers`, `fired` | timers that wait; that have fired |
//! | `foreign` | messages from threads that run no core |
//! | `parks`, `refused` | sleeps; sleeps that were not begun because something had come |
//! | `urgent`, `interrupts` | urgent functions that ran here; interrupts sent to this core |
//! | `stalls`, `waits` | polls longer than the [limit](crate::Builder::stall_limit); waits for another core that were [reported](crate::Builder::stall_reports) |
//! | `submitted`, `completed`, `syscalls` | operations given to the kernel; their ends, and events; system calls for I/O |
//!
//! | Column, of a class, once there is one beside `default` | |
//! |---|---|
//! | `shares` | its shares now |
//! | `run` | [what it had](ClassMetrics::run_ns) of the time that the core worked |
//! | `polls`, `ready` | polls of its tasks; tasks that wait for their poll |
//! | `contended`, `waited`, `longest` | turns that began while other classes could run too; how long it waited for these together, and for one at most |
//!
//! | Column, of a pair | |
//! |---|---|
//! | `sent`, `received` | messages put into the ring, and taken out of it |
//! | `queued`, `listed` | messages in the ring now; in the list before a full ring |
//! | `avoided`, `kicked`, `passive` | messages that needed no kick; that woke the target; that are rung when the sender's turn ends |
//! | `full`, `overflowed` | sends that found no space; messages that went through the list |
//!
//! # What a snapshot is
//!
//! One pass over all figures while the cores go on. Each is a figure that was true during the pass; together they are no consistent cut: a message may be
//! counted as received by its target, read later, and not yet as sent by its source. What messages are counted is exact; what a core counts of its
//! tasks, and its times, is as exact as [`CoreLoad`] says.
//!
//! # Publishing
//!
//! With the feature `metrics`, `record` hands the figures to the recorder of the crate `metrics`, and so to any exporter.

mod classes;
mod instruments;
#[cfg(feature = "metrics")]
mod record;
mod table;

use std::ops::Sub;
use std::time::Duration;

use ipiq_fabric::CoreId;
use ipiq_linux::membarrier::Membarrier;

use crate::Handle;
pub use classes::ClassMetrics;
pub(crate) use instruments::Instruments;
#[cfg(feature = "metrics")]
pub use record::{Publisher, record};

pub use crate::blocking::BlockingLoad;
pub use crate::classes::ClassCounters;
pub use ipiq_driver::DriverCounters;
pub use ipiq_executor::CoreLoad;
pub use ipiq_fabric::{CoreCounters, PairCounters};

/// The figures of a runtime, or what came in between two readings of them: `later - &earlier`.
///
/// Shows as a table.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Since the runtime's start; of a difference, between the two.
    pub elapsed: Duration,
    /// Each core, in ascending order.
    pub cores: Vec<CoreMetrics>,
    /// Each scheduling class on each core, ordered by class, as they were made, then core.
    pub classes: Vec<ClassMetrics>,
    /// Each pair that has ever talked, ordered by source, then target.
    pub pairs: Vec<PairMetrics>,
    /// The threads for [`spawn_blocking`](crate::spawn_blocking).
    pub blocking: BlockingLoad,
    /// Of the whole process.
    pub fences: HeavyFences,
}

/// One core's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoreMetrics {
    /// Whose.
    pub core: CoreId,
    /// Tasks, timers and times.
    pub load: CoreLoad,
    /// Sleeps, handlers, interrupts, and messages of threads that are no core.
    pub counters: CoreCounters,
    /// I/O.
    pub driver: DriverCounters,
    /// Polls and functions that took longer than the [limit](crate::Builder::stall_limit), if there is one; those whose reports were suppressed are counted with the next report.
    pub stalls: u64,
}

/// What was counted of messages from one core to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairMetrics {
    /// Who sends.
    pub source: CoreId,
    /// Who receives.
    pub target: CoreId,
    /// The figures.
    pub counters: PairCounters,
}

/// Fences that cores made all others execute, before their sleeps and in some protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeavyFences {
    /// Those that the kernel has made.
    pub issued: u64,
    /// Those of them that went to one CPU.
    pub targeted: u64,
    /// Tries that met another one, or that the kernel refused.
    pub refused: u64,
}

impl HeavyFences {
    fn now() -> Self {
        Self { issued: Membarrier::issued(), targeted: Membarrier::targeted(), refused: Membarrier::refused() }
    }
}

impl Handle {
    /// The runtime's figures now, also while its cores are busy, and after they have ended. See [`metrics`](crate::metrics).
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        self.read_metrics(&mut metrics);
        metrics
    }

    /// As [`metrics`](Self::metrics), into `metrics`, whose memory is used again: allocates only if there are more classes, or more pairs of cores that have talked, than there is space for.
    pub fn read_metrics(&self, metrics: &mut Metrics) {
        let (fabric, instruments) = (self.remote().fabric(), self.inspect().instruments());
        metrics.elapsed = instruments.started().elapsed();
        metrics.blocking = instruments.blocking();
        metrics.fences = HeavyFences::now();
        metrics.cores.clear();
        metrics.cores.extend(self.cores().map(|core| CoreMetrics {
            core,
            load: self.remote().load(core, instruments.clock()),
            counters: fabric.core_counters(core),
            driver: instruments.driver(core),
            stalls: instruments.stalls(core),
        }));
        self.read_classes(&mut metrics.classes);
        classes::share_time(&mut metrics.classes, &metrics.cores);
        metrics.pairs.clear();
        let pairs = self.cores().flat_map(|source| self.cores().map(move |target| (source, target)));
        metrics.pairs.extend(
            pairs.filter(|&(source, target)| fabric.have_talked(source, target)).map(|(source, target)| PairMetrics {
                source,
                target,
                counters: fabric.pair_counters(source, target),
            }),
        );
    }
}

impl Metrics {
    /// The figures of `core`; `None`: the runtime has no such core.
    #[must_use]
    pub fn core(&self, core: CoreId) -> Option<&CoreMetrics> {
        self.cores.get(core.index())
    }

    /// The figures of the class of this name on `core`; `None`: there is no such class or core.
    #[must_use]
    pub fn class(&self, core: CoreId, name: &str) -> Option<&ClassMetrics> {
        self.classes.iter().find(|class| class.core == core && *class.class == *name)
    }

    /// What was counted of messages from `source` to `target`; all zero if they never talked.
    #[must_use]
    pub fn pair(&self, source: CoreId, target: CoreId) -> PairCounters {
        let place = self.pairs.binary_search_by_key(&(source, target), |pair| (pair.source, pair.target));
        place.map(|place| self.pairs[place].counters).unwrap_or_default()
    }
}

/// What came in between. Figures that are no counts, such as depths of queues, are the later ones.
impl Sub<&Self> for Metrics {
    type Output = Self;

    fn sub(mut self, earlier: &Self) -> Self {
        self.elapsed = self.elapsed.saturating_sub(earlier.elapsed);
        for core in &mut self.cores {
            let Some(before) = earlier.core(core.core) else { continue };
            core.load = core.load - before.load;
            core.counters = core.counters - before.counters;
            core.driver = core.driver - before.driver;
            core.stalls = core.stalls.saturating_sub(before.stalls);
        }
        // A class that was made in between has no place in the earlier one.
        for (class, before) in self.classes.iter_mut().zip(&earlier.classes) {
            class.counters = class.counters - before.counters;
        }
        classes::share_time(&mut self.classes, &self.cores);
        for pair in &mut self.pairs {
            pair.counters = pair.counters - earlier.pair(pair.source, pair.target);
        }
        self.fences.issued = self.fences.issued.saturating_sub(earlier.fences.issued);
        self.fences.targeted = self.fences.targeted.saturating_sub(earlier.fences.targeted);
        self.fences.refused = self.fences.refused.saturating_sub(earlier.fences.refused);
        self
    }
}
