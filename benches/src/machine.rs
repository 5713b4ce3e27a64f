//! The machine under the measurement: its CPUs, how near they are, and who else is using them.

use std::fmt;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Share of one CPU used by others during a cell from which the cell counts as disturbed.
pub const DISTURBED_FROM: f64 = 0.15;

/// Share of one CPU used by others below which a cell may start.
const QUIET_BELOW: f64 = 0.04;

/// How long the machine has to be quiet before a cell starts.
const QUIET_WINDOW: Duration = Duration::from_millis(250);

/// Floor in nanoseconds below which two CPUs count as near each other.
const NEAR_BELOW_NS: f64 = 100.0;

/// Ticks per second of `/proc/stat`, the same on every Linux architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// The two CPUs a comparison runs on: the caller's and the target's.
pub type CpuPair = [usize; 2];

/// Picks the first two CPUs that this process may use.
///
/// # Errors
///
/// When fewer than two CPUs are allowed, or the system does not say which.
pub fn first_two_cpus() -> Result<CpuPair, MachineError> {
    let allowed = core_affinity::get_core_ids().ok_or(MachineError::UnknownAffinity)?;
    match allowed[..] {
        [source, target, ..] => Ok([source.id, target.id]),
        _ => Err(MachineError::TooFewCpus(allowed.len())),
    }
}

/// Checks that this process may run on both CPUs.
///
/// # Errors
///
/// When one of them is not among the allowed CPUs, or both are the same one.
pub fn check_cpus(pair: CpuPair) -> Result<(), MachineError> {
    let allowed = core_affinity::get_core_ids().ok_or(MachineError::UnknownAffinity)?;
    if pair[0] == pair[1] {
        return Err(MachineError::SameCpu(pair[0]));
    }
    for cpu in pair {
        if !allowed.iter().any(|core| core.id == cpu) {
            return Err(MachineError::NotAllowed(cpu));
        }
    }
    Ok(())
}

/// Pins the calling thread to one CPU.
///
/// # Panics
///
/// When the system refuses: a figure of an unpinned thread would mean something else.
pub fn pin(cpu: usize) {
    assert!(
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu }),
        "the system refused to pin a thread to CPU {cpu}",
    );
}

/// Why a comparison cannot run on this machine.
#[derive(Debug)]
pub enum MachineError {
    /// The system does not say which CPUs this process may use.
    UnknownAffinity,
    /// Fewer than two CPUs are allowed.
    TooFewCpus(usize),
    /// The same CPU was named twice.
    SameCpu(usize),
    /// A CPU was named that this process may not use.
    NotAllowed(usize),
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAffinity => write!(f, "cannot tell which CPUs this process may use"),
            Self::TooFewCpus(count) => {
                write!(f, "a comparison needs two CPUs, this process may use {count}: widen its affinity mask",)
            }
            Self::SameCpu(cpu) => {
                write!(f, "a comparison needs two different CPUs, not {cpu} twice")
            }
            Self::NotAllowed(cpu) => write!(f, "this process may not run on CPU {cpu}"),
        }
    }
}

impl std::error::Error for MachineError {}

/// Where the host had the two CPUs, and whether others used them, while a cell ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// The CPUs are far apart: a cache line takes 100 ns or more to travel there and back.
    pub far: bool,
    /// Others used 15 % of a CPU or more.
    pub disturbed: bool,
}

impl Placement {
    /// Judges a cell by its floor and the share of a CPU that others used during it.
    #[must_use]
    pub fn of(floor_ns: f64, others: f64) -> Self {
        Self { far: floor_ns >= NEAR_BELOW_NS, disturbed: others >= DISTURBED_FROM }
    }

    /// The distance alone, as printed in the table.
    #[must_use]
    pub fn distance(self) -> &'static str {
        if self.far { "far" } else { "near" }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.distance())?;
        if self.disturbed {
            f.write_str("-disturbed")?;
        }
        Ok(())
    }
}

/// Measures how much CPU time everybody but this process takes.
pub struct Load {
    started: Instant,
    machine_busy_seconds: f64,
    own_seconds: f64,
}

impl Load {
    /// Starts a measurement.
    ///
    /// # Errors
    ///
    /// When `/proc/stat` cannot be read or understood.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            started: Instant::now(),
            machine_busy_seconds: machine_busy_seconds()?,
            own_seconds: own_cpu_seconds(),
        })
    }

    /// CPUs' worth of time that others used since the start, summed over all CPUs.
    ///
    /// `/proc/stat` counts in steps of 10 ms, so a cell of 100 ms is judged to about 0.1.
    ///
    /// # Errors
    ///
    /// When `/proc/stat` cannot be read or understood.
    pub fn others(&self) -> io::Result<f64> {
        let busy = machine_busy_seconds()? - self.machine_busy_seconds;
        let own = own_cpu_seconds() - self.own_seconds;
        let wall = self.started.elapsed().as_secs_f64();
        Ok(((busy - own) / wall).max(0.0))
    }
}

/// The CPU's time-stamp counter, timed by the clock.
#[derive(Clone, Copy)]
pub struct CycleCounter {
    begun: Instant,
    at_begin: u64,
}

impl CycleCounter {
    /// Begins to time it; `None` where there is none.
    #[must_use]
    pub fn start() -> Option<Self> {
        let begun = Instant::now();
        time_stamp().map(|at_begin| Self { begun, at_begin })
    }

    /// How many cycles there were per nanosecond since then.
    #[must_use]
    pub fn cycles_per_ns(&self) -> f64 {
        let cycles = time_stamp().unwrap_or_default().saturating_sub(self.at_begin);
        cycles as f64 / self.begun.elapsed().as_nanos() as f64
    }
}

#[cfg(target_arch = "x86_64")]
fn time_stamp() -> Option<u64> {
    // SAFETY: 1. every x86-64 CPU has it, and Linux lets programs read it.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn time_stamp() -> Option<u64> {
    None
}

/// Waits until others leave the machine quiet, for at most `patience`.
///
/// # Errors
///
/// When `/proc/stat` cannot be read or understood.
pub fn wait_until_quiet(patience: Duration) -> io::Result<()> {
    let started = Instant::now();
    while started.elapsed() < patience {
        let load = Load::start()?;
        std::thread::sleep(QUIET_WINDOW.min(patience));
        if load.others()? < QUIET_BELOW {
            break;
        }
    }
    Ok(())
}

fn machine_busy_seconds() -> io::Result<f64> {
    busy_seconds(&fs::read_to_string("/proc/stat")?)
        .ok_or_else(|| io::Error::other("/proc/stat has no line of CPU times"))
}

/// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn busy_seconds(stat: &str) -> Option<f64> {
    let ticks: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))?
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq + steal) as f64 / TICKS_PER_SECOND)
}

fn own_cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_all_but_idle_and_iowait() {
        let stat = "cpu  100 20 30 4000 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(busy_seconds(stat), Some(1.71));
    }

    #[test]
    fn a_stat_without_cpu_times_is_refused() {
        assert_eq!(busy_seconds("intr 1 2 3\n"), None);
        assert_eq!(busy_seconds("cpu  1 2 x\n"), None);
    }

    #[test]
    fn the_cycle_counter_goes_on_with_the_clock() {
        let Some(counter) = CycleCounter::start() else { return };
        while counter.begun.elapsed() < Duration::from_millis(5) {}
        let per_ns = counter.cycles_per_ns();
        assert!((0.1..20.0).contains(&per_ns), "{per_ns} GHz");
    }

    #[test]
    fn placement_names_distance_and_disturbance() {
        assert_eq!(Placement::of(50.0, 0.0).to_string(), "near");
        assert_eq!(Placement::of(380.0, 0.14).to_string(), "far");
        assert_eq!(Placement::of(99.9, 0.15).to_string(), "near-disturbed");
    }

    #[test]
    fn the_same_cpu_twice_is_refused() {
        let error = check_cpus([0, 0]).unwrap_err();
        assert!(error.to_string().contains("two different CPUs"));
    }
}
