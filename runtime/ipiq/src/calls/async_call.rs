//! Calls of async closures.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context as Polling, Poll, ready};

use ipiq_executor::time::{Elapsed, Sleep, sleep_until};
use ipiq_executor::{CallError, Executor, JoinError, JoinHandle, Remote};
use ipiq_fabric::{CoreId, assert_core};

use super::Late;
use super::chain::{self, Service};
use super::context::{Context, Covered, NEVER, current};
use super::gate::{self, Entry, Key, Place, Slot};
use super::limit::Limit;
use crate::current::on_core;
use crate::deadline::Within;

thread_local! {
    /// Of calls that belong to no service.
    static LIMIT: Cell<Option<Limit>> = const { Cell::new(None) };
}

/// Sets the limit of the calling thread's core.
pub(crate) fn install_limit(limit: Limit) {
    LIMIT.set(Some(limit));
}

/// The value of an async closure that runs on another core, from [`call_async_on`](crate::call_async_on).
///
/// # Cancel safety
///
/// Dropping it cancels what runs there, which is dropped on its core in place of its next poll. One that was dropped before it was sent never runs.
#[must_use = "a call that is dropped is cancelled"]
pub struct AsyncCall<F, R> {
    state: State<F, R>,
    target: CoreId,
    deadline: Option<Sleep>,
}

enum State<F, R> {
    /// In line.
    Waiting(Box<Waiting<F>>),
    Sent(Task<Result<R, Late>>, #[expect(dead_code, reason = "held until the call is over")] Slot),
    Refused(CallError),
    Over,
}

struct Waiting<F> {
    f: F,
    spawned_at: &'static Location<'static>,
    context: Context,
    place: Place,
}

/// Aborted when it is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<F, R> fmt::Debug for AsyncCall<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncCall").field("target", &self.target).field("sent", &self.is_sent()).finish_non_exhaustive()
    }
}

// Nothing in it is pinned.
impl<F, R> Unpin for AsyncCall<F, R> {}

impl<F, R> AsyncCall<F, R> {
    /// Whether the call is on its way, or there. One that waits in line for the [limit](crate::Limit) is sent by a poll.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        matches!(self.state, State::Sent(..))
    }

    fn over(&mut self, outcome: Result<R, CallError>) -> Poll<Result<R, CallError>> {
        // [calls L2]
        self.state = State::Over;
        self.deadline = None;
        Poll::Ready(outcome)
    }
}

impl<F, R> AsyncCall<F, R>
where
    F: AsyncFnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    /// A call of `f` on `target`, to `service` if it is one, with that one's limit.
    pub(crate) fn new(
        executor: &Executor,
        spawned_at: &'static Location<'static>,
        target: CoreId,
        service: Option<(Service, Limit)>,
        f: F,
    ) -> Self {
        let mut context = current();
        let limit = service.map_or_else(|| LIMIT.get().unwrap_or_default(), |(_, limit)| limit);
        let service = service.map(|(service, _)| service);
        let deadline = context.has_deadline().then(|| sleep_until(executor, context.deadline_ns));
        let refused = |error| Self { state: State::Refused(error), target, deadline: None };
        if context.is_late() {
            // [calls D2]
            return refused(CallError::deadline());
        }
        let link = match chain::lengthen(service, target, executor.core().id()) {
            Ok(link) => link,
            Err(circle) => return refused(CallError::circular(circle)),
        };
        let key = Key { service: service.map(|service| service.key), target, depth: link.depth() };
        context.chain = Some(link);
        let state = match gate::gate(key).enter(limit) {
            Entry::Slot(slot) => send(executor.remote(), spawned_at, target, context, f, slot),
            Entry::Place(place) => State::Waiting(Box::new(Waiting { f, spawned_at, context, place })),
            Entry::Full => State::Refused(CallError::over_limit(limit.most())),
        };
        Self { state, target, deadline }
    }
}

fn send<F, R>(
    remote: &Remote,
    spawned_at: &'static Location<'static>,
    target: CoreId,
    context: Context,
    f: F,
    slot: Slot,
) -> State<F, R>
where
    F: AsyncFnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    State::Sent(Task(remote.spawn_on_at(spawned_at, target, move || answer(context, f))), slot)
}

/// On the target.
async fn answer<F: AsyncFnOnce() -> R, R>(context: Context, f: F) -> Result<R, Late> {
    let deadline_ns = context.deadline_ns;
    let covered = Covered::new(context, async move { f().await });
    if deadline_ns == NEVER {
        return Ok(covered.await);
    }
    // [calls D3]
    let within = on_core("call_async_on", |executor| Within::new(executor, deadline_ns, covered));
    within.await.map_err(|Elapsed| Late)
}

impl<F, R> Future for AsyncCall<F, R>
where
    F: AsyncFnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    type Output = Result<R, CallError>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let State::Waiting(waiting) = &this.state
            && let Poll::Ready(slot) = waiting.place.poll(cx)
            && let State::Waiting(waiting) = std::mem::replace(&mut this.state, State::Over)
        {
            let Waiting { f, spawned_at, context, .. } = *waiting;
            let target = this.target;
            this.state =
                on_core("call_async_on", |executor| send(executor.remote(), spawned_at, target, context, f, slot));
        }
        match &mut this.state {
            State::Waiting(_) => {}
            State::Sent(task, _) => {
                if let Poll::Ready(outcome) = Pin::new(&mut task.0).poll(cx) {
                    return this.over(flatten(outcome));
                }
            }
            State::Refused(_) => {
                let State::Refused(error) = std::mem::replace(&mut this.state, State::Over) else { unreachable!() };
                return Poll::Ready(Err(error));
            }
            State::Over => panic!("a call was polled after it was ready"),
        }
        let Some(deadline) = &mut this.deadline else { return Poll::Pending };
        // [calls D4]
        ready!(Pin::new(deadline).poll(cx));
        this.over(Err(CallError::deadline()))
    }
}

fn flatten<R>(outcome: Result<Result<R, Late>, JoinError>) -> Result<R, CallError> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Late)) => Err(CallError::deadline()),
        Err(error) => Err(ended(error)),
    }
}

fn ended(error: JoinError) -> CallError {
    error.try_into_panic().map_or_else(|_cancelled| CallError::gone(), CallError::panicked)
}

/// The value of an async closure that runs on a core, from [`Handle::call_async_on`](crate::Handle::call_async_on), awaited from any thread.
///
/// # Cancel safety
///
/// Dropping it cancels what runs there, which is dropped on its core in place of its next poll.
#[must_use = "a call that is dropped is cancelled"]
pub struct RemoteAsyncCall<R> {
    task: Task<R>,
}

impl<R> fmt::Debug for RemoteAsyncCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteAsyncCall").field("finished", &self.task.0.is_finished()).finish_non_exhaustive()
    }
}

/// From any thread; no limit holds there, and no context goes along.
#[track_caller]
pub(crate) fn remote_async_call<F, R>(remote: &Remote, core: CoreId, f: F) -> RemoteAsyncCall<R>
where
    F: AsyncFnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    assert_core(core, remote.cores());
    RemoteAsyncCall { task: Task(remote.spawn_on(core, move || async move { f().await })) }
}

impl<R> Future for RemoteAsyncCall<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task.0).poll(cx).map_err(ended)
    }
}
