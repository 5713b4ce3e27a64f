//! What one core runs: tasks, timers, and the loop that serves messages, tasks, I/O and sleep in turn.
//!
//! An [`Executor`] lives on one thread and holds that core's endpoint of the fabric. It knows no thread and no file
//! descriptor: the machine comes in as a [`Port`](ipiq_fabric::port::Port), an [`Idle`](ipiq_fabric::port::Idle) and a
//! [`Clock`](ipiq_fabric::port::Clock).
//!
//! | Module | What it promises |
//! |---|---|
//! | [`task`] | a future is polled and dropped on its home core only; a panic stays in its task |
//! | [`core_loop`] | nothing that can run starves; when nothing can, the core sleeps in one place |
//! | [`classes`] | classes of tasks get CPU time by their shares |
//! | [`time`] | no timer early, none lost |
//! | [`xcall`] | a function on every core; a wait ends when all of it has run, and not before |
//! | [`probe`] | what a core is in the middle of, asked by another thread; costs the core nothing until then, or nearly so |
#![no_std]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod call;
pub mod classes;
pub mod core_loop;
mod counts;
mod cuts;
mod executor;
mod named;
mod pause;
mod preemptible;
mod prefetch;
pub mod probe;
mod remote;
mod shootdown;
pub(crate) mod sync;
mod synchronize;
pub mod task;
pub mod time;
pub mod xcall;
mod yield_now;

#[cfg(all(test, loom))]
mod models;

pub use call::Call;
pub use core_loop::{Admitted, LeaveError, Lifecycle, ReturnError, SpinPolicy};
pub use counts::CoreLoad;
pub use cuts::{CutTask, Cuts};
pub use executor::{Executor, with_current};
pub use ipiq_fabric::call::CallError;
pub use ipiq_fabric::shootdown::{PendingShootdown, ShootdownError};
pub use named::{Named, TaskName};
pub use pause::{Pause, PauseError, PauseTimes, Paused, Pausing, RemotePausing};
pub use preemptible::Preemptible;
pub use remote::{Remote, RemoteCall};
pub use shootdown::Shootdown;
pub use synchronize::Synchronize;
pub use task::{JoinError, JoinHandle, abort_by, expire_by};
pub use yield_now::{YieldNow, yield_now};
