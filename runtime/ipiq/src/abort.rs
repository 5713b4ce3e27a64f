//! Aborting tasks whose handles are elsewhere.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use ipiq_executor::{JoinHandle, abort_by};
use ipiq_fabric::CoreId;
use pin_project_lite::pin_project;

/// Aborts a task whose [`JoinHandle`] somebody else has: one that is awaited, detached, or in a [`JoinSet`](crate::JoinSet). Clones abort the same task.
///
/// ```
/// use ipiq::{AbortHandle, CoreId, JoinSet};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let mut set = JoinSet::new();
///     let (task, abort) = AbortHandle::spawn_on(CoreId::new(1), std::future::pending::<()>);
///     set.insert(task);
///     abort.abort();
///     assert!(set.join_next().await.unwrap().unwrap_err().is_cancelled());
/// }
/// ```
///
/// It is asked for when the task is spawned, so that tasks without one do not pay for it: an allocation, and a reference to the task. A task that is to end in its own time is given a
/// [`CancellationToken`](crate::CancellationToken) instead.
#[doc(alias = "abort_handle")]
#[derive(Clone)]
pub struct AbortHandle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unpolled,
    /// The task's own.
    Running(Waker),
    Aborted,
    Ended,
}

impl Shared {
    /// No foreign code runs under the lock: a task's own waker is the runtime's.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was there.
    fn change(&self, change: impl FnOnce(&State) -> Option<State>) -> Option<State> {
        let mut state = self.lock();
        let changed = change(&state)?;
        Some(std::mem::replace(&mut *state, changed))
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").field("finished", &self.is_finished()).finish()
    }
}

impl AbortHandle {
    /// As [`spawn_local`](crate::spawn_local), with an abort handle.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn spawn_local<Fut>(future: Fut) -> (JoinHandle<Fut::Output>, Self)
    where
        Fut: Future + 'static,
    {
        let handle = Self { shared: Arc::default() };
        let task = handle.task();
        (crate::spawn_local(Abortable { future, begun: false, task }), handle)
    }

    /// As [`spawn_on`](crate::spawn_on), with an abort handle.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core, and if there is no core `core`.
    #[track_caller]
    pub fn spawn_on<Init, Fut>(core: CoreId, init: Init) -> (JoinHandle<Fut::Output>, Self)
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let handle = Self { shared: Arc::default() };
        let task = handle.task();
        (crate::spawn_on(core, move || Abortable { future: init(), begun: false, task }), handle)
    }

    /// As [`spawn_any`](crate::spawn_any), with an abort handle.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn spawn_any<Init, Fut>(init: Init) -> (JoinHandle<Fut::Output>, Self)
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let handle = Self { shared: Arc::default() };
        let task = handle.task();
        (crate::spawn_any(move || Abortable { future: init(), begun: false, task }), handle)
    }

    fn task(&self) -> Task {
        Task { shared: self.shared.clone() }
    }

    /// Asks the task to end, as [`JoinHandle::abort`] does. From any thread.
    pub fn abort(&self) {
        let before = self.shared.change(|state| match state {
            State::Unpolled | State::Running(_) => Some(State::Aborted),
            State::Aborted | State::Ended => None,
        });
        if let Some(State::Running(waker)) = before {
            abort_by(&waker);
        }
    }

    /// Whether the task's future is gone: it was ready, was dropped, or was never made.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(*self.shared.lock(), State::Ended)
    }
}

/// What the task, or the message that brings it, has of the two.
struct Task {
    shared: Arc<Shared>,
}

impl Drop for Task {
    fn drop(&mut self) {
        // The reference to the task, if there is one, ends outside of the lock.
        drop(self.shared.change(|_| Some(State::Ended)));
    }
}

pin_project! {
    struct Abortable<F> {
        #[pin]
        future: F,
        begun: bool,
        // Dropped after the future.
        task: Task,
    }
}

impl<F: Future> Future for Abortable<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !std::mem::replace(this.begun, true) {
            let running = State::Running(cx.waker().clone());
            let begin = |state: &State| matches!(state, State::Unpolled).then_some(running);
            if this.task.shared.change(begin).is_none() {
                // It ends in place of its next poll.
                abort_by(cx.waker());
                return Poll::Pending;
            }
        }
        this.future.poll(cx)
    }
}
