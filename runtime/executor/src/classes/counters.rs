//! What a core tells of its classes.

use core::ops::Sub;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{ClassId, MAX_CLASSES};

/// What a core has counted of one class.
///
/// Times are of contended turns only: those that began while another class could run too. What a class takes while nobody else wants the core is not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassCounters {
    /// Polls of its tasks.
    pub polls: u64,
    /// Those of them in contended turns.
    pub contended_polls: u64,
    /// Turns that began while other classes were runnable too.
    pub contended_turns: u64,
    /// How long those took, in nanoseconds. What classes that compete have of it is in proportion to their shares.
    pub contended_ns: u64,
    /// How long it could have run before those turns, in nanoseconds.
    pub waited_ns: u64,
    /// The longest wait before one of them.
    pub longest_wait_ns: u64,
    /// Tasks that can run, when it was last looked: at the end of a contended turn, whenever the core looks at timers and I/O, and when it ends.
    pub queued: u64,
}

/// What came in between: `later - earlier`. [`longest_wait_ns`](ClassCounters::longest_wait_ns) and [`queued`](ClassCounters::queued) are the later one's.
impl Sub for ClassCounters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            polls: self.polls.saturating_sub(earlier.polls),
            contended_polls: self.contended_polls.saturating_sub(earlier.contended_polls),
            contended_turns: self.contended_turns.saturating_sub(earlier.contended_turns),
            contended_ns: self.contended_ns.saturating_sub(earlier.contended_ns),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
            longest_wait_ns: self.longest_wait_ns,
            queued: self.queued,
        }
    }
}

/// Written by its core with plain loads and stores.
#[derive(Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline(always)]
    fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline(always)]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Counts {
    polls: Counter,
    contended_polls: Counter,
    contended_turns: Counter,
    contended_ns: Counter,
    waited_ns: Counter,
    longest_wait_ns: Counter,
    queued: Counter,
}

/// One core's; see the [state](super#state-and-who-writes-it). On lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct CoreClasses {
    used: AtomicU32,
    running: AtomicU32,
    counts: [Counts; MAX_CLASSES],
}

impl CoreClasses {
    /// The class whose turn is or was the last, and those that have had tasks here.
    pub(super) fn watched(&self) -> (usize, u32) {
        // Relaxed: hints. The default class is one that may have tasks everywhere.
        let (running, used) = (self.running.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        (running as usize, used | 1)
    }

    /// A core begins, perhaps in the place of one that has left: no class has had tasks or turns on this one.
    pub(crate) fn begin(&self) {
        self.set_used(0);
        self.set_running(0);
    }

    pub(super) fn set_used(&self, classes: u32) {
        self.used.store(classes, Ordering::Relaxed);
    }

    pub(super) fn set_running(&self, class: usize) {
        let class = class as u32;
        // A store would take the line from the watcher each time.
        if self.running.load(Ordering::Relaxed) != class {
            self.running.store(class, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    pub(crate) fn polled(&self, class: usize, polls: u32) {
        self.counts[class].polls.add(u64::from(polls));
    }

    pub(super) fn contended(&self, class: usize, polls: u32, waited_ns: u64, took_ns: u64) {
        let counts = &self.counts[class];
        counts.contended_polls.add(u64::from(polls));
        counts.contended_turns.add(1);
        counts.contended_ns.add(took_ns);
        counts.waited_ns.add(waited_ns);
        if waited_ns > counts.longest_wait_ns.get() {
            counts.longest_wait_ns.set(waited_ns);
        }
    }

    pub(super) fn queued(&self, class: usize, tasks: usize) {
        self.counts[class].queued.set(tasks as u64);
    }

    pub(super) fn read(&self, class: ClassId) -> ClassCounters {
        let counts = &self.counts[class.index()];
        ClassCounters {
            polls: counts.polls.get(),
            contended_polls: counts.contended_polls.get(),
            contended_turns: counts.contended_turns.get(),
            contended_ns: counts.contended_ns.get(),
            waited_ns: counts.waited_ns.get(),
            longest_wait_ns: counts.longest_wait_ns.get(),
            queued: counts.queued.get(),
        }
    }
}
