//! Many stops from four masters.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipiq_fabric::cpusync::{CpuSync, Lead, Pause};
use ipiq_fabric::port::Clock;
use ipiq_fabric::{Config, Core, CoreSet};
use ipiq_linux::clock::MonotonicClock;
use ipiq_linux::port::FenceChoice;
use ipiq_suites::alone::alone;
use ipiq_suites::cores::{FENCES, Seated, on_cores};
use ipiq_suites::scale::scaled_up_to;

/// At full size 16 threads hand each of a million stops around on a few CPUs.
const LIMIT: Duration = Duration::from_secs(1800);
const MASTERS: u64 = 4;

/// What the masters share. Plain loads and stores: only the stops keep them apart.
struct Ledger {
    rounds: AtomicU64,
    inside: AtomicBool,
    ran: Vec<AtomicU64>,
    led: AtomicU64,
    pauses: Mutex<Vec<Pause>>,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

impl Ledger {
    fn new(cores: usize) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            rounds: zero(),
            inside: AtomicBool::new(false),
            ran: (0..cores).map(|_| zero()).collect(),
            led: zero(),
            pauses: Mutex::default(),
        })
    }

    /// One stop of every core: nobody else is inside, and each core has run its function once for every stop so far.
    fn round(&self, lead: &Lead<'_>) {
        let each = |core: &Core| {
            let ran = &self.ran[core.id().index()];
            add(ran, 1);
            assert_eq!(ran.load(Ordering::Relaxed), self.rounds.load(Ordering::Relaxed), "it sees what the body wrote");
        };
        let set = CoreSet::first(self.ran.len());
        let plan = CpuSync { set, each: Some(&each), drain: false, deadline_ns: None, clock: &MonotonicClock };
        let stopped = lead.cpusync(&plan, |held| {
            assert_eq!(held.cores(), set);
            assert!(!self.inside.swap(true, Ordering::Relaxed), "two bodies at once");
            let rounds = self.rounds.load(Ordering::Relaxed);
            assert!(self.ran.iter().all(|ran| ran.load(Ordering::Relaxed) == rounds), "once on every core");
            add(&self.rounds, 1);
            self.inside.store(false, Ordering::Relaxed);
        });
        let ((), pause) = stopped.expect("no limit and no panic");
        self.pauses.lock().expect("not poisoned").push(pause);
    }
}

/// `left` stops of one master on its core, the next asked for when one is over.
fn lead_often(core: &Core, ledger: &Arc<Ledger>, left: Rc<Cell<u64>>) {
    if left.get() == 0 {
        ledger.led.fetch_add(1, Ordering::AcqRel);
        return;
    }
    left.set(left.get() - 1);
    let ledger = ledger.clone();
    core.lead(move |lead| {
        ledger.round(lead);
        lead_often(lead.core(), &ledger, left);
    });
}

fn storm(cores: usize, rounds: u64, fence: FenceChoice) {
    let ledger = Ledger::new(cores);
    let started_ns = MonotonicClock.now_ns();
    on_cores(Config { cores, ..Config::default() }, fence, |seated: &mut Seated<'_>| {
        for master in (0..MASTERS).filter(|master| *master as usize % cores == seated.id().index()) {
            let share = rounds / MASTERS + u64::from(master < rounds % MASTERS);
            lead_often(&seated.core, &ledger, Rc::new(Cell::new(share)));
        }
        let mut turn = 0;
        while ledger.led.load(Ordering::Acquire) < MASTERS {
            turn = if seated.serve() == 0 { turn + 1 } else { 0 };
            seated.core.port().relax(turn);
        }
        seated.serve_until_all_are_done();
    });
    let took_ns = MonotonicClock.now_ns() - started_ns;
    assert_eq!(ledger.rounds.load(Ordering::Relaxed), rounds);
    assert!(ledger.ran.iter().all(|ran| ran.load(Ordering::Relaxed) == rounds));
    let pauses = ledger.pauses.lock().expect("not poisoned");
    let at = |permille: usize, figure: fn(&Pause) -> u64| {
        let mut figures: Vec<u64> = pauses.iter().map(figure).collect();
        figures.sort_unstable();
        figures[(figures.len() - 1) * permille / 1000]
    };
    let stopping = [500, 990].map(|permille| at(permille, |pause| pause.stopping_ns));
    let total = [500, 990, 1000].map(|permille| at(permille, |pause| pause.total_ns));
    println!(
        "{cores} cores, {rounds} stops, {} ns each; p50 and p99 until all stand still {stopping:?} ns; p50, p99 and longest pause {total:?} ns",
        took_ns / rounds
    );
}

#[test]
fn bodies_of_four_masters_never_overlap_and_every_core_runs_its_function_once_a_stop() {
    alone("storm::bodies_of_four_masters_never_overlap_and_every_core_runs_its_function_once_a_stop", LIMIT, || {
        for cores in [2, 4, 16] {
            storm(cores, scaled_up_to(2_000, 20_000, 1_000_000), FenceChoice::Auto);
        }
        FENCES.into_iter().for_each(|fence| storm(3, 1_000, fence));
    });
}
