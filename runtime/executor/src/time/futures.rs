//! The futures of time.

use alloc::rc::Rc;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use ipiq_fabric::call::CallError;

use super::{NEVER, Timer, Timers};
use crate::Executor;

/// Waits until a point of its core's clock.
///
/// # Cancel safety
///
/// Dropping it removes the timer.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    timers: Rc<Timers>,
    deadline_ns: u64,
    /// Registered, and fired perhaps.
    timer: Option<Timer>,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline_ns", &self.deadline_ns).finish_non_exhaustive()
    }
}

/// A sleep until `deadline_ns` of `executor`'s clock. `u64::MAX` never comes.
pub fn sleep_until(executor: &Executor, deadline_ns: u64) -> Sleep {
    Sleep { timers: executor.timers().clone(), deadline_ns, timer: None }
}

impl Sleep {
    /// The deadline, in nanoseconds of the core's clock.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Moves the deadline; the sleep starts anew.
    pub fn reset(&mut self, deadline_ns: u64) {
        // The next poll takes this reading for new.
        self.timers.now_ns();
        self.set(deadline_ns);
    }

    fn set(&mut self, deadline_ns: u64) {
        self.give_back();
        self.deadline_ns = deadline_ns;
    }

    #[inline]
    fn give_back(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.timers.give_back(timer);
        }
    }

    /// Registers `waker`, unless the deadline has passed.
    #[inline]
    fn is_over(&mut self, waker: &Waker) -> bool {
        match &self.timer {
            Some(timer) => {
                // What keeps polling does not have to wait for a look: the clock is read each time.
                self.timers.has_fired(timer)
                    || self.timers.has_come(self.deadline_ns)
                    || !self.timers.refresh(timer, waker)
            }
            None if self.timers.is_past(self.deadline_ns) => true,
            None => {
                self.timer = Some(self.timers.insert(self.deadline_ns, waker));
                false
            }
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_over(cx.waker()) {
            return Poll::Pending;
        }
        self.give_back();
        Poll::Ready(())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The time ran out before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline has elapsed")
    }
}

impl core::error::Error for Elapsed {}

/// An error that says that the [deadline](CallError::is_deadline) has passed.
impl From<Elapsed> for CallError {
    fn from(Elapsed: Elapsed) -> Self {
        Self::deadline()
    }
}

/// A future with a deadline.
///
/// # Cancel safety
///
/// As the inner future; the timer is removed.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Timeout<F> {
    future: F,
    sleep: Sleep,
}

/// `future`, unless `sleep` ends first.
pub fn timeout<F: Future>(future: F, sleep: Sleep) -> Timeout<F> {
    Timeout { future, sleep }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: 1. neither field is moved out of the pinned struct.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: 1. `future` is pinned with the struct and has no other access path.
        let future = unsafe { Pin::new_unchecked(&mut this.future) };
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut this.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// Ticks at a fixed rate. A tick that is late comes at once, as soon as the other tasks that can run have had a turn; those missed after it are
/// skipped, and the next ones keep the original phase.
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period_ns: u64,
    /// Of the next tick.
    number: u64,
    /// Since the last tick, or before the first one.
    gave_way: bool,
}

/// A tick of an [`Interval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    number: u64,
    deadline_ns: u64,
    late_ns: u64,
}

impl Tick {
    /// Which tick it is, from 0: it was due so many periods after the first one. The numbers of skipped ticks are missing.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it was due, in nanoseconds of the core's clock, as [`Sleep::deadline_ns`].
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// How long after that it came.
    #[must_use]
    pub fn late_by(&self) -> Duration {
        Duration::from_nanos(self.late_ns)
    }
}

/// An interval whose first tick comes at once.
///
/// # Panics
///
/// If `period` is zero.
pub fn interval(executor: &Executor, period: Duration) -> Interval {
    let period_ns = u64::try_from(period.as_nanos()).unwrap_or(NEVER);
    assert!(period_ns > 0, "an interval's period is above zero");
    Interval { sleep: sleep_until(executor, executor.now_ns()), period_ns, number: 0, gave_way: true }
}

impl Interval {
    /// Waits for the next tick.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no tick.
    pub async fn tick(&mut self) -> Tick {
        poll_fn(|cx| self.poll_over(cx)).await;
        let deadline_ns = self.sleep.deadline_ns;
        let late_ns = self.sleep.timers.now_ns().saturating_sub(deadline_ns);
        let tick = Tick { number: self.number, deadline_ns, late_ns };
        let step = late_ns / self.period_ns + 1;
        self.sleep.set(deadline_ns.saturating_add(self.period_ns.saturating_mul(step)));
        self.number += step;
        self.gave_way = false;
        tick
    }

    /// Who takes longer than a period from tick to tick finds each one due, and would keep the core for ever.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let over = Pin::new(&mut self.sleep).poll(cx);
        let gave_way = core::mem::replace(&mut self.gave_way, true);
        if over.is_ready() && !gave_way {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        over
    }

    /// Puts the next tick off until a period from now; those after it keep to its phase. Numbers go on where they were.
    pub fn reset(&mut self) {
        let now_ns = self.sleep.timers.now_ns();
        self.sleep.reset(now_ns.saturating_add(self.period_ns));
        self.gave_way = true;
    }

    /// The time between two ticks.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_nanos(self.period_ns)
    }
}
