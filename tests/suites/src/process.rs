//! What the calling process holds and has used, from `/proc`.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Threads.
    pub threads: usize,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Resident memory, in KiB.
    pub resident_kib: u64,
}

/// What the process holds now.
///
/// # Panics
///
/// If `/proc` is not mounted.
#[must_use]
pub fn holdings() -> Holdings {
    let count = |path| fs::read_dir(path).expect("/proc is mounted").count();
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    Holdings {
        threads: count("/proc/self/task"),
        // The directory's own descriptor is one of them, each time.
        descriptors: count("/proc/self/fd"),
        resident_kib: field(&status, "VmRSS:"),
    }
}

/// What threads have used since they started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// How many threads.
    pub threads: usize,
    /// Their switches away from a CPU, asked for or not, all of them together.
    pub switches: u64,
    /// The most of one thread.
    pub most_switches: u64,
    /// Their time on a CPU.
    pub cpu: Duration,
}

/// What the threads whose name begins with `prefix` have used.
///
/// # Panics
///
/// If `/proc` is not mounted.
#[must_use]
pub fn usage(prefix: &str) -> Usage {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let mut usage = Usage::default();
    for task in tasks {
        // One that has ended since it was listed is none.
        if let Some((switches, cpu)) = of_thread(&task.expect("an entry").path(), prefix) {
            usage.threads += 1;
            usage.switches += switches;
            usage.most_switches = usage.most_switches.max(switches);
            usage.cpu += cpu;
        }
    }
    usage
}

/// Switches and CPU time of a thread that lives and whose name begins with `prefix`.
fn of_thread(task: &Path, prefix: &str) -> Option<(u64, Duration)> {
    let read = |file| fs::read_to_string(task.join(file)).ok();
    read("comm").filter(|name| name.starts_with(prefix))?;
    let (status, schedstat) = (read("status")?, read("schedstat")?);
    let switches = field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
    let on_cpu_ns = schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds");
    Some((switches, Duration::from_nanos(on_cpu_ns)))
}

/// The number after `name` at the start of a line.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no {name} in /proc"))
}
