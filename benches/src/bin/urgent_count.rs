//! What urgent handlers, time slices and stall reports cost while nothing urgent comes: instructions of polls, sends and critical sections, with them and without.
//!
//! ```text
//! cargo run --release -p ipiq-benches --bin urgent_count
//! ```
//!
//! It runs itself under callgrind (`valgrind` must be installed), twice for each figure, with different numbers of operations: what the start and the end take is in both. It fails if a poll,
//! spawn, tick or send takes more with urgent handlers than without. `urgent_count WORK SETTING TIMES` is one such run.

use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipiq::urgent::{InterruptSafe, critical};
use ipiq::{Builder, DriverKind, Handle, InterruptPolicy, Placement, Runtime};
use ipiq_fabric::{Config, Core, CoreId, Fabric, Seat};
use ipiq_linux::interrupt::{CoreThread, DEFAULT_SIGNAL, Interrupts};
use ipiq_linux::port::{FenceChoice, LinuxPort};

const SIZES: [u64; 2] = [100_000, 500_000];

/// Longer than any run: nothing watches so often that it shows.
const NEVER: Duration = Duration::from_secs(600);

/// Instructions per operation that the start and the end of a runtime may make of it: its threads wait for each other, now longer, now shorter.
const NOISE: f64 = 0.5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    Without,
    With,
    /// Slices and stall reports, too.
    WithAll,
}

impl Setting {
    const ALL: [(Self, &str); 3] = [(Self::Without, "without"), (Self::With, "with"), (Self::WithAll, "with-all")];

    fn of(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(_, known)| *known == name);
        found.map(|(setting, _)| setting).ok_or_else(|| format!("{name}: no such setting"))
    }
}

struct Work {
    name: &'static str,
    what: &'static str,
    run: fn(Setting, u64) -> Result<(), Box<dyn Error>>,
    settings: usize,
    /// Whether it must cost the same with and without.
    is_free: bool,
}

const WORKS: [Work; 5] = [
    Work { name: "poll", what: "a poll of a task that yields", run: polls, settings: 3, is_free: true },
    Work { name: "spawn", what: "a task, spawned, polled and joined", run: spawns, settings: 3, is_free: true },
    Work { name: "tick", what: "a tick of the fabric that finds nothing", run: ticks, settings: 2, is_free: true },
    Work { name: "send", what: "a message, sent, and run by the other core", run: sends, settings: 2, is_free: true },
    Work {
        name: "critical",
        what: "an addition, in a critical section or bare",
        run: additions,
        settings: 2,
        is_free: false,
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => table(),
        [work, setting, times] => {
            let known = WORKS.iter().find(|known| known.name == work);
            let work = known.ok_or_else(|| format!("{work}: nothing to count"))?;
            (work.run)(Setting::of(setting)?, times.parse()?)
        }
        _ => Err("usage: urgent_count [WORK SETTING TIMES]".into()),
    }
}

fn table() -> Result<(), Box<dyn Error>> {
    println!("| instructions per | without | with urgent handlers | with slices and stall reports, too |");
    println!("|---|---|---|---|");
    let mut dearer = Vec::new();
    for work in &WORKS {
        let counts: Vec<f64> = Setting::ALL[..work.settings]
            .iter()
            .map(|(_, setting)| per_operation(work.name, setting))
            .collect::<Result<_, _>>()?;
        let cell = |at: usize| counts.get(at).map_or_else(|| "–".to_owned(), |count| format!("{count:.2}"));
        println!("| {} | {} | {} | {} |", work.what, cell(0), cell(1), cell(2));
        if work.is_free && counts[1] > counts[0] + NOISE {
            dearer.push(work.name);
        }
    }
    if dearer.is_empty() { Ok(()) } else { Err(format!("urgent handlers are not free: {}", dearer.join(", ")).into()) }
}

fn per_operation(work: &str, setting: &str) -> Result<f64, Box<dyn Error>> {
    let [few, many] = SIZES;
    let taken = instructions(work, setting, many)? as f64 - instructions(work, setting, few)? as f64;
    Ok(taken / (many - few) as f64)
}

/// All of a run under callgrind.
fn instructions(work: &str, setting: &str, times: u64) -> Result<u64, Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("urgent_count.{}", std::process::id()));
    let ran = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args([work, setting, &times.to_string()])
        .status();
    let counted = std::fs::read_to_string(&file);
    // There is no file if valgrind is missing, which the next line says.
    let _ = std::fs::remove_file(&file);
    if !ran
        .map_err(|error| format!("valgrind: {error}; install it (Debian, Ubuntu: apt-get install valgrind)"))?
        .success()
    {
        return Err(format!("{work} failed under callgrind").into());
    }
    let total = counted?.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.ok_or_else(|| "callgrind has not told a total".into())
}

/// What callgrind knows of.
fn builder(setting: Setting) -> Builder {
    let builder = Runtime::builder().cores(1).placement(Placement::Unpinned);
    let builder = builder.driver(DriverKind::Epoll).fence(FenceChoice::Symmetric);
    let watched = (setting == Setting::WithAll).then_some(NEVER);
    let interrupts = if setting == Setting::Without { InterruptPolicy::Off } else { InterruptPolicy::Auto };
    builder.interrupts(interrupts).time_slice(watched).stall_limit(watched)
}

/// Never triggered.
fn register(handle: &Handle) -> Result<ipiq::urgent::Handler, Box<dyn Error>> {
    // SAFETY: 1. to 5. it does nothing.
    Ok(handle.register_urgent(unsafe { InterruptSafe::new(|_| ()) })?)
}

fn polls(setting: Setting, times: u64) -> Result<(), Box<dyn Error>> {
    let runtime = builder(setting).build()?;
    let _handler = register(&runtime.handle())?;
    runtime.block_on(move || async move {
        for _ in 0..times {
            ipiq::yield_now().await;
        }
    });
    Ok(())
}

fn spawns(setting: Setting, times: u64) -> Result<(), Box<dyn Error>> {
    let runtime = builder(setting).build()?;
    let _handler = register(&runtime.handle())?;
    runtime.block_on(move || async move {
        for _ in 0..times {
            ipiq::spawn_local(async {}).await.expect("no panic");
        }
    });
    Ok(())
}

/// Two cores on this thread; the first one can be interrupted, if anything is.
fn on_two_cores(setting: Setting, f: impl FnOnce(&Core, &Core)) -> Result<(), Box<dyn Error>> {
    let port = LinuxPort::new(2, FenceChoice::Symmetric);
    let interrupts = match setting {
        Setting::Without => None,
        Setting::With | Setting::WithAll => Some(Arc::new(Interrupts::install(DEFAULT_SIGNAL)?)),
    };
    let port = Arc::new(match &interrupts {
        Some(interrupts) => port.with_interrupts(interrupts),
        None => port,
    });
    let (fabric, seats) = Fabric::new(Config { cores: 2, ..Config::default() }, port.clone())?;
    let cores: Vec<_> = seats.into_iter().map(Seat::enter).collect();
    let thread = interrupts.map(|interrupts| CoreThread::enter(port, CoreId::new(0), interrupts)).transpose()?;
    let accepting = thread.as_ref().and_then(|_| cores[0].accept_interrupts());
    // SAFETY: 1. to 5. it does nothing.
    fabric.register_urgent(unsafe { InterruptSafe::new(|_| ()) })?;
    f(&cores[0], &cores[1]);
    drop(accepting);
    drop(thread);
    Ok(())
}

fn ticks(setting: Setting, times: u64) -> Result<(), Box<dyn Error>> {
    on_two_cores(setting, |core, _| (0..times).for_each(|_| _ = core.drain(64) + core.flush()))
}

fn sends(setting: Setting, times: u64) -> Result<(), Box<dyn Error>> {
    on_two_cores(setting, |source, target| {
        for _ in 0..times {
            source.send(target.id(), |_, _| _ = black_box(1)).expect("it has not left");
            assert_eq!(target.drain(64), 1);
        }
    })
}

fn additions(setting: Setting, times: u64) -> Result<(), Box<dyn Error>> {
    let word = AtomicU64::new(0);
    let step = || black_box(&word).store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    match setting {
        Setting::Without => (0..times).for_each(|_| step()),
        Setting::With | Setting::WithAll => (0..times).for_each(|_| critical(step)),
    }
    Ok(())
}
