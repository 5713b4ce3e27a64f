//! What a driver counts. Each figure is one word, written by the driver's thread with plain stores and read by any thread at any time.

use std::fmt;
use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one driver has done.
///
/// `completions / batches` is how many a look or a sleep finds; `(enters + transfers)` are its system calls, but for the opening and closing
/// of sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriverCounters {
    /// Operations handed to the kernel's queue; none on epoll.
    pub submissions: u64,
    /// Completions of operations, or on epoll events of sockets; notifications too.
    pub completions: u64,
    /// Looks and sleeps that found any.
    pub batches: u64,
    /// System calls that submit, look or sleep.
    pub enters: u64,
    /// Receives and sends made as system calls of their own, would-blocks among them.
    pub transfers: u64,
}

impl DriverCounters {
    /// System calls for I/O, but for the opening and closing of sockets.
    #[must_use]
    pub fn system_calls(&self) -> u64 {
        self.enters + self.transfers
    }
}

/// What was counted in between: `later - earlier`.
impl Sub for DriverCounters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            submissions: self.submissions.saturating_sub(earlier.submissions),
            completions: self.completions.saturating_sub(earlier.completions),
            batches: self.batches.saturating_sub(earlier.batches),
            enters: self.enters.saturating_sub(earlier.enters),
            transfers: self.transfers.saturating_sub(earlier.transfers),
        }
    }
}

/// Reads a driver's counters on any thread, also when the driver is gone.
#[derive(Clone)]
pub struct CountersReader(Arc<Counts>);

impl CountersReader {
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Self(counts)
    }

    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.0
    }

    /// The counters now; they need not be of the same instant, but there are no more batches than completions.
    #[must_use]
    pub fn read(&self) -> DriverCounters {
        let Counts { submissions, completions, batches, enters, transfers } = &*self.0;
        // Against the order in which they are added to: each batch has found some.
        let batches = batches.get();
        DriverCounters {
            submissions: submissions.get(),
            completions: completions.get(),
            batches,
            enters: enters.get(),
            transfers: transfers.get(),
        }
    }
}

impl fmt::Debug for CountersReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

/// A word that only its driver's thread writes.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Release: who reads this value finds what was added before.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Release);
    }

    /// Acquire: what is read after it is no older.
    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// One driver's words, on lines of their own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    pub(crate) submissions: Count,
    completions: Count,
    batches: Count,
    pub(crate) enters: Count,
    pub(crate) transfers: Count,
}

impl Counts {
    /// A look or a sleep has found `completions`.
    pub(crate) fn found(&self, completions: usize) {
        if completions > 0 {
            self.completions.add(completions as u64);
            self.batches.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reader_finds_more_batches_than_completions() {
        let counts = Arc::new(Counts::default());
        let reader = CountersReader::new(counts.clone());
        let driver = std::thread::spawn(move || (0..2_000_000).for_each(|_| counts.found(1)));
        while !driver.is_finished() {
            let DriverCounters { completions, batches, .. } = reader.read();
            assert!(batches <= completions, "{batches} batches of {completions} completions");
        }
        driver.join().expect("no panic");
        assert_eq!((reader.read().completions, reader.read().batches), (2_000_000, 2_000_000));
    }
}
