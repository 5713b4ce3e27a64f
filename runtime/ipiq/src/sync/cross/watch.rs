//! The latest of a row of values that one core sends, for tasks of all cores.
//!
//! ```
//! use ipiq::CoreId;
//! use ipiq::sync::cross::watch;
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() {
//!     let (limit, mut seen) = watch::channel(1);
//!     let watching = ipiq::spawn_on(CoreId::new(1), move || async move {
//!         let mut last = seen.get().await.unwrap();
//!         while let Ok(value) = seen.changed().await {
//!             last = value;
//!         }
//!         last
//!     });
//!     limit.send(2);
//!     limit.send(3); // Who asks now is told of this one only.
//!     drop(limit);
//!     assert_eq!(watching.await.unwrap(), 3);
//! }
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use super::super::error::Closed;
use super::super::watch as local;
use super::address::Address;
use crate::home::{self, BoxName};

/// Where the values are. When nobody wants them any more they go.
struct Place<T: 'static> {
    home: Address,
    name: BoxName,
    value: PhantomData<fn() -> T>,
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        let name = self.name;
        // [cross W3]
        self.home.post(move |_| drop(home::take_boxed::<local::Receiver<T>>(name)));
    }
}

/// The two ends of a watched value, which begins as `value` and stays on the calling core.
///
/// # Panics
///
/// On a thread that runs no core.
#[must_use]
#[track_caller]
pub fn channel<T: Clone + Send + 'static>(value: T) -> (Sender<T>, Receiver<T>) {
    let home = Address::here("watch::channel");
    let (sender, receiver) = local::channel(value);
    // [cross W1]
    let name = home::put_boxed(Rc::new(receiver));
    let place = Arc::new(Place { home, name, value: PhantomData });
    (Sender { sender, place: place.clone() }, Receiver { place, seen: 0 })
}

/// The end that sends, on the core where the channel was made.
pub struct Sender<T: 'static> {
    sender: local::Sender<T>,
    place: Arc<Place<T>>,
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("value", &self.get()).finish_non_exhaustive()
    }
}

impl<T: Clone + Send> Sender<T> {
    /// One more that receives; it has seen the value that there is.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { place: self.place.clone(), seen: self.sender.version() }
    }
}

impl<T> Sender<T> {
    /// Replaces the value, also if nobody watches. Never waits.
    pub fn send(&self, value: T) {
        self.sender.send(value);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> Rc<T> {
        self.sender.get()
    }
}

/// An end that receives, on any core and any thread. A clone has seen what this one has.
pub struct Receiver<T: 'static> {
    place: Arc<Place<T>>,
    seen: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { place: self.place.clone(), seen: self.seen }
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("home", &self.place.home.core()).finish_non_exhaustive()
    }
}

impl<T: Clone + Send + 'static> Receiver<T> {
    /// Asks for the value, seen or not: a clone of it, made at its home.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the value's core has left.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    ///
    /// # Panics
    ///
    /// With the panic of the clone.
    pub async fn get(&self) -> Result<T, Closed> {
        let name = self.place.name;
        let ask = move || async move {
            let receiver = home::get_boxed::<local::Receiver<T>>(name).ok_or(Closed)?;
            Ok(receiver.get().as_ref().clone())
        };
        self.place.home.run(ask).await
    }

    /// Waits for a value that this receiver has not seen, and returns a clone of the latest, made at its home.
    ///
    /// # Errors
    ///
    /// [`Closed`] when the sender is gone and its last value was seen, or the value's core has left.
    ///
    /// # Cancel safety
    ///
    /// A value is seen only by a poll that returns it.
    ///
    /// # Panics
    ///
    /// With the panic of the clone.
    pub async fn changed(&mut self) -> Result<T, Closed> {
        let (name, seen) = (self.place.name, self.seen);
        // [cross W2]
        let ask = move || async move {
            let receiver = home::get_boxed::<local::Receiver<T>>(name).ok_or(Closed)?;
            let mut receiver = receiver.at(seen);
            let value = receiver.changed().await?;
            Ok((receiver.seen(), value.as_ref().clone()))
        };
        let (seen, value) = self.place.home.run(ask).await?;
        self.seen = seen;
        Ok(value)
    }
}
