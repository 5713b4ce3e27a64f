#![doc = include_str!("README.md")]

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use core::alloc::Layout;
use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};

use crate::block::BlockPool;
use crate::message::Deliver;
use crate::sync::mutant;
use crate::unwind::{catch, contain};
use crate::{Core, CoreId, Panic, PanicPayload, SendError, SpaceWait, assert_core};

/// Why a call has no value.
pub struct CallError {
    cause: Cause,
}

enum Cause {
    /// Or refused: the payload is a [`Refusal`] then, which keeps replies as short as they are.
    Panicked(Panic),
    Gone,
}

/// Why a call was given up, or not made, although the target is there.
#[derive(Debug)]
enum Refusal {
    Deadline,
    OverLimit(usize),
    Circular(String),
}

impl CallError {
    /// The closure panicked, with this payload.
    #[doc(hidden)]
    #[must_use]
    pub fn panicked(payload: PanicPayload) -> Self {
        Self { cause: Cause::Panicked(Panic::new(payload)) }
    }

    /// The target has left, or is closing; the closure did not run.
    #[doc(hidden)]
    #[must_use]
    pub fn gone() -> Self {
        Self { cause: Cause::Gone }
    }

    /// The deadline of the call has passed.
    #[doc(hidden)]
    #[must_use]
    pub fn deadline() -> Self {
        Self::refused(Refusal::Deadline)
    }

    /// As many calls as the limit allows, `most`, are outstanding.
    #[doc(hidden)]
    #[must_use]
    pub fn over_limit(most: usize) -> Self {
        Self::refused(Refusal::OverLimit(most))
    }

    /// Calls inside of calls are as deep as may be; `path` says which.
    #[doc(hidden)]
    #[must_use]
    pub fn circular(path: String) -> Self {
        Self::refused(Refusal::Circular(path))
    }

    fn refused(why: Refusal) -> Self {
        Self::panicked(Box::new(why))
    }

    fn refusal(&self) -> Option<&Refusal> {
        match &self.cause {
            Cause::Panicked(panic) => panic.carried(),
            Cause::Gone => None,
        }
    }

    /// Whether the deadline of the call had passed: the closure did not run, or not to its end, or nobody waited for its end.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        matches!(self.refusal(), Some(Refusal::Deadline))
    }

    /// Whether as many calls were outstanding as the limit allows; the closure did not run.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        matches!(self.refusal(), Some(Refusal::OverLimit(_)))
    }

    /// Whether calls inside of calls were as deep as may be, as when they go in a circle, which the text names; the closure did not run.
    #[must_use]
    pub fn is_circular(&self) -> bool {
        matches!(self.refusal(), Some(Refusal::Circular(_)))
    }

    /// Whether the target had left, or was closing; the closure did not run, an async one perhaps not to its end.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.cause, Cause::Gone)
    }

    /// Whether the closure panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.cause, Cause::Panicked(_)) && self.refusal().is_none()
    }

    /// What the closure panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Panicked(panic) if panic.carried::<Refusal>().is_none() => Ok(panic.into_payload()),
            cause => Err(Self { cause }),
        }
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.refusal()) {
            (_, Some(refusal)) => write!(f, "CallError::{refusal:?}"),
            (Cause::Panicked(panic), None) => write!(f, "CallError::Panicked({:?})", panic.text()),
            (Cause::Gone, None) => f.write_str("CallError::Gone"),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.refusal()) {
            (_, Some(refusal)) => refusal.fmt(f),
            (Cause::Panicked(panic), None) => write!(f, "the called closure panicked: {panic}"),
            (Cause::Gone, None) => f.write_str("the called core has left; the closure did not run"),
        }
    }
}

impl core::error::Error for CallError {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("the deadline of the call has passed"),
            Self::OverLimit(most) => write!(
                f,
                "{most} calls are outstanding, as many as may be; the closure did not run: try again later, or raise the limit"
            ),
            Self::Circular(path) => {
                write!(f, "calls that wait for one another are too deep: {path}; the closure did not run")
            }
        }
    }
}

/// What comes back from a call.
pub type Outcome<R> = Result<R, CallError>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Done,
    Abandoned,
}

/// The caller's record of one call.
struct Block<R> {
    pool: Rc<BlockPool>,
    state: Cell<State>,
    /// Of who polled while `Waiting`.
    waker: Cell<Option<Waker>>,
    /// From `Done` until it is taken.
    outcome: Cell<Option<Outcome<R>>>,
}

impl<R> Block<R> {
    /// Whether the reply is still to come; then `waker` is kept.
    #[inline(always)]
    fn waits(&self, waker: &Waker) -> bool {
        if self.state.get() == State::Done {
            return false;
        }
        // [call H2]
        let keep = match self.waker.take() {
            Some(known) if known.will_wake(waker) => known,
            old => {
                // Both run foreign code, in which the reply may arrive.
                drop(old);
                waker.clone()
            }
        };
        self.waker.set(Some(keep));
        self.state.get() == State::Waiting
    }
}

/// The name of a block: followed only at home.
struct Name<R>(NonNull<Block<R>>);

// SAFETY: 1. away from home a name is only carried. `R` itself travels in the reply, whose constructor requires `Send`.
unsafe impl<R> Send for Name<R> {}

impl<R> Clone for Name<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Name<R> {}

impl<R> Name<R> {
    #[inline(always)]
    fn new(core: &Core) -> Self {
        let block = core.blocks().take(Layout::new::<Block<R>>()).cast::<Block<R>>();
        let content = Block {
            pool: core.blocks().clone(),
            state: Cell::new(State::Waiting),
            waker: Cell::new(None),
            outcome: Cell::new(None),
        };
        // SAFETY: 1. the pool gave memory for this layout.
        unsafe { block.write(content) };
        Self(block)
    }

    /// # Safety
    ///
    /// 1. The caller is at home. 2. It is an owner by the table of states.
    #[inline(always)]
    unsafe fn block(&self) -> &Block<R> {
        // SAFETY: 1. an owner's block is not freed.
        unsafe { self.0.as_ref() }
    }

    /// # Safety
    ///
    /// 1. The caller is at home. 2. It is the last owner.
    #[inline(always)]
    unsafe fn free(self) {
        // SAFETY: 1. the last owner may move the content out.
        let Block { pool, .. } = unsafe { self.0.read() };
        // SAFETY: 1. the block came from a pool's `take` with this layout and has no owner left.
        unsafe { pool.give(self.0.cast(), Layout::new::<Block<R>>()) };
    }

    /// H3 and X1.
    ///
    /// # Safety
    ///
    /// 1. The caller is at home. 2. It is the request or the reply, the other owner of the block.
    #[inline(always)]
    unsafe fn complete(self, outcome: Outcome<R>) {
        // SAFETY: 1., 2. as required here.
        let block = unsafe { self.block() };
        // [call H3]
        if block.state.get() == State::Waiting {
            block.outcome.set(Some(outcome));
            block.state.set(State::Done);
            if let Some(waker) = block.waker.take()
                && !mutant!("call-no-wake")
            {
                waker.wake();
            }
        } else {
            // SAFETY: 1. as required. 2. the future has abandoned it.
            unsafe { self.free() };
            // A destructor's panic must not reach the core's loop.
            contain(move || drop(outcome));
        }
    }
}

struct Request<F, R> {
    name: Name<R>,
    f: F,
}

impl<F, R> Request<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    #[inline(always)]
    fn run(self, core: &Core) -> Reply<R> {
        let Self { name, f } = self;
        // [call T1]
        let outcome = if core.is_closing() {
            contain(move || drop(f));
            Err(CallError::gone())
        } else {
            catch(f).map_err(CallError::panicked)
        };
        Reply { name, outcome }
    }
}

impl<F, R> Deliver for Request<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    #[inline(always)]
    fn deliver(self, core: &Core, source: CoreId) {
        let reply = self.run(core);
        // [call T2]
        core.deliver_or_list(source, reply);
    }

    fn take_back(self) {
        // [call X1]
        if mutant!("call-not-taken-back") {
            return;
        }
        // SAFETY: 1. only the source takes a message back, at home. 2. this is the request.
        unsafe { self.name.complete(Err(CallError::gone())) };
        let f = self.f;
        contain(move || drop(f));
    }
}

/// A request of a core whose [tag](Core::tag) is not 0: that one needs no room in the others.
struct Tagged<F, R> {
    request: Request<F, R>,
    tag: u8,
}

impl<F, R> Deliver for Tagged<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    fn deliver(self, core: &Core, source: CoreId) {
        let Self { request, tag } = self;
        // [call T1]
        let reply = core.with_tag(tag, || request.run(core));
        // [call T2]
        core.deliver_or_list(source, reply);
    }

    fn take_back(self) {
        self.request.take_back();
    }
}

struct Reply<R> {
    name: Name<R>,
    outcome: Outcome<R>,
}

impl<R: Send + 'static> Deliver for Reply<R> {
    #[inline(always)]
    fn deliver(self, _core: &Core, _source: CoreId) {
        // SAFETY: 1. a reply is sent to the request's source, which is the block's home. 2. this is the reply.
        unsafe { self.name.complete(self.outcome) };
    }
}

enum Stage<F, R> {
    /// No space yet.
    Unsent(F, SpaceWait),
    Sent(Name<R>),
    /// Answered without a message: the target is the caller, or has left.
    Answered(Outcome<R>),
    Finished,
}

/// A call under way. It stays on its home; poll it with the home's endpoint.
///
/// ```compile_fail,E0277
/// fn crosses<T: Send>() {}
/// crosses::<ipiq_fabric::call::PendingCall<fn() -> u32, u32>>();
/// ```
#[must_use = "a call that is not polled may never be sent"]
pub struct PendingCall<F, R> {
    target: CoreId,
    /// The home's, when the call was made.
    tag: u8,
    stage: Stage<F, R>,
    /// A name may travel, in messages; who follows it may not.
    not_send: PhantomData<*const ()>,
}

impl<F, R> fmt::Debug for PendingCall<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCall").field("target", &self.target).finish_non_exhaustive()
    }
}

// Nothing in it is pinned.
impl<F, R> Unpin for PendingCall<F, R> {}

impl<F, R> PendingCall<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    /// Calls `f` on `target`, from `core`: sends the request now if there is space, else when polled. On the own core `f` runs at
    /// once, inside this call.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[inline(always)]
    #[track_caller]
    pub fn new(core: &Core, target: CoreId, f: F) -> Self {
        assert_core(target, core.cores());
        let stage = if target == core.id() {
            Stage::Answered(catch(f).map_err(CallError::panicked))
        } else {
            Self::send(core, target, core.tag(), f, SpaceWait::default())
        };
        Self { target, tag: core.tag(), stage, not_send: PhantomData }
    }

    #[inline(always)]
    fn send(core: &Core, target: CoreId, tag: u8, f: F, wait: SpaceWait) -> Stage<F, R> {
        if tag != 0 {
            return Self::send_tagged(core, target, tag, f, wait);
        }
        let name = Name::new(core);
        // [call H1]
        match core.try_deliver(target, Request { name, f }, &wait) {
            Ok(()) => Self::sent(core, name, wait),
            Err(refused) => Self::refused(name, refused, |request| request.f, wait),
        }
    }

    #[inline(never)]
    fn send_tagged(core: &Core, target: CoreId, tag: u8, f: F, wait: SpaceWait) -> Stage<F, R> {
        let name = Name::new(core);
        // [call H1]
        match core.try_deliver(target, Tagged { request: Request { name, f }, tag }, &wait) {
            Ok(()) => Self::sent(core, name, wait),
            Err(refused) => Self::refused(name, refused, |tagged| tagged.request.f, wait),
        }
    }

    #[inline(always)]
    fn sent(core: &Core, name: Name<R>, mut wait: SpaceWait) -> Stage<F, R> {
        if wait.ticket.is_some() {
            core.end_wait(&mut wait);
        }
        Stage::Sent(name)
    }

    #[cold]
    fn refused<M>(name: Name<R>, refused: SendError<M>, function: fn(M) -> F, wait: SpaceWait) -> Stage<F, R> {
        // SAFETY: 1. this is home. 2. no request was sent: nobody else owns the block.
        unsafe { name.free() };
        match refused {
            SendError::Full(request) => Stage::Unsent(function(request), wait),
            SendError::Gone(request) => {
                let f = function(request);
                contain(move || drop(f));
                Stage::Answered(Err(CallError::gone()))
            }
        }
    }

    /// The outcome, once it is there. `core` is the endpoint that made the call.
    ///
    /// # Panics
    ///
    /// If polled again after it was ready.
    #[inline(always)]
    pub fn poll(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        if let Stage::Unsent(_, wait) = &mut self.stage {
            if core.poll_space(self.target, wait, cx).is_pending() {
                return Poll::Pending;
            }
            if let Stage::Unsent(f, wait) = core::mem::replace(&mut self.stage, Stage::Finished) {
                self.stage = Self::send(core, self.target, self.tag, f, wait);
            }
        }
        if self.is_unsent() {
            // Space was there, and another send took it between the look and the push: look again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.poll_sent(cx)
    }

    /// As [`poll`](Self::poll), for a call that is not [`is_unsent`](Self::is_unsent).
    ///
    /// # Panics
    ///
    /// If it is unsent, or polled again after it was ready.
    #[inline(always)]
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        match &self.stage {
            Stage::Sent(name) => {
                // SAFETY: 1. a pending call is not `Send`: it is at home. 2. the future owns it until `Finished`.
                let block = unsafe { name.block() };
                if block.waits(cx.waker()) {
                    return Poll::Pending;
                }
                // [call H4]
                let (name, outcome) = (*name, block.outcome.take());
                self.stage = Stage::Finished;
                // SAFETY: 1. as above. 2. `Done`: the reply is through.
                unsafe { name.free() };
                Poll::Ready(outcome.expect("`Done` means that the outcome is there"))
            }
            Stage::Answered(_) => match core::mem::replace(&mut self.stage, Stage::Finished) {
                Stage::Answered(outcome) => Poll::Ready(outcome),
                _ => unreachable!("the stage was just looked at"),
            },
            Stage::Unsent(..) => panic!("an unsent call needs its endpoint"),
            Stage::Finished => panic!("a call was polled after it was ready"),
        }
    }
}

impl<F, R> PendingCall<F, R> {
    /// Whether the request still waits for space.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self.stage, Stage::Unsent(..))
    }

    /// The place in the queue for space, to be given up with [`Core::end_wait`] when the call is dropped unsent.
    pub fn take_wait(&mut self) -> Option<SpaceWait> {
        match &mut self.stage {
            Stage::Unsent(_, wait) => Some(core::mem::take(wait)),
            _ => None,
        }
    }
}

impl<F, R> Drop for PendingCall<F, R> {
    fn drop(&mut self) {
        let Stage::Sent(name) = &self.stage else {
            return;
        };
        let name = *name;
        // SAFETY: 1. a pending call is not `Send`: it is at home. 2. the future owns it.
        let block = unsafe { name.block() };
        // [call H5]
        match block.state.get() {
            State::Waiting => {
                let waker = block.waker.take();
                if !mutant!("call-abandon-forgotten") {
                    block.state.set(State::Abandoned);
                }
                if mutant!("call-free-early") {
                    // SAFETY: none; the model must fail.
                    unsafe { name.free() };
                }
                drop(waker);
            }
            State::Done => {
                let outcome = block.outcome.take();
                // SAFETY: 1. as above. 2. `Done`: the reply is through.
                unsafe { name.free() };
                drop(outcome);
            }
            State::Abandoned => unreachable!("a call's future is dropped once"),
        }
    }
}
