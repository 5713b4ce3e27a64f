//! What a heavy fence costs its caller: everyone's and that of one thread, while that thread sleeps and while it runs.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use ipiq_linux::cpus;
use ipiq_linux::membarrier::{Membarrier, Pinned};
use ipiq_linux::pin::pin_current;

const SAMPLES: usize = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let [caller, target, ..] = cpus::allowed().cpus[..] else { return Err("two CPUs are needed".into()) };
    let membarrier = Membarrier::register()?;
    if !membarrier.reaches_one() {
        return Err("this kernel has no fence of one CPU".into());
    }
    pin_current(caller)?;
    println!("ns per fence: minimum and median of {SAMPLES}");
    for runs in [false, true] {
        with_target(target, runs, |pinned, turns| {
            let state = if runs { "its thread runs" } else { "its thread sleeps" };
            // A sample in which somebody else had the target's CPU is one of neither kind.
            let turns = || if runs { turns.load(Ordering::Relaxed) } else { 0 };
            let counts = |before, after| !runs || before != after;
            print("everyone's", state, sample(|| membarrier.try_heavy(), turns, counts));
            print("of one", state, sample(|| membarrier.try_heavy_on(pinned), turns, counts));
            assert!(pinned.holds(), "the target was moved");
        });
    }
    Ok(())
}

/// A thread on `cpu` that sleeps, or counts its turns without a system call, until `body` has returned.
fn with_target(cpu: usize, runs: bool, body: impl FnOnce(&Pinned, &AtomicU64)) {
    let (ended, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    let (say, claims) = mpsc::channel();
    thread::scope(|scope| {
        let target = scope.spawn(|| {
            pin_current(cpu).expect("an allowed CPU");
            say.send(Pinned::current().expect("a pinned thread")).expect("somebody waits");
            while !ended.load(Ordering::Relaxed) {
                if runs {
                    turns.store(turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                } else {
                    thread::park();
                }
            }
        });
        body(&claims.recv().expect("a claim"), &turns);
        ended.store(true, Ordering::Relaxed);
        target.thread().unpark();
    });
}

fn sample(fence: impl Fn() -> bool, turns: impl Fn() -> u64, counts: impl Fn(u64, u64) -> bool) -> Vec<u64> {
    let mut times = Vec::with_capacity(SAMPLES);
    while times.len() < SAMPLES {
        let before = turns();
        let start = Instant::now();
        assert!(fence(), "nobody else fences");
        let time = start.elapsed().as_nanos() as u64;
        if counts(before, turns()) {
            times.push(time);
        }
    }
    times.sort_unstable();
    times
}

fn print(fence: &str, state: &str, times: Vec<u64>) {
    println!("{fence:>12}, {state:<18} {:>7} {:>7}", times[0], times[SAMPLES / 2]);
}
