//! Summaries of samples: medians with their spread, and percentiles of many short times.

use hdrhistogram::Histogram;

/// Median of some rounds and the range they lie in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Smallest value.
    pub min: f64,
    /// Middle value, or the mean of the two in the middle.
    pub median: f64,
    /// Largest value.
    pub max: f64,
}

impl Spread {
    /// Summarises the values; `None` when there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[upper - 1], sorted[upper])
        } else {
            sorted[upper]
        };
        Some(Self { min, median, max })
    }
}

/// Percentiles of times in nanoseconds, to three significant digits.
pub struct Times {
    histogram: Histogram<u64>,
}

impl Times {
    /// Holds times up to ten seconds; a longer one counts as ten seconds.
    ///
    /// # Panics
    ///
    /// Never: the bounds are constants that the histogram accepts.
    #[must_use]
    pub fn new() -> Self {
        const LONGEST_NS: u64 = 10_000_000_000;
        let histogram = Histogram::new_with_max(LONGEST_NS, 3).expect("constant bounds are valid");
        Self { histogram }
    }

    /// Adds one time.
    pub fn record(&mut self, time_ns: u64) {
        self.histogram.saturating_record(time_ns);
    }

    /// Time that `percent` of the recorded ones do not exceed.
    #[must_use]
    pub fn percentile_ns(&self, percent: f64) -> f64 {
        self.histogram.value_at_percentile(percent) as f64
    }

    /// Mean of the recorded times.
    #[must_use]
    pub fn mean_ns(&self) -> f64 {
        self.histogram.mean()
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_odd_count_is_the_middle_value() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { min: 1.0, median: 2.0, max: 3.0 });
    }

    #[test]
    fn median_of_an_even_count_lies_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 10.0]).unwrap().median, 3.0);
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn percentiles_split_the_recorded_times() {
        let mut times = Times::new();
        for time_ns in 1..=1000 {
            times.record(time_ns);
        }
        assert_eq!(times.percentile_ns(50.0), 500.0);
        assert_eq!(times.percentile_ns(99.0), 990.0);
        assert_eq!(times.mean_ns(), 500.5);
    }

    #[test]
    fn a_time_beyond_the_range_counts_as_the_longest() {
        let mut times = Times::new();
        times.record(u64::MAX);
        assert!(times.percentile_ns(50.0) >= 10_000_000_000.0);
    }
}
