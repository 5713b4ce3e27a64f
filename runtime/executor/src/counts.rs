//! What a core counts of what it runs, and how it spends its time. Each figure is one word, written by the core with plain stores and read by
//! any thread at any time.

use core::ops::Sub;
use core::sync::atomic::{AtomicU64, Ordering};

/// What one core has run, and how long it did what.
///
/// Exact once the core has nothing to do; a busy core tells of its polls and tasks whenever it looks at timers and I/O, every 95 polls at the
/// latest. Times are those of its clock, read where the loop reads it anyway: a gap between two pieces of work counts as spinning once
/// the core has looked 64 times in vain, a microsecond or two, and up to its last such look; what is shorter counts as busy. What goes on is
/// told up to now, so a time may be found to be less by such a gap when it has turned out that the core did something else by then. In each reading the three
/// parts add up to the whole, and no more tasks have panicked than ended, nor ended than been spawned.
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

    /// Release: who reads this value finds what was set before.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Acquire: what is read after it is no older.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
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
        Self::told(self.0.get(), now_ns)
    }

    /// What the word `word` says at `now_ns`.
    fn told(word: u64, now_ns: u64) -> u64 {
        if word >> 63 == 0 { word } else { now_ns.saturating_sub(!word) }
    }
}

/// Looks for a clock reading during which no stopwatch changes.
const TRIES: usize = 8;

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
    /// Where the tickets of the next life begin; set at the end of one.
    pub(crate) next_ticket: Count,
    pub(crate) up: Stopwatch,
    pub(crate) spinning: Stopwatch,
    pub(crate) parked: Stopwatch,
}

impl Counts {
    /// What they say at the time that `now_ns` reads, from any thread.
    pub(crate) fn read(&self, now_ns: impl FnMut() -> u64) -> CoreLoad {
        // Against the order in which the core tells: who has panicked has ended, and who has ended was spawned.
        let tasks_panicked = self.panicked.get();
        let tasks_finished = self.finished.get();
        let [up_ns, spinning_ns, parked_ns] = self.times(now_ns);
        // A reader that was held up each time has words of several states: the whole is right, and the parts are no more than it.
        let spinning_ns = spinning_ns.min(up_ns);
        let parked_ns = parked_ns.min(up_ns - spinning_ns);
        CoreLoad {
            polls: self.polls.get(),
            tasks_spawned: self.spawned.get(),
            tasks_finished,
            tasks_panicked,
            tasks_ready: self.ready.get(),
            timers: self.timers.get(),
            timers_fired: self.timers_fired.get(),
            up_ns,
            busy_ns: up_ns - spinning_ns - parked_ns,
            spinning_ns,
            parked_ns,
        }
    }

    /// How long it has been up, spinning and parked. A reader may be held up between the clock and the words: unless these are the same before and
    /// after, a sleep that began meanwhile would seem never to have been.
    fn times(&self, mut now_ns: impl FnMut() -> u64) -> [u64; 3] {
        let words = || [&self.up, &self.spinning, &self.parked].map(|watch| watch.0.get());
        let (mut before, mut tries) = (words(), 0);
        loop {
            let now_ns = now_ns();
            let after = words();
            tries += 1;
            if before == after || tries == TRIES {
                return after.map(|word| Stopwatch::told(word, now_ns));
            }
            before = after;
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
    fn a_reader_that_is_held_up_does_not_take_what_came_meanwhile_for_what_was() {
        let counts = Counts::default();
        counts.up.begin(0);
        counts.spinning.begin(100);
        let mut times = [2_000, 9_000].into_iter();
        let load = counts.read(|| {
            let now_ns = times.next().expect("a second reading is of one state");
            // Between the reader's clock and its look at the words, once.
            if now_ns == 2_000 {
                counts.spinning.end(3_000);
                counts.parked.begin(3_000);
            }
            now_ns
        });
        assert_eq!((load.up_ns, load.busy_ns, load.spinning_ns, load.parked_ns), (9_000, 100, 2_900, 6_000));
    }

    #[test]
    fn times_add_up_however_often_a_reader_is_held_up() {
        let counts = Counts::default();
        counts.up.begin(10_000);
        let mut now_ns = 0;
        let load = counts.read(|| {
            now_ns += 10_000;
            // It spins from a little after a reading of the clock until a little before the next but one.
            if now_ns % 20_000 == 0 {
                counts.spinning.end(now_ns + 9_999)
            } else {
                counts.spinning.begin(now_ns + 1)
            }
            now_ns
        });
        assert_eq!(load.up_ns, load.busy_ns + load.spinning_ns + load.parked_ns, "{load:?}");
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
