//! A shootdown as a future, on the core that asks for it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use super::initiator::{Callback, Outcome};
use super::{EarlyAck, Operation};
use crate::{Core, CoreSet};

#[derive(Default)]
struct State {
    outcome: Cell<Option<Outcome>>,
    waker: Cell<Option<Waker>>,
}

/// Ready when every core of the set has acknowledged: see [`Core::shootdown`]. The last acknowledgement wakes the task.
///
/// # Cancel safety
///
/// Dropping it does not stop the operation, which is executed everywhere in its turn.
#[must_use = "the outcome says whether the operation was executed everywhere"]
pub struct PendingShootdown {
    state: Rc<State>,
}

impl fmt::Debug for PendingShootdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingShootdown").finish_non_exhaustive()
    }
}

impl PendingShootdown {
    /// Executes `op` on every core of `targets` that has not left; its turn comes when this core's earlier requests have ended.
    ///
    /// # Panics
    ///
    /// If the fabric lacks a core of the set.
    pub fn new<O: Operation + 'static>(core: &Core, targets: &CoreSet, op: O) -> Self {
        Self::with(|done| core.start_shootdown(targets, op, done))
    }

    /// As [`new`](Self::new), for an operation that targets may acknowledge before they execute it.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn early<O: EarlyAck>(core: &Core, targets: &CoreSet, op: O) -> Self {
        Self::with(|done| core.start_shootdown_early(targets, op, done))
    }

    fn with(start: impl FnOnce(Callback)) -> Self {
        let state = Rc::new(State::default());
        let told = state.clone();
        start(Box::new(move |_, outcome| {
            told.outcome.set(Some(outcome));
            if let Some(waker) = told.waker.take() {
                waker.wake();
            }
        }));
        Self { state }
    }
}

impl Future for PendingShootdown {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = self.state.outcome.take() {
            return Poll::Ready(outcome);
        }
        // A waker's clone may run foreign code, in which the last acknowledgement may arrive: hence the second look.
        let fresh = cx.waker().clone();
        match self.state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                drop(self.state.waker.replace(Some(fresh)));
                Poll::Pending
            }
        }
    }
}
