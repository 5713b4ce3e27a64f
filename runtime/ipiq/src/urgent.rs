//! Interrupts that reach a core in the middle of a poll.
//!
//! A task that computes for long without awaiting keeps its core from everything else: messages, [handlers](crate::ipi) and [`pause`](crate::pause())
//! wait for the end of its poll. An urgent handler does not: a trigger interrupts the core's thread where it is, and the handler runs there, between two
//! instructions. So it may do very little, which its author promises: see [`InterruptSafe::new`].
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicBool, Ordering};
//!
//! use ipiq::CoreId;
//! use ipiq::urgent::{self, InterruptSafe};
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let enough = Arc::new(AtomicBool::new(false));
//!     let stop = enough.clone();
//!     // SAFETY: it stores to an atomic, and nothing else.
//!     let f = unsafe { InterruptSafe::new(move |_core| stop.store(true, Ordering::Relaxed)) };
//!     let handler = urgent::register(f)?;
//!
//!     let there = CoreId::new(1);
//!     // No await in there, and nobody but the handler to end it:
//!     let task = ipiq::spawn_on(there, move || async move { while !enough.load(Ordering::Relaxed) {} });
//!     handler.trigger(there)?;
//!     task.await?;
//!     handler.unregister().await;
//!     Ok(())
//! }
//! ```
//!
//! # What is promised
//!
//! A trigger is never lost: the handler runs at least once after it, and sees what was written before it. Triggers of one handler on one core that come before it runs are one. At
//! once it runs where the core can be [interrupted](crate::Builder::interrupts) and is in no [`critical`] section; if the core is asleep or has nothing to do, when it wakes up or
//! looks, at once too; else, and if the signal gets lost, at the end of the core's poll.
//!
//! The signal, and what it does to a program's system calls, is described with `ipiq_linux::interrupt`: `cargo doc -p ipiq-linux`. What urgent handlers interrupt is protected: the
//! runtime, the allocator and every other library go on as if nothing had been, because a handler touches nothing of them.
//!
//! The idea is the interrupt between CPUs itself; Go stops its goroutines by a signal in the same way.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use ipiq_executor::{Remote, with_current};
use ipiq_fabric::urgent::{self, UrgentId};
use ipiq_fabric::{CoreId, CoreSet, assert_core};
use ipiq_linux::port::LinuxPort;

use crate::Handle;
use crate::current::{assert_cores, on_core};
use crate::xcall::RemoteUrgentBroadcast;

pub use ipiq_fabric::handlers::{TriggerError, Unregistered};
pub use ipiq_fabric::urgent_call::{ForeignUrgentCall, UrgentCall};
pub use ipiq_linux::interrupt::critical;
pub use urgent::{InterruptSafe, MAX_URGENT, TableFull};

/// Runs `f` on `core` at once, in the middle of whatever that core does, and brings its value back: [`call_on`](crate::call_on) for what must not wait for the end of a poll.
///
/// `f` is given the core that it runs on. It runs once. What it captures is dropped on the calling core, as its value is, so both may be what an urgent
/// function must not drop itself. It waits for the end of a [`critical`] section there; a core that cannot be interrupted runs it when it looks, at the end of its poll. Calls of one core to another
/// run in order. On the calling core itself `f` runs inside `call_on`. A panic in it aborts the process.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use ipiq::CoreId;
/// use ipiq::urgent::{self, InterruptSafe};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let there = CoreId::new(1);
///     let steps = Arc::new(AtomicU64::new(0));
///     let (count, enough) = (steps.clone(), steps.clone());
///     // Computes, and never awaits.
///     let task = ipiq::spawn_on(there, move || async move {
///         while count.fetch_add(1, Ordering::Relaxed) < u64::MAX / 2 {}
///     });
///     while steps.load(Ordering::Relaxed) == 0 {
///         ipiq::yield_now().await;
///     }
///     // SAFETY: it exchanges an atomic, and nothing else.
///     let stop = unsafe { InterruptSafe::new(move |_core| enough.swap(u64::MAX / 2, Ordering::Relaxed)) };
///     let steps_made = urgent::call_on(there, stop).await?;
///     assert!(steps_made > 0);
///     task.await?;
///     Ok(())
/// }
/// ```
///
/// [`Handle::call_urgent`] does it from any thread. It is no builder's step of [`call_on`](crate::call_on), which has sent its closure by the time it returns.
///
/// # Errors
///
/// The future resolves to [`CallError`](crate::CallError) if the core has left.
///
/// # Cancel safety
///
/// Dropped before `core` has begun with it, `f` does not run; later, its value is dropped. [`UrgentCall::cancel`] says which.
///
/// # Panics
///
/// On a thread that runs no core, and if there is no core `core`.
#[track_caller]
pub fn call_on<F, R>(core: CoreId, f: InterruptSafe<F>) -> UrgentCall<R>
where
    F: Fn(CoreId) -> R + Send + 'static,
    R: Send + 'static,
{
    assert_cores("urgent::call_on", [core]);
    on_core("urgent::call_on", |executor| executor.core().call_urgent(core, f))
}

/// Registers `f` with the calling core's runtime: every core that it is triggered on runs it, with its own id, in the middle of whatever it does.
///
/// Several cores may run it at the same time; on one core no other urgent handler runs meanwhile, nor does it run inside of itself. A panic in it aborts the process.
///
/// # Errors
///
/// [`TableFull`] if a runtime's 32 urgent handlers are registered; a runtime that has been asked for a backtrace has one of its own. One handler can serve several purposes: let it look at words of your own.
///
/// # Panics
///
/// On a thread that runs no core; see [`Handle::register_urgent`].
#[track_caller]
pub fn register<F>(f: InterruptSafe<F>) -> Result<Handler, TableFull>
where
    F: Fn(CoreId) + Send + Sync + 'static,
{
    on_core("urgent::register", |executor| Handler::new(executor.remote(), f))
}

impl Handle {
    /// Registers an urgent handler as [`urgent::register`](register) does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_urgent<F>(&self, f: InterruptSafe<F>) -> Result<Handler, TableFull>
    where
        F: Fn(CoreId) + Send + Sync + 'static,
    {
        Handler::new(self.remote(), f)
    }

    /// Runs `f` on `core` at once, in the middle of whatever that core does, as [`urgent::call_on`](call_on) does; no core's help is needed for it to run, nor for its value to come back. The future may be awaited
    /// anywhere, also by [`Runtime::wait`](crate::Runtime::wait) on a plain thread.
    ///
    /// What it captures is dropped by who awaits it, with its end; if the future is dropped before that, on `core`, between two of its polls or as it leaves. While the interrupt is under way, which is for microseconds, or as long as `core` is in a [`critical`] section, the awaiting task
    /// is polled again and again, for nothing can be woken from within an interrupt. On `core`'s own thread `f` runs inside this call, where it can be interrupted and is in no such section.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use ipiq::urgent::InterruptSafe;
    /// use ipiq::{CoreId, Runtime};
    ///
    /// let runtime = Runtime::builder().cores(1).build()?;
    /// let handle = runtime.handle();
    /// let steps = Arc::new(AtomicU64::new(1));
    /// let (count, enough) = (steps.clone(), steps.clone());
    /// // The only core computes, and never awaits.
    /// let task = handle.spawn_on(CoreId::new(0), move || async move {
    ///     while count.fetch_add(1, Ordering::Relaxed) < u64::MAX / 2 {}
    /// });
    /// // SAFETY: it exchanges an atomic, and nothing else.
    /// let stop = unsafe { InterruptSafe::new(move |_core| enough.swap(u64::MAX / 2, Ordering::Relaxed)) };
    /// assert!(Runtime::wait(handle.call_urgent(CoreId::new(0), stop))? > 0);
    /// Runtime::wait(task)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The future resolves to [`CallError`](crate::CallError) if `core` has left, or the runtime had been told to stop.
    ///
    /// # Cancel safety
    ///
    /// Dropped before `core` has begun with it, `f` does not run; later, its value is dropped. [`ForeignUrgentCall::cancel`] says which.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[track_caller]
    pub fn call_urgent<F, R>(&self, core: CoreId, f: InterruptSafe<F>) -> ForeignUrgentCall<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.remote().call_urgent(core, f)
    }

    /// Runs a clone of `f` on every core at once, as [`xcall::urgent::broadcast`](crate::xcall::urgent::broadcast) does: a pair per core, in ascending order, of what [`call_urgent`](Self::call_urgent) brings. The future
    /// may be awaited anywhere.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use ipiq::Runtime;
    /// use ipiq::urgent::InterruptSafe;
    ///
    /// static SEEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    ///
    /// let runtime = Runtime::builder().cores(2).build()?;
    /// // SAFETY: it adds to an atomic, and nothing else.
    /// let f = unsafe { InterruptSafe::new(|core: ipiq::CoreId| SEEN[core.index()].fetch_add(1, Ordering::Relaxed)) };
    /// let answers = Runtime::wait(runtime.handle().broadcast_urgent(f));
    /// assert!(answers.into_iter().all(|(_core, answer)| answer.unwrap() == 0));
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Each core's value is a [`CallError`](crate::CallError) if the core has left, or the runtime had been told to stop.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it takes back the functions that have not begun.
    pub fn broadcast_urgent<F, R>(&self, f: InterruptSafe<F>) -> RemoteUrgentBroadcast<R>
    where
        F: Fn(CoreId) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        self.remote().urgent_broadcast(f)
    }
}

/// A registered urgent handler.
///
/// Dropping it unregisters it without waiting: it may still run for triggers that came before, and its function is dropped some time later, at the latest with the runtime.
#[must_use = "a handler that is dropped is unregistered"]
pub struct Handler {
    trigger: Trigger,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("slot", &self.trigger.id.slot()).finish_non_exhaustive()
    }
}

impl Handler {
    fn new<F>(remote: &Remote, f: InterruptSafe<F>) -> Result<Self, TableFull>
    where
        F: Fn(CoreId) + Send + Sync + 'static,
    {
        let id = remote.fabric().register_urgent(f)?;
        Ok(Self { trigger: Trigger { remote: remote.clone(), id } })
    }

    /// What triggers it, for others: it outlives the handler, and its triggers are errors then.
    #[must_use]
    pub fn to_trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// Unregisters it: triggers are errors from here on. When the future is ready, every trigger that was accepted has had its run, the handler
    /// runs nowhere and never will again, and its function has been dropped.
    ///
    /// That takes as long as an interrupt; where a core cannot be interrupted, until the end of its poll. May be awaited anywhere; the awaiting task is polled again and again
    /// while an interrupt is under way, and woken by a core that has to look by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is as dropping the handler.
    pub fn unregister(self) -> Unregister {
        Unregister { under_way: self.trigger.remote.fabric().unregister_urgent(self.trigger.id).ok() }
    }
}

/// It is triggered as its triggers are.
impl Deref for Handler {
    type Target = Trigger;

    fn deref(&self) -> &Trigger {
        &self.trigger
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // An error: `unregister` came before, or the cores have left.
        drop(self.trigger.remote.fabric().unregister_urgent(self.trigger.id));
    }
}

/// Triggers a [`Handler`], from any thread, and from urgent handlers too. Clones are cheap.
#[derive(Clone)]
pub struct Trigger {
    remote: Remote,
    id: UrgentId,
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trigger").field("slot", &self.id.slot()).finish_non_exhaustive()
    }
}

impl Trigger {
    /// Runs the handler on `core`, at least once after this call; triggers that came before it ran are one.
    ///
    /// Interrupts the core if it is in the middle of something, kicks it if it sleeps. A core that is idle and awake is given up to a microsecond to look by itself. Never
    /// waits otherwise and never allocates. What the caller wrote before is visible to the handler. On the calling core the handler runs inside this call, where it can be
    /// interrupted and is in no [`critical`] section.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if the handler was unregistered, or `core` has left. A core that is about to leave may accept a trigger and not run it.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[track_caller]
    pub fn trigger(&self, core: CoreId) -> Result<(), TriggerError> {
        assert_core(core, self.remote.cores());
        self.remote.fabric().trigger_urgent(self.id, core)
    }

    /// [`trigger`](Self::trigger) for every core of `set`. Returns for how many; cores that have left are skipped.
    ///
    /// # Errors
    ///
    /// [`Unregistered`].
    ///
    /// # Panics
    ///
    /// If the set has a core that there is not.
    #[track_caller]
    pub fn trigger_set(&self, set: &CoreSet) -> Result<usize, Unregistered> {
        let cores = self.remote.cores();
        set.iter().for_each(|core| assert_core(core, cores));
        self.remote.fabric().trigger_urgent_set(self.id, set)
    }

    /// [`trigger`](Self::trigger) for every core, the calling one included. Returns for how many.
    ///
    /// # Errors
    ///
    /// [`Unregistered`].
    pub fn trigger_all(&self) -> Result<usize, Unregistered> {
        self.trigger_set(&CoreSet::first(self.remote.cores()))
    }

    /// [`trigger`](Self::trigger) for every core but the calling one. Returns for how many. In a [`preemptible`](crate::preemptible()) section of a core that cannot be interrupted it does not know that one.
    ///
    /// # Errors
    ///
    /// [`Unregistered`].
    pub fn trigger_others(&self) -> Result<usize, Unregistered> {
        let mut set = CoreSet::first(self.remote.cores());
        let own = with_current(LinuxPort::thread(), |executor| {
            let core = executor.core();
            self.remote.fabric().has(core).then(|| core.id())
        });
        // In a section the thread has no executor.
        if let Some(own) = own.flatten().or_else(|| self.remote.fabric().interruptible_core()) {
            set.remove(own);
        }
        self.trigger_set(&set)
    }
}

/// The end of an urgent handler: see [`Handler::unregister`].
#[must_use = "only its end says that the handler no longer runs"]
#[derive(Debug)]
pub struct Unregister {
    /// `None`: the cores had left before, and took the handler with them.
    under_way: Option<urgent::Unregister>,
}

impl Future for Unregister {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.under_way.as_mut().map_or(Poll::Ready(()), |under_way| Pin::new(under_way).poll(cx))
    }
}
