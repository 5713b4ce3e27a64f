#![doc = include_str!("README.md")]

mod async_call;
mod call;
mod chain;
pub(crate) mod context;
mod gate;
mod limit;
mod spawn;

pub use async_call::{AsyncCall, RemoteAsyncCall};
pub(crate) use async_call::{install_limit, remote_async_call};
pub use call::Call;
pub(crate) use call::call_before;
pub(crate) use chain::{Service, is_in_use, using};
pub use limit::Limit;
pub(crate) use limit::SharedLimit;
pub(crate) use spawn::{spawn_in_context, spawn_on_in_context};

/// The answer of a core that found the deadline passed.
#[derive(Debug)]
struct Late;
