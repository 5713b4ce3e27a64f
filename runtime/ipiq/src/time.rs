//! Sleeping, deadlines, intervals, on the calling core's timers.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use ipiq::time;
//!
//! #[ipiq::main(cores = 1)]
//! async fn main() {
//!     let start = Instant::now();
//!     let mut ticks = time::interval(Duration::from_millis(2));
//!     for _ in 0..3 {
//!         ticks.tick().await; // At 0, 2 and 4 ms.
//!     }
//!     assert!(start.elapsed() >= Duration::from_millis(4));
//!
//!     let task = ipiq::spawn_local(time::sleep(Duration::MAX));
//!     time::timeout(Duration::from_millis(1), task).await.unwrap_err(); // The handle is dropped, the task goes on.
//! }
//! ```
//!
//! No timer fires early. A core that sleeps wakes for timers on a grid of one millisecond; one that is awake fires them as it sees them.

use std::future::Future;
use std::time::Duration;

pub use ipiq_executor::time::{Elapsed, Interval, Sleep, Tick, Timeout};

use crate::current::on_core;
use crate::paused_clock;

fn after(executor: &ipiq_executor::Executor, duration: Duration) -> Sleep {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    ipiq_executor::time::sleep_until(executor, executor.now_ns().saturating_add(ns))
}

/// The clock by which this core's timers fire: nanoseconds since some fixed point, the same for all cores of the process, and for all of a
/// runtime with a [paused clock](crate::Builder::paused_clock).
///
/// [`Sleep::deadline_ns`] and [`Interval::tick`] speak of the same clock.
///
/// # Panics
///
/// On a thread that runs no core.
#[must_use]
#[track_caller]
pub fn now_ns() -> u64 {
    on_core("now_ns", ipiq_executor::Executor::now_ns)
}

/// Sets a [paused clock](crate::Builder::paused_clock) on by `duration`, for every core of the runtime. Timers that are due then fire when their core looks, soon, not
/// before this returns.
///
/// ```
/// use std::time::Duration;
///
/// use ipiq::time;
///
/// let runtime = ipiq::Runtime::builder().cores(1).paused_clock().build()?;
/// runtime.block_on(|| async {
///     time::advance(Duration::from_secs(60));
///     assert_eq!(time::now_ns(), 60_000_000_000);
/// });
/// # Ok::<(), ipiq::BuildError>(())
/// ```
///
/// # Panics
///
/// On a thread that runs no core, and if the runtime's clock is the machine's.
#[track_caller]
pub fn advance(duration: Duration) {
    on_core("advance", |_| ());
    let Some(clock) = paused_clock::current() else {
        panic!("`advance` sets a paused clock on: build the runtime with `Builder::paused_clock`");
    };
    clock.advance(duration);
}

/// Waits for `duration`; for ever if it is [`Duration::MAX`].
///
/// A sleep of no time is over at once and does not let other tasks run: [`yield_now`](crate::yield_now()) does.
///
/// # Cancel safety
///
/// Dropping it removes the timer.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    on_core("time::sleep", |executor| after(executor, duration))
}

/// `future`, unless `duration` passes first.
///
/// It ends `future` alone: [`deadline::within`](crate::deadline::within) ends what that has called and spawned, too.
///
/// # Errors
///
/// The future resolves to [`Elapsed`] then, and `future` is dropped with it.
///
/// # Cancel safety
///
/// As `future`.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    on_core("time::timeout", |executor| ipiq_executor::time::timeout(future, after(executor, duration)))
}

/// Ticks every `period`, the first time at once. A tick that is late comes at once, after the other tasks that can run have had a turn; those missed
/// after it are skipped; the phase is kept.
///
/// ```
/// use std::time::Duration;
///
/// use ipiq::time;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let mut ticks = time::interval(Duration::from_millis(2));
///     assert_eq!(ticks.tick().await.number(), 0);
///     std::thread::sleep(Duration::from_millis(5)); // Holds up the core.
///     let late = ticks.tick().await;
///     assert_eq!(late.number(), 1);
///     assert!(late.late_by() >= Duration::from_millis(3));
///     assert!(ticks.tick().await.number() >= 3); // The one between was missed.
/// }
/// ```
///
/// # Panics
///
/// On a thread that runs no core, and if `period` is zero.
#[must_use]
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval needs a period above zero");
    on_core("time::interval", |executor| ipiq_executor::time::interval(executor, period))
}
