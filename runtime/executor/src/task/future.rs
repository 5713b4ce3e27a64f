//! The future that `async-task` holds: it contains panics, drops at home, and is polled without `async-task` once it has waited.

use core::future::Future;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll};

use ipiq_fabric::{PanicPayload, catch, contain};

use super::join::Unclaimed;
use super::waker::{self, Kept};
use super::word::Finish;
use super::{JoinError, Kind, Meta, Phase};
use crate::executor::with_executor;

/// What a task holds; the phase in its metadata says which.
pub(super) union Held<Init, Fut: Future> {
    /// Unmade.
    init: ManuallyDrop<Init>,
    /// From then on.
    future: ManuallyDrop<Fut>,
    /// Ended, until `async-task` takes it.
    value: ManuallyDrop<Fut::Output>,
    /// Failed, until `async-task` takes it.
    error: ManuallyDrop<JoinError>,
}

impl<Init, Fut: Future> Held<Init, Fut> {
    pub(super) fn init(init: Init) -> Self {
        Self { init: ManuallyDrop::new(init) }
    }

    pub(super) fn future(future: Fut) -> Self {
        Self { future: ManuallyDrop::new(future) }
    }

    /// # Safety
    ///
    /// 1. The error is there if it `failed`, or else the value, and nobody looks at it again.
    #[inline(always)]
    unsafe fn take_outcome(&mut self, failed: bool) -> Result<Fut::Output, JoinError> {
        if failed {
            // SAFETY: 1. as required.
            let error = unsafe { &mut self.error };
            // SAFETY: 1. as required.
            return Err(unsafe { ManuallyDrop::take(error) });
        }
        // SAFETY: 1. as required.
        let value = unsafe { &mut self.value };
        // SAFETY: 1. as required.
        Ok(unsafe { ManuallyDrop::take(value) })
    }
}

/// Dropped, it drops nothing: who ends the task has done so (T8), and only what has ended is ever dropped (T9).
#[repr(C)]
pub(super) struct TaskFuture<Init, Fut: Future> {
    /// First, where `async-task` puts the outcome.
    held: Held<Init, Fut>,
    meta: NonNull<Meta>,
}

/// Polls a task that has waited, without `async-task`. Ready: the outcome is there, and the runnable has to be run once more.
///
/// # Safety
///
/// 1. The task is listed, and the caller holds its runnable, on its home.
#[inline(always)]
pub(super) unsafe fn poll_listed(task: &Meta) -> Poll<()> {
    // SAFETY: 1. as required: who is listed has not finished.
    let kind = unsafe { task.kind() };
    // SAFETY: 1. `list` stored the address of a future, which is not null.
    let future = unsafe { NonNull::new_unchecked(task.first.get().cast_mut()) };
    // SAFETY: 1. as required: who holds the runnable of a listed task may poll its future. 2. it is the task's.
    unsafe { (kind.poll)(future, task) }
}

impl<Init, Fut> TaskFuture<Init, Fut>
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    pub(super) const KIND: &'static Kind = &Kind { poll: Self::poll_at, name: core::any::type_name::<Fut> };

    pub(super) fn new(meta: &Meta, held: Held<Init, Fut>) -> Self {
        Self { held, meta: NonNull::from(meta) }
    }

    /// # Safety
    ///
    /// 1. `future` is the address of a `Self` that is pinned there, and nobody else uses it meanwhile; it holds a future. 2. `meta` is of the same task.
    unsafe fn poll_at(future: NonNull<()>, meta: &Meta) -> Poll<()> {
        // SAFETY: 1. as required.
        let this = unsafe { future.cast::<Self>().as_mut() };
        // SAFETY: 1. as required.
        let this = unsafe { Pin::new_unchecked(this) };
        // SAFETY: 1. as required.
        unsafe { this.advance(meta) }
    }

    /// One poll. Ready: the outcome is there.
    ///
    /// # Safety
    ///
    /// 1. It holds a future.
    #[inline(always)]
    unsafe fn advance(self: Pin<&mut Self>, meta: &Meta) -> Poll<()> {
        // SAFETY: 1. the future in it is pinned again, or dropped in place, not moved.
        let this = unsafe { self.get_unchecked_mut() };
        if meta.word.is_aborted() {
            // SAFETY: 1. as required.
            unsafe { this.cut(meta) };
            return Poll::Ready(());
        }
        // SAFETY: 1. as required.
        let future: &mut Fut = unsafe { &mut this.held.future };
        // SAFETY: 1. it stays where it is until it is dropped in place.
        let future = unsafe { Pin::new_unchecked(future) };
        let waker = waker::lend(meta);
        let polled = catch(|| future.poll(&mut Context::from_waker(&waker)));
        let outcome = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(payload) => {
                count_panic(meta);
                Err(JoinError::panicked(payload))
            }
        };
        // SAFETY: 1. as required.
        unsafe { this.finish(meta, outcome) };
        Poll::Ready(())
    }

    /// [task T7]: drops the future of a task that was aborted, at home, and tells of it where the core shuts down.
    ///
    /// # Safety
    ///
    /// 1. It holds a future.
    #[cold]
    unsafe fn cut(&mut self, meta: &Meta) {
        // [task T7]
        with_executor(meta, |executor| executor.cuts().begin(core::any::type_name::<Fut>));
        // SAFETY: 1. as required.
        unsafe { self.finish(meta, Err(JoinError::cut(meta.word.is_expired()))) };
        with_executor(meta, |executor| executor.cuts().end());
    }

    /// [task T8]: drops the future in place, then stores the outcome.
    ///
    /// # Safety
    ///
    /// 1. It holds a future.
    #[inline(always)]
    unsafe fn finish(&mut self, meta: &Meta, outcome: Result<Fut::Output, JoinError>) {
        // [task T8] a destructor that panics leaves a future half dropped, which nobody looks at again.
        // SAFETY: 1. as required; from here on it holds none.
        let future = unsafe { &mut self.held.future };
        // SAFETY: 1. it is there, and nobody looks at it again.
        let dropped = catch(|| unsafe { ManuallyDrop::drop(future) });
        if dropped.is_err() && !matches!(&outcome, Err(error) if error.is_panic()) {
            count_panic(meta);
        }
        self.end(meta, dropped, outcome);
    }

    /// Stores the outcome. The destructor's panic becomes the outcome, unless that is one already. What was held before has been dropped.
    #[inline(always)]
    fn end(&mut self, meta: &Meta, dropped: Result<(), PanicPayload>, outcome: Result<Fut::Output, JoinError>) {
        let outcome = match dropped {
            Ok(()) => outcome,
            Err(payload) => match outcome {
                Err(error) if error.is_panic() => {
                    contain(|| drop(payload));
                    Err(error)
                }
                unwanted => {
                    contain(|| drop(unwanted));
                    Err(JoinError::panicked(payload))
                }
            },
        };
        match outcome {
            Ok(value) => {
                self.held.value = ManuallyDrop::new(value);
                meta.phase.set(Phase::Ended);
            }
            Err(error) => {
                self.held.error = ManuallyDrop::new(error);
                meta.phase.set(Phase::Failed);
            }
        }
    }

    /// The poll that `async-task` makes first. Ready: the outcome is there.
    fn first_poll(mut self: Pin<&mut Self>, cx: &Context<'_>) -> Poll<()> {
        let meta = self.meta();
        if meta.phase.replace(Phase::Running) == Phase::Unmade {
            // SAFETY: 1. what was never polled may be moved.
            let this = unsafe { self.as_mut().get_unchecked_mut() };
            // SAFETY: 1. the phase said so.
            let init = unsafe { &mut this.held.init };
            // SAFETY: 1. it is there, and the phase says otherwise by now.
            let init = unsafe { ManuallyDrop::take(init) };
            if this.make(meta, init).is_ready() {
                return Poll::Ready(());
            }
        }
        // SAFETY: 1. it was spawned so, or has just been made.
        if unsafe { self.as_mut().advance(meta) }.is_ready() {
            return Poll::Ready(());
        }
        // SAFETY: 1. the poll has left it there.
        unsafe { self.list(meta, cx) }
    }

    /// Makes the future. Ready: there is none, and the outcome is there.
    fn make(&mut self, meta: &Meta, init: Init) -> Poll<()> {
        if meta.word.is_aborted() {
            // One that has not been made may be dropped elsewhere: [task T9].
            let dropped = catch(|| drop(init));
            self.end(meta, dropped, Err(JoinError::cancelled()));
            return Poll::Ready(());
        }
        // [task T5]
        match catch(init) {
            Ok(future) => self.held.future = ManuallyDrop::new(future),
            Err(payload) => {
                count_panic(meta);
                self.end(meta, Ok(()), Err(JoinError::panicked(payload)));
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// [task T6]. Ready: the task was aborted meanwhile.
    ///
    /// # Safety
    ///
    /// 1. It holds a future.
    unsafe fn list(self: Pin<&mut Self>, meta: &Meta, cx: &Context<'_>) -> Poll<()> {
        // SAFETY: 1. its address is taken, and the future in it is dropped in place, not moved.
        let this = unsafe { self.get_unchecked_mut() };
        meta.first.set(NonNull::from(&mut *this).as_ptr().cast_const().cast());
        // [task T6]
        with_executor(meta, |executor| executor.tasks().insert(meta));
        if meta.word.wait() {
            // SAFETY: 1. as required.
            unsafe { this.cut(meta) };
            return Poll::Ready(());
        }
        // So that `async-task` hands its runnable to `schedule` when this poll returns.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<Init, Fut: Future> TaskFuture<Init, Fut> {
    fn meta<'a>(&self) -> &'a Meta {
        // SAFETY: 1. the metadata lies in the task's allocation, which outlives the task's future, and so every use in a poll of it.
        unsafe { self.meta.as_ref() }
    }
}

#[cold]
fn count_panic(meta: &Meta) {
    with_executor(meta, |executor| executor.count_panicked());
}

/// [task T8]: the task leaves the list; who refers to it from now on keeps its allocation and its home.
fn retire(meta: &Meta, cx: &Context<'_>) {
    if meta.is_listed() {
        with_executor(meta, |executor| executor.tasks().remove(meta));
    }
    meta.phase.set(Phase::Finished);
    // [task T8]
    match meta.word.finish(meta.own.get() as usize, || Kept::put(meta, cx.waker())) {
        Finish::Alone | Finish::Kept => {}
        // SAFETY: 1. it was put, and nobody else refers to the task.
        Finish::KeptForNobody => drop(unsafe { Kept::take(NonNull::from(meta)) }),
    }
}

impl<Init, Fut> Future for TaskFuture<Init, Fut>
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    type Output = Unclaimed<Fut::Output>;

    /// Called by `async-task` twice at most: for the first poll, and when the outcome is there.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let meta = self.meta();
        if !meta.phase.get().has_outcome() && self.as_mut().first_poll(cx).is_pending() {
            return Poll::Pending;
        }
        let failed = meta.phase.get() == Phase::Failed;
        retire(meta, cx);
        // SAFETY: 1. no future is there any more.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: 1. the phase said which one is there, and says by now that none is.
        Poll::Ready(Unclaimed(Some(unsafe { this.held.take_outcome(failed) })))
    }
}
