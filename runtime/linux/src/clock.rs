//! The monotonic clock.

use std::sync::OnceLock;
use std::time::Instant;

use ipiq_fabric::port::Clock;

/// `CLOCK_MONOTONIC`, in nanoseconds since the process first asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = START.get_or_init(Instant::now);
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
