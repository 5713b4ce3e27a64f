//! Tasks that are spawned in a context.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context as Polling, Poll};

use ipiq_executor::{Executor, JoinHandle, expire_by};
use ipiq_fabric::CoreId;
use pin_project_lite::pin_project;

use super::context::{Context, Covered, NEVER, current};
use crate::current::on_core;
use crate::deadline::Within;

/// As [`spawn_local`](crate::spawn_local), in the current context.
#[cold]
pub(crate) fn spawn_in_context<Fut>(
    executor: &Executor,
    spawned_at: &'static Location<'static>,
    future: Fut,
) -> JoinHandle<Fut::Output>
where
    Fut: Future + 'static,
{
    executor.spawn_at(spawned_at, in_task(current(), future))
}

/// As [`spawn_on`](crate::spawn_on), in the current context.
#[cold]
pub(crate) fn spawn_on_in_context<Init, Fut>(
    executor: &Executor,
    spawned_at: &'static Location<'static>,
    core: CoreId,
    init: Init,
) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let context = current();
    executor.spawn_on_at(spawned_at, core, move || in_task(context, async move { init().await }))
}

/// What a task runs that has a context: the whole of it. On the task's core.
fn in_task<F: Future>(context: Context, future: F) -> InTask<F> {
    let deadline_ns = context.deadline_ns;
    let covered = Covered::new(context, future);
    if deadline_ns == NEVER {
        return InTask::Free { covered };
    }
    // [calls D3]
    InTask::Bound { within: on_core("spawn_on", |executor| Within::new(executor, deadline_ns, covered)) }
}

pin_project! {
    #[project = InTaskParts]
    enum InTask<F> {
        Free { #[pin] covered: Covered<F> },
        Bound { #[pin] within: Within<Covered<F>> },
        // The task ends in place of its next poll.
        Ended,
    }
}

impl<F: Future> Future for InTask<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<F::Output> {
        match self.as_mut().project() {
            InTaskParts::Free { covered } => return covered.poll(cx),
            InTaskParts::Ended => return Poll::Pending,
            InTaskParts::Bound { within } => match within.poll(cx) {
                Poll::Ready(Ok(value)) => return Poll::Ready(value),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => {}
            },
        }
        // [calls D5]
        self.set(Self::Ended);
        expire_by(cx.waker());
        Poll::Pending
    }
}
