//! A shootdown as a future, on the core that asks for it.

use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use super::initiator::{Done, Outcome};
use super::{EarlyAck, Operation, ShootdownError};
use crate::urgent::InterruptSafe;
use crate::{Core, CoreId, CoreSet};

/// What a request and its future share.
#[derive(Default)]
pub(super) struct State {
    outcome: Cell<Option<Outcome>>,
    waker: Cell<Option<Waker>>,
}

impl State {
    pub(super) fn end(&self, outcome: Outcome) {
        self.outcome.set(Some(outcome));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Ready when every core of the set has acknowledged a shootdown. The last acknowledgement wakes the task.
///
/// It stays on the core that asked, which alone writes the outcome: so neither that nor the waker needs an atomic, and the type is not [`Send`]. A task that
/// awaits it stays there too, as all tasks do.
///
/// ```compile_fail,E0277
/// fn to_another_thread(pending: ipiq_fabric::shootdown::PendingShootdown) {
///     std::thread::spawn(move || drop(pending));
/// }
/// ```
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
        Self::with(|done| core.start(targets, op, done))
    }

    /// As [`new`](Self::new), for an operation that targets may acknowledge before they execute it.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn early<O: EarlyAck>(core: &Core, targets: &CoreSet, op: O) -> Self {
        Self::with(|done| core.start_early(targets, op, done))
    }

    /// As [`new`](Self::new), for an operation that may interrupt what it likes: see [`Core::start_shootdown_prompt`].
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn prompt<F: Fn(CoreId) + Send + Sync + 'static>(core: &Core, targets: &CoreSet, f: InterruptSafe<F>) -> Self {
        Self::with(|done| core.start_prompt(targets, f, done))
    }

    fn with(start: impl FnOnce(Done)) -> Self {
        let state = Rc::new(State::default());
        start(Done::Pending(state.clone()));
        Self { state }
    }
}

impl Future for PendingShootdown {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = self.state.outcome.take() {
            return Poll::Ready(outcome);
        }
        if Rc::strong_count(&self.state) == 1 {
            // It is over, and its outcome was taken.
            return Poll::Ready(Err(ShootdownError::gone()));
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
