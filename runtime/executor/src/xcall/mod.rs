#![doc = include_str!("README.md")]

mod barrier;
mod call;
mod everywhere;
mod own;
mod ticket;

#[cfg(test)]
mod tests;

pub use barrier::{Barrier, RemoteBarrier};
pub use call::{HighPart, XCall};
pub use everywhere::Everywhere;
pub(crate) use own::OwnQueue;
pub(crate) use ticket::Table;
pub use ticket::{Class, Counters, RemoteWait, Ticket, Wait};

/// A high call to every core.
pub type HighBroadcast<F, R> = XCall<Everywhere<HighPart<F, R>>>;
/// A high call to one core.
pub type HighUnicast<F, R> = XCall<HighPart<F, R>>;
/// A low call to every core.
pub type LowBroadcast<R> = XCall<Everywhere<crate::JoinHandle<R>>>;
/// A low call to one core.
pub type LowUnicast<R> = XCall<crate::JoinHandle<R>>;
/// A high call to every core, from any thread.
pub type RemoteHighBroadcast<R> = Everywhere<crate::RemoteCall<R>>;
/// A low call to every core, from any thread.
pub type RemoteLowBroadcast<R> = Everywhere<crate::JoinHandle<R>>;
