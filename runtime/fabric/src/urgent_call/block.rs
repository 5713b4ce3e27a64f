//! What travels: a function, and the place for its value.

use alloc::boxed::Box;
use core::cell::Cell;
use core::mem::{self, MaybeUninit};
use core::ptr::{self, NonNull};
use core::task::Waker;

use super::word::Word;
use crate::CoreId;
use crate::sync::{AtomicPtr, UnsafeCell, unwinds_in_a_model};
use crate::unwind::contain;

/// What every block begins with; see the table of [fields](super#state-and-who-writes-it).
pub(super) struct Header {
    pub(super) next: AtomicPtr<Header>,
    pub(super) word: Word,
    /// Its home, or the target of a foreign call.
    pub(super) source: CoreId,
    /// Which of the source's lives.
    pub(super) life: u64,
    pub(super) waker: Cell<Option<Waker>>,
    run: unsafe fn(NonNull<Header>, CoreId),
    free: unsafe fn(NonNull<Header>, bool),
}

/// A block as its future knows it.
#[repr(C)]
pub(super) struct Answer<R> {
    header: Header,
    value: UnsafeCell<MaybeUninit<R>>,
}

#[repr(C)]
struct Block<F, R> {
    answer: Answer<R>,
    f: UnsafeCell<F>,
}

/// A new block, made by `source` in its life `life`.
pub(super) fn make<F, R>(source: CoreId, life: u64, f: F) -> NonNull<Answer<R>>
where
    F: Fn(CoreId) -> R + Send,
    R: Send,
{
    make_with(Word::new(), source, life, f)
}

/// A new block of a thread that runs no core, for `target` in whatever life.
pub(super) fn make_foreign<F, R>(target: CoreId, f: F) -> NonNull<Answer<R>>
where
    F: Fn(CoreId) -> R + Send,
    R: Send,
{
    make_with(Word::foreign(), target, 0, f)
}

fn make_with<F, R>(word: Word, source: CoreId, life: u64, f: F) -> NonNull<Answer<R>>
where
    F: Fn(CoreId) -> R + Send,
    R: Send,
{
    let header = Header {
        next: AtomicPtr::new(ptr::null_mut()),
        word,
        source,
        life,
        waker: Cell::new(None),
        run: run::<F, R>,
        free: free::<F, R>,
    };
    let answer = Answer::<R> { header, value: UnsafeCell::new(MaybeUninit::uninit()) };
    NonNull::from(Box::leak(Box::new(Block { answer, f: UnsafeCell::new(f) }))).cast()
}

/// # Safety
///
/// 1. `block` is one of these types, alive, and the caller's, who has taken it.
unsafe fn run<F: Fn(CoreId) -> R, R>(block: NonNull<Header>, core: CoreId) {
    // SAFETY: 1. as required here; a block begins with its header.
    let block = unsafe { block.cast::<Block<F, R>>().as_ref() };
    block.f.with(|f| {
        // SAFETY: 1. nobody else touches the function before the block is at home.
        let value = uninterrupted_by_panics(|| unsafe { &*f }(core));
        // SAFETY: 1. as the function. There is no value yet to be dropped.
        block.answer.value.with_mut(|place| unsafe { (*place).write(value) });
    });
}

/// # Safety
///
/// 1. `block` is one of these types, alive, and nobody uses it any more. 2. If it `has_value`, that was written and not taken.
unsafe fn free<F, R>(block: NonNull<Header>, has_value: bool) {
    // SAFETY: 1. as required: it came from a box of this type.
    let block = unsafe { Box::from_raw(block.cast::<Block<F, R>>().as_ptr()) };
    if has_value {
        // SAFETY: 2. as required.
        let value = block.answer.value.with_mut(|place| unsafe { place.cast::<R>().read() });
        contain(move || drop(value));
    }
    contain(move || drop(block));
}

/// Runs `f`, whose panic must not unwind into what it interrupts: it ends the process, with a word why.
pub(crate) fn uninterrupted_by_panics<R>(f: impl FnOnce() -> R) -> R {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            // The model checker tells of its faults by panics.
            if !unwinds_in_a_model() {
                panic!("a function that was called urgently has panicked, against its promise: the process ends");
            }
        }
    }
    let bomb = Bomb;
    let value = f();
    mem::forget(bomb);
    value
}

/// Runs the function of `block`.
///
/// # Safety
///
/// 1. `block` is alive, and the caller's, who has taken it.
pub(super) unsafe fn run_block(block: NonNull<Header>, core: CoreId) {
    // SAFETY: 1. as required.
    let run = unsafe { block.as_ref() }.run;
    // SAFETY: 1. the function of its own types.
    unsafe { run(block, core) };
}

/// Frees `block`.
///
/// # Safety
///
/// 1. `block` is alive, and nobody uses it any more. 2. If it `has_value`, that was written and not taken.
pub(super) unsafe fn free_block(block: NonNull<Header>, has_value: bool) {
    // SAFETY: 1. as required.
    let free = unsafe { block.as_ref() }.free;
    // SAFETY: 1. and 2. as required; the function of its own types.
    unsafe { free(block, has_value) };
}

/// The value of a block that is at home.
///
/// # Safety
///
/// 1. `block` is alive and at home, with a value that nobody has taken. 2. It is not taken again.
pub(super) unsafe fn value<R>(block: NonNull<Answer<R>>) -> R {
    // SAFETY: 1. as required.
    let value = unsafe { &block.as_ref().value };
    // SAFETY: 1. and 2. as required.
    value.with_mut(|place| unsafe { place.cast::<R>().read() })
}
