//! Calls, with a deadline or without.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as Polling, Poll, ready};

use ipiq_executor::time::{Sleep, sleep_until};
use ipiq_executor::{Call as PlainCall, CallError, Executor};
use ipiq_fabric::CoreId;

use super::Late;
use super::context::{self, Context};

/// The value of a closure that runs on another core, from [`call_on`](crate::call_on).
///
/// # Cancel safety
///
/// Dropping it does not stop the closure; its value is dropped. A call dropped before there was space for its request never
/// runs.
#[must_use = "a call that is not awaited may never be sent"]
pub struct Call<F, R> {
    kind: Kind<F, R>,
}

enum Kind<F, R> {
    Plain(PlainCall<F, R>),
    /// Under a deadline.
    Before(Pin<Box<dyn CallBefore<R>>>),
}

impl<F, R> fmt::Debug for Call<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Plain(call) => call.fmt(f),
            Kind::Before(_) => f.debug_struct("Call").finish_non_exhaustive(),
        }
    }
}

impl<F, R> Call<F, R> {
    #[inline(always)]
    pub(crate) fn plain(call: PlainCall<F, R>) -> Self {
        Self { kind: Kind::Plain(call) }
    }

    /// Whether the request is sent. One that found no space is sent by a poll; one whose deadline had passed never is.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        match &self.kind {
            Kind::Plain(call) => call.is_sent(),
            Kind::Before(call) => call.is_sent(),
        }
    }
}

impl<F, R> Future for Call<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    type Output = Result<R, CallError>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Self::Output> {
        match &mut self.kind {
            Kind::Plain(call) => Pin::new(call).poll(cx),
            Kind::Before(call) => call.as_mut().poll(cx),
        }
    }
}

/// A call under a deadline, whatever its closure is.
trait CallBefore<R>: Future<Output = Result<R, CallError>> {
    fn is_sent(&self) -> bool;
}

/// `G` looks at the deadline first.
struct Before<G, R> {
    /// `None`: the deadline had passed when the call was made, or passed before there was an answer.
    call: Option<PlainCall<G, Result<R, Late>>>,
    sleep: Sleep,
}

/// `f`, called on `core` in the current context.
#[cold]
pub(crate) fn call_before<F, R>(executor: &Executor, core: CoreId, f: F) -> Call<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    // What the closure spawns begins a chain of its own: nobody can wait for a slot before it returns.
    let context = Context { chain: None, ..context::current() };
    if !context.has_deadline() {
        // On this core the closure runs inside of the call, and here alone the chain would be its.
        return Call::plain(context::within(context, || executor.call(core, f)));
    }
    let deadline_ns = context.deadline_ns;
    let on_arrival = move || {
        // [calls D3]
        if context.is_late() { Err(Late) } else { Ok(context::within(context, f)) }
    };
    // [calls D2]
    let call = (executor.now_ns() < deadline_ns).then(|| executor.call(core, on_arrival));
    Call { kind: Kind::Before(Box::pin(Before { call, sleep: sleep_until(executor, deadline_ns) })) }
}

impl<G, R> CallBefore<R> for Before<G, R>
where
    G: FnOnce() -> Result<R, Late> + Send + 'static,
    R: Send + 'static,
{
    fn is_sent(&self) -> bool {
        self.call.as_ref().is_some_and(PlainCall::is_sent)
    }
}

impl<G, R> Future for Before<G, R>
where
    G: FnOnce() -> Result<R, Late> + Send + 'static,
    R: Send + 'static,
{
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Self::Output> {
        if let Some(call) = &mut self.call {
            match Pin::new(call).poll(cx) {
                Poll::Ready(Ok(Ok(value))) => return Poll::Ready(Ok(value)),
                Poll::Ready(Ok(Err(Late))) => return Poll::Ready(Err(CallError::deadline())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // [calls D4]
                Poll::Pending => ready!(Pin::new(&mut self.sleep).poll(cx)),
            }
        }
        // One that has not been sent never is.
        self.call = None;
        Poll::Ready(Err(CallError::deadline()))
    }
}
