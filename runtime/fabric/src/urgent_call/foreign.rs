//! Calls of threads that run no core.

use alloc::sync::Arc as StdArc;
use core::fmt;
use core::future::Future;
use core::mem::MaybeUninit;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::block;
use crate::call::{CallError, Outcome};
use crate::fabric::Shared;
use crate::sync::{Arc, AtomicU32, Ordering, UnsafeCell, edge, mutant, relaxed_if};
use crate::unwind::contain;
use crate::urgent::{InterruptSafe, await_calls};
use crate::{CoreId, Fabric, assert_core};

/// Not begun.
const WAITING: u32 = 0;
/// The function runs.
const RUNNING: u32 = 1;
/// The value is there.
const DONE: u32 = 2;
/// The function will not run, or the value was taken.
const OVER: u32 = 3;

/// The place for a value, which the function shares with the future; see the table of [fields](super#state-and-who-writes-it).
struct Place<R> {
    state: AtomicU32,
    value: UnsafeCell<MaybeUninit<R>>,
}

// SAFETY: 1. the value is written by who has moved the state to `RUNNING`, and read by who has found `DONE`, the future or who drops the place; so it is sent.
unsafe impl<R: Send> Send for Place<R> {}
// SAFETY: as for `Send`.
unsafe impl<R: Send> Sync for Place<R> {}

impl<R> Place<R> {
    fn new() -> Self {
        Self { state: AtomicU32::new(WAITING), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// E2.
    fn fill(&self, f: impl FnOnce() -> R) {
        let looks_only = mutant!("urgent-foreign-look-first");
        // [urgent_call E2] relaxed: C1 has acquired the block; this only decides, together with E4.
        let begins = if looks_only {
            self.state.load(Ordering::Relaxed) == WAITING
        } else {
            self.state.compare_exchange(WAITING, RUNNING, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        edge();
        if begins {
            let value = f();
            // SAFETY: 1. `RUNNING` is of this call alone, and nobody reads the value before `DONE`.
            self.value.with_mut(|place| unsafe { place.cast::<R>().write(value) });
            // [urgent_call E2] release, with E3's acquire.
            self.state.store(DONE, relaxed_if(mutant!("urgent-foreign-done-relaxed"), Ordering::Release));
        }
    }

    /// E3, by the future alone.
    fn take(&self) -> Option<R> {
        // [urgent_call E3] acquire, with E2's release.
        if self.state.load(Ordering::Acquire) != DONE {
            return None;
        }
        // Relaxed: the function is over, so nobody else writes it.
        self.state.store(OVER, Ordering::Relaxed);
        // SAFETY: 1. it is there, and `OVER` says that it was taken.
        Some(self.value.with_mut(|place| unsafe { place.cast::<R>().read() }))
    }

    /// E4, by the future alone. `true`: the function has not begun, and will not run.
    fn give_up(&self) -> bool {
        // [urgent_call E4] relaxed: nothing is handed over; a value is taken by `take`.
        self.state.compare_exchange(WAITING, OVER, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl<R> Drop for Place<R> {
    /// A value that came when its future had gone.
    fn drop(&mut self) {
        if let Some(value) = self.take() {
            contain(move || drop(value));
        }
    }
}

impl Fabric {
    /// As [`Core::call_urgent`](crate::Core::call_urgent), from any thread: runs `f` on `target` at once, and brings its value back. On a thread that is
    /// `target`'s own and accepts interrupts, it runs inside this call.
    ///
    /// What `f` captures is dropped on `target`, in its next drain, or as it leaves.
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
        let (place, f) = (Arc::new(Place::new()), f.into_inner());
        let filled = place.clone();
        // Before it is sent: a block of an earlier life's is not the next one's.
        let life = shared.core(target).lives.get();
        // [urgent_call E1]
        let block = block::make_detached(target, move |core| filled.fill(|| f(core)));
        super::send(shared, target, block);
        ForeignUrgentCall { stage: Stage::Sent { shared: shared.clone(), target, life, place } }
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
        /// The target's, when it was sent.
        life: u64,
        place: Arc<Place<R>>,
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
            Stage::Sent { place, .. } => {
                // [urgent_call E4]
                let prevented = place.give_up();
                contain(|| drop(place.take()));
                prevented
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

/// E3's look.
fn outcome<R>(shared: &Shared, target: CoreId, life: u64, place: &Place<R>) -> Option<Outcome<R>> {
    // [urgent_call E3] before the place: what it holds then is the last word of a target that has gone.
    let gone = shared.is_gone(target) && !mutant!("urgent-foreign-gone-late");
    let value = place.take().map(Ok);
    let gone = gone || mutant!("urgent-foreign-gone-late") && shared.is_gone(target);
    // [urgent_call E3] back, it may have been away when the call came: it does not run it any more.
    let gone = || gone || shared.core(target).lives.get() != life && place.give_up();
    value.or_else(|| gone().then(|| Err(CallError::gone())))
}

impl<R> Future for ForeignUrgentCall<R> {
    type Output = Outcome<R>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        let found = match &self.stage {
            Stage::Sent { shared, target, life, place } => {
                let look = || outcome(shared, *target, *life, place);
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
