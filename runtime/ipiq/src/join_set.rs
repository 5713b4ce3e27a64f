//! Tasks that are awaited together.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{FuturesUnordered, Stream};
use ipiq_executor::{JoinError, JoinHandle};
use ipiq_fabric::CoreId;

/// How often a set is looked into for a task that has ended.
const LOOKS: usize = 4;

/// Tasks of this and other cores, awaited in the order in which they end. Dropped, it aborts those that have not.
///
/// ```
/// use ipiq::{CoreId, JoinError, JoinSet};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), JoinError> {
///     let mut words = JoinSet::new();
///     words.spawn_local(async { "here" });
///     words.spawn_on(CoreId::new(1), || async { "there" });
///     let mut letters = 0;
///     while let Some(word) = words.join_next().await {
///         letters += word?.len();
///     }
///     assert_eq!(letters, 9);
///     Ok(())
/// }
/// ```
///
/// The interface is that of tokio's `JoinSet`. It is a [`Stream`](https://docs.rs/futures/latest/futures/stream/trait.Stream.html), too. A closure of [`spawn_blocking`](crate::spawn_blocking) joins it inside a task: `set.spawn_local(ipiq::spawn_blocking(f))`. A task that is to be aborted alone is spawned with an [`AbortHandle`](crate::AbortHandle), and inserted.
#[must_use = "a dropped set aborts its tasks"]
pub struct JoinSet<T> {
    tasks: FuturesUnordered<JoinHandle<T>>,
    /// Of who awaits the next one, or did: a look in between must leave it where the tasks find it.
    waiting: Option<Waker>,
}

impl<T> fmt::Debug for JoinSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinSet").field("len", &self.len()).finish()
    }
}

impl<T> Default for JoinSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> JoinSet<T> {
    /// A set of no tasks.
    pub fn new() -> Self {
        Self { tasks: FuturesUnordered::new(), waiting: None }
    }

    /// How many tasks have not been joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether every task has been joined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Adds a task that was spawned before.
    pub fn insert(&mut self, task: JoinHandle<T>) {
        self.tasks.push(task);
    }

    /// Spawns a task on the calling core, as [`spawn_local`](crate::spawn_local) does.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn spawn_local<Fut>(&mut self, future: Fut)
    where
        Fut: Future<Output = T> + 'static,
    {
        self.insert(crate::spawn_local(future));
    }

    /// Spawns a task on `core`, as [`spawn_on`](crate::spawn_on) does.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core, and if there is no core `core`.
    #[track_caller]
    pub fn spawn_on<Init, Fut>(&mut self, core: CoreId, init: Init)
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.insert(crate::spawn_on(core, init));
    }

    /// Spawns a task on a core that has little to do, as [`spawn_any`](crate::spawn_any) does.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn spawn_any<Init, Fut>(&mut self, init: Init)
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.insert(crate::spawn_any(init));
    }

    /// Awaits the next task to end; `None` when all have been joined.
    ///
    /// # Errors
    ///
    /// The task's, if it panicked or was cancelled.
    ///
    /// # Cancel safety
    ///
    /// No outcome is lost when it is dropped.
    pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next task that has ended already; `None`: none has, as far as the calling core knows.
    ///
    /// # Errors
    ///
    /// The task's, if it panicked or was cancelled.
    pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        // A set gives way now and then, although there is more to look at.
        let cx = &mut Context::from_waker(self.waiting.as_ref().unwrap_or(Waker::noop()));
        for _ in 0..LOOKS {
            if let Poll::Ready(ended) = Pin::new(&mut self.tasks).poll_next(cx) {
                return ended;
            }
        }
        None
    }

    /// Awaits every task, and returns the outcomes in the order in which they ended.
    ///
    /// ```
    /// use ipiq::{JoinError, JoinSet};
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() -> Result<(), JoinError> {
    ///     let mut squares = JoinSet::new();
    ///     for core in ipiq::cores() {
    ///         squares.spawn_on(core, move || async move { core.index().pow(2) });
    ///     }
    ///     let sum: usize = squares.join_all().await.into_iter().sum::<Result<_, _>>()?;
    ///     assert_eq!(sum, 1);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropped, it aborts the tasks that have not ended, and the outcomes of the others are lost.
    pub async fn join_all(mut self) -> Vec<Result<T, JoinError>> {
        let mut outcomes = Vec::with_capacity(self.len());
        while let Some(outcome) = self.join_next().await {
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Asks every task to end. They stay in the set until they are joined.
    pub fn abort_all(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Aborts every task, and awaits that all have ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped after it was polled, it has asked every task to end; those that have not been joined stay in the set.
    pub async fn shutdown(&mut self) {
        self.abort_all();
        while self.join_next().await.is_some() {}
    }

    /// Lets go of every task: they go on by themselves.
    pub fn detach_all(&mut self) {
        self.tasks.clear();
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        self.abort_all();
    }
}

impl<T> Stream for JoinSet<T> {
    type Item = Result<T, JoinError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.tasks).poll_next(cx);
        if polled.is_pending() && !this.waiting.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            this.waiting = Some(cx.waker().clone());
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl<T> Extend<JoinHandle<T>> for JoinSet<T> {
    fn extend<I: IntoIterator<Item = JoinHandle<T>>>(&mut self, tasks: I) {
        self.tasks.extend(tasks);
    }
}

impl<T> FromIterator<JoinHandle<T>> for JoinSet<T> {
    fn from_iter<I: IntoIterator<Item = JoinHandle<T>>>(tasks: I) -> Self {
        Self { tasks: tasks.into_iter().collect(), waiting: None }
    }
}
