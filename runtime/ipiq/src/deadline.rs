//! Deadlines that travel with calls.
//!
//! [`within`] sets one for a future. Whatever the future calls and spawns, on this core and on others, has the same deadline, and so has what is called and spawned there: when it
//! has passed, all of it ends. Of several deadlines the earliest one counts.
//!
//! ```
//! use std::time::Duration;
//!
//! use ipiq::{CoreId, deadline};
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() {
//!     let answer = deadline::within(Duration::from_millis(5), async {
//!         // Ends on core 1 when the five milliseconds are over.
//!         ipiq::call_async_on(CoreId::new(1), async || {
//!             assert!(deadline::current().is_some());
//!             std::future::pending::<()>().await;
//!         })
//!         .await
//!     });
//!     assert!(answer.await.unwrap().unwrap_err().is_deadline());
//! }
//! ```
//!
//! | Under a deadline that has passed | ends with |
//! |---|---|
//! | the future of [`within`] or [`until`] | [`Elapsed`] |
//! | [`call_on`](crate::call_on), [`call_async_on`](crate::call_async_on) | a [`CallError`](crate::CallError) that [says so](crate::CallError::is_deadline) |
//! | a call of a shard, a task of one | a [`ShardError`](crate::sharded::ShardError) that [says so](crate::sharded::ShardError::is_deadline) |
//! | a task of [`spawn_local`](crate::spawn_local), [`spawn_on`](crate::spawn_on), a [`JoinSet`](crate::JoinSet) | a [`JoinError`](crate::JoinError) that [says so](crate::JoinError::is_deadline) |
//!
//! What is awaited inside of [`within`] ends first, so a call there says it, as in the example; [`Elapsed`] comes where the future waits for something else. Both errors of
//! calls are made of [`Elapsed`], so that one question answers for both:
//!
//! ```
//! use std::time::Duration;
//!
//! use ipiq::{CallError, CoreId, deadline, time};
//!
//! async fn ask() -> Result<u32, CallError> {
//!     deadline::within(Duration::from_millis(5), async {
//!         let first = ipiq::call_on(CoreId::new(1), || 6).await?;
//!         time::sleep(Duration::MAX).await;
//!         Ok(first * 7)
//!     })
//!     .await?
//! }
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() {
//!     assert!(ask().await.unwrap_err().is_deadline());
//! }
//! ```
//!
//! A call or task that arrives too late does not begin. One that runs is polled a last time, so that it finds what it awaits ended, and is dropped then. A closure of
//! [`call_on`](crate::call_on) that has begun runs to its end. Other ways to other cores, [`xcall`](crate::xcall) and a [`Handle`](crate::Handle) among them, carry no deadline. What is to go on after the
//! deadline, such as a log that is written behind, is spawned by [`detached`].
//!
//! A call under a deadline costs a timer and a look at the clock on each side; one without costs a comparison.
//!
//! The idea is gRPC's, whose deadlines go from server to server.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ipiq_executor::Executor;
use ipiq_executor::time::{Sleep, sleep_until};
use pin_project_lite::pin_project;

use crate::calls::context;
use crate::current::on_core;
pub use crate::time::Elapsed;

/// `future`, under a deadline that is `duration` from now, with everything that it calls and spawns.
///
/// # Errors
///
/// The future resolves to [`Elapsed`] if the deadline passes first; `future` is dropped with it. It is not polled at all when the deadline has passed before.
///
/// # Cancel safety
///
/// That of `future`.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn within<F: Future>(duration: Duration, future: F) -> Within<F> {
    on_core("deadline::within", |executor| Within::new(executor, after(executor, duration), future))
}

/// As [`within`], for a point in time.
///
/// With a [paused clock](crate::Builder::paused_clock) it is as far from now on that clock as it is on the machine's.
///
/// # Errors
///
/// As [`within`].
///
/// # Cancel safety
///
/// That of `future`.
///
/// # Panics
///
/// On a thread that runs no core.
#[doc(alias = "with_deadline")]
#[track_caller]
pub fn until<F: Future>(deadline: Instant, future: F) -> Within<F> {
    let duration = deadline.saturating_duration_since(Instant::now());
    on_core("deadline::until", |executor| Within::new(executor, after(executor, duration), future))
}

fn after(executor: &Executor, duration: Duration) -> u64 {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(context::NEVER);
    executor.now_ns().saturating_add(ns)
}

/// The current deadline; `None`: there is none.
///
/// With a [paused clock](crate::Builder::paused_clock) it is as far from now as it is on that clock.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use ipiq::deadline;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     assert!(deadline::current().is_none());
///     let soon = Instant::now() + Duration::from_secs(5);
///     deadline::until(soon, async {
///         assert!(deadline::current().unwrap() <= soon + Duration::from_secs(1));
///         assert!(deadline::remaining().unwrap() <= Duration::from_secs(5));
///         // It is not put off.
///         deadline::within(Duration::MAX, async { assert!(deadline::remaining().unwrap() <= Duration::from_secs(5)) }).await.unwrap();
///     })
///     .await
///     .unwrap();
/// }
/// ```
#[must_use]
pub fn current() -> Option<Instant> {
    Instant::now().checked_add(remaining()?)
}

/// How long it is until the current deadline; zero when it has passed; `None`: there is none.
#[must_use]
pub fn remaining() -> Option<Duration> {
    if !context::is_set() {
        return None;
    }
    let deadline_ns = context::look(|context| context.has_deadline().then_some(context.deadline_ns))?;
    let now_ns = on_core("deadline::remaining", Executor::now_ns);
    Some(Duration::from_nanos(deadline_ns.saturating_sub(now_ns)))
}

/// Runs `f` without the current deadline, and outside of the call that is under way: what it spawns is on its own.
///
/// ```
/// use std::time::Duration;
///
/// use ipiq::deadline;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let log = deadline::within(Duration::ZERO, async {}).await;
///     log.unwrap_err();
///     let log = deadline::within(Duration::from_secs(1), async {
///         // Nobody hurries it.
///         deadline::detached(|| ipiq::spawn_local(async { deadline::current() }))
///     });
///     assert_eq!(log.await.unwrap().await.unwrap(), None);
/// }
/// ```
pub fn detached<R>(f: impl FnOnce() -> R) -> R {
    context::within(context::Context::EMPTY, f)
}

pin_project! {
    /// A future under a deadline, from [`within`] or [`until`].
    ///
    /// # Cancel safety
    ///
    /// That of the future.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Within<F> {
        sleep: Sleep,
        begun: bool,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Within<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // [calls D1]
            context::until(this.sleep.deadline_ns(), || this.future.set(None));
        }
    }
}

impl<F: Future> Within<F> {
    pub(crate) fn new(executor: &Executor, deadline_ns: u64, future: F) -> Self {
        Self { sleep: sleep_until(executor, deadline_ns), begun: false, future: Some(future) }
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let deadline_ns = this.sleep.deadline_ns();
        let begun = std::mem::replace(this.begun, true);
        let is_late = if begun {
            Pin::new(&mut *this.sleep).poll(cx).is_ready()
        } else {
            // What is ready at once needs no timer.
            on_core("deadline::within", Executor::now_ns) >= deadline_ns
        };
        // [calls D5] what has begun finds what it awaits ended.
        if begun || !is_late {
            let polled = context::until(deadline_ns, || {
                // [calls D1]
                let future = this.future.as_mut().as_pin_mut();
                let polled = future.expect("a future is not polled after it was ready").poll(cx);
                if polled.is_ready() {
                    this.future.set(None);
                }
                polled
            });
            if let Poll::Ready(value) = polled {
                return Poll::Ready(Ok(value));
            }
        }
        if is_late {
            context::until(deadline_ns, || this.future.set(None));
            return Poll::Ready(Err(Elapsed));
        }
        if !begun && Pin::new(this.sleep).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
