//! A value of which every core has its own copy.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ipiq_executor::{Remote, Shootdown, ShootdownError};
use ipiq_fabric::shootdown::{Replica, Source};

use crate::Handle;
use crate::current::on_core;

/// A value of which every core that reads it has its own copy: reading costs one load, no atomic, no fence and no reference count.
///
/// For what is read all the time and changes seldom: configuration, routing tables, feature flags. A task gets the core's copy once, by
/// [`local`](Self::local), and reads it as often as it likes. An update reaches every core before its future is ready: from then on no core can read
/// the old value, not even a task that was in the middle of a poll. Each core puts its copy in place when the poll that it runs has
/// ended, so an update takes as long as the longest poll; a core that sleeps is woken for it.
///
/// Updates of several cores or threads at a time are ordered: each gets a version when [`replace`](Self::replace) or
/// [`modify`](Self::modify) is called, and every core ends with the highest. Clones refer to the same value.
///
/// ```
/// use ipiq::Replicated;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), ipiq::ShootdownError> {
///     let limit = Replicated::new(100u64);
///     let served = limit.clone();
///     let task = ipiq::spawn_on(ipiq::CoreId::new(1), move || async move {
///         let limit = served.local();
///         while limit.read(|limit| *limit) == 100 {
///             ipiq::yield_now().await;
///         }
///         limit.get()
///     });
///     limit.replace(250).await?;
///     assert_eq!(task.await.unwrap(), 250);
///     limit.modify(|limit| *limit += 1).await?;
///     assert_eq!(limit.local().get(), 251);
///     Ok(())
/// }
/// ```
///
/// The way an update travels is FreeBSD's parallel TLB shootdown.
pub struct Replicated<T: Clone + Send + Sync + 'static> {
    master: Arc<Master<T>>,
    remote: Remote,
}

impl<T: Clone + Send + Sync + 'static> Clone for Replicated<T> {
    fn clone(&self) -> Self {
        Self { master: self.master.clone(), remote: self.remote.clone() }
    }
}

impl<T: Clone + Send + Sync + fmt::Debug + 'static> fmt::Debug for Replicated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replicated").field(&self.snapshot()).finish()
    }
}

/// The value that the copies are made of. No code of a user's runs under the lock.
struct Master<T> {
    current: Mutex<(u64, Arc<T>)>,
}

impl<T> Master<T> {
    fn lock(&self) -> MutexGuard<'_, (u64, Arc<T>)> {
        // Nothing under the lock can panic half-way.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, value: T) {
        let fresh = Arc::new(value);
        let mut current = self.lock();
        current.0 += 1;
        let stale = std::mem::replace(&mut current.1, fresh);
        drop(current);
        drop(stale);
    }

    /// `false`: there is a later version than `seen`.
    fn put_after(&self, seen: u64, value: T) -> bool {
        let fresh = Arc::new(value);
        let mut current = self.lock();
        if current.0 != seen {
            drop(current);
            return false;
        }
        current.0 += 1;
        let stale = std::mem::replace(&mut current.1, fresh);
        drop(current);
        drop(stale);
        true
    }
}

impl<T: Clone + Send + Sync + 'static> Source for Master<T> {
    type Value = T;

    fn current(&self) -> (u64, Arc<T>) {
        self.lock().clone()
    }
}

impl<T: Clone + Send + Sync + 'static> Replicated<T> {
    /// A value replicated on the cores of the caller's runtime. [`Handle::replicated`] does the same on any thread.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[must_use]
    #[track_caller]
    pub fn new(value: T) -> Self {
        on_core("Replicated::new", |executor| Self::on(executor.remote().clone(), value))
    }

    pub(crate) fn on(remote: Remote, value: T) -> Self {
        Self { master: Arc::new(Master { current: Mutex::new((0, Arc::new(value))) }), remote }
    }

    /// The calling core's copy, made now if nobody on this core has one; it lives until its last clone is dropped.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the value's runtime.
    #[must_use]
    #[track_caller]
    pub fn local(&self) -> Local<T> {
        let replica = on_core("Replicated::local", |executor| {
            executor.remote().fabric().is_same(self.remote.fabric()).then(|| executor.core().replica(&self.master))
        });
        Local { replica: replica.expect("a replicated value is read on the cores of its own runtime") }
    }

    /// The newest value, on any thread. A core may still be reading an older one if its update is under way.
    #[must_use]
    pub fn snapshot(&self) -> Arc<T> {
        self.master.lock().1.clone()
    }

    /// Replaces the value on every core. Callable on any thread; the update is under way when this returns.
    ///
    /// Each core clones the value for itself and drops its old copy itself; a core without a copy does nothing. The value that copies are
    /// made of is dropped by whichever thread lets go of it last, the updating one as a rule.
    ///
    /// # Errors
    ///
    /// The future resolves to [`ShootdownError`] if cloning panicked on a core, which then keeps its old copy until the
    /// next update, or if the runtime has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the update.
    pub fn replace(&self, value: T) -> Update {
        self.master.put(value);
        self.publish()
    }

    /// Replaces the value on every core by what `f` makes of a clone of the newest one; otherwise as [`replace`](Self::replace).
    ///
    /// No update of others is lost: when one came first, `f` is run again, on its value. A panic of `f` reaches the caller and changes nothing.
    pub fn modify(&self, mut f: impl FnMut(&mut T)) -> Update {
        loop {
            let (seen, current) = self.master.current();
            let mut fresh = T::clone(&current);
            drop(current);
            f(&mut fresh);
            if self.master.put_after(seen, fresh) {
                return self.publish();
            }
        }
    }

    fn publish(&self) -> Update {
        Update { round: self.remote.update(&self.master) }
    }
}

/// The calling core's copy of a [`Replicated`] value. It stays on its core; clones are cheap and read the same copy.
pub struct Local<T> {
    replica: Replica<T>,
}

impl<T> Clone for Local<T> {
    fn clone(&self) -> Self {
        Self { replica: self.replica.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Local<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read(|value| f.debug_tuple("Local").field(value).finish())
    }
}

impl<T> Local<T> {
    /// Reads the copy: as many instructions as a look through an `Rc`.
    ///
    /// The value cannot change while `f` runs, nor before the next await. `f` gets a reference and not the caller, because an
    /// update between two polls would take the value away under it.
    #[inline(always)]
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        self.replica.read(f)
    }

    /// A copy of the value, for small ones; of others, [`read`](Self::read) clones what is wanted.
    #[must_use]
    #[inline(always)]
    pub fn get(&self) -> T
    where
        T: Copy,
    {
        self.read(|value| *value)
    }

    /// How many updates the value has seen.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.replica.version()
    }
}

/// Ready when no core can read an older value any more. May be awaited anywhere.
///
/// # Cancel safety
///
/// Dropping it does not stop the update.
#[must_use = "only when it is ready have all cores the value"]
#[derive(Debug)]
pub struct Update {
    round: Shootdown,
}

impl Future for Update {
    type Output = Result<(), ShootdownError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.round).poll(cx).map(|outcome| outcome.map(drop))
    }
}

impl Handle {
    /// A value replicated on the runtime's cores: [`Replicated::new`] for threads that run no core.
    ///
    /// ```
    /// let runtime = ipiq::Runtime::builder().cores(2).build()?;
    /// let greeting = runtime.handle().replicated(String::from("hello"));
    /// ipiq::Runtime::wait(greeting.replace(String::from("good day"))).unwrap();
    /// assert_eq!(*greeting.snapshot(), "good day");
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    pub fn replicated<T: Clone + Send + Sync + 'static>(&self, value: T) -> Replicated<T> {
        Replicated::on(self.remote().clone(), value)
    }
}
