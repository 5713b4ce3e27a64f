//! A thread-per-core async runtime whose cores talk to each other the way CPUs do inside a kernel.
//!
//! Each core is one thread, normally pinned to one CPU. A task lives on one core and never moves, so it needs no locks
//! and no `Send`. Work for another core travels there as a message of one cache line: [`spawn_on`] starts a task on a chosen
//! core, [`call_on`] runs a closure there and brings its value back.
//!
//! ```
//! use ipiq::{CoreId, Runtime};
//!
//! let runtime = Runtime::builder().cores(2).build()?;
//! let answer = runtime.block_on(|| async {
//!     // On core 0. Ask core 1 for something:
//!     let from_the_other = ipiq::call_on(CoreId::new(1), || ipiq::core_id().index() + 41).await.unwrap();
//!     // Run a task there:
//!     let task = ipiq::spawn_on(CoreId::new(1), move || async move {
//!         ipiq::yield_now().await;
//!         from_the_other * 2
//!     });
//!     task.await.unwrap()
//! });
//! assert_eq!(answer, 84);
//! # Ok::<(), ipiq::BuildError>(())
//! ```
#![forbid(unsafe_code)]

mod builder;
mod current;
mod driver;
mod handle;
mod idle;
pub mod net;
mod placement;
mod runtime;
mod thread;
pub mod time;

pub use builder::{BuildError, Builder, IdlePolicy};
pub use current::{call_on, core_count, core_id, handle, spawn_local, spawn_on};
pub use handle::Handle;
pub use ipiq_driver::DriverKind;
pub use ipiq_executor::{Call, CallError, JoinError, JoinHandle, RemoteCall, YieldNow, yield_now};
pub use ipiq_fabric::port::FenceKind;
pub use ipiq_fabric::{CoreCounters, CoreId, PairCounters};
pub use ipiq_linux::port::FenceChoice;
pub use ipiq_macros::{main, test};
pub use placement::Placement;
pub use runtime::{Runtime, RuntimeInfo};

/// The example of the project's README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
