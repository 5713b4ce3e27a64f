//! Services as cores see them.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ipiq_fabric::{CoreId, assert_core};

use super::call::On;
use super::error::{ShardError, flatten};
use super::seat::{self, Shard};
use super::stop::Stopping;
use crate::calls::{self, SharedLimit};
use crate::current::on_core;
use crate::home::Number;
use crate::{Handle, Limit, xcall};

/// One value per core, made, used and dropped there: see the [module](super).
///
/// Clones are the same service, and may be sent to any core and any thread; what they do is done on cores of the service's own runtime. Dropping them stops nothing: the
/// shards live until [`stop`](Self::stop), or until the runtime ends. So a shard may hold a clone, to reach its peers.
///
/// The idea is Seastar's `sharded`.
#[doc(alias = "Service")]
pub struct Sharded<T: 'static> {
    pub(super) service: Arc<Service>,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Sharded<T> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Sharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharded").field("shards", &self.service.handle.remote().cores()).finish_non_exhaustive()
    }
}

/// What the cores share of a service.
pub(super) struct Service {
    pub(super) handle: Handle,
    pub(super) number: Arc<Number>,
    /// Nobody will know of it: no seat is put any more.
    pub(super) given_up: AtomicBool,
    pub(super) stopping: Mutex<Stopping>,
    /// Under which the runtime's end knows it.
    pub(super) known_as: OnceLock<u64>,
    /// Of async calls.
    pub(super) limit: SharedLimit,
}

impl Service {
    /// What chains of calls know of it; `T` is the type of its shards.
    pub(super) fn in_chains<T>(&self) -> calls::Service {
        calls::Service { key: self.number.key(), type_name: std::any::type_name::<T>() }
    }

    pub(super) fn give_up(&self) {
        // [sharded S4] what takes the seats is sent after it, which orders the two.
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) fn stopping(&self) -> MutexGuard<'_, Stopping> {
        // Nothing under the lock can panic half-way.
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sharded<T> {
    /// A service without shards.
    pub(super) fn reserve(handle: Handle) -> Self {
        let number = Arc::new(Number::draw());
        let service = Service {
            handle,
            number,
            given_up: AtomicBool::new(false),
            stopping: Mutex::default(),
            known_as: OnceLock::new(),
            limit: SharedLimit::default(),
        };
        Self { service: Arc::new(service), value: PhantomData }
    }

    #[track_caller]
    pub(super) fn assert_here(&self, what: &str) {
        let same = on_core(what, |executor| executor.remote().fabric().is_same(self.service.handle.remote().fabric()));
        assert!(same, "a sharded service is used on the cores of its own runtime");
    }

    /// The runtime whose cores have the shards.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.service.handle.clone()
    }

    /// Limits how many [async calls](On::call_async) of one core to the shard of another may be outstanding, from now on: the next
    /// call to come from a core tells those that wait there in line. Unless told otherwise it is 1,024, and one more waits.
    pub fn set_call_limit(&self, limit: Limit) {
        self.service.limit.set(limit);
    }

    /// The calling core's shard.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the service's runtime; when this core has no shard, as when the service has stopped: see [`try_local`](Self::try_local).
    #[must_use]
    #[track_caller]
    pub fn local(&self) -> Shard<T> {
        self.try_local()
            .expect("the service has no shard here: it has stopped, or this core has come back since it was started")
    }

    /// The calling core's shard; `None` when the service has stopped, or is stopping, or this core has not made its shard yet, or has [come back](crate::Handle::bring_back) since.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the service's runtime.
    #[must_use]
    #[track_caller]
    pub fn try_local(&self) -> Option<Shard<T>> {
        self.assert_here("Sharded::local");
        seat::find_open(self.service.number.key()).map(Shard::new)
    }

    /// The shard of `core`, to be called.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[track_caller]
    pub fn on(&self, core: CoreId) -> On<'_, T> {
        assert_core(core, self.service.handle.remote().cores());
        On { sharded: self, core }
    }

    /// Runs `f` with every shard, on its core between two polls, and brings the values back, in ascending order of cores. One that has
    /// [left](crate::Handle::leave) since the service was started has none, and is passed over, back or not.
    ///
    /// `f` should be short, and is sent at once; on this core, too, it runs when the caller has given way: [`xcall::high::broadcast`] says more.
    ///
    /// # Errors
    ///
    /// The first core's, if one has no value; `f` may have run on others.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops no closure that was sent; values are dropped.
    ///
    /// # Panics
    ///
    /// When called on a thread that runs no core of the service's runtime.
    #[track_caller]
    pub fn map<F, R>(&self, f: F) -> impl Future<Output = Result<Vec<R>, ShardError>> + use<T, F, R>
    where
        F: FnOnce(&T) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        self.assert_here("Sharded::map");
        let key = self.service.number.key();
        let answers = xcall::high::broadcast(move || seat::with(key, f));
        let handle = self.handle();
        async move {
            answers
                .await
                .into_iter()
                .map(|(core, answer)| (core, flatten(answer)))
                // What is gone was cut by nothing but the core's departure.
                .filter(|(_, had)| is_of_here(had, || true, &handle))
                .map(|(_, had)| had)
                .collect()
        }
    }

    /// Runs `map` with every shard, as [`map`](Self::map) does, and folds the values into `init`, on the calling core in ascending order of cores.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    ///
    /// # Cancel safety
    ///
    /// As [`map`](Self::map).
    ///
    /// # Panics
    ///
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn map_reduce<F, R, A, G>(
        &self,
        map: F,
        init: A,
        reduce: G,
    ) -> impl Future<Output = Result<A, ShardError>> + use<T, F, R, A, G>
    where
        F: FnOnce(&T) -> R + Clone + Send + 'static,
        R: Send + 'static,
        G: FnMut(A, R) -> A,
    {
        let values = self.map(map);
        async move { Ok(values.await?.into_iter().fold(init, reduce)) }
    }

    /// Runs the async closure `f` with every shard, each as a task of its core, and brings the values back, in ascending order of cores: [`map`](Self::map) for what awaits. Cores that
    /// have [left](crate::Handle::leave) since the service was started are passed over.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// use ipiq::sharded::{Shard, ShardError, Sharded};
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() -> Result<(), ShardError> {
    ///     let hits = Sharded::start(|_| async { Cell::new(ipiq::core_id().index()) }).await.unwrap();
    ///     let doubled = hits.map_async(async |hits: Shard<Cell<usize>>| {
    ///         ipiq::yield_now().await;
    ///         2 * hits.get()
    ///     });
    ///     assert_eq!(doubled.await?, [0, 2]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The first core's, in ascending order, when all have ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops no task; values are dropped.
    ///
    /// # Panics
    ///
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn map_async<F, R>(&self, f: F) -> impl Future<Output = Result<Vec<R>, ShardError>> + use<T, F, R>
    where
        F: AsyncFnOnce(Shard<T>) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        self.spawn_on_each("Sharded::map_async", self.handle().cores(), f)
    }

    /// Runs the async closure `f` with every shard, each as a task of its core, and waits for all.
    ///
    /// # Errors
    ///
    /// As [`map_async`](Self::map_async).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops no task.
    ///
    /// # Panics
    ///
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn invoke_on_all<F>(&self, f: F) -> impl Future<Output = Result<(), ShardError>> + use<T, F>
    where
        F: AsyncFnOnce(Shard<T>) + Clone + Send + 'static,
    {
        let tasks = self.spawn_on_each("Sharded::invoke_on_all", self.handle().cores(), f);
        async move { tasks.await.map(drop) }
    }

    /// As [`invoke_on_all`](Self::invoke_on_all), without the calling core.
    ///
    /// # Errors
    ///
    /// As [`map_async`](Self::map_async).
    ///
    /// # Cancel safety
    ///
    /// As [`invoke_on_all`](Self::invoke_on_all).
    ///
    /// # Panics
    ///
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn invoke_on_others<F>(&self, f: F) -> impl Future<Output = Result<(), ShardError>> + use<T, F>
    where
        F: AsyncFnOnce(Shard<T>) + Clone + Send + 'static,
    {
        const WHAT: &str = "Sharded::invoke_on_others";
        let here = on_core(WHAT, |executor| executor.core().id());
        let tasks = self.spawn_on_each(WHAT, self.handle().cores().filter(move |core| *core != here), f);
        async move { tasks.await.map(drop) }
    }

    #[track_caller]
    fn spawn_on_each<F, I, R>(
        &self,
        what: &str,
        cores: I,
        f: F,
    ) -> impl Future<Output = Result<Vec<R>, ShardError>> + use<T, F, I, R>
    where
        I: Iterator<Item = CoreId>,
        F: AsyncFnOnce(Shard<T>) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        self.assert_here(what);
        let spawned_at = Location::caller();
        let life = |handle: &Handle, core| handle.remote().fabric().life(core);
        let handle = self.handle();
        let spawn = |core| (core, life(&handle, core), self.on(core).spawn_at(spawned_at, f.clone()));
        let tasks: Vec<_> = cores.map(spawn).collect();
        async move {
            let mut values = Ok(Vec::with_capacity(tasks.len()));
            for (core, of_life, task) in tasks {
                // All are waited for, and the first error stays.
                let had = task.await;
                let has_left = || handle.remote().has_left(core) || life(&handle, core) != of_life;
                let value = Some(had).filter(|had| is_of_here(had, has_left, &handle));
                values = values.and_then(|mut values: Vec<R>| {
                    values.extend(value.transpose()?);
                    Ok(values)
                });
            }
            values
        }
    }
}

/// Whether it is the outcome of a core that has a shard: one that `has_left` alone since it was asked has none, nor one that came back after the service was started. A task may be cancelled on one that is there,
/// too: by its deadline.
fn is_of_here<R>(outcome: &Result<R, ShardError>, has_left: impl FnOnce() -> bool, handle: &Handle) -> bool {
    // [sharded L1] [sharded L2]
    match outcome {
        Ok(_) => true,
        Err(error) if error.is_gone() => handle.remote().is_stopping() || !has_left(),
        Err(error) => !error.is_absent(),
    }
}
