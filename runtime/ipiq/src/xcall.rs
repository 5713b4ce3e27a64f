//! Calls to every core: run a function on each, collect the values, await the end by ticket, pass a barrier.
//!
//! A call is of one of two classes, named as in NetBSD's `xcall(9)`, the high one in two kinds:
//!
//! | | the function | runs | may |
//! |---|---|---|---|
//! | [`high`] | a closure | between two polls of the core, before its tasks | not block, not await |
//! | [`urgent`] | a function that may interrupt anything | at once, in the middle of whatever the core does | little: see [`InterruptSafe`](crate::urgent::InterruptSafe::new) |
//! | [`low`] | a closure that makes a future | as a task of the core, after those that are ready | await, and call on |
//!
//! [`high::broadcast`] and [`low::broadcast`] include the calling core, where the function runs like on any other: after the caller
//! has given way, never inside the call. Each core gets a clone of the closure; what it panics with is that core's error.
//!
//! ```
//! use std::cell::Cell;
//!
//! use ipiq::xcall;
//!
//! thread_local!(static HITS: Cell<u64> = const { Cell::new(0) });
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() {
//!     // On every core at once, each without a lock:
//!     for (core, answer) in xcall::high::broadcast(|| HITS.set(HITS.get() + 2)).await {
//!         answer.unwrap_or_else(|error| panic!("{core}: {error}"));
//!     }
//!     // Map, then reduce:
//!     let all = xcall::high::broadcast(|| HITS.get()).fold(0, |sum, hits| sum + hits).await;
//!     assert_eq!(all.unwrap(), 4);
//! }
//! ```
//!
//! # Tickets
//!
//! A call that is awaited needs no ticket. [`XCall::ticket`] gives it a name of 64 bits, which any task of any core, or a thread with
//! a [`Handle`](crate::Handle), may [`wait`] for, also more than one of them and later than the call ended; the call then goes on by itself.
//! A wait ends when every function of its own call has finished, whatever later calls do. Only cores draw tickets; the calls of other threads
//! ([`Handle::broadcast_high`](crate::Handle::broadcast_high), [`broadcast_low`](crate::Handle::broadcast_low), [`broadcast_urgent`](crate::Handle::broadcast_urgent)) are futures that may be
//! awaited anywhere.
//!
//! ```
//! use ipiq::{CoreId, xcall};
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() {
//!     let ticket = xcall::low::broadcast(|| async { ipiq::yield_now().await }).ticket();
//!     let elsewhere = ipiq::spawn_on(CoreId::new(1), move || xcall::wait(ticket));
//!     xcall::wait(ticket).await.unwrap();
//!     elsewhere.await.unwrap().unwrap();
//! }
//! ```
//!
//! Calls under way do not wait for each other, so that a call's function may issue further calls, and await them if it is low.

pub use ipiq_executor::xcall::{
    Barrier, Class, Counters, Everywhere, HighBroadcast, HighPart, HighUnicast, LowBroadcast, LowUnicast,
    RemoteBarrier, RemoteHighBroadcast, RemoteLowBroadcast, RemoteUrgentBroadcast, RemoteWait, Ticket, UrgentBroadcast,
    UrgentUnicast, Wait, XCall,
};

use crate::current::{assert_cores, on_core};

/// Calls whose function runs between two polls.
pub mod high {
    use ipiq_fabric::CoreId;

    use super::{HighBroadcast, HighUnicast};
    use crate::current::{assert_cores, on_core};

    /// Runs `f` on every core, between two of its polls, and brings the values back: a pair per core, in ascending order.
    ///
    /// `f` should be short: it holds up everything else on its core. It is sent at once to every core whose ring has space, and starts
    /// there in order with this core's other messages; to the others when the future is polled and there is space. On this core it
    /// runs when the caller gives way.
    ///
    /// # Errors
    ///
    /// Each core's value is a [`CallError`](crate::CallError) if `f` panicked there, or the core has left; nobody waits for a core that has
    /// left.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops no function; values are dropped. Where a ring was full and the call has no [ticket](super::XCall::ticket), `f`
    /// may not be sent any more.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[doc(alias = "invoke_on_all")]
    #[track_caller]
    pub fn broadcast<F, R>(f: F) -> HighBroadcast<F, R>
    where
        F: FnOnce() -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        on_core("xcall::high::broadcast", |executor| executor.high_broadcast(f))
    }

    /// Runs `f` on `core`, between two of its polls, also if that is this core, and brings its value back.
    ///
    /// [`call_on`](crate::call_on) does the same at less cost, but has no ticket and runs `f` inside the call on the own core.
    ///
    /// # Errors
    ///
    /// The value is a [`CallError`](crate::CallError) if `f` panicked, or the core has left.
    ///
    /// # Cancel safety
    ///
    /// As [`broadcast`].
    ///
    /// # Panics
    ///
    /// On a thread that runs no core, and if there is no core `core`.
    #[track_caller]
    pub fn unicast<F, R>(core: CoreId, f: F) -> HighUnicast<F, R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        assert_cores("xcall::high::unicast", [core]);
        on_core("xcall::high::unicast", |executor| executor.high_unicast(core, f))
    }
}

/// Calls whose function runs at once, in the middle of whatever a core does.
///
/// The kernels' high class as it is where a function may run in an interrupt. Tickets of these calls are of [`Class::High`].
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use ipiq::urgent::InterruptSafe;
/// use ipiq::xcall;
///
/// static SEEN: AtomicU64 = AtomicU64::new(0);
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     // SAFETY: it adds to an atomic, and nothing else.
///     let f = unsafe { InterruptSafe::new(|_core| SEEN.fetch_add(1, Ordering::Relaxed)) };
///     let ticket = xcall::urgent::broadcast(f).ticket();
///     xcall::wait(ticket).await.unwrap();
///     assert_eq!(SEEN.load(Ordering::Relaxed), 2);
/// }
/// ```
pub mod urgent {
    use ipiq_fabric::CoreId;
    use ipiq_fabric::urgent::InterruptSafe;

    use super::{UrgentBroadcast, UrgentUnicast};
    use crate::current::{assert_cores, on_core};

    /// Runs `f` on every core at once and brings the values back: a pair per core, in ascending order. On this core it runs inside this call, after the others have been
    /// interrupted.
    ///
    /// Each core gets a clone, which runs as by [`urgent::call_on`](crate::urgent::call_on).
    ///
    /// # Errors
    ///
    /// Each core's value is a [`CallError`](crate::CallError) if the core has left; nobody waits for it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it takes back the functions that have not begun, unless the call has a [ticket](super::XCall::ticket).
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn broadcast<F, R>(f: InterruptSafe<F>) -> UrgentBroadcast<R>
    where
        F: Fn(CoreId) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        on_core("xcall::urgent::broadcast", |executor| executor.urgent_broadcast(f))
    }

    /// Runs `f` on `core` at once and brings its value back: [`urgent::call_on`](crate::urgent::call_on) with a ticket.
    ///
    /// # Errors
    ///
    /// The value is a [`CallError`](crate::CallError) if the core has left.
    ///
    /// # Cancel safety
    ///
    /// As [`broadcast`].
    ///
    /// # Panics
    ///
    /// On a thread that runs no core, and if there is no core `core`.
    #[track_caller]
    pub fn unicast<F, R>(core: CoreId, f: InterruptSafe<F>) -> UrgentUnicast<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        assert_cores("xcall::urgent::unicast", [core]);
        on_core("xcall::urgent::unicast", |executor| executor.urgent_unicast(core, f))
    }
}

/// Calls whose function is a task.
pub mod low {
    use std::future::Future;
    use std::panic::Location;

    use ipiq_fabric::CoreId;

    use super::{LowBroadcast, LowUnicast};
    use crate::current::{assert_cores, on_core};

    /// Spawns a task on every core and brings their values back: a pair per core, in ascending order. `init` travels there and makes
    /// the future, which need not be `Send`.
    ///
    /// # Errors
    ///
    /// Each core's value is a [`JoinError`](crate::JoinError) if its task panicked, or was cancelled because the core shuts down.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops no task; values are dropped.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn broadcast<Init, Fut>(init: Init) -> LowBroadcast<Fut::Output>
    where
        Init: FnOnce() -> Fut + Clone + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        broadcast_at(Location::caller(), init)
    }

    /// [`broadcast`], for a caller that knows better where the tasks are spawned.
    #[track_caller]
    pub(crate) fn broadcast_at<Init, Fut>(
        spawned_at: &'static Location<'static>,
        init: Init,
    ) -> LowBroadcast<Fut::Output>
    where
        Init: FnOnce() -> Fut + Clone + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        on_core("xcall::low::broadcast", |executor| executor.low_broadcast(spawned_at, init))
    }

    /// Spawns a task on `core` and brings its value back, as [`spawn_on`](crate::spawn_on) does, with the means to draw a ticket.
    ///
    /// # Errors
    ///
    /// The value is a [`JoinError`](crate::JoinError) if the task panicked, or was cancelled because the core shuts down.
    ///
    /// # Cancel safety
    ///
    /// As [`broadcast`].
    ///
    /// # Panics
    ///
    /// On a thread that runs no core, and if there is no core `core`.
    #[track_caller]
    pub fn unicast<Init, Fut>(core: CoreId, init: Init) -> LowUnicast<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        assert_cores("xcall::low::unicast", [core]);
        let spawned_at = Location::caller();
        on_core("xcall::low::unicast", |executor| executor.low_unicast(spawned_at, core, init))
    }
}

/// Awaits the end of a call: every function of it has finished, on every core.
///
/// Any number of tasks, on any cores, may wait for one call, also after it has ended.
///
/// # Errors
///
/// The future resolves to a [`CallError`](crate::CallError) if the core that issued the call is shutting down; whether the call finishes is
/// then unknown. How the functions ended is told to the holder of the [`XCall`] alone.
///
/// # Cancel safety
///
/// Nothing is lost when it is dropped.
///
/// # Panics
///
/// On a thread that runs no core, and if the ticket names a core that there is not.
#[track_caller]
pub fn wait(ticket: Ticket) -> Wait {
    assert_cores("xcall::wait", [ticket.home()]);
    on_core("xcall::wait", |executor| executor.wait_ticket(ticket))
}

/// Awaits that every core, this one too, has passed a point between polls.
///
/// At that point no poll of a task and no function of a message is under way on that core; and it sees all that this core wrote before the
/// barrier, as this core sees, after the barrier, all that it wrote before the point. So what tasks use only between two awaits,
/// a pointer they have read for example, nobody uses any more: a grace period in the sense of read-copy-update.
///
/// With [`Class::High`] a core passes at once, even if tasks of it are ready; with [`Class::Low`] those that were ready have been polled
/// before. A core that has left has passed for good.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
/// use ipiq::xcall::{Class, barrier};
///
/// static OPEN: AtomicBool = AtomicBool::new(true);
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     // Tasks look at it without a fence; each uses what it has seen until its next await.
///     OPEN.store(false, Relaxed);
///     barrier(Class::High).await;
///     // Now no task uses it as open.
/// }
/// ```
///
/// The idea is that of NetBSD's `xc_barrier`.
///
/// # Cancel safety
///
/// Dropped, nothing is promised; the cores pass it all the same.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn barrier(class: Class) -> Barrier {
    on_core("xcall::barrier", |executor| executor.barrier(class))
}

/// What this core has counted of the calls that it issued, since it was started or [brought back](crate::Handle::bring_back); a [`high::broadcast`] of it collects those of all cores.
///
/// # Panics
///
/// On a thread that runs no core.
#[must_use]
#[track_caller]
pub fn counters() -> Counters {
    on_core("xcall::counters", |executor| executor.xcall_counters())
}
