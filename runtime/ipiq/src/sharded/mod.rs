//! One value per core, a *shard*, made, used and dropped on its own core: what a sharded server is built of.
//!
//! [`Sharded::start`] makes the shards, each in a task of its core. From then on a [`Sharded`], which any core may hold and clone, reaches them: its own core's
//! by [`local`](Sharded::local), another one's by [`on`](Sharded::on), all by [`map`](Sharded::map), [`map_reduce`](Sharded::map_reduce),
//! [`invoke_on_all`](Sharded::invoke_on_all). A shard is never sent and never shared, so it needs neither `Send` nor `Sync` nor a lock.
//!
//! ```
//! use std::cell::RefCell;
//! use std::collections::HashMap;
//!
//! use ipiq::sharded::{JumpHash, Route, ShardError, Sharded};
//!
//! type Words = RefCell<HashMap<String, u64>>;
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() -> Result<(), ShardError> {
//!     let counts = Sharded::start(|_| async { Words::default() }).await.unwrap();
//!     let route = JumpHash::new(ipiq::core_count());
//!     for word in ["so", "much", "so"] {
//!         let word = word.to_owned();
//!         counts.on(route.core_of(&word)).call(move |words| *words.borrow_mut().entry(word).or_default() += 1).await?;
//!     }
//!     let distinct = counts.map_reduce(|words| words.borrow().len(), 0, |sum, count| sum + count).await?;
//!     assert_eq!(distinct, 2);
//!     counts.stop().await.unwrap();
//!     Ok(())
//! }
//! ```
//!
//! How it works, step by step:
//!
#![doc = include_str!("README.md")]

mod call;
mod error;
mod route;
mod seat;
mod service;
mod start;
mod stop;

pub use call::{On, ShardCall, ShardTask};
pub use error::{ShardError, StartError, StopError};
pub use route::{JumpHash, Ranges, Route};
pub use seat::Shard;
pub use service::Sharded;
