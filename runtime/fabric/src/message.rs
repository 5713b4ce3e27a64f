//! What travels in a slot: a function and 48 bytes for it.

use core::mem::{MaybeUninit, align_of, size_of};

use crate::block::HomeBlock;
use crate::{Core, CoreId, contain};

/// Bytes of a closure that fit into the line itself.
pub const INLINE_BYTES: usize = 48;

type Payload = [MaybeUninit<u64>; INLINE_BYTES / 8];

/// What a message carries: what happens on arrival, and what if it never arrives.
pub(crate) trait Deliver: Send + Sized + 'static {
    /// Runs on the target; `source` sent it.
    fn deliver(self, core: &Core, source: CoreId);

    /// Runs on the source: the target has left without having taken it.
    fn take_back(self) {}
}

/// A plain closure as a message.
pub(crate) struct Closure<F>(pub(crate) F);

impl<F: FnOnce(&Core, CoreId) + Send + 'static> Deliver for Closure<F> {
    #[inline(always)]
    fn deliver(self, core: &Core, source: CoreId) {
        (self.0)(core, source);
    }
}

/// Something in a block of its home, because it does not fit into a line.
struct Boxed<D>(HomeBlock<D>);

impl<D: Deliver> Deliver for Boxed<D> {
    fn deliver(self, core: &Core, source: CoreId) {
        self.0.take(core).deliver(core, source);
    }

    fn take_back(self) {
        self.0.into_inner().take_back();
    }
}

/// What to do with a message.
pub(crate) enum Fate<'a> {
    /// Deliver it on `core`; `source` sent it.
    Deliver { core: &'a Core, source: CoreId },
    /// Give it back on the source.
    TakeBack,
    /// Drop what it carries, on the calling thread.
    Discard,
}

/// A closure on its way to another core, in 56 bytes.
///
/// Runs at most once; dropped without having run, it drops what the closure captured, on the thread that drops it. A panic of
/// such a destructor reaches nobody: it would end a core's departure half-way.
#[repr(C)]
pub struct Message {
    /// Consumes the payload.
    entry: unsafe fn(*mut Payload, Fate<'_>),
    payload: Payload,
}

// SAFETY: 1. every constructor requires what it stores to be `Send`.
unsafe impl Send for Message {}

impl core::fmt::Debug for Message {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Message").finish_non_exhaustive()
    }
}

impl Message {
    /// Whether an `F` travels inside the line.
    pub(crate) const fn fits<F>() -> bool {
        size_of::<F>() <= INLINE_BYTES && align_of::<F>() <= align_of::<u64>()
    }

    /// A message that delivers `content`.
    ///
    /// What is larger than [`INLINE_BYTES`] is moved to the heap: to the pool of the calling core if `home` is given (the block
    /// goes home to be reused), else to the global allocator.
    #[inline(always)]
    pub(crate) fn new<D: Deliver>(home: Option<&Core>, content: D) -> Self {
        if const { Self::fits::<D>() } {
            Self::inline(content)
        } else {
            Self::inline(Boxed(HomeBlock::new(home, content)))
        }
    }

    /// A message that runs `f` on its target, from a thread that is no core.
    #[must_use]
    pub fn foreign<F: FnOnce(&Core, CoreId) + Send + 'static>(f: F) -> Self {
        Self::new(None, Closure(f))
    }

    #[inline(always)]
    fn inline<D: Deliver>(content: D) -> Self {
        unsafe fn entry<D: Deliver>(payload: *mut Payload, fate: Fate<'_>) {
            // SAFETY: 1. the payload was written as a `D` by `inline`. 2. an entry is called once per message.
            let content = unsafe { payload.cast::<D>().read() };
            match fate {
                Fate::Deliver { core, source } => content.deliver(core, source),
                Fate::TakeBack => content.take_back(),
                Fate::Discard => drop(content),
            }
        }
        assert!(Self::fits::<D>());
        let mut payload: Payload = [MaybeUninit::uninit(); INLINE_BYTES / 8];
        // SAFETY: 1. size and alignment were asserted above.
        unsafe { payload.as_mut_ptr().cast::<D>().write(content) };
        Self { entry: entry::<D>, payload }
    }

    #[inline(always)]
    fn consume(self, fate: Fate<'_>) {
        let mut this = core::mem::ManuallyDrop::new(self);
        let entry = this.entry;
        // SAFETY: 1. `this` is not dropped after its entry has consumed the payload.
        unsafe { entry(&raw mut this.payload, fate) }
    }

    /// Runs it on `core`.
    #[inline(always)]
    pub(crate) fn run(self, core: &Core, source: CoreId) {
        self.consume(Fate::Deliver { core, source });
    }

    /// Runs the message that lies at `place`, on `core`, without moving it first.
    ///
    /// # Safety
    ///
    /// 1. A message is there. 2. It is not used afterwards.
    #[inline(always)]
    pub(crate) unsafe fn run_in_place(place: &mut MaybeUninit<Self>, core: &Core, source: CoreId) {
        // SAFETY: 1. condition 1.
        let message = unsafe { place.assume_init_mut() };
        let entry = message.entry;
        // SAFETY: 1. conditions 1 and 2: it is consumed here only, and `MaybeUninit` drops nothing.
        unsafe { entry(&raw mut message.payload, Fate::Deliver { core, source }) }
    }

    /// Gives it back, on its source. Contains panics.
    pub(crate) fn take_back(self) {
        contain(|| self.consume(Fate::TakeBack));
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let entry = self.entry;
        // SAFETY: 1. a message that ran is never dropped (`consume`), so the payload is still whole.
        contain(|| unsafe { entry(&raw mut self.payload, Fate::Discard) });
    }
}
