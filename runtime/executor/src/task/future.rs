//! The future that `async-task` holds: it contains panics, drops at home, and is polled without `async-task` once it has waited.

use core::future::Future;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll};

use ipiq_fabric::{PanicPayload, catch, contain};

use super::join::Unclaimed;
use super::waker::{self, Kept};
use super::word::Finish;
use super::{JoinError, Kind, Meta, Phase};
use crate::executor::with_executor;

/// What a task holds at each stage of its life.
pub(super) enum Stage<Init, Fut: Future> {
    Unstarted(Init),
    Running(Fut),
    /// The outcome, until `async-task` takes it.
    Finished(Option<Result<Fut::Output, JoinError>>),
}

pub(super) struct TaskFuture<Init, Fut: Future> {
    meta: NonNull<Meta>,
    stage: Stage<Init, Fut>,
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
    // SAFETY: 1. as required: who holds the runnable of a listed task may poll its future.
    unsafe { (kind.poll)(future) }
}

impl<Init, Fut> TaskFuture<Init, Fut>
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    pub(super) const KIND: &'static Kind = &Kind { poll: Self::poll_at, name: core::any::type_name::<Fut> };

    pub(super) fn new(meta: &Meta, stage: Stage<Init, Fut>) -> Self {
        Self { meta: NonNull::from(meta), stage }
    }

    fn meta<'a>(&self) -> &'a Meta {
        // SAFETY: 1. the metadata lies in the task's allocation, which outlives the task's future, and so every use in a poll of it.
        unsafe { self.meta.as_ref() }
    }

    /// # Safety
    ///
    /// 1. `future` is the address of a `Self` that is pinned there, and nobody else uses it meanwhile.
    unsafe fn poll_at(future: NonNull<()>) -> Poll<()> {
        // SAFETY: 1. as required.
        let this = unsafe { future.cast::<Self>().as_mut() };
        // SAFETY: 1. as required.
        unsafe { Pin::new_unchecked(this) }.advance()
    }

    /// One poll. Ready: the outcome is in the stage.
    #[inline(always)]
    fn advance(self: Pin<&mut Self>) -> Poll<()> {
        let meta = self.meta();
        // SAFETY: 1. the future in it is pinned again, or dropped in place, not moved.
        let this = unsafe { self.get_unchecked_mut() };
        if meta.word.is_aborted() {
            this.cut(meta);
            return Poll::Ready(());
        }
        let Stage::Running(future) = &mut this.stage else { unreachable!("a task is polled while it runs") };
        // SAFETY: 1. it stays where it is until it is dropped in place.
        let future = unsafe { Pin::new_unchecked(future) };
        let waker = waker::lend(meta);
        let polled = catch(|| future.poll(&mut Context::from_waker(&waker)));
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => this.finish(Ok(value)),
            Err(payload) => this.finish(Err(JoinError::panicked(payload))),
        }
        Poll::Ready(())
    }

    /// [task T7]: drops the future of a task that was aborted, at home, and tells of it where the core shuts down.
    #[cold]
    fn cut(&mut self, meta: &Meta) {
        // [task T7]
        with_executor(meta, |executor| executor.cuts().begin(core::any::type_name::<Fut>));
        self.finish(Err(JoinError::cancelled()));
        with_executor(meta, |executor| executor.cuts().end());
    }

    /// [task T8]: drops the future in place, then stores the outcome. The destructor's panic becomes the outcome, unless that is one already.
    #[inline(always)]
    fn finish(&mut self, outcome: Result<Fut::Output, JoinError>) {
        // [task T8] a destructor that panics leaves a future half dropped; the assignment still completes.
        let dropped = catch(|| self.stage = Stage::Finished(None));
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
        self.stage = Stage::Finished(Some(outcome));
    }

    /// [task T5]
    fn start(&mut self, meta: &Meta) -> Result<(), PanicPayload> {
        if let Stage::Unstarted(_) = self.stage {
            // [task T5]
            meta.started.set(true);
            if let Stage::Unstarted(init) = core::mem::replace(&mut self.stage, Stage::Finished(None)) {
                self.stage = Stage::Running(catch(init)?);
            }
        }
        Ok(())
    }

    /// The poll that `async-task` makes first. Ready: the outcome is in the stage.
    fn first_poll(mut self: Pin<&mut Self>, cx: &Context<'_>) -> Poll<()> {
        let meta = self.meta();
        meta.phase.set(Phase::Running);
        if meta.word.is_aborted() {
            // SAFETY: 1. what is there is dropped in place.
            let this = unsafe { self.get_unchecked_mut() };
            // One that has not begun may be dropped elsewhere: [task T9].
            if meta.started.get() {
                this.cut(meta)
            } else {
                this.finish(Err(JoinError::cancelled()))
            }
            return Poll::Ready(());
        }
        // SAFETY: 1. a stage that is unstarted has never been polled: what it holds may be moved.
        let this = unsafe { self.as_mut().get_unchecked_mut() };
        if let Err(payload) = this.start(meta) {
            this.finish(Err(JoinError::panicked(payload)));
            return Poll::Ready(());
        }
        if self.as_mut().advance().is_ready() {
            return Poll::Ready(());
        }
        self.list(meta, cx)
    }

    /// [task T6]. Ready: the task was aborted meanwhile.
    fn list(self: Pin<&mut Self>, meta: &Meta, cx: &Context<'_>) -> Poll<()> {
        // SAFETY: 1. its address is taken, and the future in it is dropped in place, not moved.
        let this = unsafe { self.get_unchecked_mut() };
        meta.first.set(NonNull::from(&mut *this).as_ptr().cast_const().cast());
        // [task T6]
        with_executor(meta, |executor| executor.tasks().insert(meta));
        if meta.word.wait() {
            this.cut(meta);
            return Poll::Ready(());
        }
        // So that `async-task` hands its runnable to `schedule` when this poll returns.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
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
        let is_finished = matches!(self.stage, Stage::Finished(_));
        if !is_finished && self.as_mut().first_poll(cx).is_pending() {
            return Poll::Pending;
        }
        retire(self.meta(), cx);
        // SAFETY: 1. no future is there any more.
        let this = unsafe { self.get_unchecked_mut() };
        let Stage::Finished(outcome) = &mut this.stage else { unreachable!("the stage was just looked at") };
        Poll::Ready(Unclaimed(outcome.take()))
    }
}
