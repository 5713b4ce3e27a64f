//! How a service starts.

use std::any::type_name;
use std::convert::Infallible;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;

use ipiq_executor::JoinError;
use ipiq_fabric::CoreId;

use super::error::{StartCause, StartError};
use super::seat;
use super::service::Sharded;
use crate::current::here;
use crate::xcall;

impl<T> Sharded<T> {
    /// Makes a shard on every core that has not [left](crate::Handle::leave): `init` travels there and makes the future, whose value is the shard; neither need be `Send`. Ready when all have theirs.
    ///
    /// `init` is given the service, for shards that reach their peers. Those can be called when all are made; before, those that are not made answer as if the
    /// service had stopped.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// use ipiq::CoreId;
    /// use ipiq::sharded::{Shard, Sharded};
    ///
    /// struct Relay {
    ///     peers: Sharded<Relay>,
    ///     passed: Cell<u32>,
    /// }
    ///
    /// #[ipiq::main(cores = 3)]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let relay = Sharded::start(|peers| async { Relay { peers, passed: Cell::new(0) } }).await?;
    ///     let first = relay.on(CoreId::new(1)).spawn(async |relay: Shard<Relay>| {
    ///         relay.passed.set(1);
    ///         relay.peers.on(CoreId::new(2)).call(|relay| relay.passed.set(2)).await
    ///     });
    ///     first.await??;
    ///     assert_eq!(relay.map(|relay| relay.passed.get()).await?, [0, 1, 2]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StartError`] if a core panicked, or was shutting down: no shard is left then.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it leaves no shard: those that were made are dropped, on their cores. What is being made goes on, and is dropped when it is made.
    ///
    /// # Panics
    ///
    /// When polled on a thread that runs no core.
    #[track_caller]
    pub fn start<Init, Fut>(
        init: Init,
    ) -> impl Future<Output = Result<Self, StartError<Infallible>>> + use<T, Init, Fut>
    where
        Init: FnOnce(Self) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        Self::start_at(move |peers| async move { Ok(init(peers).await) }, Location::caller())
    }

    /// As [`start`](Self::start), for shards whose making may fail.
    ///
    /// ```
    /// use ipiq::sharded::Sharded;
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() {
    ///     let logs = Sharded::try_start(|_| async { std::fs::File::create(format!("/no/such/place/{}", ipiq::core_id())) });
    ///     let error = logs.await.unwrap_err();
    ///     assert_eq!(error.to_string(), "the shard of core 0 was not made: No such file or directory (os error 2)");
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StartError`] as well if making a shard failed, with its error.
    ///
    /// # Cancel safety
    ///
    /// As [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn try_start<Init, Fut, E>(
        init: Init,
    ) -> impl Future<Output = Result<Self, StartError<E>>> + use<T, Init, Fut, E>
    where
        Init: FnOnce(Self) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        E: Send + 'static,
    {
        Self::start_at(init, Location::caller())
    }

    async fn start_at<Init, Fut, E>(init: Init, started_at: &'static Location<'static>) -> Result<Self, StartError<E>>
    where
        Init: FnOnce(Self) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        E: Send + 'static,
    {
        let sharded = Self::reserve(here("Sharded::start"));
        let half_way = HalfWay { sharded: Some(sharded.clone()) };
        let peers = sharded.clone();
        let made = xcall::low::broadcast_at(started_at, move || async move {
            // [sharded S1]
            let value = init(peers.clone()).await?;
            if !peers.service.is_given_up() {
                // [sharded S2]
                seat::put(&peers.service.number, value);
            }
            Ok(())
        });
        let made = made.await;
        let stopping = sharded.service.handle.remote().is_stopping();
        // [sharded L1]
        let here = |made: &Result<_, JoinError>| stopping || !made.as_ref().is_err_and(JoinError::is_cancelled);
        let failed = made.into_iter().filter(|(_, made)| here(made)).find_map(|(core, made)| failure(core, made));
        half_way.arrive();
        let Some(error) = failed else {
            sharded.stop_with_the_runtime(started_at);
            return Ok(sharded);
        };
        // [sharded S3]
        sharded.service.give_up();
        sharded.vacate().await;
        Err(error)
    }

    /// Has the runtime's phases stop it.
    fn stop_with_the_runtime(&self, started_at: &'static Location<'static>) {
        let sharded = self.clone();
        let stop = Arc::new(move || Box::pin(sharded.stop()) as Pin<Box<dyn Future<Output = _>>>);
        let number = self.service.handle.board().add_service(type_name::<T>(), started_at, stop);
        // It is started once.
        let _ = self.service.known_as.set(number);
    }

    /// Takes every seat.
    fn vacate(&self) -> impl Future<Output = Vec<(CoreId, Result<(), JoinError>)>> + use<T> {
        let key = self.service.number.key();
        xcall::low::broadcast(move || async move { seat::take(key) })
    }
}

fn failure<E>(core: CoreId, made: Result<Result<(), E>, JoinError>) -> Option<StartError<E>> {
    let cause = match made {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => StartCause::Refused(error),
        Err(error) => StartCause::Task(error),
    };
    Some(StartError { core, cause })
}

/// Dropped before it has arrived, gives the service up.
struct HalfWay<T: 'static> {
    sharded: Option<Sharded<T>>,
}

impl<T> HalfWay<T> {
    fn arrive(mut self) {
        self.sharded = None;
    }
}

impl<T> Drop for HalfWay<T> {
    fn drop(&mut self) {
        if let Some(Sharded { service, .. }) = self.sharded.take() {
            // [sharded S4]
            service.give_up();
            for core in (0..service.handle.remote().cores()).map(CoreId::new) {
                let key = service.number.key();
                drop(service.handle.remote().spawn_on(core, move || async move { seat::take(key) }));
            }
        }
    }
}
