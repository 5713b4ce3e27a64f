#![doc = include_str!("README.md")]

mod list;

use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};

use alloc::sync::Arc;
use async_task::{Builder, Runnable, Task};
use atomic_waker::AtomicWaker;
use ipiq_fabric::call::panic_text;
use ipiq_fabric::{CoreId, Fabric, Message, PanicPayload, catch, contain};

use crate::executor::with_executor;
pub(crate) use list::TaskList;

/// What tasks and other threads know of a home core.
pub(crate) struct Home {
    pub(crate) id: CoreId,
    pub(crate) fabric: Fabric,
    pub(crate) port: Arc<dyn ipiq_fabric::port::Port>,
}

/// A task's metadata; see the table of [fields](self#state-and-who-writes-it).
pub(crate) struct Meta {
    home: NonNull<Home>,
    abort: AtomicBool,
    waker: AtomicWaker,
    started: Cell<bool>,
    links: list::Links,
}

// SAFETY: 1. `home` is followed only while it lives (Proof). 2. `started` and `links` are used at home only, or, for a
// runnable that is unstarted, by whoever holds it.
unsafe impl Send for Meta {}
// SAFETY: as for `Send`; the rest are atomics.
unsafe impl Sync for Meta {}

impl Meta {
    /// The task's home; it lives while the task is not finished.
    pub(crate) fn home(&self) -> &Home {
        // SAFETY: 1. asked for only by a task that is not finished (Proof).
        unsafe { self.home.as_ref() }
    }

    /// The task ends at its next poll.
    pub(crate) fn cancel(&self) {
        self.abort.store(true, Ordering::Relaxed);
    }
}

/// Why a task has no value.
pub struct JoinError {
    cause: Cause,
}

enum Cause {
    Cancelled,
    Panicked(PanicPayload),
}

impl JoinError {
    fn cancelled() -> Self {
        Self { cause: Cause::Cancelled }
    }

    fn panicked(payload: PanicPayload) -> Self {
        Self { cause: Cause::Panicked(payload) }
    }

    /// Whether the task was aborted, or its core had left or was shutting down.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.cause, Cause::Cancelled)
    }

    /// Whether the task, or a destructor that it ran, panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.cause, Cause::Panicked(_))
    }

    /// What the task panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Panicked(payload) => Ok(payload),
            Cause::Cancelled => Err(self),
        }
    }
}

// SAFETY: 1. a shared reference reads a panic's payload only as a `&str` or `String`, which are `Sync`; any other payload can
// be reached by value only (`try_into_panic`).
unsafe impl Sync for JoinError {}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("JoinError::Cancelled"),
            Cause::Panicked(payload) => write!(f, "JoinError::Panicked({:?})", panic_text(payload)),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Cancelled => f.write_str("the task was cancelled"),
            Cause::Panicked(payload) => write!(f, "the task panicked: {}", panic_text(payload)),
        }
    }
}

impl core::error::Error for JoinError {}

/// A task's outcome until somebody takes it. An outcome that nobody wants is dropped here, and a panic of its destructor
/// reaches nobody.
struct Unclaimed<T>(Option<Result<T, JoinError>>);

impl<T> Drop for Unclaimed<T> {
    fn drop(&mut self) {
        if let Some(outcome) = self.0.take() {
            contain(|| drop(outcome));
        }
    }
}

/// Awaits a task, from any core or thread.
///
/// Dropping it detaches the task, which goes on, also when a timeout or a `select!` drops it: [`abort`](Self::abort) ends the
/// task. The task's future has been dropped before the outcome is there.
///
/// # Cancel safety
///
/// Awaiting `&mut handle` is cancel safe: the outcome stays until it is taken.
#[must_use = "a dropped handle detaches its task; say so with `drop` or `let _`"]
pub struct JoinHandle<T> {
    /// `None` once the outcome was taken.
    task: Option<Task<Unclaimed<T>, Meta>>,
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

impl<T> JoinHandle<T> {
    /// Asks the task to end: its future is dropped on its core, in place of its next poll. A task that is in the middle of a poll
    /// finishes it first; one that has finished keeps its outcome.
    pub fn abort(&self) {
        if let Some(task) = &self.task {
            let meta = task.metadata();
            // Release: the home that sees the flag sees what led to it; T6 has the other order.
            meta.abort.store(true, Ordering::Release);
            meta.waker.wake();
        }
    }

    /// Whether the outcome is there, or was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(Task::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If polled again after the outcome was taken.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let task = self.task.as_mut().expect("a join handle is not polled after it was ready");
        let mut unclaimed = core::task::ready!(Pin::new(task).poll(cx));
        if let Some(task) = self.task.take() {
            task.detach();
        }
        Poll::Ready(unclaimed.0.take().expect("an outcome is claimed once"))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

/// What a task holds at each stage of its life.
enum Stage<Init, Fut> {
    Unstarted(Init),
    Running(Fut),
    Finished,
}

/// The future that `async-task` polls: it contains panics and keeps the list.
struct TaskFuture<Init, Fut> {
    meta: NonNull<Meta>,
    stage: Stage<Init, Fut>,
}

impl<Init, Fut> TaskFuture<Init, Fut>
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    fn meta(&self) -> &Meta {
        // SAFETY: 1. the metadata lies in the task's allocation, which outlives the task's future.
        unsafe { self.meta.as_ref() }
    }

    /// Drops what the stage holds, at home.
    fn clear(self: Pin<&mut Self>) -> Result<(), PanicPayload> {
        // SAFETY: 1. the future is dropped in place by the assignment, not moved.
        let this = unsafe { self.get_unchecked_mut() };
        // A destructor that panics leaves a future half dropped; the assignment still completes.
        let result = catch(|| this.stage = Stage::Finished);
        this.unlink();
        result
    }

    fn unlink(&self) {
        let meta = self.meta();
        if meta.links.is_linked() {
            with_executor(meta, |executor| executor.tasks().remove(meta));
            // It counts as a reference to the task that it lies in.
            drop(meta.waker.take());
        }
    }

    /// [task T5]
    fn start(self: Pin<&mut Self>) -> Result<(), PanicPayload> {
        // SAFETY: 1. a stage that is `Unstarted` has never been polled: it may be moved.
        let this = unsafe { self.get_unchecked_mut() };
        if let Stage::Unstarted(_) = this.stage {
            // [task T5]
            this.meta().started.set(true);
            if let Stage::Unstarted(init) = core::mem::replace(&mut this.stage, Stage::Finished) {
                this.stage = Stage::Running(catch(init)?);
            }
        }
        Ok(())
    }

    fn poll_running(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Result<Poll<Fut::Output>, PanicPayload> {
        // SAFETY: 1. the future is only pinned again, not moved.
        let this = unsafe { self.get_unchecked_mut() };
        let Stage::Running(future) = &mut this.stage else { unreachable!("a task is polled while it runs") };
        // SAFETY: 1. it stays where it is until it is dropped in place.
        let future = unsafe { Pin::new_unchecked(future) };
        catch(|| future.poll(cx))
    }

    /// [task T6]. `true`: the task was aborted meanwhile.
    fn park(&self, cx: &Context<'_>) -> bool {
        let meta = self.meta();
        if !meta.links.is_linked() {
            // [task T6]
            with_executor(meta, |executor| executor.tasks().insert(meta));
            meta.waker.register(cx.waker());
        }
        meta.abort.load(Ordering::Acquire)
    }
}

impl<Init, Fut> TaskFuture<Init, Fut>
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    fn advance(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Fut::Output, JoinError>> {
        if self.meta().abort.load(Ordering::Acquire) {
            // [task T7]
            return Poll::Ready(Err(match self.clear() {
                Ok(()) => JoinError::cancelled(),
                Err(payload) => JoinError::panicked(payload),
            }));
        }
        let polled = match self.as_mut().start() {
            Ok(()) => self.as_mut().poll_running(cx),
            Err(payload) => Err(payload),
        };
        match polled {
            Ok(Poll::Pending) => {
                if self.park(cx) {
                    return self.advance(cx);
                }
                Poll::Pending
            }
            // [task T8]
            Ok(Poll::Ready(value)) => Poll::Ready(match self.clear() {
                Ok(()) => Ok(value),
                Err(payload) => {
                    contain(|| drop(value));
                    Err(JoinError::panicked(payload))
                }
            }),
            Err(payload) => {
                let cleared = self.clear();
                contain(|| drop(cleared));
                Poll::Ready(Err(JoinError::panicked(payload)))
            }
        }
    }
}

impl<Init, Fut> Future for TaskFuture<Init, Fut>
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    type Output = Unclaimed<Fut::Output>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.advance(cx).map(|outcome| Unclaimed(Some(outcome)))
    }
}

/// A runnable on its way to its home.
struct Delivery(Option<Runnable<Meta>>);

impl Delivery {
    /// On the home's thread. Where its loop does not run (its messages are run by hand) the task ends by T9.
    fn arrive(mut self) {
        let Some(runnable) = &self.0 else { return };
        // SAFETY: 1. a runnable's task is not finished, so its home lives (Proof).
        let home = unsafe { runnable.metadata().home.as_ref() };
        crate::executor::with_raw(&*home.port, |executor| {
            if core::ptr::eq(&**executor.home(), home)
                && let Some(runnable) = self.0.take()
            {
                // [task T2]
                executor.enqueue(runnable);
            }
        });
    }
}

impl Drop for Delivery {
    /// [task T9]
    fn drop(&mut self) {
        let Some(runnable) = self.0.take() else { return };
        finish_unstarted(runnable);
    }
}

/// [task T9]: ends a task that cannot reach its home.
pub(crate) fn finish_unstarted(runnable: Runnable<Meta>) {
    let meta = runnable.metadata();
    if meta.started.get() {
        // A panic has torn its home's loop down. Its future may be dropped there only, so it is leaked.
        return core::mem::forget(runnable);
    }
    // [task T9]
    meta.cancel();
    runnable.run();
}

/// Wakes: brings the runnable to its home.
fn schedule(runnable: Runnable<Meta>) {
    let home = runnable.metadata().home;
    // SAFETY: 1. the task is not finished, so its home lives (Proof); unstarted, its spawner holds the home.
    let home_ref = unsafe { home.as_ref() };
    let mut delivery = Some(Delivery(Some(runnable)));
    crate::executor::with_raw(&*home_ref.port, |executor| {
        if core::ptr::eq(&**executor.home(), home.as_ptr()) {
            // [task T2]
            if let Some(runnable) = delivery.take().and_then(|mut delivery| delivery.0.take()) {
                executor.enqueue(runnable);
            }
        } else if executor.is_peer(home_ref) {
            // [task T3]
            if let Some(delivery) = delivery.take() {
                executor.core().send_or_list(home_ref.id, move |_, _| delivery.arrive());
            }
        }
    });
    if let Some(delivery) = delivery {
        // [task T4] the count comes before the post: once it is posted, the task may end, and its home with it.
        // SAFETY: 1. as above; the pointer is that of the `Arc` which the home's loop holds.
        unsafe { Arc::increment_strong_count(home.as_ptr()) };
        // SAFETY: 1. the count just taken.
        let home = unsafe { Arc::from_raw(home.as_ptr()) };
        // A home that has left gives the message back, whose drop is T9.
        drop(home.fabric.post(home.id, Message::foreign(move |_, _| delivery.arrive())));
    }
}

fn build<Init, Fut>(home: &Arc<Home>, init: Stage<Init, Fut>) -> (Runnable<Meta>, JoinHandle<Fut::Output>)
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    let meta = Meta {
        // Not from a reference: T4 makes a count of it.
        home: NonNull::new(Arc::as_ptr(home).cast_mut()).expect("an `Arc` is not null"),
        abort: AtomicBool::new(false),
        waker: AtomicWaker::new(),
        started: Cell::new(false),
        links: list::Links::default(),
    };
    // [task T1]
    let future = move |meta: &Meta| TaskFuture { meta: NonNull::from(meta), stage: init };
    // SAFETY: 1. the future is not `Send`, but from its start on it is polled and dropped on its home thread (Proof); before,
    // it holds what the callers below require to be `Send` or never lets go from home. 2. callers require `'static`. 3. the
    // schedule function is a plain function.
    let (runnable, task) = unsafe { Builder::new().metadata(meta).spawn_unchecked(future, schedule) };
    (runnable, JoinHandle { task: Some(task) })
}

/// Spawns a future that is already at home.
#[inline(always)]
pub(crate) fn spawn_here<Fut>(executor: &crate::Executor, future: Fut) -> JoinHandle<Fut::Output>
where
    Fut: Future + 'static,
{
    let (runnable, handle) = build::<fn() -> Fut, Fut>(executor.home(), Stage::Running(future));
    runnable.metadata().started.set(true);
    executor.enqueue(runnable);
    handle
}

/// Spawns the future that `init` will make on `home`, from any thread.
#[inline(always)]
pub(crate) fn spawn_there<Init, Fut>(home: &Arc<Home>, init: Init) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send,
{
    let (runnable, handle) = build(home, Stage::<Init, Fut>::Unstarted(init));
    runnable.schedule();
    handle
}

/// [task T9]: a task that is cancelled without ever being sent to `home`.
pub(crate) fn refuse<Init, Fut>(home: &Arc<Home>, init: Init) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send,
{
    let (runnable, handle) = build(home, Stage::<Init, Fut>::Unstarted(init));
    finish_unstarted(runnable);
    handle
}
