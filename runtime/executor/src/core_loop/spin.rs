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
    /// meanwhile comes as one batch, without a sleep and a kick for each message.
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

/// A core's spin and what it has learnt.
pub(crate) struct Spin {
    policy: SpinPolicy,
    score: Cell<u32>,
}

impl Spin {
    pub(crate) fn new(policy: SpinPolicy) -> Self {
        Self { policy, score: Cell::new(MOST / 2) }
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

    /// Whether an idle core gives the CPU away before it sleeps.
    pub(crate) fn yields(&self) -> bool {
        self.policy == SpinPolicy::Yield
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
