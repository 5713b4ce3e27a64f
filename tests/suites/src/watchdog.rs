//! Ends a test that hangs.

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
    let (alive, watched) = channel();
    let scenario = scenario.to_owned();
    thread::spawn(move || bark(&watched, &scenario));
    Watchdog { _alive: alive }
}

fn bark(watched: &Receiver<()>, scenario: &str) {
    if watched.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
        eprintln!("{scenario} did not end within {} s", LIMIT.as_secs());
        process::abort();
    }
}
