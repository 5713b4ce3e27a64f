//! Registered handlers.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use ipiq_executor::{Remote, with_current};
use ipiq_fabric::handlers::{self, HandlerId};
use ipiq_fabric::{Core, CoreId, CoreSet, Panic, PanicPayload};
use ipiq_linux::port::LinuxPort;

use super::assert_all_exist;
use crate::Handle;
use crate::current::on_core;

pub use handlers::{MAX_HANDLERS, TableFull, TriggerError, Unregistered};

/// Registers `f` with the calling core's runtime: every core that it is triggered on runs it, with its own id, between two polls.
///
/// `f` must be short, and must not block. It runs on each of its cores by itself, so several cores may run it at the same time; on one core no
/// other handler runs meanwhile, nor does it run inside of itself. If it panics, the panic is logged as an error by `tracing` and counted
/// in [`CoreCounters::handler_panics`](crate::CoreCounters::handler_panics); it reaches nobody, and the handler stays registered.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use ipiq::{CoreId, ipi};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let runs = Arc::new(AtomicU64::new(0));
///     let counted = runs.clone();
///     let handler = ipi::register(move |_core| {
///         counted.fetch_add(1, Ordering::Relaxed);
///     })?;
///     for _ in 0..100 {
///         handler.trigger(CoreId::new(1))?;
///     }
///     handler.unregister().await;
///     // At least once after the last trigger, and not again.
///     assert!((1..=100).contains(&runs.load(Ordering::Relaxed)));
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// [`TableFull`] if a runtime's 31 handlers are registered. One handler can serve several purposes: let it look at words of your own.
///
/// # Panics
///
/// On a thread that runs no core; see [`Handle::register_handler`].
#[track_caller]
pub fn register<F>(f: F) -> Result<Handler, TableFull>
where
    F: Fn(CoreId) + Send + Sync + 'static,
{
    on_core("ipi::register", |executor| Handler::new(executor.remote(), f))
}

impl Handle {
    /// Registers a handler as [`ipi::register`](register) does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_handler<F>(&self, f: F) -> Result<Handler, TableFull>
    where
        F: Fn(CoreId) + Send + Sync + 'static,
    {
        Handler::new(self.remote(), f)
    }
}

fn log_panic(core: &Core, payload: PanicPayload) {
    let panic = Panic::new(payload);
    tracing::error!(core = core.id().index(), "a handler panicked: {panic}");
}

/// A registered handler.
///
/// When every core of its runtime has left, it is unregistered as if it were dropped: triggers are errors, and its function has been dropped.
///
/// Dropping it unregisters it without waiting: it may still run for triggers that came before, and its function is dropped some time later.
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
    fn new(remote: &Remote, f: impl Fn(CoreId) + Send + Sync + 'static) -> Result<Self, TableFull> {
        let id = remote.fabric().register_handler(move |core| f(core.id()), log_panic)?;
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
    /// That takes until every core has ended its poll, twice. May be awaited anywhere; not by blocking inside a handler.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the rest to the cores, as dropping the handler does.
    pub fn unregister(self) -> Unregister {
        Unregister { under_way: self.trigger.remote.fabric().unregister_handler(self.trigger.id).ok() }
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
        drop(self.trigger.remote.fabric().unregister_handler(self.trigger.id));
    }
}

/// Triggers a [`Handler`], from any thread. Clones are cheap.
#[derive(Clone)]
pub struct Trigger {
    remote: Remote,
    id: HandlerId,
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trigger").field("slot", &self.id.slot()).finish_non_exhaustive()
    }
}

impl Trigger {
    /// Runs `f` with the calling thread's core, if it is one of the handler's runtime.
    fn with_own<R>(&self, f: impl FnOnce(Option<&Core>) -> R) -> R {
        let mut f = Some(f);
        let own = with_current(LinuxPort::thread(), |executor| {
            let core = Some(executor.core()).filter(|core| self.remote.fabric().has(core));
            f.take().map(|f| f(core))
        });
        match (own.flatten(), f) {
            (Some(value), _) => value,
            (None, Some(f)) => f(None),
            (None, None) => unreachable!("it was called, and its value is there"),
        }
    }

    /// Runs the handler on `core`, at least once after this call; triggers that came before it ran are one. On the calling core too it runs
    /// after the current poll, never inside of it.
    ///
    /// Never waits and never allocates. What the caller wrote before is visible to the handler. Where the core has been triggered already it costs
    /// one atomic operation; on a thread that runs no core of the runtime, three.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if the handler was unregistered, which the end of the runtime does too, or `core` has left. A core that is about to leave may
    /// accept a trigger and not run it.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[track_caller]
    pub fn trigger(&self, core: CoreId) -> Result<(), TriggerError> {
        assert_all_exist(&CoreSet::from_iter([core]), self.remote.cores());
        self.with_own(|own| match own {
            Some(own) => own.trigger(self.id, core),
            None => self.remote.fabric().trigger(self.id, core),
        })
    }

    /// [`trigger`](Self::trigger) for every core of `set`, in ascending order. Returns for how many; cores that have left are skipped.
    ///
    /// # Errors
    ///
    /// [`Unregistered`] if the handler was unregistered, or every core of the runtime has left.
    ///
    /// # Panics
    ///
    /// If the set has a core that there is not.
    #[track_caller]
    pub fn trigger_set(&self, set: &CoreSet) -> Result<usize, Unregistered> {
        assert_all_exist(set, self.remote.cores());
        self.with_own(|own| match own {
            Some(own) => own.trigger_set(self.id, set),
            None => self.remote.fabric().trigger_set(self.id, set),
        })
    }

    /// [`trigger`](Self::trigger) for every core, the calling one included. Returns for how many.
    ///
    /// # Errors
    ///
    /// As [`trigger_set`](Self::trigger_set).
    pub fn trigger_all(&self) -> Result<usize, Unregistered> {
        self.trigger_set(&CoreSet::first(self.remote.cores()))
    }

    /// [`trigger`](Self::trigger) for every core but the calling one. Returns for how many.
    ///
    /// # Errors
    ///
    /// As [`trigger_set`](Self::trigger_set).
    pub fn trigger_others(&self) -> Result<usize, Unregistered> {
        let mut set = CoreSet::first(self.remote.cores());
        if let Some(own) = self.with_own(|own| own.map(Core::id)) {
            set.remove(own);
        }
        self.trigger_set(&set)
    }
}

/// The end of a handler: see [`Handler::unregister`].
#[must_use = "only its end says that the handler no longer runs"]
#[derive(Debug)]
pub struct Unregister {
    /// `None`: the cores had left before, and took the handler with them.
    under_way: Option<handlers::Unregister>,
}

impl Future for Unregister {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.under_way.as_mut().map_or(Poll::Ready(()), |under_way| Pin::new(under_way).poll(cx))
    }
}
