//! The figures for the recorder of the crate `metrics`.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Unit, with_recorder};
use ipiq_fabric::CoreId;

use super::{ClassMetrics, CoreMetrics, Metrics, PairMetrics};
use crate::{Handle, time};

/// A metric's name, unit and description, and where its value comes from.
type Figure<T> = (&'static str, Unit, &'static str, fn(&T) -> u64);

const CORE_COUNTS: &[Figure<CoreMetrics>] = &[
    ("ipiq_polls_total", Unit::Count, "Polls of tasks.", |of| of.load.polls),
    ("ipiq_tasks_spawned_total", Unit::Count, "Tasks that were spawned or arrived.", |of| of.load.tasks_spawned),
    ("ipiq_tasks_finished_total", Unit::Count, "Tasks that ended.", |of| of.load.tasks_finished),
    ("ipiq_tasks_panicked_total", Unit::Count, "Tasks that ended by a panic.", |of| of.load.tasks_panicked),
    ("ipiq_timers_fired_total", Unit::Count, "Timers that have fired.", |of| of.load.timers_fired),
    ("ipiq_up_nanoseconds_total", Unit::Nanoseconds, "Time since the loop began.", |of| of.load.up_ns),
    ("ipiq_busy_nanoseconds_total", Unit::Nanoseconds, "Time spent working.", |of| of.load.busy_ns),
    ("ipiq_spinning_nanoseconds_total", Unit::Nanoseconds, "Time spent looking for work.", |of| of.load.spinning_ns),
    ("ipiq_parked_nanoseconds_total", Unit::Nanoseconds, "Time spent asleep.", |of| of.load.parked_ns),
    ("ipiq_ticks_total", Unit::Count, "Passes over the inbox.", |of| of.counters.ticks),
    ("ipiq_parks_total", Unit::Count, "Sleeps.", |of| of.counters.parked),
    ("ipiq_parks_refused_total", Unit::Count, "Sleeps that were not begun.", |of| of.counters.park_refused),
    ("ipiq_foreign_messages_received_total", Unit::Count, "Messages of threads that are no core.", |of| {
        of.counters.foreign_received
    }),
    ("ipiq_handlers_run_total", Unit::Count, "Runs of registered handlers.", |of| of.counters.handlers_run),
    ("ipiq_handlers_panicked_total", Unit::Count, "Handlers that panicked.", |of| of.counters.handler_panics),
    ("ipiq_mailbox_full_total", Unit::Count, "Senders that found the mailbox full.", |of| of.counters.mailbox_full),
    ("ipiq_urgent_run_total", Unit::Count, "Runs of urgent functions.", |of| of.counters.urgent_run),
    ("ipiq_interrupts_sent_total", Unit::Count, "Interrupts sent to the core.", |of| of.counters.interrupts_sent),
    ("ipiq_interrupts_refused_total", Unit::Count, "Interrupts of the core that were refused.", |of| {
        of.counters.interrupts_refused
    }),
    ("ipiq_waits_reported_total", Unit::Count, "Waits for other cores that took too long.", |of| {
        of.counters.waits_reported
    }),
    ("ipiq_stalls_total", Unit::Count, "Polls that took too long.", |of| of.stalls),
    ("ipiq_driver_submissions_total", Unit::Count, "Operations given to the kernel.", |of| of.driver.submissions),
    ("ipiq_driver_completions_total", Unit::Count, "Completions and events.", |of| of.driver.completions),
    ("ipiq_driver_batches_total", Unit::Count, "Looks that found completions.", |of| of.driver.batches),
    ("ipiq_driver_system_calls_total", Unit::Count, "System calls for I/O.", |of| of.driver.system_calls()),
];

const CORE_GAUGES: &[Figure<CoreMetrics>] = &[
    ("ipiq_tasks_alive", Unit::Count, "Tasks that have not ended.", |of| of.load.tasks_alive()),
    ("ipiq_tasks_ready", Unit::Count, "Tasks that wait for their poll.", |of| of.load.tasks_ready),
    ("ipiq_timers", Unit::Count, "Timers.", |of| of.load.timers),
    ("ipiq_foreign_messages_queued", Unit::Count, "Messages of other threads on their way.", |of| {
        of.counters.foreign_queued
    }),
];

const CLASS_COUNTS: &[Figure<ClassMetrics>] = &[
    ("ipiq_class_polls_total", Unit::Count, "Polls of tasks of the class.", |of| of.counters.polls),
    ("ipiq_class_run_nanoseconds_total", Unit::Nanoseconds, "Busy time that the class had.", |of| of.run_ns),
    ("ipiq_class_contended_turns_total", Unit::Count, "Turns begun while other classes could run too.", |of| {
        of.counters.contended_turns
    }),
    ("ipiq_class_contended_nanoseconds_total", Unit::Nanoseconds, "Time that those turns took.", |of| {
        of.counters.contended_ns
    }),
    ("ipiq_class_waited_nanoseconds_total", Unit::Nanoseconds, "Time that the class waited for those turns.", |of| {
        of.counters.waited_ns
    }),
];

const CLASS_GAUGES: &[Figure<ClassMetrics>] = &[
    ("ipiq_class_shares", Unit::Count, "Shares of the class.", |of| of.shares.into()),
    ("ipiq_class_tasks_ready", Unit::Count, "Tasks of the class that wait for their poll.", |of| of.counters.queued),
    ("ipiq_class_longest_wait_nanoseconds", Unit::Nanoseconds, "The longest wait for a turn.", |of| {
        of.counters.longest_wait_ns
    }),
];

const PAIR_COUNTS: &[Figure<PairMetrics>] = &[
    ("ipiq_messages_sent_total", Unit::Count, "Messages put into the ring.", |of| of.counters.sent),
    ("ipiq_messages_received_total", Unit::Count, "Messages that the target took out.", |of| of.counters.received),
    ("ipiq_messages_avoided_total", Unit::Count, "Messages that needed no kick.", |of| of.counters.avoided),
    ("ipiq_messages_kicked_total", Unit::Count, "Messages that kicked the target.", |of| of.counters.kicked),
    ("ipiq_messages_passive_total", Unit::Count, "Messages sent passively.", |of| of.counters.passive),
    ("ipiq_messages_full_total", Unit::Count, "Sends that found no space.", |of| of.counters.full),
    ("ipiq_messages_overflowed_total", Unit::Count, "Messages that were listed first.", |of| of.counters.overflowed),
    ("ipiq_kicks_repeated_total", Unit::Count, "Kicks beside those of sends.", |of| of.counters.repeated),
];

const PAIR_GAUGES: &[Figure<PairMetrics>] = &[
    ("ipiq_messages_queued", Unit::Count, "Messages in the ring.", |of| of.counters.queued),
    ("ipiq_messages_listed", Unit::Count, "Messages in the overflow list.", |of| of.counters.listed),
];

const RUNTIME_COUNTS: &[Figure<Metrics>] = &[
    ("ipiq_heavy_fences_total", Unit::Count, "Heavy fences of the process.", |of| of.fences.issued),
    ("ipiq_heavy_fences_targeted_total", Unit::Count, "Heavy fences that went to one CPU.", |of| of.fences.targeted),
    ("ipiq_heavy_fences_refused_total", Unit::Count, "Heavy fences that were not to be had.", |of| of.fences.refused),
];

const RUNTIME_GAUGES: &[Figure<Metrics>] = &[
    ("ipiq_blocking_threads", Unit::Count, "Threads for blocking closures.", |of| of.blocking.threads as u64),
    ("ipiq_blocking_threads_idle", Unit::Count, "Those that wait for one.", |of| of.blocking.idle as u64),
    ("ipiq_blocking_queued", Unit::Count, "Blocking closures that wait.", |of| of.blocking.queued as u64),
];

/// Publishes the figures of a runtime each `interval`, until it is dropped. See [`Publisher`], of which this makes one when it is first polled.
///
/// ```
/// use std::time::Duration;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     // After the recorder was installed, such as an exporter's.
///     let publishing = ipiq::spawn_local(ipiq::metrics::record(ipiq::handle(), Duration::from_secs(10)));
///     // Serve, and at the end:
///     publishing.abort();
/// }
/// ```
///
/// # Cancel safety
///
/// Nothing is lost when it is dropped, but the figures since it last published.
///
/// # Panics
///
/// When polled on a thread that runs no core.
pub async fn record(handle: Handle, interval: Duration) -> Infallible {
    let mut publisher = Publisher::new(handle);
    loop {
        publisher.publish();
        time::sleep(interval).await;
    }
}

/// Hands the figures of one runtime to the recorder of the crate [`metrics`](::metrics).
///
/// Counters are set to what the runtime has counted since its start; names follow Prometheus, such as `ipiq_messages_sent_total`. Figures of a core have the label `core`, those
/// of a class on a core `class` and `core`, those of a pair `source` and `target`.
///
/// It uses the recorder that there is when it first publishes a figure: install that before. Without one the figures go nowhere.
pub struct Publisher {
    handle: Handle,
    metrics: Metrics,
    runtime: Registered,
    cores: Vec<Registered>,
    /// In the order of the classes.
    classes: Vec<Registered>,
    /// In the order of the pairs.
    pairs: Vec<((CoreId, CoreId), Registered)>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Publisher {
    /// For the runtime of `handle`.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        let of_core = |core| Registered::register(CORE_COUNTS, CORE_GAUGES, vec![label("core", core)]);
        let cores = handle.cores().map(of_core).collect();
        let runtime = Registered::register(RUNTIME_COUNTS, RUNTIME_GAUGES, Vec::new());
        Self { handle, metrics: Metrics::default(), runtime, cores, classes: Vec::new(), pairs: Vec::new() }
    }

    /// Publishes the figures as they are now, from any thread.
    pub fn publish(&mut self) {
        self.handle.read_metrics(&mut self.metrics);
        self.runtime.set(RUNTIME_COUNTS, RUNTIME_GAUGES, &self.metrics);
        for (core, instruments) in self.metrics.cores.iter().zip(&self.cores) {
            instruments.set(CORE_COUNTS, CORE_GAUGES, core);
        }
        // Classes come, and never go, and keep their places.
        for class in self.metrics.classes.iter().skip(self.classes.len()) {
            let labels = vec![Label::new("class", class.class.to_string()), label("core", class.core)];
            self.classes.push(Registered::register(CLASS_COUNTS, CLASS_GAUGES, labels));
        }
        for (class, instruments) in self.metrics.classes.iter().zip(&self.classes) {
            instruments.set(CLASS_COUNTS, CLASS_GAUGES, class);
        }
        for (place, pair) in self.metrics.pairs.iter().enumerate() {
            let key = (pair.source, pair.target);
            // Pairs come, and never go.
            if self.pairs.get(place).is_none_or(|(known, _)| *known != key) {
                let labels = vec![label("source", pair.source), label("target", pair.target)];
                self.pairs.insert(place, (key, Registered::register(PAIR_COUNTS, PAIR_GAUGES, labels)));
            }
            self.pairs[place].1.set(PAIR_COUNTS, PAIR_GAUGES, pair);
        }
    }
}

fn label(name: &'static str, core: CoreId) -> Label {
    Label::new(name, core.index().to_string())
}

/// What a recorder gave for the figures of one core, or one pair.
struct Registered {
    counts: Vec<Counter>,
    gauges: Vec<Gauge>,
}

impl Registered {
    fn register<T>(counts: &[Figure<T>], gauges: &[Figure<T>], labels: Vec<Label>) -> Self {
        const METADATA: Metadata<'static> = Metadata::new("ipiq", Level::INFO, Some("ipiq"));
        with_recorder(|recorder| {
            let key = |name: &'static str| Key::from_parts(name, labels.clone());
            let count = |&(name, unit, about, _): &Figure<T>| {
                recorder.describe_counter(KeyName::from_const_str(name), Some(unit), about.into());
                recorder.register_counter(&key(name), &METADATA)
            };
            let gauge = |&(name, unit, about, _): &Figure<T>| {
                recorder.describe_gauge(KeyName::from_const_str(name), Some(unit), about.into());
                recorder.register_gauge(&key(name), &METADATA)
            };
            Self { counts: counts.iter().map(count).collect(), gauges: gauges.iter().map(gauge).collect() }
        })
    }

    fn set<T>(&self, counts: &[Figure<T>], gauges: &[Figure<T>], of: &T) {
        counts.iter().zip(&self.counts).for_each(|((.., value), counter)| counter.absolute(value(of)));
        gauges.iter().zip(&self.gauges).for_each(|((.., value), gauge)| gauge.set(value(of) as f64));
    }
}
