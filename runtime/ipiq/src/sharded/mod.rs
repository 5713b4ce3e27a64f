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
//! | Wanted | one shard | every shard | Under a [deadline](crate::deadline) | When its future is dropped |
//! |---|---|---|---|---|
//! | a value, by a short closure | [`call`](On::call) | [`map`](Sharded::map), [`map_reduce`](Sharded::map_reduce) | `call` does not begin late | goes on |
//! | the same, by an async closure | [`call_async`](On::call_async) | | ends | ends |
//! | a task with a life of its own | [`spawn`](On::spawn) | [`map_async`](Sharded::map_async), [`invoke_on_all`](Sharded::invoke_on_all) without a value | `spawn` ends | goes on |
//!
//! `call`, `call_async` and `spawn` are [`call_on`](crate::call_on), [`call_async_on`](crate::call_async_on) and [`spawn_on`](crate::spawn_on) with a shard. Of
//! all of them `call_async` alone is counted by a [limit](Sharded::set_call_limit).
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

pub use call::{On, ShardAsyncCall, ShardCall, ShardTask};
pub use error::{ShardError, StartError, StopError};
pub use route::{JumpHash, Ranges, Route};
pub use seat::Shard;
pub use service::Sharded;
