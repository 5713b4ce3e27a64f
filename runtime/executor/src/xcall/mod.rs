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
pub(crate) use own::{OwnPart, OwnQueue};
pub(crate) use ticket::Table;
pub use ticket::{Class, Counters, RemoteWait, Ticket, Wait};

/// A high call to every core.
pub type HighBroadcast<F, R> = XCall<Everywhere<HighPart<F, R>>>;
/// A high call to one core.
pub type HighUnicast<F, R> = XCall<HighPart<F, R>>;
/// An urgent call to every core.
pub type UrgentBroadcast<R> = XCall<Everywhere<ipiq_fabric::urgent_call::UrgentCall<R>>>;
/// An urgent call to one core.
pub type UrgentUnicast<R> = XCall<ipiq_fabric::urgent_call::UrgentCall<R>>;
/// A low call to every core.
pub type LowBroadcast<R> = XCall<Everywhere<crate::JoinHandle<R>>>;
/// A low call to one core.
pub type LowUnicast<R> = XCall<crate::JoinHandle<R>>;
/// A high call to every core, from any thread.
pub type RemoteHighBroadcast<R> = Everywhere<crate::RemoteCall<R>>;
/// An urgent call to every core, from any thread.
pub type RemoteUrgentBroadcast<R> = Everywhere<ipiq_fabric::urgent_call::ForeignUrgentCall<R>>;
/// A low call to every core, from any thread.
pub type RemoteLowBroadcast<R> = Everywhere<crate::JoinHandle<R>>;
