//! A wait for everything that a core has sent, as a future.

use alloc::sync::Arc;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use ipiq_fabric::synchronize::PendingSynchronize;

use crate::Executor;
use crate::executor::with_current;
use crate::task::Home;

/// Ready when everything that its core had sent when it was made has been executed on every other core that has not left.
///
/// # Cancel safety
///
/// Dropping it ends the wait; what was sent is executed all the same.
#[must_use = "futures do nothing unless polled"]
pub struct Synchronize {
    pending: PendingSynchronize,
    /// The core that made it.
    home: Arc<Home>,
}

impl core::fmt::Debug for Synchronize {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.pending.fmt(f)
    }
}

impl Executor {
    /// Waits for everything that this core has sent until now to have been executed: closures of calls have run, spawned tasks have
    /// arrived in their core's queue.
    pub fn synchronize(&self) -> Synchronize {
        Synchronize { pending: PendingSynchronize::new(self.core()), home: self.home().clone() }
    }
}

impl Synchronize {
    /// Runs `f` with the wait and the core that made it.
    fn at_home<R>(&mut self, f: impl FnOnce(&mut PendingSynchronize, &Executor) -> R) -> Option<R> {
        let Self { pending, home } = self;
        with_current(&*home.port, |executor| executor.is_peer(home).then(|| f(pending, executor))).flatten()
    }
}

impl Future for Synchronize {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.at_home(|pending, executor| pending.poll(executor.core(), cx));
        polled.expect("a wait is polled on the core that made it")
    }
}

impl Drop for Synchronize {
    fn drop(&mut self) {
        self.at_home(|pending, executor| pending.cancel(executor.core()));
    }
}
