//! Blocks that go home: memory for closures too large for a line, allocated, reused and freed on the source.
//!
//! A block crosses to the target with its message, is emptied there, and travels back in a list: one message per flush
//! and source, however many blocks. So the allocator's cross-thread path is never taken in steady state.

use alloc::alloc::{alloc, dealloc, handle_alloc_error};
use core::alloc::Layout;
use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::{Core, CoreId};

/// Sizes of pooled blocks, in bytes; what is larger comes from the global allocator each time.
const CLASSES: [usize; 5] = [64, 128, 256, 512, 1024];
const ALIGN: usize = 64;
/// Blocks kept per class and core.
const KEPT: usize = 1024;

/// A free block: only its link is in use.
struct Free {
    next: Option<NonNull<Free>>,
}

/// Free blocks of one core, by class.
#[derive(Default)]
pub(crate) struct BlockPool {
    classes: [FreeList; CLASSES.len()],
}

#[derive(Default)]
struct FreeList {
    head: Cell<Option<NonNull<Free>>>,
    len: Cell<usize>,
}

fn class_of(layout: Layout) -> Option<usize> {
    if layout.align() > ALIGN {
        return None;
    }
    CLASSES.iter().position(|&size| layout.size() <= size)
}

fn class_layout(class: usize) -> Layout {
    // SAFETY: 1. `ALIGN` is a power of two. 2. the sizes are far below `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(CLASSES[class], ALIGN) }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: 1. every layout here has a size above zero (a class, or a type too large for one).
    let pointer = unsafe { alloc(layout) };
    NonNull::new(pointer).unwrap_or_else(|| handle_alloc_error(layout))
}

impl BlockPool {
    /// Memory for `layout`, from the pool if a block is free.
    #[inline(always)]
    pub(crate) fn take(&self, layout: Layout) -> NonNull<u8> {
        let Some(class) = class_of(layout) else {
            return allocate(layout);
        };
        let list = &self.classes[class];
        match list.head.get() {
            Some(free) => {
                // SAFETY: 1. what is on the list is a free block of this pool, whose first bytes are a `Free`.
                list.head.set(unsafe { free.as_ref() }.next);
                list.len.set(list.len.get() - 1);
                free.cast()
            }
            None => allocate(class_layout(class)),
        }
    }

    /// Gives back memory that [`take`](Self::take) of any core's pool returned for `layout`.
    ///
    /// # Safety
    ///
    /// 1. `block` came from a pool's `take(layout)` and nobody uses it any more.
    #[inline(always)]
    pub(crate) unsafe fn give(&self, block: NonNull<u8>, layout: Layout) {
        let Some(class) = class_of(layout) else {
            // SAFETY: 1. condition 1; without a class it came from the global allocator with this layout.
            return unsafe { dealloc(block.as_ptr(), layout) };
        };
        let list = &self.classes[class];
        if list.len.get() >= KEPT {
            // SAFETY: 1. condition 1; every block of a class has the class's layout.
            return unsafe { dealloc(block.as_ptr(), class_layout(class)) };
        }
        let free = block.cast::<Free>();
        // SAFETY: 1. condition 1: the block is unused, and large and aligned enough for a link.
        unsafe { free.write(Free { next: list.head.get() }) };
        list.head.set(Some(free));
        list.len.set(list.len.get() + 1);
    }
}

impl Drop for BlockPool {
    fn drop(&mut self) {
        for (class, list) in self.classes.iter().enumerate() {
            let mut next = list.head.get();
            while let Some(free) = next {
                // SAFETY: 1. as in `take`.
                next = unsafe { free.as_ref() }.next;
                // SAFETY: 1. nobody else knows the block. 2. it has its class's layout.
                unsafe { dealloc(free.as_ptr().cast(), class_layout(class)) };
            }
        }
    }
}

/// What lies in front of a closure in its block.
struct Header {
    next: Option<NonNull<Header>>,
    layout: Layout,
}

/// A closure in a block, on its way from its home.
pub(crate) struct HomeBlock<F> {
    block: NonNull<Header>,
    /// Where the block goes when it is empty; `None`: to the global allocator.
    home: Option<CoreId>,
    closure: PhantomData<F>,
}

// SAFETY: 1. it owns its block and the closure in it, which is `Send`.
unsafe impl<F: Send> Send for HomeBlock<F> {}

impl<F> HomeBlock<F> {
    fn layout() -> (Layout, usize) {
        let (layout, offset) =
            Layout::new::<Header>().extend(Layout::new::<F>()).expect("a closure that fits in memory");
        (layout.pad_to_align(), offset)
    }

    /// Moves `f` into a block of `home`'s pool, or of the global allocator.
    pub(crate) fn new(home: Option<&Core>, f: F) -> Self {
        let (layout, offset) = Self::layout();
        let (block, home) = match home {
            Some(core) if class_of(layout).is_some() => (core.blocks().take(layout), Some(core.id())),
            _ => (allocate(layout), None),
        };
        let header = block.cast::<Header>();
        // SAFETY: 1. the block is large and aligned enough for a `Header` and, behind it, an `F`.
        unsafe { header.write(Header { next: None, layout }) };
        // SAFETY: 1. `offset` lies inside the block (`extend`).
        let place = unsafe { block.byte_add(offset) }.cast::<F>();
        // SAFETY: 1. as above.
        unsafe { place.write(f) };
        Self { block: header, home, closure: PhantomData }
    }

    /// Moves the closure out, on `core`, and sends the empty block home.
    pub(crate) fn take(self, core: &Core) -> F {
        let this = core::mem::ManuallyDrop::new(self);
        let f = this.read();
        match this.home {
            Some(home) => core.send_home(home, BlockList { head: this.block }),
            None => this.free(),
        }
        f
    }

    /// Moves the closure out and frees the block, on any thread.
    pub(crate) fn into_inner(self) -> F {
        let this = core::mem::ManuallyDrop::new(self);
        let f = this.read();
        this.free();
        f
    }

    fn read(&self) -> F {
        let (_, offset) = Self::layout();
        // SAFETY: 1. `offset` lies inside the block.
        let place = unsafe { self.block.byte_add(offset) }.cast::<F>();
        // SAFETY: 1. `new` wrote an `F` there; `take`, `into_inner` and `drop` read it once between them.
        unsafe { place.read() }
    }

    fn free(&self) {
        let (layout, _) = Self::layout();
        let layout = if self.home.is_some() { class_of(layout).map_or(layout, class_layout) } else { layout };
        // SAFETY: 1. the block came from the allocator with this layout and nobody uses it any more.
        unsafe { dealloc(self.block.as_ptr().cast(), layout) }
    }
}

impl<F> Drop for HomeBlock<F> {
    fn drop(&mut self) {
        let f = self.read();
        self.free();
        drop(f);
    }
}

/// Empty blocks of one home, linked.
pub(crate) struct BlockList {
    head: NonNull<Header>,
}

// SAFETY: 1. it owns its blocks, which hold nothing but their links.
unsafe impl Send for BlockList {}

impl BlockList {
    /// Puts the blocks of `other` in front of these.
    pub(crate) fn prepend(self, other: Self) -> Self {
        let head = other.head;
        // One block at a time comes here: `other` is a single emptied block.
        // SAFETY: 1. the list owns its blocks and every block begins with a `Header`.
        unsafe { (*head.as_ptr()).next = Some(self.head) };
        core::mem::forget((self, other));
        Self { head }
    }

    /// Puts every block into `pool`.
    pub(crate) fn give_to(self, pool: &BlockPool) {
        let mut next = Some(self.head);
        core::mem::forget(self);
        while let Some(block) = next {
            // SAFETY: 1. as in `prepend`.
            let header = unsafe { block.read() };
            next = header.next;
            // SAFETY: 1. pooled blocks were taken with the layout in their header, and this list was their last owner.
            unsafe { pool.give(block.cast(), header.layout) };
        }
    }
}

impl Drop for BlockList {
    fn drop(&mut self) {
        Self { head: self.head }.give_to(&BlockPool::default());
    }
}
