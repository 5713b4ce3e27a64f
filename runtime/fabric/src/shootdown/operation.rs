//! What can be executed everywhere.

use core::mem::{MaybeUninit, align_of, size_of};
use core::ptr::NonNull;

use super::prompt::InSection;
use crate::{Core, INLINE_BYTES};

/// What a shootdown executes on every core of its set; any `Fn(&Core) + Send + Sync` is one.
///
/// It is executed in drains, which may be nested: whatever the core was doing is further down on the stack. So it must be short, and must not
/// wait: a [`Core::shootdown`] panics there, a [`Core::send`] never waits there. A panic is returned to the initiator and reaches
/// nobody else.
pub trait Operation: Send + Sync {
    /// Runs on the initiator, before any target can hear of the request: what targets rely on is prepared here.
    ///
    /// A panic is returned to the initiator; nothing is executed then.
    fn prepare(&mut self, initiator: &Core) {
        let _ = initiator;
    }

    /// Runs once on every core of the set.
    fn execute(&self, core: &Core);
}

impl<F: Fn(&Core) + Send + Sync> Operation for F {
    fn execute(&self, core: &Core) {
        self(core);
    }
}

/// An operation that may be acknowledged before it is executed, so that initiators wait for less.
///
/// An acknowledgement of it means: the core executes it before anything else, before it goes on with the task or message that it was in the
/// middle of, before it looks at any other request. It does not mean that its effects are visible. It is copied: at
/// most [`INLINE_BYTES`] bytes, aligned as a `u64` at most.
///
/// # Safety
///
/// 1. Nothing that relies on the acknowledgement for soundness needs more than the above.
/// 2. `execute` does not panic, wait, or run messages. (A panic is contained and reaches nobody.)
pub unsafe trait EarlyAck: Copy + Send + Sync + 'static {
    /// Runs once on every core of the set.
    fn execute(self, core: &Core);
}

type Words = [MaybeUninit<u64>; INLINE_BYTES / 8];

/// A copy of an [`EarlyAck`] operation.
#[derive(Clone, Copy)]
pub(crate) struct Early {
    words: Words,
    entry: unsafe fn(&Words, &Core),
}

impl Early {
    pub(crate) fn new<O: EarlyAck>(op: O) -> Self {
        const {
            assert!(size_of::<O>() <= INLINE_BYTES, "an early operation has at most 48 bytes");
            assert!(align_of::<O>() <= align_of::<u64>(), "an early operation is aligned as a u64 at most");
        }
        unsafe fn entry<O: EarlyAck>(words: &Words, core: &Core) {
            // SAFETY: 1. `new` wrote an `O` there; it is `Copy`.
            let op = unsafe { words.as_ptr().cast::<O>().read() };
            op.execute(core);
        }
        let mut words: Words = [MaybeUninit::uninit(); INLINE_BYTES / 8];
        // SAFETY: 1. size and alignment were asserted above.
        unsafe { words.as_mut_ptr().cast::<O>().write(op) };
        Self { words, entry: entry::<O> }
    }

    /// What a request area holds before its first request.
    pub(crate) fn nothing() -> Self {
        Self { words: [MaybeUninit::uninit(); INLINE_BYTES / 8], entry: |_, _| () }
    }

    pub(crate) fn execute(&self, core: &Core) {
        // SAFETY: 1. the entry is that of the type in `words` (`new`), or does not look at them.
        unsafe { (self.entry)(&self.words, core) }
    }
}

/// An operation that its initiator keeps alive while it is in flight.
#[derive(Clone, Copy)]
pub(crate) struct Shared(NonNull<dyn Operation>);

impl Shared {
    /// # Safety
    ///
    /// 1. `op` stays where it is, untouched by others, until the request that holds the result has landed.
    pub(crate) unsafe fn borrow<'a>(op: &'a mut (dyn Operation + 'a)) -> Self {
        let op = NonNull::from(op);
        // SAFETY: 1. only the lifetime changes; the caller answers for it.
        Self(unsafe { core::mem::transmute::<NonNull<dyn Operation + 'a>, NonNull<dyn Operation + 'static>>(op) })
    }

    pub(crate) fn own(op: alloc::boxed::Box<dyn Operation>) -> Self {
        Self(NonNull::from(alloc::boxed::Box::leak(op)))
    }

    /// Also gives what a section does in place of it; that lives as long.
    pub(crate) fn own_prompt<O: Operation + InSection + 'static>(
        op: alloc::boxed::Box<O>,
    ) -> (Self, NonNull<dyn InSection>) {
        let op = NonNull::from(alloc::boxed::Box::leak(op));
        (Self(op), op)
    }

    /// Frees what [`own`](Self::own) took.
    ///
    /// # Safety
    ///
    /// 1. `self` came from `own`, is freed once, and used by nobody afterwards.
    pub(crate) unsafe fn free(self) {
        // SAFETY: 1. the caller's condition: it came from a box.
        let op = unsafe { alloc::boxed::Box::from_raw(self.0.as_ptr()) };
        crate::contain(|| drop(op));
    }

    /// Drops what the box holds and keeps its memory, for a mutant.
    ///
    /// # Safety
    ///
    /// 1. Nobody uses it afterwards.
    pub(crate) unsafe fn clear(self) {
        // SAFETY: 1. the caller's condition.
        unsafe { self.0.drop_in_place() };
    }

    /// # Safety
    ///
    /// 1. No target has heard of the request yet.
    pub(crate) unsafe fn prepare(mut self, initiator: &Core) {
        // SAFETY: 1. the initiator keeps it alive (`borrow`, `own`), and nobody else knows of it.
        unsafe { self.0.as_mut() }.prepare(initiator);
    }

    /// # Safety
    ///
    /// 1. The request is in flight, and its slot for `core` pending, until this returns.
    pub(crate) unsafe fn execute(self, core: &Core) {
        // SAFETY: 1. the initiator keeps it alive while it is in flight; from I2 on there are shared references only, and it is `Sync`.
        unsafe { self.0.as_ref() }.execute(core);
    }
}
