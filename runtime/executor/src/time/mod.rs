#![doc = include_str!("README.md")]

mod entries;
mod futures;
#[cfg(test)]
mod tests;
mod wheel;

use alloc::sync::Arc;
use core::cell::{Cell, RefCell};
use core::task::Waker;

use ipiq_fabric::port::Clock;
use ipiq_fabric::{catch, contain};

pub use futures::{Elapsed, Interval, Sleep, Tick, Timeout, interval, sleep_until, timeout};
use wheel::{Due, Timer, Wheel};

/// Timers that one look fires: as many as tasks are polled between two looks.
const FIRES: u32 = 64;
/// Entries that one look moves to other slots.
const MOVES: u32 = 512;
/// Later than any clock.
const NEVER: u64 = u64::MAX;

/// One core's timers.
///
/// A waker's clone, wake and drop may run foreign code, which may come back here: nothing is borrowed meanwhile.
pub(crate) struct Timers {
    clock: Arc<dyn Clock>,
    grid_ns: u64,
    seen_ns: Cell<u64>,
    wheel: RefCell<Wheel<Waker>>,
}

/// What a look at the timers did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) fired: u32,
    /// More may be due: the look's share was used up.
    pub(crate) more: bool,
}

impl Timers {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let grid_ns = clock.grid_ns();
        Self { clock, grid_ns, seen_ns: Cell::new(0), wheel: RefCell::default() }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Reads the clock.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        let now_ns = self.clock.now_ns();
        self.seen_ns.set(now_ns);
        now_ns
    }

    /// Whether no timer will ever fire.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.wheel.borrow().is_empty()
    }

    /// How many timers futures hold.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.wheel.borrow().len()
    }

    /// Whether the clock has come to a deadline that is not yet registered.
    #[inline]
    fn is_past(&self, deadline_ns: u64) -> bool {
        let seen_ns = self.seen_ns.get();
        // The others were far off a moment ago. If they are not any more, the next look fires them.
        let near = deadline_ns.saturating_sub(seen_ns) <= self.grid_ns;
        near && self.has_come(deadline_ns)
    }

    fn has_come(&self, deadline_ns: u64) -> bool {
        deadline_ns != NEVER && self.now_ns() >= deadline_ns
    }

    /// Registers a waker for `deadline_ns`.
    #[inline]
    fn insert(&self, deadline_ns: u64, waker: &Waker) -> Timer {
        // [time W1]
        let waker = waker.clone();
        self.wheel.borrow_mut().insert(deadline_ns, waker, self.seen_ns.get())
    }

    fn has_fired(&self, timer: &Timer) -> bool {
        self.wheel.borrow_mut().get_mut(timer).is_none()
    }

    /// [time W3]: replaces the waker of a timer that has not fired. `false`: it has.
    fn refresh(&self, timer: &Timer, waker: &Waker) -> bool {
        let same = self.wheel.borrow_mut().get_mut(timer).map(|known| known.will_wake(waker));
        if same != Some(false) {
            return same.is_some();
        }
        // [time W3]
        let mut fresh = waker.clone();
        let mut wheel = self.wheel.borrow_mut();
        let known = wheel.get_mut(timer).map(|known| core::mem::swap(known, &mut fresh));
        drop(wheel);
        known.is_some()
    }

    /// [time W2]
    #[inline]
    fn give_back(&self, timer: Timer) {
        let waker = self.wheel.borrow_mut().give_back(timer);
        drop(waker);
    }

    /// [time F1]: wakes timers whose deadline is not after `now_ns`, the earliest first.
    pub(crate) fn look(&self, now_ns: u64) -> Look {
        let (mut fired, mut moves) = (0, MOVES);
        loop {
            match catch(|| self.fire(now_ns, &mut fired, &mut moves)) {
                Ok(more) => return Look { fired, more },
                // [time F1] of a waker, which nobody asked for: its timer has fired, the next one is due.
                Err(payload) => contain(|| drop(payload)),
            }
        }
    }

    /// Returns whether more may be due. A waker that panics ends it.
    fn fire(&self, now_ns: u64, fired: &mut u32, moves: &mut u32) -> bool {
        while *fired < FIRES {
            let due = self.wheel.borrow_mut().next_due(now_ns, moves);
            match due {
                Due::Fired(waker) => {
                    *fired += 1;
                    // [time F3]
                    waker.wake();
                }
                Due::Nothing => return false,
                Due::Unknown => return true,
            }
        }
        true
    }

    /// How long a core may sleep from `now_ns` on; `None`: no timer.
    pub(crate) fn sleep_ns(&self, now_ns: u64) -> Option<u64> {
        let due_ns = self.wheel.borrow().due_from_ns()?;
        if due_ns <= now_ns {
            return Some(0);
        }
        // [time S1]
        Some(due_ns.checked_next_multiple_of(self.grid_ns).unwrap_or(due_ns) - now_ns)
    }
}
