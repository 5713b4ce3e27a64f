#![doc = include_str!("README.md")]

mod pool;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_channel::oneshot;
use ipiq_fabric::{Panic, PanicPayload, catch, contain};

use crate::of_thread::{self, Hidden, Installed, Slot};
pub use pool::BlockingLoad;
pub(crate) use pool::{BlockingReader, Pool};
use pool::{Job, Place, Refused};

/// Runs `f`, which may block, on a thread that runs no core, and brings its value back.
///
/// For file systems, name resolution, compression, foreign libraries. The threads may use every CPU that the runtime may, whatever its cores are pinned to. The runtime has [a limited number](crate::Builder::blocking_threads) of such threads, which are started when they are
/// needed and end when they are not. `f` is queued at once; when a thousand wait already, when the future is polled and there is space. It reaches the cores by a
/// [`Handle`](crate::Handle).
///
/// ```
/// #[ipiq::main(cores = 1)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let text = ipiq::spawn_blocking(|| std::fs::read_to_string("/proc/self/comm")).await??;
///     assert!(!text.is_empty());
///     Ok(())
/// }
/// ```
///
/// Nothing stops a closure from outside. One that takes long looks at a [`CancellationToken`](crate::CancellationToken), one load, and is waited for when it was told to end:
///
/// ```
/// #[ipiq::main(cores = 1)]
/// async fn main() -> Result<(), ipiq::BlockingError> {
///     let end = ipiq::CancellationToken::new();
///     let theirs = end.clone();
///     let rounds = ipiq::spawn_blocking(move || (0u64..).take_while(|_| !theirs.is_cancelled()).count());
///     ipiq::time::sleep(std::time::Duration::from_millis(2)).await;
///     end.cancel();
///     println!("{} rounds", rounds.await?);
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// The future resolves to [`BlockingError`] if `f` panicked, the runtime ended before it began, or the system has no thread for it.
///
/// # Cancel safety
///
/// Dropping the future does not stop `f`, once it is queued; its value is dropped. The end of the runtime waits for those that have begun.
///
/// # Panics
///
/// On a thread that runs no core, such as the one on which `f` itself runs.
#[track_caller]
pub fn spawn_blocking<F, R>(f: F) -> Blocking<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    spawn_in(&current("spawn_blocking"), f)
}

/// The pool of the calling core's runtime.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[track_caller]
pub(crate) fn current(what: &str) -> Arc<Pool> {
    of_thread::get(&CURRENT, what)
}

/// Makes `pool` that of the calling core's runtime until the guard is dropped.
pub(crate) fn install(pool: Arc<Pool>) -> Installed<Arc<Pool>> {
    of_thread::install(&CURRENT, pool)
}

/// Until the guard is dropped the thread has no pool, as far as anybody on it can tell.
pub(crate) fn hide() -> Hidden<Arc<Pool>> {
    of_thread::hide(&CURRENT)
}

/// As [`spawn_blocking`], from any thread.
pub(crate) fn spawn_in<F, R>(pool: &Arc<Pool>, f: F) -> Blocking<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    // Who does not wait any more has the value dropped here.
    let job: Job = Box::new(move || drop(sender.send(catch(f))));
    let state = match pool.push(job) {
        Ok(()) => State::Queued,
        Err(Refused::Full(job)) => State::Waiting(job, pool.clone().place()),
        Err(Refused::Ended(job)) => {
            drop(job);
            State::Queued
        }
        Err(Refused::NoThread(job, error)) => {
            drop(job);
            State::Refused(error)
        }
    };
    Blocking { state, receiver }
}

thread_local! {
    /// Of the runtime whose core the thread runs.
    static CURRENT: Slot<Arc<Pool>> = const { RefCell::new(None) };
}

/// The value of a closure that may block, from [`spawn_blocking`].
#[must_use = "a closure whose future is not awaited may never be queued"]
pub struct Blocking<R> {
    state: State,
    receiver: oneshot::Receiver<Result<R, PanicPayload>>,
}

enum State {
    /// It waits for space.
    Waiting(Job, Place),
    /// Or it was dropped, which the receiver tells.
    Queued,
    Refused(io::Error),
}

impl<R> fmt::Debug for Blocking<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").field("queued", &!matches!(self.state, State::Waiting(..))).finish_non_exhaustive()
    }
}

impl<R> Drop for Blocking<R> {
    /// A value that nobody wants is dropped here, and a panic of its destructor reaches nobody.
    fn drop(&mut self) {
        // What comes from here on is given back to who sends it.
        self.receiver.close();
        contain(|| drop(self.receiver.try_recv()));
    }
}

impl<R> Future for Blocking<R> {
    type Output = Result<R, BlockingError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match std::mem::replace(&mut this.state, State::Queued) {
            State::Queued => {}
            State::Refused(error) => return Poll::Ready(Err(BlockingError { cause: Cause::Refused(error) })),
            State::Waiting(job, place) => match place.push_or_wait(job, cx.waker()) {
                Ok(()) => {}
                Err(Refused::Ended(job)) => drop(job),
                Err(Refused::NoThread(job, error)) => {
                    drop(job);
                    return Poll::Ready(Err(BlockingError { cause: Cause::Refused(error) }));
                }
                Err(Refused::Full(job)) => {
                    this.state = State::Waiting(job, place);
                    return Poll::Pending;
                }
            },
        }
        Pin::new(&mut this.receiver).poll(cx).map(|received| match received {
            Ok(outcome) => outcome.map_err(|payload| BlockingError { cause: Cause::Panicked(Panic::new(payload)) }),
            Err(oneshot::Canceled) => Err(BlockingError { cause: Cause::Ended }),
        })
    }
}

/// Why a closure of [`spawn_blocking`] has no value.
#[derive(Debug)]
pub struct BlockingError {
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Panicked(Panic),
    Ended,
    Refused(io::Error),
}

impl BlockingError {
    /// Whether the closure panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.cause, Cause::Panicked(_))
    }

    /// Whether the runtime ended before the closure began.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.cause, Cause::Ended)
    }

    /// Whether the system has refused the first thread; the closure did not run.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.cause, Cause::Refused(_))
    }

    /// What the closure panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Panicked(panic) => Ok(panic.into_payload()),
            cause => Err(Self { cause }),
        }
    }
}

impl fmt::Display for BlockingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Panicked(panic) => write!(f, "the blocking closure panicked: {panic}"),
            Cause::Ended => f.write_str("the runtime has ended; the blocking closure did not run"),
            Cause::Refused(error) => write!(f, "no thread could be started for the blocking closure: {error}"),
        }
    }
}

impl Error for BlockingError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Refused(error) => Some(error),
            Cause::Panicked(_) | Cause::Ended => None,
        }
    }
}
