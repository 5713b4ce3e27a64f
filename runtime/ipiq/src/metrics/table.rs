//! Figures for people.

use std::fmt;

use std::time::Duration;

use super::{ClassMetrics, CoreMetrics, Metrics, PairMetrics};

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blocking, fences) = (&self.blocking, &self.fences);
        writeln!(f, "{} cores, {:.3} s", self.cores.len(), self.elapsed.as_secs_f64())?;
        writeln!(
            f,
            "blocking: {} threads, {} idle, {} queued; heavy fences: {} issued, {} refused",
            blocking.threads, blocking.idle, blocking.queued, fences.issued, fences.refused
        )?;
        rows(f, &self.cores, OF_CORE)?;
        // One class alone has what its core has.
        if self.classes.len() > self.cores.len() {
            rows(f, &self.classes, OF_CLASS)?;
        }
        rows(f, &self.pairs, OF_PAIR)
    }
}

/// A heading and what is under it.
type Column<T> = (&'static str, fn(&T) -> String);

const OF_CORE: &[Column<CoreMetrics>] = &[
    ("core", |of| of.core.index().to_string()),
    ("busy", |of| share(of, of.load.busy_ns)),
    ("spin", |of| share(of, of.load.spinning_ns)),
    ("park", |of| share(of, of.load.parked_ns)),
    ("polls", |of| of.load.polls.to_string()),
    ("tasks", |of| of.load.tasks_alive().to_string()),
    ("ready", |of| of.load.tasks_ready.to_string()),
    ("finished", |of| of.load.tasks_finished.to_string()),
    ("panics", |of| of.load.tasks_panicked.to_string()),
    ("timers", |of| of.load.timers.to_string()),
    ("fired", |of| of.load.timers_fired.to_string()),
    ("foreign", |of| of.counters.foreign_received.to_string()),
    ("parks", |of| of.counters.parked.to_string()),
    ("refused", |of| of.counters.park_refused.to_string()),
    ("urgent", |of| of.counters.urgent_run.to_string()),
    ("interrupts", |of| of.counters.interrupts_sent.to_string()),
    ("stalls", |of| of.stalls.to_string()),
    ("waits", |of| of.counters.waits_reported.to_string()),
    ("submitted", |of| of.driver.submissions.to_string()),
    ("completed", |of| of.driver.completions.to_string()),
    ("syscalls", |of| of.driver.system_calls().to_string()),
];

const OF_CLASS: &[Column<ClassMetrics>] = &[
    ("class", |of| of.class.to_string()),
    ("core", |of| of.core.index().to_string()),
    ("shares", |of| of.shares.to_string()),
    ("run", |of| time(of.run_ns)),
    ("polls", |of| of.counters.polls.to_string()),
    ("ready", |of| of.counters.queued.to_string()),
    ("contended", |of| of.counters.contended_turns.to_string()),
    ("waited", |of| time(of.counters.waited_ns)),
    ("longest", |of| time(of.counters.longest_wait_ns)),
];

const OF_PAIR: &[Column<PairMetrics>] = &[
    ("from", |of| of.source.index().to_string()),
    ("to", |of| of.target.index().to_string()),
    ("sent", |of| of.counters.sent.to_string()),
    ("received", |of| of.counters.received.to_string()),
    ("queued", |of| of.counters.queued.to_string()),
    ("avoided", |of| of.counters.avoided.to_string()),
    ("kicked", |of| of.counters.kicked.to_string()),
    ("passive", |of| of.counters.passive.to_string()),
    ("full", |of| of.counters.full.to_string()),
    ("overflowed", |of| of.counters.overflowed.to_string()),
    ("listed", |of| of.counters.listed.to_string()),
];

fn time(ns: u64) -> String {
    format!("{:.1?}", Duration::from_nanos(ns))
}

/// Of the time that the core was up.
fn share(of: &CoreMetrics, part_ns: u64) -> String {
    match of.load.up_ns {
        0 => "-".to_owned(),
        up_ns => format!("{:.0}%", part_ns as f64 * 100.0 / up_ns as f64),
    }
}

fn rows<T>(f: &mut fmt::Formatter<'_>, of: &[T], columns: &[Column<T>]) -> fmt::Result {
    if of.is_empty() {
        return Ok(());
    }
    let cells: Vec<Vec<String>> = columns.iter().map(|(_, cell)| of.iter().map(cell).collect()).collect();
    let width = |column: usize| {
        let widest = cells[column].iter().map(String::len).max().unwrap_or(0);
        widest.max(columns[column].0.len())
    };
    let line = |f: &mut fmt::Formatter<'_>, cell: &dyn Fn(usize) -> String| {
        let line: Vec<String> = (0..columns.len()).map(|i| format!("{:>1$}", cell(i), width(i))).collect();
        writeln!(f, "{}", line.join("  "))
    };
    line(f, &|column| columns[column].0.to_owned())?;
    (0..of.len()).try_for_each(|row| line(f, &|column| cells[column][row].clone()))
}

#[cfg(test)]
mod tests {
    use ipiq_executor::CoreLoad;
    use ipiq_fabric::CoreId;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let of = |core, polls| {
            let mut load = CoreLoad::default();
            (load.polls, load.up_ns, load.busy_ns) = (polls, 200, 51);
            CoreMetrics {
                core: CoreId::new(core),
                load,
                counters: Default::default(),
                driver: Default::default(),
                stalls: 0,
            }
        };
        let metrics = Metrics { cores: vec![of(0, 7), of(10, 1_234_567)], ..Metrics::default() };
        let text = metrics.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "2 cores, 0.000 s");
        assert!(lines[2].starts_with("core  busy  spin  park    polls"), "{text}");
        assert!(lines[3].starts_with("   0   26%    0%    0%        7"), "{text}");
        assert!(lines[4].starts_with("  10   26%    0%    0%  1234567"), "{text}");
        assert_eq!(lines.len(), 5);
    }
}
