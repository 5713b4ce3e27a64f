//! The end of a runtime in named phases, each with a limit of time, and a report of what was cut.
//!
//! [`Handle::shutdown`] begins it, from any task or thread; [`Handle::shutdown_on_signals`] does when the process is asked to end. The phases are, in this order:
//!
//! | Phase | Limit | What happens |
//! |---|---|---|
//! | [`STOP_ACCEPTING`] | 1 s | every [`accept`](crate::net::TcpListener::accept) ends with an error that [`net::is_shutdown`](crate::net::is_shutdown) knows |
//! | [`DRAIN`] | 30 s | what holds it goes through to its end; then services ([`Sharded`](crate::sharded::Sharded)) stop, the last one started first |
//! | those of [`Builder::phase`](crate::Builder::phase) | as given | what holds them |
//! | [`CANCEL`] | 5 s | every task that is left is dropped, as [`Handle::stop`] does it |
//! | [`JOIN`] | 5 s | the cores' threads end, and those of [`spawn_blocking`](crate::spawn_blocking) |
//!
//! Limits, and phases of one's own, are set by [`Builder::phase`](crate::Builder::phase); with `#[ipiq::main]` by [`#[ipiq::main(builder = ...)]`](macro@crate::main).
//!
//! A phase that nobody holds open is over at once. A [`guard()`] holds one open until it is dropped; [`phase()`] awaits the begin of one and gives such a guard. When its limit has passed a phase is
//! cut: the next one begins, and the [`ShutdownReport`] tells who held it. [`net`](crate::net) shows a server that answers what is under way and closes what is idle.
//!
//! ```
//! use std::time::Duration;
//!
//! use ipiq::{Runtime, shutdown, time};
//!
//! let runtime = Runtime::builder().cores(1).phase("flush", Duration::from_secs(5)).build()?;
//! let saved = runtime.block_on(|| async {
//!     // A request that is under way, and must not be cut.
//!     let open = shutdown::guard("drain");
//!     drop(ipiq::spawn_local(async move {
//!         time::sleep(Duration::from_millis(5)).await;
//!         drop(open);
//!     }));
//!     // What is done once no request is under way any more.
//!     let (save, saved) = std::sync::mpsc::channel();
//!     drop(ipiq::spawn_local(async move {
//!         let _open = shutdown::phase("flush").await;
//!         save.send("all").unwrap();
//!     }));
//!     ipiq::yield_now().await; // It awaits the phase.
//!     saved
//! });
//! let report = Runtime::wait(runtime.handle().shutdown());
//! assert!(report.is_clean(), "{report}");
//! assert_eq!(saved.recv(), Ok("all"));
//! # Ok::<(), ipiq::BuildError>(())
//! ```
//!
//! How it works, step by step:
//!
#![doc = include_str!("README.md")]

mod board;
mod conductor;
mod guard;
mod plan;
mod report;

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use futures_channel::oneshot;
use ipiq_linux::inherited;

pub use guard::{Guard, PhaseBegin};
pub use ipiq_executor::CutTask;
pub use plan::{CANCEL, DRAIN, JOIN, STOP_ACCEPTING};
pub use report::{PhaseHolder, PhaseReport, ShutdownReport, StuckCore};

use crate::Handle;
use crate::current::on_core;
use crate::of_thread::{self, Installed, Slot};
pub(crate) use board::Board;
pub(crate) use plan::Plan;

/// The place of [`STOP_ACCEPTING`] in every plan.
pub(crate) const ACCEPTING: usize = 0;

thread_local! {
    static CURRENT: Slot<Arc<Board>> = const { RefCell::new(None) };
}

/// Makes `board` that of the calling core's runtime until the guard is dropped.
pub(crate) fn install(board: Arc<Board>) -> Installed<Arc<Board>> {
    of_thread::install(&CURRENT, board)
}

/// That of the calling core's runtime.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[track_caller]
pub(crate) fn current(what: &str) -> Arc<Board> {
    on_core(what, |_| ());
    of_thread::get(&CURRENT, what)
}

/// Holds a phase open until the guard is dropped: for a request, a connection, whatever shall not be cut while it is under way.
///
/// It may be taken at any time; when the phase is over already it holds nothing: [`Guard::is_late`]. [`ShutdownReport`] tells by its place in the source what has held a phase
/// until it was cut, and by its name if it was given one: [`guard_named`].
///
/// ```
/// use ipiq::shutdown;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let open = shutdown::guard(shutdown::DRAIN);
///     let request = ipiq::spawn_local(async move {
///         let _open = open;
///         // ...
///     });
///     request.await.unwrap();
/// }
/// ```
///
/// # Panics
///
/// On a thread that runs no core: [`Handle::guard`] is for those. If there is no such phase, or it is [`CANCEL`] or [`JOIN`], which nobody can hold open.
#[track_caller]
pub fn guard(phase: &str) -> Guard {
    guard_on(current("shutdown::guard"), phase, "guard".into())
}

/// [`guard()`] under a name, for the report.
///
/// # Panics
///
/// As [`guard()`].
#[track_caller]
pub fn guard_named(phase: &str, name: impl Into<Cow<'static, str>>) -> Guard {
    guard_on(current("shutdown::guard_named"), phase, name.into())
}

/// Waits until a phase begins, and gives a guard that holds it open. At once, if the phase has begun already or is over.
///
/// From the first poll on it is certain that the phase, when it begins, waits until the future has been polled again and the guard was dropped.
///
/// # Cancel safety
///
/// Nothing is lost when it is dropped.
///
/// # Panics
///
/// As [`guard()`].
#[track_caller]
pub fn phase(phase: &str) -> PhaseBegin {
    begin_on(current("shutdown::phase"), phase)
}

#[track_caller]
fn guard_on(board: Arc<Board>, phase: &str, name: Cow<'static, str>) -> Guard {
    let phase = find(&board, phase);
    Guard::new(board, phase, name, Location::caller())
}

#[track_caller]
fn begin_on(board: Arc<Board>, phase: &str) -> PhaseBegin {
    let phase = find(&board, phase);
    PhaseBegin::new(board, phase, "phase".into(), Location::caller())
}

#[track_caller]
fn find(board: &Board, name: &str) -> usize {
    let there_are = || board.plan().held().iter().map(|step| &*step.name).collect::<Vec<_>>().join(", ");
    board.plan().find(name).unwrap_or_else(|| {
        panic!("no phase {name:?} can be awaited or held open: there are {}; `Builder::phase` adds others", there_are())
    })
}

/// The end of a runtime's phases: from [`Handle::shutdown`].
///
/// Dropping it changes nothing.
#[derive(Debug)]
pub struct Shutdown {
    report: oneshot::Receiver<ShutdownReport>,
}

impl Future for Shutdown {
    type Output = ShutdownReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ShutdownReport> {
        // The board keeps the sender until it has told.
        Pin::new(&mut self.report).poll(cx).map(|report| report.expect("a report is told once"))
    }
}

/// [`Handle::shutdown`].
pub(crate) fn begin(board: &Arc<Board>) -> Shutdown {
    if board.is_orphaned() {
        // [shutdown B9]
        let (tell, report) = oneshot::channel();
        drop(tell.send(conductor::of_nobody(board)));
        return Shutdown { report };
    }
    let conduct = board.clone();
    let conduct = move || {
        be_no_cores_own();
        conductor::main(conduct);
    };
    let (report, refused) = board.ask(|| thread::Builder::new().name("ipiq-shutdown".into()).spawn(conduct));
    if let Some(error) = refused {
        // [shutdown B1]
        conductor::stop_at_once(board, format!("no thread could be started for the phases: {error}"));
    }
    Shutdown { report }
}

/// The calling thread, which a core may have started, gets the CPUs and the signals of the one that started the process's first runtime.
pub(crate) fn be_no_cores_own() {
    if let Err(error) = inherited::restore() {
        tracing::warn!(%error, "a thread of the runtime may stay on the CPU of a core");
    }
}

impl Handle {
    /// Begins the end of the runtime in [phases](crate::shutdown), and returns at once. The future resolves to a report of them, when the last one is over; it may be awaited anywhere outside of
    /// the runtime, such as by [`Runtime::wait`](crate::Runtime::wait), or dropped. A task of the runtime that awaits it is dropped in the phase `cancel`.
    ///
    /// Who asks again, from wherever, is told the same report. [`stop`](Self::stop) cuts what is held open; dropping the [`Runtime`](crate::Runtime) lets the phases come to their end. When the report is
    /// there, a core that is stuck may still be: it is named, and dropping the `Runtime` waits for it.
    ///
    /// ```
    /// let runtime = ipiq::Runtime::builder().cores(2).build()?;
    /// let report = ipiq::Runtime::wait(runtime.handle().shutdown());
    /// assert!(report.is_clean(), "{report}");
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops nothing.
    pub fn shutdown(&self) -> Shutdown {
        begin(self.board())
    }

    /// [`shutdown::guard`](crate::shutdown::guard()), from any thread.
    ///
    /// # Panics
    ///
    /// If there is no such phase, or it is `cancel` or `join`.
    #[track_caller]
    pub fn guard(&self, phase: &str) -> Guard {
        guard_on(self.board().clone(), phase, "guard".into())
    }

    /// [`shutdown::phase`](crate::shutdown::phase()), from any thread.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    ///
    /// # Panics
    ///
    /// If there is no such phase, or it is `cancel` or `join`.
    #[track_caller]
    pub fn phase(&self, phase: &str) -> PhaseBegin {
        begin_on(self.board().clone(), phase)
    }
}
