//! How long a core with nothing to do looks on before it sleeps.

use core::cell::Cell;

/// Whether, and how long, an idle core spins before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpinPolicy {
    /// Up to this many nanoseconds, less when the gaps it sees are longer. The default is 50 µs, what waking a sleeper costs.
    Adaptive {
        /// The longest spin.
        limit_ns: u64,
    },
    /// Never: sleep as soon as there is nothing to do.
    Never,
    /// Never, but give the CPU away once and look again before sleeping: for cores that share CPUs. What the others do
    /// meanwhile comes as one batch, without a sleep and a kick for each message. Where somebody else fills the CPU it mostly sleeps at once:
    /// a sleeper that is woken gets its turn sooner than one that has given it away.
    Yield,
    /// For ever: the core never sleeps.
    Always,
}

impl Default for SpinPolicy {
    fn default() -> Self {
        Self::Adaptive { limit_ns: 50_000 }
    }
}

const MOST: u32 = 8;

/// A yield in vain that takes longer went to somebody else who fills the CPU, and would do so each time.
const HOGGED_NS: u64 = 1_000_000;
/// Sleeps without a yield after that.
const WARY: u32 = 256;

/// A core's spin and what it has learnt.
pub(crate) struct Spin {
    policy: SpinPolicy,
    score: Cell<u32>,
    /// Sleeps left before the next yield.
    wary: Cell<u32>,
}

impl Spin {
    pub(crate) fn new(policy: SpinPolicy) -> Self {
        Self { policy, score: Cell::new(MOST / 2), wary: Cell::new(0) }
    }

    /// Whether an idle core should sleep at once.
    #[inline(always)]
    pub(crate) fn is_off(&self) -> bool {
        match self.policy {
            SpinPolicy::Adaptive { .. } => self.score.get() == 0,
            SpinPolicy::Never | SpinPolicy::Yield => true,
            SpinPolicy::Always => false,
        }
    }

    /// Whether an idle core gives the CPU away before this sleep.
    pub(crate) fn yields(&self) -> bool {
        if self.policy != SpinPolicy::Yield {
            return false;
        }
        let wary = self.wary.get();
        self.wary.set(wary.saturating_sub(1));
        wary == 0
    }

    /// The CPU came back after `ns`, and nothing had come from the other cores.
    pub(crate) fn yielded_in_vain(&self, ns: u64) {
        if ns > HOGGED_NS {
            self.wary.set(WARY);
        }
    }

    /// Whether a spin of `spun_ns` has been long enough.
    pub(crate) fn is_over(&self, spun_ns: u64) -> bool {
        match self.policy {
            SpinPolicy::Adaptive { limit_ns } => spun_ns >= limit_ns / u64::from(MOST) * u64::from(self.score.get()),
            SpinPolicy::Never | SpinPolicy::Yield => true,
            SpinPolicy::Always => false,
        }
    }

    /// Work came while it spun.
    #[inline(always)]
    pub(crate) fn short_gap(&self) {
        self.score.set((self.score.get() + 1).min(MOST));
    }

    /// Work came, or a sleep ended, after `gap_ns`.
    pub(crate) fn gap(&self, gap_ns: u64) {
        if let SpinPolicy::Adaptive { limit_ns } = self.policy {
            if gap_ns <= limit_ns {
                self.short_gap();
            } else {
                self.score.set(self.score.get().saturating_sub(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_whose_cpu_is_hogged_sleeps_without_a_yield_for_a_while() {
        let spin = Spin::new(SpinPolicy::Yield);
        (0..10).for_each(|_| {
            assert!(spin.yields());
            spin.yielded_in_vain(HOGGED_NS);
        });
        spin.yielded_in_vain(HOGGED_NS + 1);
        assert_eq!((0..1_000).position(|_| spin.yields()), Some(WARY as usize));
        assert!(spin.yields());
        assert!(!Spin::new(SpinPolicy::Never).yields());
    }

    #[test]
    fn long_gaps_end_the_spinning_and_short_ones_bring_it_back() {
        let spin = Spin::new(SpinPolicy::default());
        for _ in 0..MOST {
            spin.gap(1_000_000);
        }
        assert!(spin.is_off() && spin.is_over(0));
        spin.gap(10_000);
        assert!(!spin.is_off() && !spin.is_over(0) && spin.is_over(10_000));
    }
}
