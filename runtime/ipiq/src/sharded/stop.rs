//! How a service stops.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use futures_channel::oneshot;
use ipiq_executor::JoinError;
use ipiq_fabric::{CoreId, catch};

use super::error::{StopCause, StopError};
use super::seat::{self, Shard};
use super::service::{Service, Sharded};
use crate::calls;
use crate::current::on_core;
use crate::xcall;

/// How far the stop of a service is.
#[derive(Debug, Default)]
pub(super) enum Stopping {
    #[default]
    No,
    /// With those who wait for its end.
    UnderWay(Vec<oneshot::Sender<()>>),
    Over,
}

impl<T> Sharded<T> {
    /// Stops the service: from now on no call finds a shard; when those under way have ended, every core drops its own.
    ///
    /// A call that comes too late is answered with an [error that says so](super::ShardError::is_stopped). Who wants requests that are half-way to go through to the end stops what
    /// brings requests first.
    ///
    /// The [end of the runtime](crate::shutdown) in phases does it too, at the end of `drain`, for services that have not stopped by themselves, in reverse order of their starts.
    ///
    /// The stop begins at once. If there was one already the future waits for its end. Who uses a shard and awaits the stop would wait for itself: in a task of a shard, such as one of
    /// [`On::spawn`](super::On::spawn), begin it and do not await it. Where the use is known, in such tasks and in what they call, the future says so at once, and the service
    /// stops when the use has ended; a [`Shard`] of [`local`](Self::local) that is held all the while is not seen.
    ///
    /// # Errors
    ///
    /// [`StopError`] if dropping a value panicked, and if it would have [waited for itself](StopError::is_own_use).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the stop.
    ///
    /// # Panics
    ///
    /// When called on a thread that runs no core of the service's runtime.
    #[track_caller]
    pub fn stop(&self) -> impl Future<Output = Result<(), StopError>> + use<T> {
        self.stop_with(async |_| {})
    }

    /// As [`stop`](Self::stop), and runs the async closure `last` with every shard before it is dropped: on every core, when no call is under way on any.
    ///
    /// It may await, for example to write out what the shard has; the stop waits for it, and for those to whom it gives its [`Shard`]. A shard cannot be called by its peers then.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// use ipiq::sharded::{Shard, Sharded};
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() {
    ///     let hits = Sharded::start(|_| async { Cell::new(0u32) }).await.unwrap();
    ///     hits.invoke_on_all(async |hits: Shard<Cell<u32>>| hits.set(3)).await.unwrap();
    ///     hits.stop_with(async |hits: Shard<Cell<u32>>| println!("{}: {} hits", ipiq::core_id(), hits.get())).await.unwrap();
    ///     assert!(hits.try_local().is_none());
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StopError`] if `last` panicked, or its clone, or dropping a value; the others have been dropped. If a stop was under way already, `last` does not run.
    ///
    /// # Cancel safety
    ///
    /// As [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// As [`stop`](Self::stop).
    #[track_caller]
    pub fn stop_with<F>(&self, last: F) -> impl Future<Output = Result<(), StopError>> + use<T, F>
    where
        F: AsyncFnOnce(Shard<T>) + Clone + Send + 'static,
    {
        self.assert_here("Sharded::stop");
        let here = on_core("Sharded::stop", |executor| executor.core().id());
        let (first, ended) = self.begin_stop();
        let stop = if first {
            // Not by the task itself: a core that shuts down never polls it.
            let over = Over { service: self.service.clone() };
            let (spawned_at, carried_out) = (Location::caller(), self.clone().carry_out(last, over));
            // Whoever begins it, it is on its own: no deadline of theirs ends it.
            Some(on_core("Sharded::stop", |executor| executor.spawn_at(spawned_at, carried_out)))
        } else {
            None
        };
        let key = self.service.number.key();
        async move {
            // [calls C3]
            if calls::is_in_use(key) {
                return Err(StopError { core: here, cause: StopCause::OwnUse });
            }
            match stop {
                Some(stop) => match stop.await {
                    Ok(outcome) => outcome,
                    Err(error) if error.is_panic() => Err(StopError { core: here, cause: StopCause::Task(error) }),
                    // A core that shuts down cancels it, and drops its shards.
                    Err(_) => Ok(()),
                },
                None => {
                    let _ = ended.await;
                    Ok(())
                }
            }
        }
    }

    /// Whether this is the first; and what tells the stop's end.
    fn begin_stop(&self) -> (bool, oneshot::Receiver<()>) {
        let (tell, ended) = oneshot::channel();
        let mut stopping = self.service.stopping();
        // [sharded E1] what was not made yet is not put.
        self.service.give_up();
        let first = matches!(*stopping, Stopping::No);
        match &mut *stopping {
            Stopping::No => *stopping = Stopping::UnderWay(Vec::new()),
            Stopping::UnderWay(waiting) => waiting.push(tell),
            Stopping::Over => {}
        }
        (first, ended)
    }

    async fn carry_out<F>(self, last: F, _over: Over) -> Result<(), StopError>
    where
        F: AsyncFnOnce(Shard<T>) + Clone + Send + 'static,
    {
        let (key, service) = (self.service.number.key(), self.service.in_chains::<T>());
        // [sharded E2]
        xcall::low::broadcast(move || async move {
            if let Some(seat) = seat::find::<T>(key) {
                seat.close();
                seat.unused().await;
            }
        })
        .await;
        // [sharded E3] cloning the closure may panic: E4 all the same.
        let last = catch(|| {
            xcall::low::broadcast(move || async move {
                if let Some(seat) = seat::find(key) {
                    calls::using(service, last(Shard::new(seat))).await;
                }
            })
        });
        let outcome = match last {
            Ok(last) => Ok(first_panic(last.await)),
            Err(panic) => Err(panic),
        };
        // [sharded E4] what the closure has passed its use on to ends first.
        let dropped = xcall::low::broadcast(move || async move {
            if let Some(seat) = seat::find::<T>(key) {
                seat.unused().await;
            }
            seat::take(key);
        });
        let dropped = first_panic(dropped.await);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(dropped)
    }
}

/// Tells, when it is dropped, that the stop is over.
struct Over {
    service: Arc<Service>,
}

impl Drop for Over {
    fn drop(&mut self) {
        // [shutdown B4] until here the runtime's end waits for it.
        if let Some(number) = self.service.known_as.get() {
            self.service.handle.board().forget_service(*number);
        }
        // Who waits is woken by the drop, outside the lock.
        let _waiting = std::mem::replace(&mut *self.service.stopping(), Stopping::Over);
    }
}

fn first_panic(ended: Vec<(CoreId, Result<(), JoinError>)>) -> Result<(), StopError> {
    let mut panics = ended.into_iter().filter_map(|(core, ended)| Some((core, ended.err()?)));
    let first = panics.find(|(_, error)| error.is_panic());
    first.map_or(Ok(()), |(core, error)| Err(StopError { core, cause: StopCause::Task(error) }))
}
