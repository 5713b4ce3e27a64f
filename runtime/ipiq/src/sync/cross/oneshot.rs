//! One value from any thread to the core that waits for it.
//!
//! ```
//! use ipiq::CoreId;
//! use ipiq::sync::cross::oneshot;
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() {
//!     let (sender, receiver) = oneshot::channel();
//!     ipiq::spawn_on(CoreId::new(1), move || async move { sender.send(ipiq::core_id().index()).unwrap() });
//!     assert_eq!(receiver.await, Ok(1));
//! }
//! ```

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::super::error::{Closed, SendError, TryRecvError};
use super::super::waiters::WakerSlot;
use super::address::Address;
use crate::home::{self, BoxName};

/// Of the receiver, on its core.
struct Slot<T> {
    value: Cell<Option<T>>,
    closed: Cell<bool>,
    receiver: WakerSlot,
}

impl<T> Slot<T> {
    fn close(&self) {
        self.closed.set(true);
        self.receiver.wake();
    }

    fn look(&self) -> Option<Result<T, Closed>> {
        match self.value.take() {
            Some(value) => Some(Ok(value)),
            None => self.closed.get().then_some(Err(Closed)),
        }
    }
}

/// The two ends of a channel for one value, whose receiver stays on the calling core.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn channel<T: Send + 'static>() -> (Sender<T>, Receiver<T>) {
    let home = Address::here("oneshot::channel");
    let slot = Rc::new(Slot { value: Cell::new(None), closed: Cell::new(false), receiver: WakerSlot::default() });
    // [cross O1]
    let name = home::put_boxed(slot.clone());
    (Sender { home, name, open: true, value: PhantomData }, Receiver { slot, name })
}

/// The end that sends, on any core and any thread. Dropped without having sent, it closes the channel.
#[must_use = "dropped, it closes the channel"]
pub struct Sender<T: Send + 'static> {
    home: Address,
    name: BoxName,
    open: bool,
    value: PhantomData<fn(T)>,
}

impl<T: Send> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("home", &self.home.core()).finish_non_exhaustive()
    }
}

impl<T: Send> Sender<T> {
    /// Sends the value. Never waits.
    ///
    /// If the receiver is gone when it arrives it is dropped there, on the receiver's core.
    ///
    /// # Errors
    ///
    /// The value, if the receiver's core has left. One that it leaves behind when it leaves meanwhile is dropped here.
    pub fn send(mut self, value: T) -> Result<(), SendError<T>> {
        self.open = false;
        if self.home.has_left() {
            return Err(SendError::closed(value));
        }
        let name = self.name;
        // [cross O2]
        self.home.post(move |_| {
            // Dropped here where there is nobody any more.
            if let Some(slot) = home::get_boxed::<Slot<T>>(name) {
                drop(slot.value.replace(Some(value)));
                slot.close();
            }
        });
        Ok(())
    }
}

impl<T: Send> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.open {
            let name = self.name;
            // [cross O2]
            self.home.post(move |_| home::get_boxed::<Slot<T>>(name).iter().for_each(|slot| slot.close()));
        }
    }
}

/// The end that receives, on the core where the channel was made: awaits the value. Awaiting `&mut receiver` is cancel safe.
///
/// # Errors
///
/// The future resolves to [`Closed`] if the sender was dropped without having sent.
#[must_use = "futures do nothing unless polled"]
pub struct Receiver<T: Send + 'static> {
    slot: Rc<Slot<T>>,
    name: BoxName,
}

impl<T: Send> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("closed", &self.slot.closed.get()).finish_non_exhaustive()
    }
}

impl<T: Send> Receiver<T> {
    /// The value, if it is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError`], which tells whether it may still come.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.slot.look() {
            Some(Ok(value)) => Ok(value),
            outcome => Err(TryRecvError { ended: outcome.is_some() }),
        }
    }
}

impl<T: Send> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.slot.look() {
            return Poll::Ready(outcome);
        }
        self.slot.receiver.keep(cx.waker());
        self.slot.look().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T: Send> Drop for Receiver<T> {
    fn drop(&mut self) {
        // [cross O3] what arrives later finds nobody.
        drop(home::take_boxed::<Slot<T>>(self.name));
    }
}
