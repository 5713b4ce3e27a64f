//! Which turn each core is in, and since when; what is to be made of it.

use std::time::{Duration, Instant};

use ipiq_fabric::slice::Progress;

/// Reports per core and second.
pub(super) const MOST_PER_SECOND: u32 = 4;

/// A turn that a core is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) turn: u64,
    /// When it was first seen.
    pub(crate) since: Instant,
    asked_back: Option<Instant>,
    found: bool,
    /// Whether it is among the suppressed.
    suppressed: bool,
}

/// What a look at a turn says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    /// Ask the core back.
    AskBack,
    /// It was asked back so long ago.
    Stalls(Duration),
}

impl Seen {
    /// What is known of the core's turn after another look.
    pub(crate) fn next(before: Option<Self>, progress: Progress, now: Instant) -> Option<Self> {
        match (progress, before) {
            (Progress::Turn(turn), Some(seen)) if seen.turn == turn => Some(seen),
            (Progress::Turn(turn), _) => {
                Some(Self { turn, since: now, asked_back: None, found: false, suppressed: false })
            }
            _ => None,
        }
    }

    /// For how long it has been seen.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    pub(super) fn judge(&mut self, limit: Duration, now: Instant) -> Verdict {
        match self.asked_back {
            // [stall D1]
            None if self.since < now => {
                self.asked_back = Some(now);
                Verdict::AskBack
            }
            // [stall D2]
            Some(asked) if !self.found && now - asked >= limit => Verdict::Stalls(now - asked),
            _ => Verdict::Nothing,
        }
    }

    /// It was none after all, or not yet.
    pub(super) fn is_not_found(&mut self) {
        self.found = false;
    }

    /// Whether the stall may be reported now, and not again. If so, how many were not before it.
    pub(super) fn admit(&mut self, rate: &mut Rate, now: Instant) -> Option<u64> {
        // [stall D3]
        if !rate.admits(now) {
            rate.suppressed += u64::from(!self.suppressed);
            self.suppressed = true;
            return None;
        }
        self.found = true;
        // It may be taken back and admitted again, and then is none of those counted by then.
        let itself = u64::from(std::mem::take(&mut self.suppressed));
        Some(std::mem::take(&mut rate.suppressed) - itself)
    }
}

/// How many reports a core has had of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    window: Option<(Instant, u32)>,
    suppressed: u64,
}

impl Rate {
    fn admits(&mut self, now: Instant) -> bool {
        let (begun, count) = match self.window {
            Some((begun, count)) if now.saturating_duration_since(begun) < Duration::from_secs(1) => (begun, count),
            _ => (now, 0),
        };
        self.window = Some((begun, (count + 1).min(MOST_PER_SECOND)));
        count < MOST_PER_SECOND
    }

    pub(super) fn suppress(&mut self, reports: u64) {
        self.suppressed += reports;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    fn at(begin: Instant, ms: u64) -> Instant {
        begin + Duration::from_millis(ms)
    }

    #[test]
    fn a_turn_is_asked_back_once_and_found_once_a_limit_later() {
        let begin = Instant::now();
        let turn = Progress::Turn(7);
        let mut seen = Seen::next(None, turn, begin).expect("it is awake");
        assert_eq!(seen.judge(LIMIT, begin), Verdict::Nothing, "seen once");
        seen = Seen::next(Some(seen), turn, at(begin, 6)).expect("still");
        assert_eq!(seen.judge(LIMIT, at(begin, 6)), Verdict::AskBack);
        assert_eq!(seen.judge(LIMIT, at(begin, 55)), Verdict::Nothing);
        assert_eq!(seen.judge(LIMIT, at(begin, 60)), Verdict::Stalls(Duration::from_millis(54)));
        assert_eq!(seen.admit(&mut Rate::default(), at(begin, 60)), Some(0));
        assert_eq!(seen.judge(LIMIT, at(begin, 1000)), Verdict::Nothing);
        assert_eq!(seen.age(at(begin, 1000)), Duration::from_secs(1));
    }

    #[test]
    fn another_turn_and_a_sleep_begin_anew() {
        let begin = Instant::now();
        let seen = Seen::next(None, Progress::Turn(7), begin);
        let later = Seen::next(seen, Progress::Turn(8), at(begin, 100)).expect("it is awake");
        assert_eq!((later.turn, later.since), (8, at(begin, 100)));
        assert_eq!(Seen::next(Some(later), Progress::Asleep, begin), None);
        assert_eq!(Seen::next(Some(later), Progress::Gone, begin), None);
    }

    #[test]
    fn stalls_beyond_the_rate_are_counted_and_told_later_if_they_last() {
        let begin = Instant::now();
        let stall = || Seen::next(None, Progress::Turn(7), begin).expect("it is awake");
        let mut rate = Rate::default();
        let admitted: Vec<_> = (0..10).filter_map(|ms| stall().admit(&mut rate, at(begin, ms))).collect();
        assert_eq!(admitted, [0; MOST_PER_SECOND as usize]);
        let mut long = stall();
        assert_eq!((long.admit(&mut rate, at(begin, 500)), long.admit(&mut rate, at(begin, 999))), (None, None));
        assert_eq!(long.admit(&mut rate, at(begin, 1000)), Some(6), "it is none of them itself");
        assert_eq!(stall().admit(&mut rate, at(begin, 1001)), Some(0));
    }

    #[test]
    fn a_stall_that_was_suppressed_then_admitted_and_taken_back_is_admitted_again() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        let mut stall = Seen::next(None, Progress::Turn(7), begin).expect("it is awake");
        (0..MOST_PER_SECOND).for_each(|_| assert!(rate.admits(begin)));
        assert_eq!(stall.admit(&mut rate, begin), None);
        assert_eq!(stall.admit(&mut rate, at(begin, 1000)), Some(0));
        stall.is_not_found();
        assert_eq!(stall.admit(&mut rate, at(begin, 1001)), Some(0));
        // Nor does the count of others before it depend on that.
        stall.is_not_found();
        rate.suppress(3);
        assert_eq!(stall.admit(&mut rate, at(begin, 1002)), Some(3));
    }
}
