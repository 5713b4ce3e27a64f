//! Channels and permits between cores, over the fabric: messages, no locks.
//!
//! What there is lives on one core, its *home*, where it was made; other cores send it messages. Ends that travel are `Send`; those that stay are not.
//!
//! | | stays at home | travels |
//! |---|---|---|
//! | [`oneshot`] | receiver | sender |
//! | [`mpsc`] | receiver | senders |
//! | [`watch`] | sender | receivers |
//! | [`Semaphore`] | the count | handles and permits |
//!
//! When a home leaves, or the runtime ends, every wait ends with it, and values that nobody has received are dropped there.
//!
//! How they work, step by step:
//!
#![doc = include_str!("README.md")]

mod address;
pub mod mpsc;
pub mod oneshot;
mod semaphore;
pub mod watch;

pub use semaphore::{Permit, Semaphore};
