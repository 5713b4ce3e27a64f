//! A bounded queue between tasks of one core.
//!
//! ```
//! use ipiq::sync::mpsc;
//!
//! #[ipiq::main(cores = 1)]
//! async fn main() {
//!     let (sender, mut receiver) = mpsc::channel(2);
//!     ipiq::spawn_local(async move {
//!         for n in 0..5 {
//!             sender.send(n).await.unwrap();
//!         }
//!     });
//!     let mut sum = 0;
//!     while let Some(n) = receiver.recv().await {
//!         sum += n;
//!     }
//!     assert_eq!(sum, 10);
//! }
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::error::{Closed, SendError, TryRecvError};
use super::semaphore::Semaphore;
use super::waiters::WakerSlot;

struct Shared<T> {
    queue: RefCell<VecDeque<T>>,
    space: Semaphore,
    capacity: usize,
    senders: Cell<usize>,
    /// The receiver was dropped.
    gone: Cell<bool>,
    receiver: WakerSlot,
}

impl<T> Shared<T> {
    /// The next value; `Some(None)`: there will be none.
    fn look(&self) -> Option<Option<T>> {
        let value = self.queue.borrow_mut().pop_front();
        if let Some(value) = value {
            self.space.add_permits(1);
            return Some(Some(value));
        }
        // Who has a permit when the channel is closed may still send.
        let closed = self.space.is_closed() && self.space.available_permits() == self.capacity;
        (closed || self.senders.get() == 0).then_some(None)
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<T>> {
        if let Some(outcome) = self.look() {
            return Poll::Ready(outcome);
        }
        // [sync W2] keeping the waker may run what sends.
        self.receiver.keep(cx.waker());
        self.look().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The two ends of a queue of up to `capacity` values.
///
/// # Panics
///
/// If `capacity` is nothing.
#[must_use]
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel has space for one value at least");
    let shared = Rc::new(Shared {
        queue: RefCell::default(),
        space: Semaphore::new(capacity),
        capacity,
        senders: Cell::new(1),
        gone: Cell::new(false),
        receiver: WakerSlot::default(),
    });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// The end that sends. Clones are the same end; when the last one is dropped the receiver sees the end of what was sent.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.set(self.shared.senders.get() + 1);
        Self { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let left = self.shared.senders.get() - 1;
        self.shared.senders.set(left);
        if left == 0 {
            self.shared.receiver.wake();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl<T> Sender<T> {
    /// Sends `value`, when there is space and nobody came before.
    ///
    /// # Errors
    ///
    /// The value, if the receiver is gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future drops the value with it: to keep that, [`reserve`](Self::reserve) first.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        match self.reserve().await {
            Ok(permit) => {
                permit.send(value);
                Ok(())
            }
            Err(Closed) => Err(SendError::closed(value)),
        }
    }

    /// Waits for space for one value, and keeps it.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the receiver is gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future gives its place to the next; a task that waits again waits behind all others.
    pub async fn reserve(&self) -> Result<Permit<'_, T>, Closed> {
        // [sync W3] space that came too late for this one may be the last that the receiver waits for.
        let _tell = TellIfClosed(&self.shared);
        self.shared.space.acquire().await?.forget();
        Ok(Permit { shared: &self.shared, sent: false })
    }

    /// Sends `value` now.
    ///
    /// # Errors
    ///
    /// The value, if there is no space, others wait, or the receiver is gone or closed.
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        match self.shared.space.try_acquire() {
            Some(space) => {
                space.forget();
                Permit { shared: &self.shared, sent: false }.send(value);
                Ok(())
            }
            None if self.is_closed() => Err(SendError::closed(value)),
            None => Err(SendError::full(value)),
        }
    }

    /// Whether the receiver is gone or closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.space.is_closed()
    }
}

/// When it is dropped, has the receiver of a closed channel look whether it has ended.
struct TellIfClosed<'a, T>(&'a Shared<T>);

impl<T> Drop for TellIfClosed<'_, T> {
    fn drop(&mut self) {
        if self.0.space.is_closed() {
            self.0.receiver.wake();
        }
    }
}

/// Space for one value, from [`Sender::reserve`]; given back when it is dropped.
#[must_use = "dropped, it gives the space back"]
pub struct Permit<'a, T> {
    shared: &'a Shared<T>,
    sent: bool,
}

impl<T> fmt::Debug for Permit<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

impl<T> Permit<'_, T> {
    /// Sends `value`. If the receiver is gone it is dropped.
    pub fn send(mut self, value: T) {
        self.sent = true;
        if self.shared.gone.get() {
            return drop(value);
        }
        self.shared.queue.borrow_mut().push_back(value);
        self.shared.receiver.wake();
    }
}

impl<T> Drop for Permit<'_, T> {
    fn drop(&mut self) {
        if !self.sent {
            self.shared.space.add_permits(1);
            drop(TellIfClosed(self.shared));
        }
    }
}

/// The end that receives. It is a [`Stream`](https://docs.rs/futures/latest/futures/stream/trait.Stream.html), too.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Receiver<T> {
    /// The next value, in the order in which they were sent; `None` when all senders are gone, or the channel is closed, and all has been received.
    ///
    /// # Cancel safety
    ///
    /// No value is lost when it is dropped.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.shared.poll(cx)).await
    }

    /// The next value, if it is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`], which tells whether one may still come.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.shared.look() {
            Some(Some(value)) => Ok(value),
            outcome => Err(TryRecvError { ended: outcome.is_some() }),
        }
    }

    /// Lets no more be sent, but by those who have reserved space; what was sent can still be received.
    pub fn close(&mut self) {
        self.shared.space.close();
    }

    /// How many values are in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.queue.borrow().len()
    }

    /// Whether no value is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Stream for Receiver<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.shared.poll(cx)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.gone.set(true);
        self.shared.space.close();
        let queue = self.shared.queue.take();
        // Outside of the borrow: a value may hold a sender.
        drop(queue);
    }
}
