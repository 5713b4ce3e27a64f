//! One value from a task to another of the same core.
//!
//! ```
//! use ipiq::sync::oneshot;
//!
//! #[ipiq::main(cores = 1)]
//! async fn main() {
//!     let (sender, receiver) = oneshot::channel();
//!     ipiq::spawn_local(async move { sender.send(7).unwrap() });
//!     assert_eq!(receiver.await, Ok(7));
//! }
//! ```

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::error::{Closed, SendError, TryRecvError};
use super::waiters::WakerSlot;

struct Shared<T> {
    value: Cell<Option<T>>,
    /// One of the ends is gone, or the receiver was closed.
    closed: Cell<bool>,
    receiver: WakerSlot,
    sender: WakerSlot,
}

impl<T> Shared<T> {
    fn close(&self) {
        self.closed.set(true);
        self.receiver.wake();
        self.sender.wake();
    }

    fn look(&self) -> Option<Result<T, Closed>> {
        match self.value.take() {
            Some(value) => Some(Ok(value)),
            None => self.closed.get().then_some(Err(Closed)),
        }
    }
}

/// The two ends of a channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (receiver, sender) = Default::default();
    let shared = Rc::new(Shared { value: Cell::new(None), closed: Cell::new(false), receiver, sender });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// The end that sends. Dropped without having sent, it closes the channel.
#[must_use = "dropped, it closes the channel"]
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl<T> Sender<T> {
    /// Sends the value. Never waits.
    ///
    /// # Errors
    ///
    /// The value, if the receiver is gone or closed.
    pub fn send(self, value: T) -> Result<(), SendError<T>> {
        if self.is_closed() {
            return Err(SendError::closed(value));
        }
        self.shared.value.set(Some(value));
        Ok(())
    }

    /// Whether the receiver is gone or closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Waits until the receiver is gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn closed(&mut self) {
        poll_fn(|cx| {
            if !self.is_closed() {
                self.shared.sender.keep(cx.waker());
            }
            if self.is_closed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// The end that receives: awaits the value. Awaiting `&mut receiver` is cancel safe.
///
/// # Errors
///
/// The future resolves to [`Closed`] if the sender was dropped without having sent, or the receiver was closed before.
#[must_use = "futures do nothing unless polled"]
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("closed", &self.shared.closed.get()).finish_non_exhaustive()
    }
}

impl<T> Receiver<T> {
    /// The value, if it is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`], which tells whether it may still come.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.shared.look() {
            Some(Ok(value)) => Ok(value),
            Some(Err(Closed)) => Err(TryRecvError { ended: true }),
            None => Err(TryRecvError { ended: false }),
        }
    }

    /// Lets no value be sent any more; one that was sent can still be received.
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.shared.look() {
            return Poll::Ready(outcome);
        }
        // [sync W2] keeping the waker may run what sends.
        self.shared.receiver.keep(cx.waker());
        self.shared.look().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.close();
        // The sender may live on, and would keep it.
        drop(self.shared.value.take());
    }
}
