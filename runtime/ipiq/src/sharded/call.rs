//! Calls to one shard.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use ipiq_executor::JoinHandle;
use ipiq_fabric::CoreId;

use super::error::{ShardError, Stopped, flatten};
use super::seat::{self, Shard};
use super::service::Sharded;
use crate::calls::{self, AsyncCall, Call};
use crate::current::{on_core, spawn_on_at};

/// One core's shard, from [`Sharded::on`].
#[derive(Debug)]
#[must_use = "it does nothing unless called"]
pub struct On<'a, T: 'static> {
    pub(super) sharded: &'a Sharded<T>,
    pub(super) core: CoreId,
}

impl<T> On<'_, T> {
    /// Runs `f` with the shard, on its core between two polls, and brings the value back: [`call_on`](crate::call_on) with a shard.
    ///
    /// `f` should be short, and must not block. It is sent at once; if the ring to the core is full, when the future is polled and there is space. Calls of one core to another start in
    /// the order in which they were sent. On the calling core `f` runs at once, inside `call`.
    ///
    /// # Errors
    ///
    /// The future resolves to [`ShardError`] if the service has stopped, `f` panicked, or the core has left, or has been away since the service was started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop `f`, once it is sent; its value is dropped.
    ///
    /// # Panics
    ///
    /// When called on a thread that runs no core of the service's runtime.
    #[doc(alias = "submit_to")]
    #[track_caller]
    pub fn call<F, R>(self, f: F) -> ShardCall<impl FnOnce() -> Result<R, Stopped> + Send + use<T, F, R>, R>
    where
        F: FnOnce(&T) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.sharded.assert_here("On::call");
        let key = self.sharded.service.number.key();
        ShardCall { call: crate::call_on(self.core, move || seat::with(key, f)) }
    }

    /// Runs the async closure `f` with the shard, as a task of its core, and brings the value back: [`spawn_on`](crate::spawn_on) with a shard.
    ///
    /// What `f` makes need not be `Send`. The service's [`stop`](Sharded::stop) waits for it.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// use ipiq::CoreId;
    /// use ipiq::sharded::{Shard, ShardError, Sharded};
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() -> Result<(), ShardError> {
    ///     let hits = Sharded::start(|_| async { Cell::new(0) }).await.unwrap();
    ///     let task = hits.on(CoreId::new(1)).spawn(async |hits: Shard<Cell<u32>>| {
    ///         ipiq::yield_now().await;
    ///         hits.replace(7)
    ///     });
    ///     assert_eq!(task.await?, 0);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The task resolves to [`ShardError`] if the service has stopped, `f` panicked, it was aborted, the current deadline has passed, or the core has left, is shutting down, or
    /// has been away since the service was started.
    ///
    /// # Panics
    ///
    /// As [`call`](Self::call).
    #[track_caller]
    pub fn spawn<F, R>(self, f: F) -> ShardTask<R>
    where
        F: AsyncFnOnce(Shard<T>) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.spawn_at(Location::caller(), f)
    }

    /// [`spawn`](Self::spawn), for a caller that knows better where the task is spawned.
    #[track_caller]
    pub(super) fn spawn_at<F, R>(self, spawned_at: &'static Location<'static>, f: F) -> ShardTask<R>
    where
        F: AsyncFnOnce(Shard<T>) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.sharded.assert_here("On::spawn");
        let key = self.sharded.service.number.key();
        let service = self.sharded.service.in_chains::<T>();
        let task = spawn_on_at(spawned_at, self.core, move || async move {
            // [sharded U1]
            let shard = seat::find_open(key).map(Shard::new).ok_or_else(|| Stopped::here(key))?;
            Ok(calls::using(service, f(shard)).await)
        });
        ShardTask { task }
    }

    /// Runs the async closure `f` with the shard, as a task of its core, and brings the value back: [`call_async_on`](crate::call_async_on) with a shard.
    ///
    /// It is the caller's: dropped with the future, and ended with the caller's [deadline](crate::deadline). What `f` makes need not be `Send`. The service's
    /// [`stop`](Sharded::stop) waits for it. As many calls of this core to that shard may be outstanding as the [limit](Sharded::set_call_limit) allows.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// use ipiq::CoreId;
    /// use ipiq::sharded::{Shard, ShardError, Sharded};
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() -> Result<(), ShardError> {
    ///     let hits = Sharded::start(|_| async { Cell::new(1) }).await.unwrap();
    ///     let before = hits.on(CoreId::new(1)).call_async(async |hits: Shard<Cell<u32>>| {
    ///         ipiq::yield_now().await;
    ///         hits.replace(7)
    ///     });
    ///     assert_eq!(before.await?, 1);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The future resolves to [`ShardError`] if the service has stopped, `f` panicked, the core has left or shuts down, or has been away since the service was started, the current deadline has passed, the limit refuses it, or calls
    /// inside of calls are too deep, as when they [go in a circle](ShardError::is_circular).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels what runs on the core: it is dropped there in place of its next poll.
    ///
    /// # Panics
    ///
    /// As [`call`](Self::call).
    #[track_caller]
    pub fn call_async<F, R>(
        self,
        f: F,
    ) -> ShardAsyncCall<impl AsyncFnOnce() -> Result<R, Stopped> + Send + use<T, F, R>, R>
    where
        F: AsyncFnOnce(Shard<T>) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.sharded.assert_here("On::call_async");
        let spawned_at = Location::caller();
        let service = &self.sharded.service;
        let (key, in_chains, limit) = (service.number.key(), service.in_chains::<T>(), service.limit.get());
        let with_shard = async move || {
            // [sharded U1]
            let shard = seat::find_open(key).map(Shard::new).ok_or_else(|| Stopped::here(key))?;
            Ok(f(shard).await)
        };
        let call = on_core("On::call_async", |executor| {
            AsyncCall::new(executor, spawned_at, self.core, Some((in_chains, limit)), with_shard)
        });
        ShardAsyncCall { call }
    }
}

/// A call to a shard, from [`On::call`]: awaits its value.
///
/// # Cancel safety
///
/// Dropping it does not stop the closure, once it is sent; its value is dropped.
#[must_use = "a call that is not awaited may never be sent"]
pub struct ShardCall<F, R> {
    call: Call<F, Result<R, Stopped>>,
}

impl<F, R> fmt::Debug for ShardCall<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

impl<F, R> ShardCall<F, R> {
    /// Whether the closure is sent. One that found no space is sent by a poll.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.call.is_sent()
    }
}

impl<F, R> Future for ShardCall<F, R>
where
    F: FnOnce() -> Result<R, Stopped> + Send + 'static,
    R: Send + 'static,
{
    type Output = Result<R, ShardError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call).poll(cx).map(flatten)
    }
}

/// A call of an async closure to a shard, from [`On::call_async`]: awaits its value.
///
/// # Cancel safety
///
/// Dropping it cancels what runs there, which is dropped on its core in place of its next poll. One that was dropped before it was sent never runs.
#[must_use = "a call that is dropped is cancelled"]
pub struct ShardAsyncCall<F, R> {
    call: AsyncCall<F, Result<R, Stopped>>,
}

impl<F, R> fmt::Debug for ShardAsyncCall<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

impl<F, R> ShardAsyncCall<F, R> {
    /// Whether the call is on its way, or there. One that waits in line for the [limit](Sharded::set_call_limit) is sent by a poll.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.call.is_sent()
    }
}

impl<F, R> Future for ShardAsyncCall<F, R>
where
    F: AsyncFnOnce() -> Result<R, Stopped> + Send + 'static,
    R: Send + 'static,
{
    type Output = Result<R, ShardError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call).poll(cx).map(flatten)
    }
}

/// A task with a shard, from [`On::spawn`]: awaits its value. Dropping it does not stop the task.
///
/// # Cancel safety
///
/// Awaiting `&mut task` is cancel safe: the value stays until it is taken.
pub struct ShardTask<R> {
    task: JoinHandle<Result<R, Stopped>>,
}

impl<R> fmt::Debug for ShardTask<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardTask").field("finished", &self.task.is_finished()).finish_non_exhaustive()
    }
}

impl<R> ShardTask<R> {
    /// Asks the task to stop at its next await. Callable anywhere.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl<R> Future for ShardTask<R> {
    type Output = Result<R, ShardError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(cx).map(flatten)
    }
}
