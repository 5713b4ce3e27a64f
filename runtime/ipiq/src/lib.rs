//! A thread-per-core async runtime whose cores talk to each other the way CPUs do inside a kernel.
//!
//! Each core is one thread, normally pinned to one CPU. A task lives on one core and never moves, so it needs no locks
//! and no `Send`. Work for another core travels there as a message of one cache line: [`spawn_on`] starts a task on a chosen
//! core, [`call_on`] runs a closure there and brings its value back, and [`xcall`] does either on every core.
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
//!
//! # A core's state
//!
//! What the tasks of a core share lives in a `thread_local!` or in an `Rc` that its tasks hold: a core is one thread, and no other
//! code of the core runs between two awaits, so a `Cell` suffices, or a `RefCell` that is
//! borrowed neither across an await nor in a [`call_on`] to the own core, which runs its closure at once.
//!
//! ```
//! use std::cell::Cell;
//!
//! use ipiq::{CallError, CoreId};
//!
//! thread_local!(static HITS: Cell<u64> = const { Cell::new(0) });
//!
//! async fn hit(key: usize) -> Result<u64, CallError> {
//!     let owner = CoreId::new(key % ipiq::core_count());
//!     ipiq::call_on(owner, || {
//!         HITS.set(HITS.get() + 1);
//!         HITS.get()
//!     })
//!     .await
//! }
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() -> Result<(), CallError> {
//!     hit(7).await?;
//!     assert_eq!(hit(9).await?, 2); // Both belong to core 1.
//!     Ok(())
//! }
//! ```
//!
//! # Which way to another core
//!
//! | Wanted | |
//! |---|---|
//! | a value from a core, by a short closure | [`call_on`] |
//! | the same, by an async closure, which ends with its caller | [`call_async_on`] |
//! | a task there, with a life of its own | [`spawn_on`] |
//! | all of that to end in time | [`deadline`] |
//! | either, from a thread that runs no core | [`Handle`] |
//! | something on every core, with the values, map and reduce | [`xcall`]; [`xcall::barrier`] for nothing but its end |
//! | everything sent so far carried out | [`synchronize`] |
//! | to wake a task there, from any thread, without a queue | [`ipi::Doorbell`]; [`ipi::register`] for a function instead of a task |
//! | a core reached in the middle of a long poll, by a function that may interrupt anything | [`urgent`]; [`urgent::call_on`] with its value, [`xcall::urgent`] on every core |
//! | state of which every core has its own part, called by the others | [`sharded::Sharded`] |
//! | a value of each core, made when it is first asked for | [`CoreLocal`] |
//! | a value of one core in the hands of others | [`ForeignBox`] |
//! | a queue, one value, the latest value, so many at a time | [`sync::cross`]; [`sync`] for the tasks of one core |
//! | a queue from each core to each other, or some | [`mesh::Mesh`] |
//! | work that gets less, or more, of a core's time than other work | [`classes`] |
//! | a long computation that does not hold up updates of the next two | [`preemptible`](preemptible()) |
//! | a value that every core reads all the time | [`Replicated`] |
//! | a cache on every core that never serves what was invalidated | [`CoreCache`]; [`shootdown`](shootdown()) for other things to be dropped everywhere, [`shootdown_prompt`] in the middle of [`preemptible`](preemptible()) code, too |
//! | all cores at one moment | [`pause`](pause()); [`pause_prompt`] in the middle of [`preemptible`](preemptible()) code, too |
//!
//! What belongs to a whole server: services ([`sharded`]), their requests' [`deadline`]s and [`Limit`]s, the [end in phases](shutdown), [signals](signal), [`metrics`], and
//! [classes] of tasks with shares of the time. What ends tasks: [`JoinHandle::abort`], an [`AbortHandle`], a [`CancellationToken`], the drop of a [`JoinSet`] or [`scope`](scope()), a deadline.
//!
//! [`Handle::metrics`] tells what the cores have done and how they spend their time. [`Handle::waits`] and [`Builder::stall_reports`] tell which core keeps which waiting, [`Builder::stall_limit`] and [`Handle::backtrace_all_cores`] what it does all the
//! while.
//!
//! # All cores at one moment
//!
//! [`pause`](pause()) stops every core, or some, between two of their polls, runs a closure while they stand still, and lets them go on; each may run a
//! function of its own at that moment, for example copy its shard. With [`Pause::drain`] no request between the cores is half carried out then.
//!
//! # Coming from a runtime that steals work
//!
//! - A task stays on its core: [`spawn_local`] for this one, [`spawn_on`] for another, [`spawn_any`] for one that has little to do. Nothing balances the load later.
//! - [`spawn_on`] and [`Runtime::block_on`] take a closure that makes the future: the closure is sent, and the future, made on
//!   the core, need not be `Send`.
//! - A poll or a called closure that takes long, or blocks, holds up its whole core. [`yield_now`] lets the others run, [`yield_if_needed`]
//!   does when it is time to; work that blocks belongs into [`spawn_blocking`], and so do files and the lookup of names: [`net`] is TCP, [`time`] is
//!   timers. [`signal`] awaits signals.
//! - Channels, `select!` and the like of `futures` and `tokio::sync` work; what needs tokio's own runtime (`tokio::net`,
//!   `tokio::time`, `tokio::spawn`) does not.
//! - Names that differ: a spawned closure's task outlives its caller, an async *call* ends with it; `JoinHandle::abort_handle` is [`AbortHandle::spawn_on`] and its siblings, `start_paused` is
//!   [`paused_clock`](Builder::paused_clock), a timeout that reaches what was called and spawned is [`deadline::within`].
//! - A panic ends its task or call and is returned as an error, [`JoinError`] or [`CallError`]; the core goes on.
//! - [`shutdown`] is the graceful end, in phases; [`net`] shows a server's. Dropping the [`Runtime`], which the end of `#[ipiq::main]` does too, drops
//!   what still runs.
//!
//! # Features
//!
//! - `futures-io` (default): the I/O traits of `futures` for the streams of [`net`].
//! - `tokio-io`: those of `tokio`.
//! - `metrics`: the figures of [`metrics`] for recorders of the crate of that name.
//! - `tracing`: an event for each message sent and received, each kick and each cpusync, at level `TRACE` under the target `ipiq::fabric`;
//!   [stalls](Builder::stall_reports) are told of without it.
#![forbid(unsafe_code)]

mod abort;
mod anywhere;
mod blocking;
mod builder;
mod calls;
mod cancel;
pub mod classes;
mod core_cache;
mod core_local;
mod cores;
mod crew;
mod current;
pub mod deadline;
mod driver;
mod env;
mod foreign_box;
mod handle;
mod home;
mod idle;
pub mod ipi;
mod join_set;
pub mod mesh;
pub mod metrics;
pub mod net;
mod of_thread;
mod pause;
mod paused_clock;
mod preemptible;
mod replicated;
mod runtime;
mod scope;
pub mod sharded;
mod shootdown;
pub mod shutdown;
pub mod signal;
mod slices;
mod stalls;
pub mod sync;
mod task_local;
mod thread;
mod threads;
pub mod time;
pub mod topology;
pub mod urgent;
pub mod xcall;

pub use abort::AbortHandle;
pub use anywhere::spawn_any;
pub use blocking::{Blocking, BlockingError, spawn_blocking};
pub use builder::{BuildError, Builder, IdlePolicy, InterruptPolicy};
pub use calls::{AsyncCall, Call, Limit, RemoteAsyncCall};
pub use cancel::{CancellationToken, Cancelled, CancelledOwned, DropGuard};
pub use core_cache::{CoreCache, Fetch, LocalCache};
pub use core_local::{CoreLocal, CoreRef};
pub use cores::Cores;
pub use current::{
    call_async_on, call_on, core_count, core_id, cores, handle, named, should_yield, spawn_local, spawn_on,
    synchronize, task_name, yield_if_needed,
};
pub use env::EnvError;
pub use foreign_box::ForeignBox;
pub use handle::Handle;
pub use ipiq_driver::DriverKind;
pub use ipiq_executor::{
    CallError, JoinError, JoinHandle, LeaveError, Named, Pause, PauseError, PauseTimes, Paused, Pausing,
    PendingShootdown, Preemptible, RemoteCall, RemotePausing, Shootdown, ShootdownError, Synchronize, TaskName,
    YieldNow, yield_now,
};
pub use ipiq_fabric::port::FenceKind;
pub use ipiq_fabric::watch::{Stall, TargetState, Wait, WaitKind};
pub use ipiq_fabric::{CoreCounters, CoreId, CoreSet, CoreSetIter, PairCounters};
pub use ipiq_linux::placement::Placement;
pub use ipiq_linux::port::FenceChoice;
pub use ipiq_linux::stack::Frame;
pub use ipiq_macros::{main, test};
pub use join_set::JoinSet;
pub use metrics::Metrics;
pub use pause::{pause, pause_each, pause_prompt};
pub use preemptible::preemptible;
pub use replicated::{Local, Replicated, Update};
pub use runtime::{Runtime, RuntimeInfo};
pub use scope::{Scope, ScopedHandle, scope};
pub use shootdown::{shootdown, shootdown_prompt};
pub use stalls::{Backtrace, CoreBacktrace, CoreBacktraces, CoreState, NoBacktrace, PolledTask, StallReport};
pub use task_local::{LocalKey, NotInScope, TaskLocalFuture};
pub use threads::{Leaving, ReturnError, Returning, leave};

/// The example of the project's README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
