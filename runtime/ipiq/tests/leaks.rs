//! What stays allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

use ipiq::{CoreId, Runtime, spawn_local, spawn_on, yield_now};

static LIVE: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: 1. it is the system's allocator; the count changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(1, Ordering::Relaxed);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn finished_tasks_that_had_waited_leave_no_memory_behind() {
    const TASKS: isize = 1000;
    let runtime = Runtime::builder().cores(2).build().expect("a runtime of two cores");
    let round = || {
        runtime.block_on(|| async {
            for _ in 0..TASKS {
                spawn_local(yield_now()).await.expect("a value");
                spawn_on(CoreId::new(1), yield_now).await.expect("a value");
            }
        });
    };
    round();
    let before = LIVE.load(Ordering::Relaxed);
    round();
    let left = LIVE.load(Ordering::Relaxed) - before;
    assert!(left < TASKS / 10, "{left} blocks of {} tasks are left", 2 * TASKS);
}
