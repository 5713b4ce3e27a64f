//! What a core counts of what it runs, and how it spends its time. Each figure is one word, written by the core with plain stores and read by
//! any thread at any time.

use core::ops::Sub;
use core::sync::atomic::{AtomicU64, Ordering};

/// What one core has run, and how long it did what.
///
/// Exact once the core has nothing to do; a busy core tells of its polls and tasks whenever it looks at timers and I/O, every 95 polls at the
/// latest. Times are those of its clock, read where the loop reads it anyway: a gap between two pieces of work counts as spinning once
/// the core has looked 64 times in vain, a microsecond or two, and up to its last such look; what is shorter counts as busy. What goes on is
/// told up to now, so a time may be found to be a little less when it has turned out that the core did something else by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoreLoad {
    /// Polls of tasks.
    pub polls: u64,
    /// Tasks that were spawned here, or have arrived from elsewhere.
    pub tasks_spawned: u64,
    /// Tasks that ended here, in whatever way.
    pub tasks_finished: u64,
    /// Those of them that ended by a panic.
    pub tasks_panicked: u64,
    /// Tasks that were ready when it last told: the depth of its queue.
    pub tasks_ready: u64,
    /// Timers that futures hold, when it last told.
    pub timers: u64,
    /// Timers that have fired.
    pub timers_fired: u64,
    /// Since its loop began, until its end.
    pub up_ns: u64,
    /// Spent on messages, tasks, timers and I/O: what is not the next two.
    pub busy_ns: u64,
    /// Spent looking on without anything to do, or giving the CPU away once.
    pub spinning_ns: u64,
    /// Spent asleep, or going to sleep and waking up.
    pub parked_ns: u64,
}

impl CoreLoad {
    /// Tasks that have been spawned and not ended.
    #[must_use]
    pub fn tasks_alive(&self) -> u64 {
        self.tasks_spawned.saturating_sub(self.tasks_finished)
    }
}

/// What came in between: `later - earlier`. [`tasks_ready`](Self::tasks_ready) and [`timers`](Self::timers) are the later one's.
impl Sub for CoreLoad {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            polls: self.polls.saturating_sub(earlier.polls),
            tasks_spawned: self.tasks_spawned.saturating_sub(earlier.tasks_spawned),
            tasks_finished: self.tasks_finished.saturating_sub(earlier.tasks_finished),
            tasks_panicked: self.tasks_panicked.saturating_sub(earlier.tasks_panicked),
            tasks_ready: self.tasks_ready,
            timers: self.timers,
            timers_fired: self.timers_fired.saturating_sub(earlier.timers_fired),
            up_ns: self.up_ns.saturating_sub(earlier.up_ns),
            busy_ns: self.busy_ns.saturating_sub(earlier.busy_ns),
            spinning_ns: self.spinning_ns.saturating_sub(earlier.spinning_ns),
            parked_ns: self.parked_ns.saturating_sub(earlier.parked_ns),
        }
    }
}

/// A word that its core writes.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something was so, all times together, in one word, so that a reader finds no half of a change.
///
/// | Word | |
/// |---|---|
/// | top bit clear | the time until its last end; it is not so now |
/// | top bit set | the complement of the time at which it would have begun, had it been so all the time at once |
#[derive(Default)]
pub(crate) struct Stopwatch(Count);

impl Stopwatch {
    /// It is so from `now_ns` on. Not if it is already.
    pub(crate) fn begin(&self, now_ns: u64) {
        self.0.set(!now_ns.saturating_sub(self.0.get()));
    }

    /// It was so until `then_ns`. Nothing if it is not.
    pub(crate) fn end(&self, then_ns: u64) {
        self.0.set(self.read(then_ns));
    }

    /// How long it has been so at `now_ns`.
    fn read(&self, now_ns: u64) -> u64 {
        let word = self.0.get();
        if word >> 63 == 0 { word } else { now_ns.saturating_sub(!word) }
    }
}

/// One core's words, on lines of their own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    pub(crate) polls: Count,
    pub(crate) spawned: Count,
    pub(crate) finished: Count,
    pub(crate) panicked: Count,
    pub(crate) ready: Count,
    pub(crate) timers: Count,
    pub(crate) timers_fired: Count,
    pub(crate) up: Stopwatch,
    pub(crate) spinning: Stopwatch,
    pub(crate) parked: Stopwatch,
}

impl Counts {
    /// What they say at the time that `now_ns` reads, from any thread.
    pub(crate) fn read(&self, now_ns: impl FnOnce() -> u64) -> CoreLoad {
        // What has ended was spawned: in this order there is never more of it.
        let (tasks_finished, tasks_panicked) = (self.finished.get(), self.panicked.get());
        let now_ns = now_ns();
        let (up_ns, spinning_ns, parked_ns) =
            (self.up.read(now_ns), self.spinning.read(now_ns), self.parked.read(now_ns));
        CoreLoad {
            polls: self.polls.get(),
            tasks_spawned: self.spawned.get(),
            tasks_finished,
            tasks_panicked,
            tasks_ready: self.ready.get(),
            timers: self.timers.get(),
            timers_fired: self.timers_fired.get(),
            up_ns,
            busy_ns: up_ns.saturating_sub(spinning_ns).saturating_sub(parked_ns),
            spinning_ns,
            parked_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopwatch_adds_up_what_was_and_what_still_is() {
        for start in [0, 1, 1_000_000] {
            let watch = Stopwatch::default();
            assert_eq!(watch.read(start + 5), 0);
            watch.begin(start);
            assert_eq!((watch.read(start), watch.read(start + 7)), (0, 7));
            watch.end(start + 10);
            assert_eq!((watch.read(start + 10), watch.read(start + 99)), (10, 10));
            watch.begin(start + 100);
            assert_eq!((watch.read(start + 100), watch.read(start + 101)), (10, 11));
            watch.end(start + 105);
            watch.end(start + 500);
            assert_eq!(watch.read(u64::MAX), 15, "it has ended once");
        }
    }

    #[test]
    fn what_is_neither_spinning_nor_parked_is_busy() {
        let counts = Counts::default();
        assert_eq!(counts.read(|| 1_000), CoreLoad::default());
        counts.up.begin(100);
        counts.spinning.begin(130);
        counts.spinning.end(150);
        counts.parked.begin(150);
        let load = counts.read(|| 190);
        assert_eq!((load.up_ns, load.busy_ns, load.spinning_ns, load.parked_ns), (90, 30, 20, 40));
    }

    #[test]
    fn the_difference_of_two_is_what_came_in_between() {
        let earlier = CoreLoad { polls: 5, tasks_ready: 9, up_ns: 10, ..CoreLoad::default() };
        let later = CoreLoad { polls: 12, tasks_ready: 2, up_ns: 30, ..CoreLoad::default() };
        let between = later - earlier;
        assert_eq!((between.polls, between.tasks_ready, between.up_ns), (7, 2, 20));
        assert_eq!(earlier - later, CoreLoad { tasks_ready: 9, ..CoreLoad::default() });
    }
}
