//! Runs the works on the peers, round by round, each beside its own floor.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::flags::Options;
use crate::floor;
use crate::machine::{self, CpuPair, CycleCounter, Load, MachineError, Placement};
use crate::peers::PEERS;
use crate::report::{self, Row};
use crate::work::{Outcome, Peer, Plan, Work, Yardstick};

/// Longest that one cell may take; the longest known takes a few seconds.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Longest wait for the machine to become quiet before a cell.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs a comparison and prints its table.
///
/// # Errors
///
/// When the machine has no two usable CPUs, a file cannot be written, or a peer hangs or panics.
pub fn run(options: &Options) -> Result<(), CompareError> {
    let cpus = match options.cpus {
        Some(cpus) => cpus,
        None => machine::first_two_cpus()?,
    };
    machine::check_cpus(cpus)?;
    let mut lines = match &options.json {
        Some(path) => Some(File::create(path).map_err(|error| CompareError::Json(path.clone(), error))?),
        None => None,
    };
    let pace = Pace::of(options.quick, cpus);
    let cycles = CycleCounter::start();
    let mut rows = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for work in &options.works {
            for peer in in_turn(round, options) {
                for row in cell(work, peer, round, &pace)? {
                    if let (Some(file), Some(path)) = (&mut lines, &options.json) {
                        writeln!(file, "{}", row.to_json()).map_err(|error| CompareError::Json(path.clone(), error))?;
                    }
                    rows.push(row);
                }
            }
        }
    }
    let cycles_per_ns = cycles.map(|counter| counter.cycles_per_ns());
    print!("{}", report::table(&rows, cycles_per_ns));
    print_notes(options, cycles_per_ns);
    Ok(())
}

/// How long everything takes.
struct Pace {
    plan: Plan,
    floor: Duration,
    patience: Duration,
}

impl Pace {
    fn of(quick: bool, cpus: CpuPair) -> Self {
        let millis = Duration::from_millis;
        if quick {
            Self {
                plan: Plan { cpus, section: millis(50), items: 100_000 },
                floor: millis(10),
                patience: Duration::ZERO,
            }
        } else {
            Self { plan: Plan { cpus, section: millis(250), items: 1_000_000 }, floor: millis(25), patience: PATIENCE }
        }
    }
}

/// The peers asked for, starting with another one each round, so that none always comes first.
fn in_turn(round: usize, options: &Options) -> Vec<&'static dyn Peer> {
    let mut peers: Vec<_> = PEERS.iter().copied().filter(|peer| options.wants(peer.runtime())).collect();
    let first = (round - 1) % peers.len().max(1);
    peers.rotate_left(first);
    peers
}

/// Measures the floor, then the peer, and judges both by what others did meanwhile.
fn cell(work: &'static Work, peer: &'static dyn Peer, round: usize, pace: &Pace) -> Result<Vec<Row>, CompareError> {
    machine::wait_until_quiet(pace.patience).map_err(CompareError::Load)?;
    let load = Load::start().map_err(CompareError::Load)?;
    let line_ns = floor::line_round_trip_ns(pace.plan.cpus, pace.floor);
    let floor_ns = match work.yardstick {
        Yardstick::Line => line_ns,
        Yardstick::Futex => floor::futex_round_trips(pace.plan.cpus, pace.plan.section).percentile_ns(50.0),
    };
    let outcome = watched(work, peer, pace.plan)?;
    let placement = Placement::of(line_ns, load.others().map_err(CompareError::Load)?);
    let row = |figure| Row {
        round,
        work: work.name,
        runtime: peer.runtime(),
        variant: peer.variant(),
        figure,
        floor_ns,
        placement,
    };
    Ok(match outcome {
        Outcome::Figures(figures) => figures.into_iter().map(|figure| row(Some(figure))).collect(),
        Outcome::NotOffered if !peer.is_reference() => vec![row(None)],
        Outcome::NotOffered | Outcome::Elsewhere => Vec::new(),
    })
}

/// Runs the cell in a thread of its own, so that a peer that hangs ends the comparison.
fn watched(work: &'static Work, peer: &'static dyn Peer, plan: Plan) -> Result<Outcome, CompareError> {
    let (report, outcome) = mpsc::channel();
    thread::spawn(move || report.send((work.run)(peer, plan)));
    outcome.recv_timeout(WATCHDOG).map_err(|error| CompareError::Cell {
        work: work.name,
        peer: format!("{} {}", peer.runtime(), peer.variant()),
        hung: error == RecvTimeoutError::Timeout,
    })
}

fn print_notes(options: &Options, cycles_per_ns: Option<f64>) {
    println!();
    for peer in PEERS.iter().filter(|peer| options.wants(peer.runtime())) {
        if let Some(note) = peer.note() {
            println!("{} {}: {note}", peer.runtime(), peer.variant());
        }
    }
    println!(
        "near, far: whether the line's floor was below 100 ns; clean: rounds in which others used \
         less than {} of a CPU; !: none was.",
        machine::DISTURBED_FROM,
    );
    if let Some(per_ns) = cycles_per_ns {
        println!(
            "cycles: of the time-stamp counter, at {per_ns:.3} GHz as the clock timed it over this run; a core's own clock may \
             be faster or slower."
        );
    }
}

/// Why a comparison ended early.
#[derive(Debug)]
pub enum CompareError {
    /// The machine has no two CPUs to compare on.
    Machine(MachineError),
    /// The load of the machine cannot be read.
    Load(io::Error),
    /// The JSON file cannot be written.
    Json(PathBuf, io::Error),
    /// A peer did not finish a cell.
    Cell {
        /// The work.
        work: &'static str,
        /// Runtime and variant.
        peer: String,
        /// It was still running when the watchdog barked; otherwise it panicked.
        hung: bool,
    },
}

impl From<MachineError> for CompareError {
    fn from(error: MachineError) -> Self {
        Self::Machine(error)
    }
}

impl fmt::Display for CompareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(error) => error.fmt(f),
            Self::Load(error) => write!(f, "cannot read the machine's load: {error}"),
            Self::Json(path, error) => write!(f, "cannot write {}: {error}", path.display()),
            Self::Cell { work, peer, hung: true } => {
                write!(f, "{peer} did not finish {work} within {WATCHDOG:?}")
            }
            Self::Cell { work, peer, hung: false } => {
                write!(f, "{peer} panicked in {work}; leave it out with --only or --runtime")
            }
        }
    }
}

impl std::error::Error for CompareError {}
