//! What INFO tells of snapshots, and which of them may run.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many stops the percentiles look back on.
const KEPT_STOPS: usize = 1000;

/// The state of snapshots, shared by all cores; locked for moments, by SAVE, LASTSAVE and INFO only.
pub(crate) struct Status(Mutex<State>);

struct State {
    running_since: Option<Instant>,
    last_try: Option<Instant>,
    last_save_s: u64,
    last_seconds: Option<u64>,
    last_error: Option<String>,
    saves: u64,
    last_kept_bytes: u64,
    last_bytes: u64,
    /// Changes of all shards that the last file has.
    saved_changes: u64,
    loaded: Loaded,
    /// Whoever waits for the running one to end.
    waiting: Vec<Waker>,
    stops_us: VecDeque<u64>,
    stops: u64,
    divided_stops: u64,
    last_stop_us: u64,
    longest_stop_us: u64,
}

/// What was loaded at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) keys: u64,
    pub(crate) expired: u64,
}

/// How old the last file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    pub(crate) seconds: u64,
    /// The changes that it has.
    pub(crate) changes: u64,
    /// How long ago an attempt failed since.
    pub(crate) since_failure: Option<Duration>,
}

/// What a snapshot was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) bytes: u64,
    pub(crate) kept_bytes: u64,
    pub(crate) changes: u64,
}

/// The right to take a snapshot; one that is dropped without an outcome has failed.
pub(crate) struct Running(Option<Arc<Status>>);

impl Status {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            running_since: None,
            last_try: None,
            last_save_s: now_s(),
            last_seconds: None,
            last_error: None,
            saves: 0,
            last_kept_bytes: 0,
            last_bytes: 0,
            saved_changes: 0,
            loaded: Loaded::default(),
            waiting: Vec::new(),
            stops_us: VecDeque::new(),
            stops: 0,
            divided_stops: 0,
            last_stop_us: 0,
            longest_stop_us: 0,
        }))
    }

    /// Starts a snapshot unless one is running.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Running> {
        let mut state = self.state();
        if state.running_since.is_some() {
            return None;
        }
        state.running_since = Some(Instant::now());
        Some(Running(Some(Arc::clone(self))))
    }

    /// Starts a snapshot once none is running.
    pub(crate) async fn begin_when_idle(self: &Arc<Self>) -> Running {
        poll_fn(|cx| {
            if let Some(running) = self.begin() {
                return Poll::Ready(running);
            }
            let mut state = self.state();
            // It may have ended between the two looks.
            if state.running_since.is_none() {
                cx.waker().wake_by_ref();
            } else {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// When the last snapshot was written, in seconds since the Unix epoch; before the first, when the server started.
    pub(crate) fn last_save_s(&self) -> u64 {
        self.state().last_save_s
    }

    /// How old the last file is, how many changes it has, and how long ago the last attempt failed, if it did.
    pub(crate) fn age(&self) -> Age {
        let state = self.state();
        let failed = state.last_error.as_ref().and(state.last_try);
        Age {
            seconds: now_s().saturating_sub(state.last_save_s),
            changes: state.saved_changes,
            since_failure: failed.map(|failed| failed.elapsed()),
        }
    }

    /// Notes what was loaded.
    pub(crate) fn set_loaded(&self, loaded: Loaded) {
        self.state().loaded = loaded;
    }

    /// Notes for how long all cores were stopped, and whether that was for nothing, since a batch was divided.
    pub(crate) fn add_stop(&self, stop: Duration, divided: bool) {
        let stop_us = stop.as_micros() as u64;
        let mut state = self.state();
        if state.stops_us.len() == KEPT_STOPS {
            state.stops_us.pop_front();
        }
        state.stops_us.push_back(stop_us);
        state.stops += 1;
        state.divided_stops += u64::from(divided);
        state.last_stop_us = stop_us;
        state.longest_stop_us = state.longest_stop_us.max(stop_us);
    }

    /// The lines of INFO's section, `changes` being those of all shards since the start.
    pub(crate) fn lines(&self, changes: u64) -> String {
        let state = self.state();
        let mut stops = Vec::from_iter(state.stops_us.iter().copied());
        stops.sort_unstable();
        let percentile = |percent: usize| match stops.len() {
            0 => 0,
            count => stops[(count * percent).div_ceil(100).max(1) - 1],
        };
        let seconds = |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
        let running = state.running_since.map(|since| since.elapsed().as_secs());
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            write!(text, "{name}:{value}\r\n").expect("a string takes every write");
        };
        line("loading", &0);
        line("rdb_changes_since_last_save", &changes.saturating_sub(state.saved_changes));
        line("rdb_bgsave_in_progress", &u8::from(running.is_some()));
        line("rdb_last_save_time", &state.last_save_s);
        line("rdb_last_bgsave_status", &if state.last_error.is_none() { "ok" } else { "err" });
        line("rdb_last_bgsave_time_sec", &seconds(state.last_seconds));
        line("rdb_current_bgsave_time_sec", &seconds(running));
        line("rdb_saves", &state.saves);
        line("rdb_last_cow_size", &state.last_kept_bytes);
        line("rdb_last_load_keys_expired", &state.loaded.expired);
        line("rdb_last_load_keys_loaded", &state.loaded.keys);
        line("snapshot_last_bytes", &state.last_bytes);
        line("snapshot_last_error", &state.last_error.as_deref().unwrap_or_default());
        line("snapshot_stops", &state.stops);
        line("snapshot_stops_repeated", &state.divided_stops);
        line("snapshot_stop_last_usec", &state.last_stop_us);
        line("snapshot_stop_p50_usec", &percentile(50));
        line("snapshot_stop_p99_usec", &percentile(99));
        line("snapshot_stop_max_usec", &state.longest_stop_us);
        text
    }

    /// A panic while it is locked leaves figures that are at worst a little old.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Ends it, and says what became of it.
    pub(crate) fn end(mut self, outcome: &Result<Saved, String>) {
        if let Some(status) = self.0.take() {
            status.end(outcome);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(status) = self.0.take() {
            status.end(&Err("it was given up".to_owned()));
        }
    }
}

impl Status {
    fn end(&self, outcome: &Result<Saved, String>) {
        let mut state = self.state();
        state.last_seconds = state.running_since.take().map(|since| since.elapsed().as_secs());
        state.last_try = Some(Instant::now());
        state.waiting.drain(..).for_each(Waker::wake);
        match outcome {
            Ok(saved) => {
                state.last_save_s = now_s();
                state.last_error = None;
                state.saves += 1;
                state.last_kept_bytes = saved.kept_bytes;
                state.last_bytes = saved.bytes;
                state.saved_changes = saved.changes;
            }
            Err(text) => state.last_error = Some(text.replace(['\r', '\n'], " ")),
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(status: &Status, line: &str) -> bool {
        status.lines(10).contains(&format!("{line}\r\n"))
    }

    #[test]
    fn one_runs_at_a_time_and_one_given_up_has_failed() {
        let status = Arc::new(Status::new());
        let running = status.begin().unwrap();
        assert!(status.begin().is_none());
        assert!(has(&status, "rdb_bgsave_in_progress:1"));
        drop(running);
        assert!(has(&status, "rdb_bgsave_in_progress:0") && has(&status, "rdb_last_bgsave_status:err"));
        let saved = Saved { bytes: 1, kept_bytes: 2, changes: 3 };
        status.begin().unwrap().end(&Ok(saved));
        assert!(has(&status, "rdb_last_bgsave_status:ok") && has(&status, "rdb_changes_since_last_save:7"));
        assert!(has(&status, "snapshot_last_error:"));
    }

    #[test]
    fn stops_are_told_by_rank() {
        let status = Arc::new(Status::new());
        for stop_us in (1..=200).rev() {
            status.add_stop(Duration::from_micros(stop_us), stop_us == 7);
        }
        for line in [
            "stops:200",
            "stops_repeated:1",
            "stop_last_usec:1",
            "stop_p50_usec:100",
            "stop_p99_usec:198",
            "stop_max_usec:200",
        ] {
            assert!(has(&status, &format!("snapshot_{line}")), "{line}");
        }
    }
}
