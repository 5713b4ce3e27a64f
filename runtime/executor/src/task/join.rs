//! The handle that awaits a task.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use async_task::Task;
use ipiq_fabric::contain;

use super::{JoinError, Meta};

/// A task's outcome until somebody takes it. An outcome that nobody wants is dropped here, and a panic of its destructor
/// reaches nobody.
pub(super) struct Unclaimed<T>(pub(super) Option<Result<T, JoinError>>);

impl<T> Drop for Unclaimed<T> {
    fn drop(&mut self) {
        if let Some(outcome) = self.0.take() {
            contain(|| drop(outcome));
        }
    }
}

/// Awaits a task, from any core or thread.
///
/// Dropping it detaches the task, which goes on, also when a timeout or a `select!` drops it: [`abort`](Self::abort) ends the
/// task. The task's future has been dropped before the outcome is there.
///
/// # Cancel safety
///
/// Awaiting `&mut handle` is cancel safe: the outcome stays until it is taken.
#[must_use = "a dropped handle detaches its task; say so with `drop` or `let _`"]
pub struct JoinHandle<T> {
    /// `None` once the outcome was taken.
    pub(super) task: Option<Task<Unclaimed<T>, Meta>>,
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

impl<T> JoinHandle<T> {
    /// Asks the task to end: its future is dropped on its core, in place of its next poll. A task that is in the middle of a poll
    /// finishes it first; one that has finished keeps its outcome.
    ///
    /// Who is to abort a task that somebody else awaits asks for a handle of its own at the spawn: `AbortHandle` of the crate `ipiq`. One made afterwards would have every task that ends at once pay an
    /// atomic operation for it.
    pub fn abort(&self) {
        if let Some(task) = &self.task {
            task.metadata().abort();
        }
    }

    /// Whether the outcome is there, or was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(Task::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If polled again after the outcome was taken.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let task = self.task.as_mut().expect("a join handle is not polled after it was ready");
        let mut unclaimed = core::task::ready!(Pin::new(task).poll(cx));
        if let Some(task) = self.task.take() {
            task.detach();
        }
        Poll::Ready(unclaimed.0.take().expect("an outcome is claimed once"))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}
