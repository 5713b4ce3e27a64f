//! Timers of one core: sleep, timeout, interval. No timer fires early, none is lost.
//!
//! A core that sleeps wakes for timers on a grid of one millisecond, so that near ones share one wake-up; a core that is awake fires
//! them as it sees them.

mod futures;

use alloc::collections::BTreeMap;
use core::cell::{Cell, RefCell};
use core::task::Waker;

pub use futures::{Elapsed, Interval, Sleep, Tick, Timeout, interval, sleep_until, timeout};

/// The grid on which a sleeping core wakes.
const GRID_NS: u64 = 1_000_000;
/// Later than any clock.
const NEVER: u64 = u64::MAX;

/// A registered timer: its deadline, and a number that keeps equal deadlines apart.
type Key = (u64, u64);

/// One core's timers.
#[derive(Default)]
pub(crate) struct Timers {
    by_deadline: RefCell<BTreeMap<Key, Waker>>,
    next_number: Cell<u64>,
}

impl Timers {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_deadline.borrow().is_empty()
    }

    /// Registers a waker for `deadline_ns`.
    fn insert(&self, deadline_ns: u64, waker: Waker) -> Key {
        let key = (deadline_ns, self.next_number.get());
        self.next_number.set(key.1 + 1);
        self.by_deadline.borrow_mut().insert(key, waker);
        key
    }

    /// Replaces the waker of a timer that has not fired. `false`: it has.
    fn refresh(&self, key: Key, waker: &Waker) -> bool {
        let same = self.by_deadline.borrow().get(&key).map(|known| known.will_wake(waker));
        if same != Some(false) {
            return same.is_some();
        }
        // A waker's clone and drop may run foreign code, which may fire the timer: not under the borrow.
        let mut fresh = waker.clone();
        let mut timers = self.by_deadline.borrow_mut();
        let known = timers.get_mut(&key).map(|known| core::mem::swap(known, &mut fresh));
        drop(timers);
        known.is_some()
    }

    fn remove(&self, key: Key) {
        let waker = self.by_deadline.borrow_mut().remove(&key);
        drop(waker);
    }

    /// Wakes every timer whose deadline is not after `now_ns`. Returns how many.
    pub(crate) fn expire(&self, now_ns: u64) -> usize {
        let mut expired = 0;
        loop {
            let mut timers = self.by_deadline.borrow_mut();
            let waker = match timers.first_entry() {
                Some(first) if first.key().0 <= now_ns => first.remove(),
                _ => return expired,
            };
            drop(timers);
            waker.wake();
            expired += 1;
        }
    }

    /// How long a core may sleep from `now_ns` on; `None`: no timer.
    pub(crate) fn sleep_ns(&self, now_ns: u64) -> Option<u64> {
        let &(deadline, _) = self.by_deadline.borrow().first_key_value()?.0;
        if deadline == NEVER {
            return None;
        }
        if deadline <= now_ns {
            return Some(0);
        }
        Some(deadline.checked_next_multiple_of(GRID_NS).unwrap_or(deadline) - now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_end_on_the_grid_and_never_early() {
        let timers = Timers::default();
        assert_eq!(timers.sleep_ns(5), None);
        timers.insert(NEVER, Waker::noop().clone());
        assert_eq!(timers.sleep_ns(5), None, "a timer that never fires arms nothing");
        timers.insert(1_500_000, Waker::noop().clone());
        assert_eq!(timers.sleep_ns(400_000), Some(1_600_000));
        assert_eq!(timers.expire(1_499_999), 0);
        assert_eq!(timers.expire(1_500_000), 1);
    }
}
