//! What tasks that wait and calls that are under way take: bytes asked of the allocator, and bytes resident.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Debug;
use std::fs;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;

use crate::drive::CHUNK;
use crate::work::Figure;

/// Calls under way at once. Rings must have as much room.
pub const CALLS: usize = 8192;

static COUNTING: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicI64 = AtomicI64::new(0);
static POLLED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator; it counts while a `Section` lasts, and otherwise costs a look at one flag.
#[derive(Debug)]
pub struct Counted;

fn count(bytes: i64) {
    if COUNTING.load(Ordering::Relaxed) {
        BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: 1. it is the system's allocator; the count changes nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: 1. the caller's conditions.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// From its beginning on allocations are counted, until it ends. One at a time.
struct Section {
    resident: i64,
}

impl Section {
    fn begin() -> Self {
        let resident = resident_bytes();
        BYTES.store(0, Ordering::Relaxed);
        COUNTING.store(true, Ordering::Relaxed);
        Self { resident }
    }

    /// Bytes asked for and not given back, and bytes that have become resident, per thing.
    fn end(self, things: usize) -> (f64, f64) {
        COUNTING.store(false, Ordering::Relaxed);
        let bytes = BYTES.load(Ordering::Relaxed);
        assert!(bytes > 0, "the allocator of this program does not count");
        let resident = resident_bytes() - self.resident;
        (bytes as f64 / things as f64, resident as f64 / things as f64)
    }
}

/// What the kernel has given this process, to the page.
fn resident_bytes() -> i64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("it has the line");
    let kib: i64 = line.trim().trim_end_matches("kB").trim_end().parse().expect("a number");
    kib << 10
}

/// Waits for ever, in no byte.
#[derive(Debug)]
pub struct Idle(());

impl Future for Idle {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        POLLED.fetch_add(1, Ordering::Relaxed);
        Poll::Pending
    }
}

/// What a task that waits takes, the runtime's lists included. The tasks stay.
pub async fn idle_tasks<Y: Future>(tasks: usize, spawn: impl Fn(Idle), give_way: impl Fn() -> Y) -> Vec<Figure> {
    let before = POLLED.load(Ordering::Relaxed);
    let section = Section::begin();
    for number in 1..=tasks {
        spawn(Idle(()));
        // In chunks, for the queue of those that were never polled is no part of it.
        if number % CHUNK == 0 || number == tasks {
            while POLLED.load(Ordering::Relaxed) - before < number {
                give_way().await;
            }
        }
    }
    let (bytes, resident) = section.end(tasks);
    vec![Figure::bytes("bytes_per_task", bytes), Figure::bytes("resident_per_task", resident)]
}

/// Keeps a core from answering.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<[AtomicBool; 2]>);

impl Gate {
    /// Blocks the calling core until the calls have been counted.
    pub fn block(&self) {
        self.0[0].store(true, Ordering::Release);
        while !self.0[1].load(Ordering::Acquire) {
            thread::yield_now();
        }
    }

    fn is_blocked(&self) -> bool {
        self.0[0].load(Ordering::Acquire)
    }

    fn open(&self) {
        self.0[1].store(true, Ordering::Release);
    }
}

/// What a call under way takes, the future that its caller holds included. `gate` is to block the other core.
///
/// # Panics
///
/// When a call is lost.
pub async fn pending_calls<F, R, E, Y>(gate: Gate, call: impl Fn() -> F, give_way: impl Fn() -> Y) -> Vec<Figure>
where
    F: Future<Output = Result<R, E>>,
    E: Debug,
    Y: Future,
{
    while !gate.is_blocked() {
        give_way().await;
    }
    let section = Section::begin();
    let mut calls = Vec::with_capacity(CALLS);
    calls.extend((0..CALLS).map(|_| call()));
    let (bytes, resident) = section.end(CALLS);
    gate.open();
    for call in calls {
        call.await.expect("a call was lost");
    }
    vec![Figure::bytes("bytes_per_call", bytes), Figure::bytes("resident_per_call", resident)]
}
