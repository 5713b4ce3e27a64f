#![doc = include_str!("README.md")]

mod block;
mod foreign;
mod stack;
#[cfg(all(test, not(loom)))]
mod tests;
mod word;

use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};

use crate::call::{CallError, Outcome};
use crate::doorbell::{Ask, Rung};
use crate::fabric::Shared;
use crate::sync::{Ordering, edge, mutant, relaxed_if};
use crate::unwind::contain;
use crate::urgent::InterruptSafe;
use crate::{Core, CoreId, assert_core};

pub(crate) use block::uninterrupted_by_panics;
use block::{Answer, Header};
pub use foreign::ForeignUrgentCall;
use stack::Stack;
use word::{Dropped, Found};

/// One core's part: see the [fields](self#state-and-who-writes-it).
pub(crate) struct Stacks {
    called: Stack,
    answered: Stack,
}

impl Stacks {
    pub(crate) fn new() -> Self {
        Self { called: Stack::new(), answered: Stack::new() }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        for block in self.called.take().chain(self.answered.take()) {
            // SAFETY: 1. it was taken; the fabric goes, and with it all who could send it.
            unsafe { come_home(block, |_| ()) };
        }
    }
}

impl Core {
    /// Runs `f` on `target` at once, in the middle of whatever that core does, where the machine can interrupt it, and brings its value back. `f` is given the
    /// core that it runs on.
    ///
    /// On the own core it runs inside this call, in a critical section. A panic of `f`, which its promise excludes, ends the process.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[track_caller]
    pub fn call_urgent<F, R>(&self, target: CoreId, f: InterruptSafe<F>) -> UrgentCall<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        assert_core(target, self.cores());
        let f = f.into_inner();
        if target == self.id() {
            // [urgent_call H1]
            let run = || uninterrupted_by_panics(|| f(target));
            let value = self.gate().map_or_else(run, |gate| gate.critical(run));
            return UrgentCall { stage: Stage::Here(Some(value)), not_send: PhantomData };
        }
        let block = block::make(self.id(), self.life(), f);
        send(self.shared(), target, block.cast());
        UrgentCall { stage: Stage::Sent(block), not_send: PhantomData }
    }

    /// [urgent_call H4], asked to. Wakes who waits.
    pub(crate) fn take_urgent_answers(&self) {
        for block in self.own().urgent_calls.answered.take() {
            // [urgent_call H4]
            // SAFETY: 1. it was taken, at home; the future may free it only once it has come home.
            let life = unsafe { block.as_ref() }.life;
            // [admission E1] the waker of an earlier life's is another thread's.
            let tell = if life == self.life() { wake } else { |_| () };
            // SAFETY: 1. as above.
            unsafe { come_home(block, tell) };
        }
    }
}

/// Has `target` run `block`, which was just made.
fn send(shared: &Shared, target: CoreId, block: NonNull<Header>) {
    let release = relaxed_if(mutant!("urgent-call-push-relaxed"), Ordering::Release);
    // [urgent_call H2] release: C1's acquire sees the block whole.
    // SAFETY: 1. it was just made, and goes nowhere else.
    unsafe { shared.core(target).urgent_calls.called.push(block, release) };
    edge();
    // [urgent_call H3]
    if !crate::urgent::trigger_calls(shared, target) && !mutant!("urgent-call-gone-kept") {
        // [urgent_call L2] [admission T2]
        match shared.in_place_of(target, || shared.core(target).urgent_calls.called.take()) {
            Some(blocks) => send_all_home(shared, blocks),
            // [admission T1] it is back, and was asked by its entry (E3) at the latest.
            None => _ = crate::urgent::trigger_calls(shared, target),
        }
    }
}

/// [urgent_call C1] to [urgent_call C4], in a round of `core`, which has taken the bit for calls.
pub(crate) fn serve(shared: &Shared, core: CoreId) {
    // [urgent_call C1] acquire, with H2.
    for block in shared.core(core).urgent_calls.called.take() {
        edge();
        // SAFETY: 1. it was taken here, and goes home below only.
        let header = unsafe { block.as_ref() };
        // [urgent_call C2]
        if header.word.take() {
            // [urgent_call C3]
            // SAFETY: 1. as above.
            unsafe { block::run_block(block, core) };
            header.word.answer();
            shared.core(core).urgent_counts.run.add(1);
        }
        edge();
        // SAFETY: 1. as above.
        unsafe { let_go(shared, block) };
    }
}

/// The end of a block's way on its target, in an interrupt.
///
/// # Safety
///
/// 1. `block` was taken by the caller, who does not touch it afterwards.
unsafe fn let_go(shared: &Shared, block: NonNull<Header>) {
    // SAFETY: 1. as required.
    let word = &unsafe { block.as_ref() }.word;
    // [urgent_call E2] the last touch, unless it was dropped: then it is freed where interrupts are over.
    if word.is_foreign() && (word.come_home().is_none() || mutant!("urgent-foreign-kept")) {
        return;
    }
    // SAFETY: 1. as required.
    unsafe { send_home(shared, block) };
}

/// C4.
///
/// # Safety
///
/// 1. `block` was taken by the caller, who does not touch it afterwards.
unsafe fn send_home(shared: &Shared, block: NonNull<Header>) {
    // SAFETY: 1. as required; read before the block goes.
    let source = unsafe { block.as_ref() }.source;
    let home = shared.core(source);
    let release = relaxed_if(mutant!("urgent-call-home-relaxed"), Ordering::Release);
    // [urgent_call C4] release: H4 sees the value.
    // SAFETY: 1. as required.
    unsafe { home.urgent_calls.answered.push(block, release) };
    edge();
    if mutant!("urgent-call-no-answer") {
        return;
    }
    // [urgent_call C4] one that has left leaves it to L3.
    if home.doorbell.ask(Ask::Answers) == Rung::Kick {
        shared.port.kick(source);
    }
}

/// What was to run on a core that has left, and was taken, goes home unrun. Not in an interrupt: it frees foreign calls that were dropped.
fn send_all_home(shared: &Shared, blocks: impl Iterator<Item = NonNull<Header>>) {
    for block in blocks {
        // SAFETY: 1. it was taken here.
        let is_foreign = unsafe { block.as_ref() }.word.is_foreign();
        if is_foreign && !mutant!("urgent-foreign-sent-home") {
            // [urgent_call L2] who called polls.
            // SAFETY: 1. it was taken here.
            unsafe { come_home(block, |_| ()) };
        } else {
            // SAFETY: 1. it was taken here.
            unsafe { send_home(shared, block) };
        }
    }
}

/// [urgent_call L1]
pub(crate) fn leave(shared: &Shared, core: CoreId) {
    if !mutant!("urgent-call-leave-kept") {
        // [urgent_call L1]
        send_all_home(shared, shared.core(core).urgent_calls.called.take());
    }
    // [urgent_call L1] foreign calls that were dropped have no other end while other cores are there.
    end_all(shared, core);
}

/// Ends the ways of all that has come home to `core`, and wakes nobody.
fn end_all(shared: &Shared, core: CoreId) {
    for block in shared.core(core).urgent_calls.answered.take() {
        // [urgent_call L1] [urgent_call L3]
        // SAFETY: 1. it was taken here.
        unsafe { come_home(block, |_| ()) };
    }
}

/// [urgent_call L3]: what was called may hold the fabric.
pub(crate) fn all_have_left(shared: &Shared) {
    if mutant!("urgent-call-last-kept") {
        return;
    }
    // [urgent_call L3]
    (0..shared.cores.len()).map(CoreId::new).for_each(|core| end_all(shared, core));
}

/// Ends a block's way: frees it if it was dropped, else `tell`s.
///
/// # Safety
///
/// 1. `block` was taken by the caller, who does not touch it afterwards. `tell` touches the waker at home only; elsewhere the block may be gone when it runs, hence no reference.
unsafe fn come_home(block: NonNull<Header>, tell: impl FnOnce(NonNull<Header>)) {
    // SAFETY: 1. as required.
    let header = unsafe { block.as_ref() };
    // At home the future, which frees it otherwise, is on this thread: it cannot come in between. Elsewhere nothing is touched after this.
    match header.word.come_home() {
        // SAFETY: 1. it was dropped before, and its way ends here.
        Some(has_value) => unsafe { block::free_block(block, has_value) },
        None => tell(block),
    }
}

/// Wakes who waits for `block`, which has come home, at home.
fn wake(block: NonNull<Header>) {
    // SAFETY: 1. its future, on this thread, cannot have freed it since it came home.
    let waker = unsafe { block.as_ref() }.waker.take();
    contain(|| waker.into_iter().for_each(Waker::wake));
}

/// An urgent call under way. It stays on its home.
///
/// It is sent whether it is polled or not. The value comes when its home drains. One that outlives its home's endpoint is not woken any more; polled after every core has left, it
/// says what became of it.
///
/// ```compile_fail,E0277
/// fn crosses<T: Send>() {}
/// crosses::<ipiq_fabric::urgent_call::UrgentCall<u32>>();
/// ```
///
/// # Errors
///
/// It resolves to a [`CallError`] if the target had left, or left before it ran the function.
///
/// # Cancel safety
///
/// Dropped before the target has begun, the function does not run; later, its value is dropped, on its home. [`cancel`](Self::cancel) says which.
#[must_use = "its outcome says whether the function has run"]
pub struct UrgentCall<R> {
    stage: Stage<R>,
    not_send: PhantomData<*const ()>,
}

enum Stage<R> {
    Sent(NonNull<Answer<R>>),
    /// It was the own core.
    Here(Option<R>),
}

impl<R> fmt::Debug for UrgentCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrgentCall").finish_non_exhaustive()
    }
}

// Nothing in it is pinned.
impl<R> Unpin for UrgentCall<R> {}

impl<R> UrgentCall<R> {
    /// Takes the call back. `true`: the function has not run and never will. `false`: it has run, or runs now; its value is dropped.
    #[must_use = "the function may have run"]
    pub fn cancel(mut self) -> bool {
        self.let_go().is_some_and(Dropped::is_prevented)
    }

    /// H6.
    fn let_go(&mut self) -> Option<Dropped> {
        let Stage::Sent(block) = core::mem::replace(&mut self.stage, Stage::Here(None)) else { return None };
        // While it is owned, for a destructor may run a drain.
        // SAFETY: 1. the future owns it until now.
        let waker = unsafe { block.cast::<Header>().as_ref() }.waker.take();
        // [urgent_call H6]
        // SAFETY: 1. as above; it has forgotten the block, as it does when it takes the value.
        let dropped = unsafe { drop_block(block.cast()) };
        drop(waker);
        Some(dropped)
    }
}

/// H6, E4.
///
/// # Safety
///
/// 1. The caller is the block's future, which has not taken the value, and does not touch it afterwards.
unsafe fn drop_block(block: NonNull<Header>) -> Dropped {
    // SAFETY: 1. as required.
    let dropped = unsafe { block.as_ref() }.word.drop();
    if let Dropped::Free { has_value } = dropped {
        // SAFETY: 1. its way is over, and the future goes. 2. as required.
        unsafe { block::free_block(block, has_value) };
    }
    dropped
}

/// H5, E3: the outcome of a block that is at home, which is freed.
///
/// # Safety
///
/// 1. The caller is the block's future, which does not touch it after it has got the outcome.
unsafe fn outcome<R>(block: NonNull<Answer<R>>) -> Option<Outcome<R>> {
    // SAFETY: 1. as required.
    let outcome = match unsafe { block.cast::<Header>().as_ref() }.word.look() {
        Found::Away => return None,
        // SAFETY: 1. it is at home with its value. 2. the block goes below.
        Found::Answered => Ok(unsafe { block::value(block) }),
        Found::Unrun => Err(CallError::gone()),
    };
    // SAFETY: 1. its way is over, and the future lets go of it. 2. the value was taken.
    unsafe { block::free_block(block.cast(), false) };
    Some(outcome)
}

impl<R> Drop for UrgentCall<R> {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}

impl<R> Future for UrgentCall<R> {
    type Output = Outcome<R>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        let block = match &mut self.stage {
            Stage::Sent(block) => *block,
            Stage::Here(value) => return Poll::Ready(Ok(value.take().expect("a call was polled after it was ready"))),
        };
        // SAFETY: 1. the future owns it.
        let header = unsafe { block.cast::<Header>().as_ref() };
        if header.word.look() == Found::Away {
            let fresh = cx.waker().clone();
            drop(header.waker.replace(Some(fresh)));
        }
        // Waker's clones and drops run foreign code, in which the block may have come home: hence a look after them.
        // [urgent_call H5]
        // SAFETY: 1. it is forgotten below.
        let Some(outcome) = (unsafe { outcome(block) }) else { return Poll::Pending };
        self.stage = Stage::Here(None);
        Poll::Ready(outcome)
    }
}
