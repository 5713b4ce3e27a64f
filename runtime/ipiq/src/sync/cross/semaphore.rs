//! Permits that tasks of all cores share.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::super::error::Closed;
use super::super::semaphore as local;
use super::address::Address;
use crate::home::{self, BoxName};

/// Permits that tasks of all cores take and give back, in the order in which they reach the core that keeps them.
///
/// Clones are the same semaphore, and may be used on any core and any thread. When all are gone, with all permits, so is what is kept.
///
/// ```
/// use ipiq::CoreId;
/// use ipiq::sync::cross::Semaphore;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let uploads = Semaphore::new(3);
///     let theirs = uploads.clone();
///     let permit = ipiq::spawn_on(CoreId::new(1), move || async move { theirs.acquire().await });
///     let permit = permit.await.unwrap().unwrap();
///     assert!(uploads.try_acquire_many(3).await.is_none());
///     drop(permit);
///     uploads.acquire_many(3).await.unwrap();
/// }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    place: Arc<Place>,
}

struct Place {
    home: Address,
    name: BoxName,
}

impl Place {
    /// Runs `f` at home, if the permits are still there.
    fn post(&self, f: impl FnOnce(&local::Semaphore) + Send + 'static) {
        let name = self.name;
        self.home.post(move |_| {
            if let Some(kept) = home::get_boxed(name) {
                f(&kept);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let name = self.name;
        // [cross S3]
        self.home.post(move |_| drop(home::take_boxed::<local::Semaphore>(name)));
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("home", &self.place.home.core()).finish_non_exhaustive()
    }
}

impl Semaphore {
    /// A semaphore with `permits` permits, kept on the calling core.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[must_use]
    #[track_caller]
    pub fn new(permits: usize) -> Self {
        let home = Address::here("Semaphore::new");
        // [cross S1]
        let name = home::put_boxed(Rc::new(local::Semaphore::new(permits)));
        Self { place: Arc::new(Place { home, name }) }
    }

    /// Takes a permit, when one is free and nobody came before.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the semaphore is closed, also meanwhile, or the core that keeps it has left.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future has taken nothing, and its place goes to the next, a moment later; a task that waits again waits behind all others.
    pub async fn acquire(&self) -> Result<Permit, Closed> {
        self.acquire_many(1).await
    }

    /// Takes `permits` permits at once, when so many are free and nobody came before. For more than there will ever be it waits for ever, and all others behind it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_many(&self, permits: usize) -> Result<Permit, Closed> {
        if let Some(permit) = self.take_here(permits) {
            return Ok(permit);
        }
        let place = self.place.clone();
        // [cross S2] who goes away ends the task, in which the turn is passed on.
        let wait = move || async move {
            let kept = home::get_boxed::<local::Semaphore>(place.name).ok_or(Closed)?;
            kept.acquire_many(permits).await?.forget();
            Ok(Permit { place, permits })
        };
        self.place.home.run(wait).await
    }

    /// Takes a permit, unless none is free, others wait, or the semaphore is closed, when the question arrives.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future has taken nothing.
    pub async fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_many(1).await
    }

    /// Takes `permits` permits, as [`try_acquire`](Self::try_acquire) does.
    ///
    /// # Cancel safety
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub async fn try_acquire_many(&self, permits: usize) -> Option<Permit> {
        let theirs = self.clone();
        let ask = move || async move { theirs.take_here(permits).ok_or(Closed) };
        self.place.home.run(ask).await.ok()
    }

    /// Adds permits, a moment later.
    pub fn add_permits(&self, permits: usize) {
        self.place.post(move |kept| kept.add_permits(permits));
    }

    /// Ends every wait, and lets none begin, a moment later.
    pub fn close(&self) {
        self.place.post(local::Semaphore::close);
    }

    /// Takes permits without waiting, if the caller is at home.
    fn take_here(&self, permits: usize) -> Option<Permit> {
        let kept = home::get_boxed::<local::Semaphore>(self.place.name)?;
        kept.try_acquire_many(permits)?.forget();
        Some(Permit { place: self.place.clone(), permits })
    }
}

/// Permits of a [`Semaphore`], which may travel; given back when this is dropped, wherever that is.
#[must_use = "it is given back at once"]
pub struct Permit {
    place: Arc<Place>,
    permits: usize,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("permits", &self.permits).finish_non_exhaustive()
    }
}

impl Permit {
    /// How many.
    #[must_use]
    pub fn permits(&self) -> usize {
        self.permits
    }

    /// Lets go of it without giving it back.
    pub fn forget(mut self) {
        self.permits = 0;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.permits > 0 {
            let permits = self.permits;
            // [cross S2]
            self.place.post(move |kept| kept.add_permits(permits));
        }
    }
}
