//! Functions that several cores run while one waits.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ipiq_executor::CallError;
use ipiq_fabric::{Core, CoreId, CoreSet, handlers};

use super::assert_all_exist;
use crate::Handle;
use crate::current::{assert_cores, on_core};

type OnCore = Box<dyn Fn(&Core) + Send + Sync>;

/// Runs `f` on every core of `set`, with the core's id, and waits for all of them; resolves to how many ran it.
///
/// Each core runs it between two of its polls, or while it waits in a blocking call; on the calling core, if it is in the set, it runs inside this
/// call. It is one function for all, not one message each: it lies in one place, and a core's mailbox has room for eight such. What the caller wrote before is
/// visible to `f`, and what `f` wrote is visible after the wait. To await inside the function, use [`spawn_on`](crate::spawn_on).
///
/// The function is sent at once. A target whose mailbox is full gets it when the future is polled and there is space.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use ipiq::{CoreId, CoreSet, ipi};
///
/// #[ipiq::main(cores = 3)]
/// async fn main() -> Result<(), ipiq::CallError> {
///     let sum = Arc::new(AtomicUsize::new(0));
///     let added = sum.clone();
///     let ran = ipi::broadcast(move |core| {
///         added.fetch_add(core.index(), Ordering::Relaxed);
///     })
///     .await?;
///     assert_eq!((ran, sum.load(Ordering::Relaxed)), (3, 3));
///
///     let set = CoreSet::from_iter([CoreId::new(1), CoreId::new(2)]);
///     assert_eq!(ipi::multicast(&set, |_| ()).await?, 2);
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// The future resolves to [`CallError`] with the first panic of any core, after all have ended. Cores that have left are skipped.
///
/// # Cancel safety
///
/// Dropping the future stops nothing that was sent.
///
/// # Panics
///
/// On a thread that runs no core (see [`Handle::multicast`]), and if the set has a core that there is not.
#[track_caller]
pub fn multicast<F>(set: &CoreSet, f: F) -> Multicast
where
    F: Fn(CoreId) + Send + Sync + 'static,
{
    assert_cores("ipi::multicast", set);
    on_core("ipi::multicast", |executor| Multicast { under_way: executor.core().multicast_later(set, boxed(f)) })
}

/// [`multicast`] to every core, the calling one included.
///
/// # Errors
///
/// As [`multicast`].
///
/// # Cancel safety
///
/// As [`multicast`].
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn broadcast<F>(f: F) -> Multicast
where
    F: Fn(CoreId) + Send + Sync + 'static,
{
    multicast(&CoreSet::first(on_core("ipi::broadcast", |executor| executor.core().cores())), f)
}

/// [`multicast`] to one core.
///
/// # Errors
///
/// The future resolves to [`CallError`] if `f` panicked, or `core` has left.
///
/// # Cancel safety
///
/// As [`multicast`].
///
/// # Panics
///
/// On a thread that runs no core, and if there is no core `core`.
#[track_caller]
pub fn unicast<F>(core: CoreId, f: F) -> Unicast
where
    F: Fn(CoreId) + Send + Sync + 'static,
{
    assert_cores("ipi::unicast", [core]);
    Unicast { multicast: multicast(&CoreSet::from_iter([core]), f) }
}

/// Runs `f` on every core of `set` and blocks until all have; the calling core serves its inbox and its mailbox meanwhile, but polls no task.
///
/// `f` may borrow. Returns how many cores ran it. For code that cannot await, such as a destructor: while it waits, closures of
/// [`call_on`](crate::call_on) and handlers run inside this call, so hold no `RefCell` borrow that they need.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use ipiq::{CoreSet, ipi};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), ipiq::CallError> {
///     let seen = AtomicUsize::new(0);
///     ipi::multicast_blocking(&CoreSet::first(2), |core| {
///         seen.fetch_add(core.index() + 1, Ordering::Relaxed);
///     })?;
///     assert_eq!(seen.into_inner(), 3);
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// [`CallError`] with the first panic, after all have ended.
///
/// # Panics
///
/// As [`multicast`].
#[track_caller]
pub fn multicast_blocking<F>(set: &CoreSet, f: F) -> Result<usize, CallError>
where
    F: Fn(CoreId) + Sync,
{
    assert_cores("ipi::multicast_blocking", set);
    on_core("ipi::multicast_blocking", |executor| executor.core().multicast(set, |core| f(core.id())))
}

impl Handle {
    /// As [`ipi::multicast`](multicast), from any thread. On a core of the set itself, that one is better: here the function waits for the end of
    /// the poll.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// If the set has a core that there is not.
    #[track_caller]
    pub fn multicast<F>(&self, set: &CoreSet, f: F) -> Multicast
    where
        F: Fn(CoreId) + Send + Sync + 'static,
    {
        assert_all_exist(set, self.core_count());
        Multicast { under_way: self.remote().fabric().multicast(set, boxed(f)) }
    }
}

fn boxed(f: impl Fn(CoreId) + Send + Sync + 'static) -> OnCore {
    Box::new(move |core| f(core.id()))
}

/// A function on its way to several cores: see [`multicast`].
#[must_use = "a message to a full mailbox is sent when the future is polled"]
pub struct Multicast {
    under_way: handlers::Multicast<OnCore>,
}

impl fmt::Debug for Multicast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multicast").finish_non_exhaustive()
    }
}

impl Future for Multicast {
    type Output = Result<usize, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.under_way).poll(cx)
    }
}

/// A function on its way to one core: see [`unicast`].
#[must_use = "a message to a full mailbox is sent when the future is polled"]
#[derive(Debug)]
pub struct Unicast {
    multicast: Multicast,
}

impl Future for Unicast {
    type Output = Result<(), CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ran = std::task::ready!(Pin::new(&mut self.multicast).poll(cx));
        Poll::Ready(ran.and_then(|cores| if cores == 1 { Ok(()) } else { Err(CallError::gone()) }))
    }
}
