//! A call to another core, as a future.

use alloc::sync::Arc;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use ipiq_fabric::CoreId;
use ipiq_fabric::call::{CallError, PendingCall};

use crate::Executor;
use crate::executor::with_current;
use crate::task::Home;

/// The value of a closure that runs on another core.
///
/// # Cancel safety
///
/// Dropping it does not stop the closure; its value is dropped. A call dropped before there was space for its request never
/// runs.
#[must_use = "a call that is not awaited may never be sent"]
pub struct Call<F, R> {
    pending: PendingCall<F, R>,
    /// Needed while the request waits for space.
    home: Option<Arc<Home>>,
}

impl<F, R> fmt::Debug for Call<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pending.fmt(f)
    }
}

impl Executor {
    /// Runs `f` on `target`, between two of its polls, and brings its value back. The request is sent now if there is space, else when
    /// the call is polled. On the own core `f` runs at once, inside this call.
    ///
    /// # Panics
    ///
    /// If there is no core `target`.
    #[inline(always)]
    #[track_caller]
    pub fn call<F, R>(&self, target: CoreId, f: F) -> Call<F, R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        let pending = PendingCall::new(self.core(), target, f);
        let home = pending.is_unsent().then(|| self.home().clone());
        Call { pending, home }
    }
}

impl<F, R> Call<F, R> {
    /// Whether the request is sent. One that found no space is sent by a poll.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        !self.pending.is_unsent()
    }
}

impl<F, R> Future for Call<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    type Output = Result<R, CallError>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match &this.home {
            None => this.pending.poll_sent(cx),
            Some(home) => {
                let polled = with_current(&*home.port, |executor| this.pending.poll(executor.core(), cx));
                polled.expect("a call is polled on the core that made it")
            }
        }
    }
}

impl<F, R> Drop for Call<F, R> {
    fn drop(&mut self) {
        if let Some(home) = &self.home
            && let Some(mut wait) = self.pending.take_wait()
        {
            with_current(&*home.port, |executor| executor.core().end_wait(&mut wait));
        }
    }
}
