//! The one word of a task that other threads write.

use crate::sync::{AtomicUsize, Ordering, acq_rel_unless, mutant, relaxed_if};

/// The home has finished the task: references are counted here alone.
const FINISHED: usize = 1 << 0;
/// The task has waited, or is about to: who aborts it has to wake it.
const WAITED: usize = 1 << 1;
/// A wake-up from elsewhere is on its way to the home.
const NOTIFIED: usize = 1 << 2;
/// The task ends at its next poll.
const ABORTED: usize = 1 << 3;
/// With [`ABORTED`]: because its deadline has passed.
const EXPIRED: usize = 1 << 4;
/// One reference. While the task is not finished this is what other threads added less what they dropped, so it may be negative; the
/// home's own are in a field of its own.
const ONE: usize = 1 << 5;

/// Flags and a count; see the [state](super#state-and-who-writes-it).
pub(crate) struct Word(AtomicUsize);

/// What an abort has left to do.
#[must_use]
pub(crate) enum Abort {
    /// Nothing: the task will look before it waits, or has finished.
    Seen,
    /// To wake the task, with the reference that was counted for it.
    Wake,
}

/// Whether a reference was the last one, after the finish.
#[must_use]
#[derive(PartialEq, Eq)]
pub(crate) enum Released {
    Others,
    Last,
}

/// What finishing found.
#[must_use]
pub(crate) enum Finish {
    /// Nobody refers to the task, or will.
    Alone,
    /// Who drops the last reference gives up what was kept.
    Kept,
    /// References were seen, and were gone a moment later: what was kept is to be given up.
    KeptForNobody,
}

impl Word {
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    #[inline(always)]
    pub(crate) fn is_aborted(&self) -> bool {
        // [task T7] acquire: who sees the flag sees what led to it.
        self.0.load(relaxed_if(mutant!("aborted-no-acquire"), Ordering::Acquire)) & ABORTED != 0
    }

    /// T6, at home. Returns whether the task has been aborted.
    pub(crate) fn wait(&self) -> bool {
        // [task T6] one RMW orders the flag against an abort's: either this sees `ABORTED` and what led to it, or the abort sees `WAITED`,
        // and with it the home, and wakes.
        let order = acq_rel_unless(mutant!("wait-no-acquire"), mutant!("wait-no-release"));
        if mutant!("wait-in-two-steps") {
            let is_aborted = self.is_aborted();
            self.0.fetch_or(WAITED, order);
            return is_aborted;
        }
        self.0.fetch_or(WAITED, order) & ABORTED != 0
    }

    /// By who holds the runnable, or at home: nobody has to be woken.
    pub(crate) fn cancel(&self) {
        // Relaxed: read by the thread that wrote it.
        self.0.fetch_or(ABORTED, Ordering::Relaxed);
    }

    /// Whether it was aborted because its deadline has passed. At home.
    pub(crate) fn is_expired(&self) -> bool {
        // Relaxed: read by the thread that wrote it.
        self.0.load(Ordering::Relaxed) & EXPIRED != 0
    }

    /// By who holds the handle.
    pub(crate) fn abort(&self) -> Abort {
        self.end(ABORTED)
    }

    /// An abort at home, because the deadline has passed.
    pub(crate) fn expire(&self) -> Abort {
        self.end(ABORTED | EXPIRED)
    }

    fn end(&self, why: usize) -> Abort {
        let mut bits = self.0.load(Ordering::Relaxed);
        loop {
            let ended = if mutant!("abort-counts-after-the-finish") { 0 } else { FINISHED };
            let waits = bits & (WAITED | ended) == WAITED;
            let counts_later = mutant!("abort-counts-later");
            let new = (bits | why).wrapping_add(if waits && !counts_later { ONE } else { 0 });
            let order = acq_rel_unless(mutant!("abort-no-acquire"), mutant!("abort-no-release"));
            // [task T6] acquire and release: see `wait`. The reference is counted in the same step: counted later, the task might finish, and its
            // home end, in between.
            match self.0.compare_exchange_weak(bits, new, order, Ordering::Relaxed) {
                Ok(_) if waits => {
                    if counts_later {
                        self.add();
                    }
                    return Abort::Wake;
                }
                Ok(_) => return Abort::Seen,
                Err(now) => bits = now,
            }
        }
    }

    /// [task R2], by who has a reference.
    pub(crate) fn add(&self) {
        // Relaxed, as in `Arc`: the new reference comes from one that keeps the task.
        self.0.fetch_add(ONE, Ordering::Relaxed);
    }

    /// [task R2]
    pub(crate) fn release(&self) -> Released {
        // [task R2] acquire and release, as in `Arc`: what others did with their references comes before the end.
        let order = acq_rel_unless(mutant!("release-no-acquire"), mutant!("release-no-release"));
        let before = self.0.fetch_sub(ONE, order);
        if before & FINISHED != 0 && before / ONE == 1 { Released::Last } else { Released::Others }
    }

    /// T3 and T4: whether the caller has to bring the wake-up home.
    pub(crate) fn notify(&self) -> bool {
        // [task T3] release, also when the flag was set already: the home's RMW that takes the flag reads this one or a later RMW, so it sees
        // what the wake-up is for. A load first, to save the RMW, could read a flag that the home has just taken.
        if mutant!("notify-looks-first") && self.0.load(Ordering::Relaxed) & NOTIFIED != 0 {
            return false;
        }
        let order = relaxed_if(mutant!("notify-no-release"), Ordering::Release);
        self.0.fetch_or(NOTIFIED, order) & (NOTIFIED | FINISHED) == 0
    }

    /// The wake-up has come home.
    pub(crate) fn take_notified(&self) {
        // [task T3] acquire: pairs with every `notify` before.
        self.0.fetch_and(!NOTIFIED, relaxed_if(mutant!("take-notified-no-acquire"), Ordering::Acquire));
    }

    /// T8, at home. `own` is how many references the home has counted; `keep` is run before the finish, once, if anybody refers to the task.
    pub(crate) fn finish(&self, own: usize, mut keep: impl FnMut()) -> Finish {
        // [task T8] acquire: what others did with their references comes before the end.
        let seen = relaxed_if(mutant!("finish-load-no-acquire"), Ordering::Acquire);
        let order = acq_rel_unless(mutant!("finish-no-acquire"), mutant!("finish-no-release"));
        let mut bits = self.0.load(seen);
        if own == 0 && bits & !(ABORTED | EXPIRED) == 0 {
            // It never waited, so an abort takes no reference; and a reference can only be made from another.
            return Finish::Alone;
        }
        if mutant!("finish-before-own") {
            self.0.fetch_or(FINISHED, order);
            bits |= FINISHED;
        }
        let mut kept = false;
        loop {
            let finished = (bits | FINISHED).wrapping_add(own.wrapping_mul(ONE));
            let alone = finished / ONE == 0;
            let late = mutant!("finish-keeps-late");
            if !alone && !kept && !late {
                keep();
                kept = true;
            }
            // [task T8] release: who drops the last reference sees what was kept.
            match self.0.compare_exchange_weak(bits, finished, order, Ordering::Relaxed) {
                Ok(_) if late && !alone => {
                    keep();
                    return Finish::Kept;
                }
                Ok(_) if !kept => return Finish::Alone,
                Ok(_) if alone && !mutant!("finish-forgets-nobody") => return Finish::KeptForNobody,
                Ok(_) => return Finish::Kept,
                Err(now) => bits = now,
            }
        }
    }
}
