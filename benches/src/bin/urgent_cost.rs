//! What an urgent trigger of a busy core takes until its handler has run, beside a bare signal to the same thread: fails if that is more than the budget. What it costs who has nothing urgent is counted by
//! `urgent_count`.
//!
//! ```text
//! cargo run --release -p ipiq-benches --bin urgent_cost
//! ```

use std::error::Error;
use std::ffi::c_int;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Instant;

use ipiq::urgent::InterruptSafe;
use ipiq::{CoreId, Runtime};
use ipiq_benches::stats::Times;
use ipiq_linux::cpus;
use ipiq_linux::pin::pin_current;

const SAMPLES: u64 = 20_000;
const BARE: c_int = libc::SIGUSR2;

/// Percentiles, and how many times those of a bare signal they may be.
const BUDGET: [(&str, f64); 2] = [("p50", 1.2), ("p99", 1.5)];

/// How many signals and triggers have been answered.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

extern "C" fn answer(_signal: c_int) {
    ANSWERED.fetch_add(1, Ordering::Release);
}

fn main() -> Result<(), Box<dyn Error>> {
    let [own, ..] = cpus::allowed().cpus[..] else { return Err("no CPU".into()) };
    install_bare();
    let runtime = Runtime::builder().cores(2).build()?;
    let there = CoreId::new(1);
    // SAFETY: 1. to 5. it adds to an atomic.
    let f = unsafe { InterruptSafe::new(|_| answer(0)) };
    let handler = runtime.handle().register_urgent(f)?;
    let (thread, over) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
    let (tell, stop) = (thread.clone(), over.clone());
    let busy = runtime.handle().spawn_on(there, move || async move {
        // SAFETY: 1. a question without pointers.
        tell.store(unsafe { libc::gettid() }, Ordering::Release);
        while !stop.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    pin_current(own)?;
    while thread.load(Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    let thread = thread.load(Ordering::Acquire);
    let (mut bare, mut urgent) = (Times::new(), Times::new());
    for _ in 0..SAMPLES {
        bare.record(until_answered(|| tgkill(thread)));
        urgent.record(until_answered(|| handler.trigger(there).expect("it lives")));
    }
    over.store(true, Ordering::Relaxed);
    Runtime::wait(busy)?;
    println!("ns until it has run, on a busy core: least, p50 and p99 of {SAMPLES}");
    let figures = |times: &Times| [0.0, 50.0, 99.0].map(|percent| times.percentile_ns(percent));
    let (bare, urgent) = (figures(&bare), figures(&urgent));
    let line = |name: &str, [least, p50, p99]: [f64; 3]| println!("{name:>14} {least:>8.0} {p50:>8.0} {p99:>8.0}");
    line("bare signal", bare);
    line("urgent trigger", urgent);
    let [least, ratios @ ..] = [0, 1, 2].map(|at| urgent[at] / bare[at]);
    println!("{:>14} {least:>8.2} {:>8.2} {:>8.2}", "ratio", ratios[0], ratios[1]);
    Ok(judge(ratios)?)
}

/// An error if a ratio is over its budget, or none at all.
fn judge(ratios: [f64; 2]) -> Result<(), String> {
    let told = |((name, most), ratio): &((&str, f64), f64)| format!("{name} {ratio:.2}, budget {most:.1}");
    let (met, over): (Vec<_>, Vec<_>) = BUDGET.into_iter().zip(ratios).partition(|((_, most), ratio)| ratio <= most);
    met.iter().for_each(|figure| println!("met: {}", told(figure)));
    over.iter().for_each(|figure| println!("over: {}", told(figure)));
    if over.is_empty() { Ok(()) } else { Err("urgent triggers take longer than their budget".to_owned()) }
}

fn until_answered(ask: impl FnOnce()) -> u64 {
    let before = ANSWERED.load(Ordering::Relaxed);
    let start = Instant::now();
    ask();
    while ANSWERED.load(Ordering::Acquire) == before {
        std::hint::spin_loop();
    }
    start.elapsed().as_nanos() as u64
}

fn tgkill(thread: c_int) {
    // SAFETY: 1. a question without pointers.
    let process = unsafe { libc::getpid() };
    // SAFETY: 1. no pointers; the signal has a handler.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, BARE) };
}

fn install_bare() {
    // SAFETY: 1. all zero is a valid action.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = answer as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: 1. the handler takes a number, and uses an atomic only.
    assert_eq!(unsafe { libc::sigaction(BARE, &raw const action, ptr::null_mut()) }, 0);
}
