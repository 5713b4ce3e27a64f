//! Semaphores, locks, notifications and channels: for the tasks of one core here, between cores in [`cross`].
//!
//! | Wanted | on one core | between cores |
//! |---|---|---|
//! | one value, once | [`oneshot`] | [`cross::oneshot`]; or await a [`spawn_on`](crate::spawn_on), [`call_on`](crate::call_on) |
//! | a queue, bounded | [`mpsc`] | [`cross::mpsc`]; [`mesh`](crate::mesh) for one per pair of cores |
//! | the latest value | [`watch`] | [`cross::watch`]; [`Replicated`](crate::Replicated) to read all the time |
//! | so many at a time | [`Semaphore`] | [`cross::Semaphore`] |
//! | one at a time, or readers | [`Mutex`], [`RwLock`] | keep the value on one core, and call it: [`sharded`](crate::sharded) |
//! | to be told | [`Notify`] | [`ipi::Doorbell`](crate::ipi::Doorbell) |
//! | to meet | [`Barrier`] | [`xcall::barrier`](crate::xcall::barrier) |
//!
//! Those for one core use no atomics, do not leave it, and need no runtime. All are first come, first served, and bounded.
//!
//! How they work, step by step:
//!
#![doc = include_str!("README.md")]

pub mod cross;
mod error;
mod lock;
pub mod mpsc;
mod notify;
pub mod oneshot;
mod semaphore;
mod waiters;
pub mod watch;

#[cfg(test)]
mod tests;

pub use error::{Closed, SendError, TryRecvError};
pub use lock::{Mutex, MutexGuard, ReadGuard, RwLock, WriteGuard};
pub use notify::{Barrier, BarrierWait, Notified, Notify};
pub use semaphore::{Acquire, OwnedPermit, Permit, Semaphore};
