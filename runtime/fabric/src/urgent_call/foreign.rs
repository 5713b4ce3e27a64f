//! Calls of threads that run no core.

use alloc::sync::Arc as StdArc;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll};

use super::block::{self, Answer};
use super::word::Dropped;
use super::{drop_block, outcome};
use crate::call::{CallError, Outcome};
use crate::fabric::Shared;
use crate::urgent::{InterruptSafe, await_calls};
use crate::{CoreId, Fabric, assert_core};

/// The future's hold of a block.
struct Held<R>(NonNull<Answer<R>>);

// SAFETY: 1. the value is written on the target, and taken, or dropped with the function, by who holds this; both were `Send` when the block was made.
unsafe impl<R: Send> Send for Held<R> {}
// SAFETY: 1. a shared reference gives nothing.
unsafe impl<R: Send> Sync for Held<R> {}

impl Fabric {
    /// As [`Core::call_urgent`](crate::Core::call_urgent), from any thread: runs `f` on `target` at once, and brings its value back. On a thread that is
    /// `target`'s own and accepts interrupts, it runs inside this call.
    ///
    /// What `f` captures is dropped by who polls the future to its end, or drops it after that; if it is dropped before, on `target`, in its next drain, or as it leaves.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[track_caller]
    pub fn call_urgent<F, R>(&self, target: CoreId, f: InterruptSafe<F>) -> ForeignUrgentCall<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        let shared = self.shared();
        assert_core(target, shared.cores.len());
        // [urgent_call E1]
        let block = block::make_foreign(target, f.into_inner());
        super::send(shared, target, block.cast());
        ForeignUrgentCall { stage: Stage::Sent { shared: shared.clone(), target, block: Held(block) } }
    }
}

/// An urgent call of a thread that runs no core, under way. It may be awaited anywhere.
///
/// It is sent whether it is polled or not. Nothing can be woken from within an interrupt: while one is under way, which is for some microseconds, or until a critical section of the target ends, it wakes its task at
/// once, to be polled again. Where the target is to look by itself, the target wakes the task then.
///
/// # Errors
///
/// It resolves to a [`CallError`] if the target had left, or left before it ran the function.
///
/// # Cancel safety
///
/// Dropped before the target has begun, the function does not run; later, its value is dropped. [`cancel`](Self::cancel) says which.
#[must_use = "its outcome says whether the function has run"]
pub struct ForeignUrgentCall<R> {
    stage: Stage<R>,
}

enum Stage<R> {
    Sent {
        shared: StdArc<Shared>,
        target: CoreId,
        block: Held<R>,
    },
    /// Not sent at all.
    Refused,
    Over,
}

impl<R> fmt::Debug for ForeignUrgentCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignUrgentCall").finish_non_exhaustive()
    }
}

// Nothing in it is pinned.
impl<R> Unpin for ForeignUrgentCall<R> {}

impl<R> ForeignUrgentCall<R> {
    /// One that was not sent, because nobody is there any more.
    pub fn refused() -> Self {
        Self { stage: Stage::Refused }
    }

    /// Takes the call back. `true`: the function has not run and never will. `false`: it has run, or runs now; its value is dropped.
    #[must_use = "the function may have run"]
    pub fn cancel(mut self) -> bool {
        self.let_go()
    }

    /// E4.
    fn let_go(&mut self) -> bool {
        match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Sent { block, shared, .. } => {
                // [urgent_call E4]
                // SAFETY: 1. it has forgotten the block, as it does when it takes the value.
                let dropped = unsafe { drop_block(block.0.cast()) };
                // After it: the fabric's end frees what is on its way.
                drop(shared);
                Dropped::is_prevented(dropped)
            }
            Stage::Refused => true,
            Stage::Over => false,
        }
    }
}

impl<R> Drop for ForeignUrgentCall<R> {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}

impl<R> Future for ForeignUrgentCall<R> {
    type Output = Outcome<R>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        let found = match &self.stage {
            Stage::Sent { shared, target, block } => {
                // SAFETY: 1. it is not called again after an outcome, and the block is forgotten below.
                let look = || unsafe { outcome(block.0) };
                look().or_else(|| {
                    // [urgent_call E3]
                    let is_told = await_calls(shared, *target, cx.waker());
                    let found = look();
                    if found.is_none() && !is_told {
                        cx.waker().wake_by_ref();
                    }
                    found
                })
            }
            Stage::Refused => Some(Err(CallError::gone())),
            Stage::Over => panic!("a call was polled after it was ready"),
        };
        let Some(outcome) = found else { return Poll::Pending };
        self.stage = Stage::Over;
        Poll::Ready(outcome)
    }
}
