//! Wakers of tasks in the hands of threads that are no cores, and of other cores, while the tasks finish, are aborted, and their runtime ends.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use fastrand::Rng;
use ipiq::{Builder, CoreId, JoinHandle, Runtime, spawn_on};
use ipiq_suites::alone::alone;
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const TASKS: usize = 48;
const THREADS: u64 = 3;

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

/// Wakers that everybody puts in and takes out.
#[derive(Default)]
struct Pool {
    wakers: Mutex<Vec<Waker>>,
    closed: AtomicBool,
}

impl Pool {
    fn put(&self, waker: Waker) {
        self.wakers.lock().expect("not poisoned").push(waker);
    }

    fn take(&self, rng: &mut Rng) -> Option<Waker> {
        let mut wakers = self.wakers.lock().expect("not poisoned");
        let len = wakers.len();
        (len > 0).then(|| wakers.swap_remove(rng.usize(..len)))
    }

    /// Does something to a waker, out of any lock.
    fn stir(&self, rng: &mut Rng, kept: &mut Vec<Waker>) {
        let Some(waker) = self.take(rng) else { return thread::yield_now() };
        match rng.u8(..16) {
            0..6 => waker.wake(),
            6..9 => {
                waker.wake_by_ref();
                self.put(waker);
            }
            9..11 => {
                self.put(waker.clone());
                kept.push(waker);
            }
            11..13 => {
                kept.push(waker.clone());
                waker.wake();
            }
            _ => drop(waker),
        }
        if kept.len() > 8 {
            kept.swap_remove(rng.usize(..kept.len())).wake();
            drop(kept.swap_remove(rng.usize(..kept.len())));
        }
    }
}

/// Waits a few times, each for whoever finds its waker.
struct Restless {
    pool: Arc<Pool>,
    home: ThreadId,
    waits: u32,
    rng: Rng,
    kept: Vec<Waker>,
    drops: Arc<AtomicU32>,
}

impl Future for Restless {
    type Output = Vec<Waker>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<Waker>> {
        assert_eq!(self.home, thread::current().id(), "polled away from home");
        let this = &mut *self;
        this.pool.stir(&mut this.rng, &mut this.kept);
        if this.waits == 0 {
            // The outcome refers to the task.
            return Poll::Ready(vec![cx.waker().clone()]);
        }
        this.waits -= 1;
        this.pool.put(cx.waker().clone());
        match this.rng.u8(..8) {
            0 => this.kept.push(cx.waker().clone()),
            1 => cx.waker().wake_by_ref(),
            2 => this.pool.put(cx.waker().clone()),
            _ => {}
        }
        Poll::Pending
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        assert_eq!(self.home, thread::current().id(), "dropped away from home");
        // Its own among them.
        self.kept.drain(..).enumerate().for_each(|(i, waker)| if i % 2 == 0 { waker.wake() } else { drop(waker) });
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn wakers_on_every_thread_while_tasks_and_their_runtime_end_leak_and_double_nothing() {
    alone("wakers_on_every_thread_while_tasks_and_their_runtime_end_leak_and_double_nothing", LIMIT, || {
        each_kind(|builder| {
            let mut before = None;
            for seed in 0..scaled(12, 300) {
                round(builder.clone(), seed);
                let live = LIVE.load(Ordering::Relaxed);
                // The first round fills what lives as long as the process.
                assert_eq!(*before.get_or_insert(live), live, "blocks alive after round {seed}");
            }
        });
    });
}

fn round(builder: Builder, seed: u64) {
    let cores = 2 + seed as usize % 3;
    let runtime = builder.cores(cores).ring_capacity(4).build().expect("a runtime");
    let pool = Arc::new(Pool::default());
    let drops: Vec<Arc<AtomicU32>> = (0..TASKS).map(|_| Arc::default()).collect();
    let mut rng = Rng::with_seed(seed);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (pool, mut rng) = (pool.clone(), rng.fork());
            thread::spawn(move || {
                let mut kept = Vec::new();
                while !pool.closed.load(Ordering::Acquire) {
                    pool.stir(&mut rng, &mut kept);
                }
                kept
            })
        })
        .collect();
    let mut handles = Vec::new();
    for task in &drops {
        handles.push(start(&runtime, &pool, task, &mut rng, cores));
        meddle(&runtime, &mut handles, &mut rng, cores);
    }
    for _ in 0..TASKS {
        thread::yield_now();
        meddle(&runtime, &mut handles, &mut rng, cores);
    }
    drop(runtime);
    let dropped: Vec<u32> = drops.iter().map(|drops| drops.load(Ordering::Relaxed)).collect();
    assert!(dropped.iter().all(|&drops| drops == 1), "dropped so often when the runtime had ended: {dropped:?}");
    for handle in handles {
        drop(Runtime::wait(handle));
    }
    pool.closed.store(true, Ordering::Release);
    let kept = threads.into_iter().flat_map(|thread| thread.join().expect("no panic"));
    kept.for_each(Waker::wake);
    mem::take(&mut *pool.wakers.lock().expect("not poisoned")).into_iter().for_each(Waker::wake);
}

fn start(
    runtime: &Runtime,
    pool: &Arc<Pool>,
    drops: &Arc<AtomicU32>,
    rng: &mut Rng,
    cores: usize,
) -> JoinHandle<Vec<Waker>> {
    /// Dropped unstarted, it counts for the future that it would have made.
    struct Unstarted(Option<Arc<AtomicU32>>);
    impl Drop for Unstarted {
        fn drop(&mut self) {
            if let Some(drops) = &self.0 {
                drops.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let (pool, mut unstarted) = (pool.clone(), Unstarted(Some(drops.clone())));
    let (waits, task_rng) = (rng.u32(..12), rng.fork());
    runtime.handle().spawn_on(CoreId::new(rng.usize(..cores)), move || Restless {
        pool,
        home: thread::current().id(),
        waits,
        rng: task_rng,
        kept: Vec::new(),
        drops: unstarted.0.take().expect("started once"),
    })
}

/// Aborts, detaches, awaits on a core, or leaves alone one of the tasks.
fn meddle(runtime: &Runtime, handles: &mut Vec<JoinHandle<Vec<Waker>>>, rng: &mut Rng, cores: usize) {
    if handles.is_empty() {
        return;
    }
    let handle = handles.swap_remove(rng.usize(..handles.len()));
    let there = CoreId::new(rng.usize(..cores));
    match rng.u8(..10) {
        0 => handle.abort(),
        1 => drop(handle),
        2 => {
            // Awaited on one core, then on the next.
            let next = CoreId::new((there.index() + 1) % cores);
            drop(runtime.handle().spawn_on(there, move || async move {
                let mut handle = handle;
                for _ in 0..3 {
                    if let Poll::Ready(outcome) =
                        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut handle).poll(cx))).await
                    {
                        return drop(outcome);
                    }
                    ipiq::yield_now().await;
                }
                drop(spawn_on(next, move || async move {
                    handle.abort();
                    drop(handle.await);
                }));
            }));
        }
        _ => handles.push(handle),
    }
}
