#![doc = include_str!("README.md")]

mod call;
mod error;
mod route;
mod seat;
mod service;
mod start;
mod stop;

pub use call::{On, ShardTask};
pub use error::{ShardError, StartError, StopError};
pub use route::{JumpHash, Ranges, Route};
pub use seat::Shard;
pub use service::Sharded;
