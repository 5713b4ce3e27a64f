//! The one word of a task that other threads write.

use core::sync::atomic::{AtomicUsize, Ordering};

/// The home has finished the task: references are counted here alone.
const FINISHED: usize = 1 << 0;
/// The task has waited, or is about to: who aborts it has to wake it.
const WAITED: usize = 1 << 1;
/// A wake-up from elsewhere is on its way to the home.
const NOTIFIED: usize = 1 << 2;
/// The task ends at its next poll.
const ABORTED: usize = 1 << 3;
/// One reference. While the task is not finished this is what other threads added less what they dropped, so it may be negative; the
/// home's own are in a field of its own.
const ONE: usize = 1 << 4;

/// Flags and a count; see the [state](super#state-and-who-writes-it).
pub(super) struct Word(AtomicUsize);

/// What an abort has left to do.
#[must_use]
pub(super) enum Abort {
    /// Nothing: the task will look before it waits, or has finished.
    Seen,
    /// To wake the task, with the reference that was counted for it.
    Wake,
}

/// Whether a reference was the last one, after the finish.
#[must_use]
#[derive(PartialEq, Eq)]
pub(super) enum Released {
    Others,
    Last,
}

/// What finishing found.
#[must_use]
pub(super) enum Finish {
    /// Nobody refers to the task, or will.
    Alone,
    /// Who drops the last reference gives up what was kept.
    Kept,
    /// References were seen, and were gone a moment later: what was kept is to be given up.
    KeptForNobody,
}

impl Word {
    pub(super) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    #[inline(always)]
    pub(super) fn is_aborted(&self) -> bool {
        // [task T7] acquire: who sees the flag sees what led to it.
        self.0.load(Ordering::Acquire) & ABORTED != 0
    }

    /// T6, at home. Returns whether the task has been aborted.
    pub(super) fn wait(&self) -> bool {
        // [task T6] one RMW orders the flag against an abort's: either this sees `ABORTED`, or the abort sees `WAITED` and wakes.
        self.0.fetch_or(WAITED, Ordering::AcqRel) & ABORTED != 0
    }

    /// By who holds the runnable, or at home: nobody has to be woken.
    pub(super) fn cancel(&self) {
        self.0.fetch_or(ABORTED, Ordering::Release);
    }

    /// By who holds the handle.
    pub(super) fn abort(&self) -> Abort {
        let mut bits = self.0.load(Ordering::Relaxed);
        loop {
            let waits = bits & (WAITED | FINISHED) == WAITED;
            let new = (bits | ABORTED).wrapping_add(if waits { ONE } else { 0 });
            // [task T6] acquire and release: see `wait`. The reference is counted in the same step: counted later, the task might finish, and its
            // home end, in between.
            match self.0.compare_exchange_weak(bits, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if waits => return Abort::Wake,
                Ok(_) => return Abort::Seen,
                Err(now) => bits = now,
            }
        }
    }

    /// [task R2], by who has a reference.
    pub(super) fn add(&self) {
        // Relaxed, as in `Arc`: the new reference comes from one that keeps the task.
        self.0.fetch_add(ONE, Ordering::Relaxed);
    }

    /// [task R2]
    pub(super) fn release(&self) -> Released {
        // [task R2] acquire and release, as in `Arc`: what others did with their references comes before the end.
        let before = self.0.fetch_sub(ONE, Ordering::AcqRel);
        if before & FINISHED != 0 && before / ONE == 1 { Released::Last } else { Released::Others }
    }

    /// T3 and T4: whether the caller has to bring the wake-up home.
    pub(super) fn notify(&self) -> bool {
        // [task T3] release, also when the flag was set already: the home's RMW that takes the flag reads this one or a later RMW, so it sees
        // what the wake-up is for. A load first, to save the RMW, could read a flag that the home has just taken.
        self.0.fetch_or(NOTIFIED, Ordering::AcqRel) & (NOTIFIED | FINISHED) == 0
    }

    /// The wake-up has come home.
    pub(super) fn take_notified(&self) {
        // [task T3] acquire: pairs with every `notify` before.
        self.0.fetch_and(!NOTIFIED, Ordering::AcqRel);
    }

    /// T8, at home. `own` is how many references the home has counted; `keep` is run before the finish, once, if anybody refers to the task.
    pub(super) fn finish(&self, own: usize, mut keep: impl FnMut()) -> Finish {
        let mut bits = self.0.load(Ordering::Acquire);
        if own == 0 && bits & !ABORTED == 0 {
            // It never waited, so an abort takes no reference; and a reference can only be made from another.
            return Finish::Alone;
        }
        let mut kept = false;
        loop {
            let finished = (bits | FINISHED).wrapping_add(own.wrapping_mul(ONE));
            let alone = finished / ONE == 0;
            if !alone && !kept {
                keep();
                kept = true;
            }
            // [task T8] release: who drops the last reference sees what was kept.
            match self.0.compare_exchange_weak(bits, finished, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if !kept => return Finish::Alone,
                Ok(_) if alone => return Finish::KeptForNobody,
                Ok(_) => return Finish::Kept,
                Err(now) => bits = now,
            }
        }
    }
}
