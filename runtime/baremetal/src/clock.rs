//! The time-stamp counter as a clock.

use ipiq_fabric::port::Clock;

/// Nanoseconds from a time-stamp counter of constant rate.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    /// Nanoseconds per tick, in units of 2^-32.
    ns_per_tick: u64,
}

impl TscClock {
    /// A clock whose counter runs at `ticks_per_second`.
    ///
    /// # Panics
    ///
    /// If the rate is zero.
    #[must_use]
    pub const fn new(ticks_per_second: u64) -> Self {
        assert!(ticks_per_second > 0, "a time-stamp counter that stands still is no clock");
        Self { ns_per_tick: ((1_000_000_000_u128 << 32) / ticks_per_second as u128) as u64 }
    }

    const fn to_ns(self, ticks: u64) -> u64 {
        ((ticks as u128 * self.ns_per_tick as u128) >> 32) as u64
    }
}

impl Clock for TscClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        // SAFETY: 1. every x86-64 CPU has the counter.
        self.to_ns(unsafe { core::arch::x86_64::_rdtsc() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds_without_overflow() {
        assert_eq!(TscClock::new(1 << 32).to_ns(1 << 32), 1_000_000_000);
        let year = 2_500_000_000 * 86_400 * 365;
        let ns = TscClock::new(2_500_000_000).to_ns(year);
        assert!(ns.abs_diff(86_400 * 365 * 1_000_000_000) < 50_000_000, "{ns}");
    }
}
