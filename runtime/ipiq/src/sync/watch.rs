//! The latest of a row of values, for tasks of one core.
//!
//! ```
//! use ipiq::sync::watch;
//!
//! #[ipiq::main(cores = 1)]
//! async fn main() {
//!     let (limit, mut seen) = watch::channel(1);
//!     let watching = ipiq::spawn_local(async move {
//!         let mut last = *seen.get();
//!         while let Ok(value) = seen.changed().await {
//!             last = *value;
//!         }
//!         last
//!     });
//!     limit.send(2);
//!     limit.send(3); // Who looks now sees this one only.
//!     drop(limit);
//!     assert_eq!(watching.await.unwrap(), 3);
//! }
//! ```

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::error::Closed;
use super::notify::Notify;

struct Shared<T> {
    value: RefCell<Rc<T>>,
    version: Cell<u64>,
    closed: Cell<bool>,
    changed: Notify,
    receivers: Cell<usize>,
    unwatched: Notify,
}

impl<T> Shared<T> {
    fn get(&self) -> Rc<T> {
        self.value.borrow().clone()
    }

    /// Waits for a version other than `seen`, and notes that it is.
    async fn changed(&self, seen: &mut u64) -> Result<Rc<T>, Closed> {
        loop {
            let changed = self.changed.notified();
            if self.version.get() != *seen {
                *seen = self.version.get();
                return Ok(self.get());
            }
            if self.closed.get() {
                return Err(Closed);
            }
            changed.await;
        }
    }
}

/// The two ends of a watched value, which begins as `value`.
#[must_use]
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(Rc::new(value)),
        version: Cell::new(0),
        closed: Cell::new(false),
        changed: Notify::new(),
        receivers: Cell::new(1),
        unwatched: Notify::new(),
    });
    (Sender { shared: shared.clone() }, Receiver { shared, seen: 0 })
}

/// The end that sends.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("value", &self.get()).finish_non_exhaustive()
    }
}

impl<T> Sender<T> {
    /// Replaces the value, also if nobody watches. Never waits.
    pub fn send(&self, value: T) {
        let old = self.shared.value.replace(Rc::new(value));
        self.shared.version.set(self.shared.version.get() + 1);
        self.shared.changed.notify_waiters();
        // Its destructor may be anybody's code.
        drop(old);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> Rc<T> {
        self.shared.get()
    }

    /// One more that receives; it has seen the value that there is.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver::new(&self.shared, self.version())
    }

    pub(super) fn version(&self) -> u64 {
        self.shared.version.get()
    }

    /// How many receive.
    #[must_use]
    pub fn receivers(&self) -> usize {
        self.shared.receivers.get()
    }

    /// Waits until nobody receives.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn closed(&self) {
        loop {
            let unwatched = self.shared.unwatched.notified();
            if self.receivers() == 0 {
                return;
            }
            unwatched.await;
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        self.shared.changed.notify_waiters();
    }
}

/// An end that receives. A clone has seen what this one has.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("value", &self.get()).finish_non_exhaustive()
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.seen)
    }
}

impl<T> Receiver<T> {
    fn new(shared: &Rc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.set(shared.receivers.get() + 1);
        Self { shared: shared.clone(), seen }
    }

    /// One more, that has seen version `seen`.
    pub(super) fn at(&self, seen: u64) -> Self {
        Self::new(&self.shared, seen)
    }

    /// The last version that it has seen.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The value, seen or not.
    #[must_use]
    pub fn get(&self) -> Rc<T> {
        self.shared.get()
    }

    /// Whether there is a value that [`changed`](Self::changed) has not returned.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.seen != self.shared.version.get()
    }

    /// Waits for a value that this receiver has not seen, and returns the latest.
    ///
    /// # Errors
    ///
    /// [`Closed`] when the sender is gone, and its last value was seen.
    ///
    /// # Cancel safety
    ///
    /// A value is seen only by a poll that returns it.
    pub async fn changed(&mut self) -> Result<Rc<T>, Closed> {
        self.shared.changed(&mut self.seen).await
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = self.shared.receivers.get() - 1;
        self.shared.receivers.set(left);
        if left == 0 {
            self.shared.unwatched.notify_waiters();
        }
    }
}
