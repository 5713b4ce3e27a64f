//! What a core keeps of a shard.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::error::Stopped;
use crate::home::{self, Key, Number};

/// A shard, and who uses it.
pub(super) struct Seat<T> {
    value: T,
    open: Cell<bool>,
    uses: Cell<usize>,
    /// Of the stop that waits until there are no uses.
    stop: Cell<Option<Waker>>,
}

impl<T> Seat<T> {
    /// No use begins from now on.
    pub(super) fn close(&self) {
        // [sharded E2]
        self.open.set(false);
    }

    /// Waits until there are no uses. One may wait at a time.
    pub(super) async fn unused(&self) {
        poll_fn(|cx| {
            if self.uses.get() == 0 {
                return Poll::Ready(());
            }
            // [sharded E2]
            self.stop.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Puts a value into the calling core's table.
pub(super) fn put<T: 'static>(service: &Arc<Number>, value: T) {
    let seat = Seat { value, open: Cell::new(true), uses: Cell::new(0), stop: Cell::new(None) };
    // [sharded S2]
    home::put(service, Rc::new(seat));
}

/// The calling core's seat of a service, open or not.
pub(super) fn find<T: 'static>(service: Key) -> Option<Rc<Seat<T>>> {
    // [sharded U1]
    home::get(service)
}

/// The calling core's seat of a service, while it is open.
pub(super) fn find_open<T: 'static>(service: Key) -> Option<Rc<Seat<T>>> {
    find(service).filter(|seat| seat.open.get())
}

/// Runs `f` with the calling core's shard.
pub(super) fn with<T: 'static, R>(service: Key, f: impl FnOnce(&T) -> R) -> Result<R, Stopped> {
    find_open::<T>(service).map(|seat| f(&seat.value)).ok_or_else(|| Stopped::here(service))
}

/// Takes a seat out of the table, and drops the value unless it is used.
pub(super) fn take(service: Key) {
    // [sharded E4]
    drop(home::take(service));
}

/// The calling core's shard of a [`Sharded`](super::Sharded) service, in use: it stays where it is, and the service's stop waits for it.
///
/// Clones use the same shard.
pub struct Shard<T> {
    seat: Rc<Seat<T>>,
}

impl<T> Shard<T> {
    /// A use of the seat, open or not.
    pub(super) fn new(seat: Rc<Seat<T>>) -> Self {
        // [sharded U2]
        seat.uses.set(seat.uses.get() + 1);
        Self { seat }
    }
}

impl<T> Deref for Shard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.seat.value
    }
}

impl<T> Clone for Shard<T> {
    fn clone(&self) -> Self {
        Self::new(self.seat.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Shard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Drop for Shard<T> {
    fn drop(&mut self) {
        let uses = self.seat.uses.get() - 1;
        self.seat.uses.set(uses);
        if uses == 0 {
            // [sharded U2]
            self.seat.stop.take().into_iter().for_each(Waker::wake);
        }
    }
}
