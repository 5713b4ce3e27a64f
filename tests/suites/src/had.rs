//! How much of a while a thread has had: what the machine gave to others meanwhile is no matter of what is tested.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// A moment of the calling thread's life.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// When it was.
    pub at: Instant,
    /// For how long the thread had run.
    pub ran: Duration,
}

impl Moment {
    /// This one.
    ///
    /// # Panics
    ///
    /// Where there is no such clock.
    #[must_use]
    pub fn now() -> Self {
        let mut ran = MaybeUninit::uninit();
        // SAFETY: 1. `ran` is valid for a write.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, ran.as_mut_ptr()) };
        assert_eq!(result, 0, "every Linux has this clock");
        // SAFETY: 1. the call has succeeded, and filled it.
        let libc::timespec { tv_sec, tv_nsec } = unsafe { ran.assume_init() };
        Self { at: Instant::now(), ran: Duration::new(tv_sec as u64, tv_nsec as u32) }
    }

    /// What of the time since `before`, a moment of the same thread, the thread has not run: where it never sleeps, for how long others had its CPU.
    #[must_use]
    pub fn missed_since(self, before: Self) -> Duration {
        self.at.saturating_duration_since(before.at).saturating_sub(self.ran.saturating_sub(before.ran))
    }
}
