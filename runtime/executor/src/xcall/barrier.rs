//! Calls of nothing, for what their end implies.

use core::fmt;
use core::future::Future;
use core::panic::Location;
use core::pin::Pin;
use core::sync::atomic::{Ordering, fence};
use core::task::{Context, Poll};

use futures_channel::oneshot;
use ipiq_fabric::Message;
use ipiq_fabric::call::CallError;

use super::{Class, Everywhere};
use crate::task::{Origin, spawn_there};
use crate::{Executor, Remote};

/// Passes one core; dropping it is the answer.
struct Passing {
    _answer: oneshot::Sender<()>,
}

impl Drop for Passing {
    fn drop(&mut self) {
        // [xcall R2] full: what this core wrote before must not be read later than what it reads after, and the answer alone, a
        // release, allows that. On a core that shuts down it runs in place of the task.
        fence(Ordering::SeqCst);
    }
}

/// Ready when every core has passed a point between polls.
///
/// # Cancel safety
///
/// Dropped, nothing is promised; the cores pass it all the same.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Barrier(Everywhere<oneshot::Receiver<()>>);

impl Barrier {
    fn new(remote: &Remote, class: Class) -> Self {
        // [xcall R1] full: a core that passes later sees all this thread wrote; what it reads after the barrier, it reads then.
        fence(Ordering::SeqCst);
        Self(Everywhere::new(remote.cores(), 0, |target| {
            let (answer, answered) = oneshot::channel();
            let passing = Passing { _answer: answer };
            match class {
                Class::High => {
                    // [xcall R1] beside the rings: a core that waits for space runs what is in them inside a function.
                    // A core that has left gives the message back, which answers.
                    drop(remote.fabric().post(target, Message::foreign(move |_, _| drop(passing))));
                }
                Class::Low => {
                    let origin = Origin { spawned_at: Location::caller(), class: 0 };
                    drop(spawn_there(remote.home(target), origin, move || async move { drop(passing) }));
                }
            }
            answered
        }))
    }
}

impl Future for Barrier {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A core that has left, and so answers without a value, will poll nothing: it has passed.
        let _passed = core::task::ready!(Pin::new(&mut self.0).poll(cx));
        // [xcall R3]
        fence(Ordering::SeqCst);
        Poll::Ready(())
    }
}

/// A [`Barrier`] of any thread.
///
/// # Errors
///
/// [`CallError`] if the runtime had been told to stop: nothing is promised then.
///
/// # Cancel safety
///
/// As [`Barrier`].
#[must_use = "futures do nothing unless polled"]
pub struct RemoteBarrier(Option<Barrier>);

impl fmt::Debug for RemoteBarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBarrier").finish_non_exhaustive()
    }
}

impl Future for RemoteBarrier {
    type Output = Result<(), CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(barrier) => Pin::new(barrier).poll(cx).map(Ok),
            None => Poll::Ready(Err(CallError::gone())),
        }
    }
}

impl Executor {
    /// Awaits that every core, this one too, has passed a point between polls.
    pub fn barrier(&self, class: Class) -> Barrier {
        Barrier::new(self.remote(), class)
    }
}

impl Remote {
    /// Awaits, on any thread, that every core has passed a point between polls.
    pub fn barrier(&self, class: Class) -> RemoteBarrier {
        RemoteBarrier((!self.refuses_caller()).then(|| Barrier::new(self, class)))
    }
}
