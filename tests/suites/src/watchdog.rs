//! Ends a test that hangs.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Far more than any scenario takes, on the slowest machine.
const LIMIT: Duration = Duration::from_secs(120);

/// While it lives, the process is being watched.
#[derive(Debug)]
#[must_use = "the watch ends when it is dropped"]
pub struct Watchdog {
    _alive: Sender<()>,
}

/// Aborts the process with a message naming `scenario` unless the returned guard is dropped within two minutes.
///
/// # Panics
///
/// If no thread can be started.
pub fn watch(scenario: &str) -> Watchdog {
    watch_for(scenario, LIMIT)
}

/// Runs `scenario`; aborts the process, after it has said what hung and where its threads wait, if that takes longer than `limit`.
///
/// # Panics
///
/// If no thread can be started, and with the scenario's panic.
pub fn with_watchdog<R>(what: &str, limit: Duration, scenario: impl FnOnce() -> R) -> R {
    let _watch = watch_for(what, limit);
    scenario()
}

fn watch_for(scenario: &str, limit: Duration) -> Watchdog {
    let (alive, watched) = channel();
    let scenario = scenario.to_owned();
    thread::spawn(move || bark(&watched, &scenario, limit));
    Watchdog { _alive: alive }
}

fn bark(watched: &Receiver<()>, scenario: &str, limit: Duration) {
    if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        let text = format!("{scenario} did not end within {} s; its threads:\n{}", limit.as_secs(), threads());
        // `eprintln` would hand it to the test harness, which loses it in the abort.
        let _ = std::io::stderr().write_all(text.as_bytes());
        process::abort();
    }
}

/// A line per thread: its name, its state, and where it waits in the kernel.
fn threads() -> String {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let line = |task: fs::DirEntry| {
        let status = read(task.path().join("status"));
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
        format!("  {} {state} {}\n", read(task.path().join("comm")).trim_end(), read(task.path().join("wchan")))
    };
    fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(line).collect()
}
