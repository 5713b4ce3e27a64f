//! What stays allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::mem::size_of;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::task::{Context, Poll};

use ipiq::{CoreId, JoinHandle, Runtime, spawn_local, spawn_on, yield_now};

static LIVE: AtomicIsize = AtomicIsize::new(0);
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

/// One test counts at a time.
static COUNTING: Mutex<()> = Mutex::new(());

struct Counting;

// SAFETY: 1. it is the system's allocator; the count changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(1, Ordering::Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        LIVE_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn finished_tasks_that_had_waited_leave_no_memory_behind() {
    const TASKS: isize = 1000;
    let _alone = COUNTING.lock().expect("not poisoned");
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

/// Waits for ever, in `N` words.
struct Waits<const N: usize>([u64; N]);

impl<const N: usize> Future for Waits<N> {
    type Output = [u64; 4];

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<[u64; 4]> {
        if self.0.is_empty() { Poll::Ready([0; 4]) } else { Poll::Pending }
    }
}

/// Bytes that each of many resting tasks takes, lists and handles not counted.
async fn bytes_of_a_resting_task<const N: usize>() -> isize {
    const TASKS: usize = 1000;
    let mut handles: Vec<JoinHandle<[u64; 4]>> = Vec::with_capacity(TASKS);
    let mut bytes = 0;
    // In the second round the core's lists are as long as they get.
    for _ in 0..2 {
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        handles.extend((0..TASKS).map(|n| spawn_local(Waits([n as u64; N]))));
        yield_now().await;
        bytes = LIVE_BYTES.load(Ordering::Relaxed) - before;
        for handle in handles.drain(..) {
            handle.abort();
            assert!(handle.await.is_err_and(|error| error.is_cancelled()));
        }
    }
    bytes / TASKS as isize
}

#[test]
fn a_task_that_rests_costs_at_most_96_bytes_beside_its_future_or_its_outcome() {
    let _alone = COUNTING.lock().expect("not poisoned");
    let runtime = Runtime::builder().cores(1).build().expect("a runtime of one core");
    let (large, small) =
        runtime.block_on(|| async { (bytes_of_a_resting_task::<32>().await, bytes_of_a_resting_task::<1>().await) });
    let (large, small) = (large - size_of::<Waits<32>>() as isize, small - size_of::<[u64; 4]>() as isize);
    assert!(large <= 96 && small <= 96, "{large} {small}");
}
