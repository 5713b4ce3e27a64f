//! A bounded queue from all cores to one.
//!
//! It holds `capacity` values of each core that sends. The receiver stays on the core where the queue was made; senders are used on any core of the runtime. On a thread that
//! runs no core they may be held, cloned and dropped; to send from there, have a core do it: [`Handle::spawn_on`](crate::Handle::spawn_on).
//!
//! ```
//! use ipiq::sync::cross::mpsc;
//!
//! #[ipiq::main(cores = 3)]
//! async fn main() {
//!     let (sender, mut receiver) = mpsc::channel(16);
//!     for core in ipiq::cores() {
//!         let sender = sender.clone();
//!         ipiq::spawn_on(core, move || async move {
//!             for _ in 0..100 {
//!                 sender.send(core.index()).await.unwrap();
//!             }
//!         });
//!     }
//!     drop(sender);
//!     let mut sum = 0;
//!     while let Some(n) = receiver.recv().await {
//!         sum += n;
//!     }
//!     assert_eq!(sum, 100 * (0 + 1 + 2));
//! }
//! ```

mod inbox;
mod port;
mod shared;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use ipiq_fabric::CoreId;

use super::super::error::{Closed, SendError, TryRecvError};
use super::address::Address;
use crate::home::{self, BoxName, Number};
use inbox::{Inbox, Seat};
use port::Port;
use shared::{Ports, Shared};

/// The two ends of a queue whose receiver stays on the calling core, with space for `capacity` values of each core that sends.
///
/// # Panics
///
/// On a thread that runs no core, and if `capacity` is nothing.
#[must_use]
#[track_caller]
pub fn channel<T: Send + 'static>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel has space for one value at least");
    let home = Address::here("mpsc::channel");
    let (number, ports) = (Arc::new(Number::draw()), Arc::new(Ports::default()));
    let inbox = Rc::new(Inbox::new(home.clone(), number.key(), ports.clone(), capacity));
    let name = home::put_boxed(Rc::new(Seat(inbox.clone())));
    let sender = Sender { shared: Arc::new(Shared::new(home, name, number, ports, capacity)) };
    (sender, Receiver { inbox, name })
}

/// The end that sends. Clones are the same end, on any core; when the last one is dropped the receiver sees the end of what was sent.
pub struct Sender<T: Send + 'static> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T: Send> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("receiver", &self.receiver()).finish_non_exhaustive()
    }
}

impl<T: Send> Sender<T> {
    /// The core that receives.
    #[must_use]
    pub fn receiver(&self) -> CoreId {
        self.shared.home()
    }

    /// Sends `value`, when this core has space for it there and nobody here came before. Values of one core arrive in the order in which they were sent.
    ///
    /// It is on its way when the future is ready; if the receiver goes meanwhile it is dropped on the receiver's core, or here if that has left.
    ///
    /// # Errors
    ///
    /// The value, if the receiver is known to be gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future drops the value with it: to keep that, [`reserve`](Self::reserve) first.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the queue's runtime.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        match self.reserve().await {
            Ok(permit) => permit.send(value),
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
    /// Dropped, the future gives its place to the next; a task that waits again waits behind all others of its core.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the queue's runtime.
    pub async fn reserve(&self) -> Result<Permit<'_, T>, Closed> {
        let port = self.shared.port("Sender::reserve").ok_or(Closed)?;
        {
            let mut turn = port.credits.acquire();
            let polled = |cx: &mut Context<'_>| {
                let polled = Pin::new(&mut turn).poll(cx);
                if polled.is_pending() {
                    // [cross M4]
                    port.ask();
                }
                polled
            };
            poll_fn(polled).await?.forget();
        }
        Ok(Permit { port: Some(port), _sender: self })
    }

    /// Sends `value` now.
    ///
    /// # Errors
    ///
    /// The value, if this core has no space for it there, others here wait, or the receiver is known to be gone or closed.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the queue's runtime.
    #[track_caller]
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        let Some(port) = self.shared.port("Sender::try_send") else { return Err(SendError::closed(value)) };
        match port.credits.try_acquire() {
            Some(credit) => credit.forget(),
            None if port.is_over() => return Err(SendError::closed(value)),
            None => {
                // Who tries again finds space, also if the receiver would have waited for more to give back.
                port.ask();
                return Err(SendError::full(value));
            }
        }
        Permit { port: Some(port), _sender: self }.send(value)
    }

    /// Whether the receiver is gone or closed, as far as is known.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.ports.is_closed()
    }

    /// Waits until the receiver is gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the queue's runtime.
    pub async fn closed(&self) {
        let Some(port) = self.shared.port("Sender::closed") else { return };
        loop {
            let ended = port.ended.notified();
            if port.is_over() {
                return;
            }
            ended.await;
        }
    }
}

/// Space for one value, from [`Sender::reserve`]; given back when it is dropped.
#[must_use = "dropped, it gives the space back"]
pub struct Permit<'a, T: Send + 'static> {
    port: Option<Rc<Port<T>>>,
    // There is no end while it may send.
    _sender: &'a Sender<T>,
}

impl<T: Send> fmt::Debug for Permit<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

impl<T: Send> Permit<'_, T> {
    /// Sends `value`. Never waits.
    ///
    /// # Errors
    ///
    /// The value, if the receiver has gone or closed meanwhile.
    pub fn send(mut self, value: T) -> Result<(), SendError<T>> {
        match self.port.take() {
            Some(port) => port.send(value).map_err(SendError::closed),
            None => unreachable!("a permit is used once"),
        }
    }
}

impl<T: Send> Drop for Permit<'_, T> {
    fn drop(&mut self) {
        if let Some(port) = self.port.take() {
            port.credits.add_permits(1);
        }
    }
}

/// The end that receives, on the core where the queue was made. It is a [`Stream`](https://docs.rs/futures/latest/futures/stream/trait.Stream.html), too.
pub struct Receiver<T: Send + 'static> {
    inbox: Rc<Inbox<T>>,
    name: BoxName,
}

impl<T: Send> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T: Send> Receiver<T> {
    /// The next value to have arrived; `None` when all senders are gone, or the queue is closed, and all that was sent has been received.
    ///
    /// # Cancel safety
    ///
    /// No value is lost when it is dropped.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub(crate) fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        self.inbox.poll(cx).map(|received| received.map(|(_, value)| value))
    }

    /// The next value, if it is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`], which tells whether one may still come.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.inbox.look() {
            Some(Some((_, value))) => Ok(value),
            outcome => Err(TryRecvError { ended: outcome.is_some() }),
        }
    }

    /// Lets no more be sent, on each core a moment later; what was sent before can still be received.
    pub fn close(&mut self) {
        self.inbox.close();
    }

    /// How many values have arrived and were not received.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inbox.len()
    }

    /// Whether no value has arrived that was not received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Send> Stream for Receiver<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.poll_recv(cx)
    }
}

impl<T: Send> Drop for Receiver<T> {
    fn drop(&mut self) {
        // [cross M7] what arrives later finds nobody.
        drop(home::take_boxed::<Seat<T>>(self.name));
    }
}
