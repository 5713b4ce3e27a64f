//! Timers of a core whose clock the test sets, and what they cost in memory.

mod machine;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicIsize, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use ipiq_executor::time::{Interval, Sleep, interval, sleep_until};
use ipiq_executor::{Executor, Remote, SpinPolicy, with_current, yield_now};
use ipiq_fabric::port::{Clock, Port};
use ipiq_fabric::{Config, CoreId, Fabric};
use machine::Machine;

static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: 1. it is the system's allocator; the count changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: 1. the caller's conditions.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A clock that is set.
#[derive(Default)]
struct Dial(AtomicU64);

impl Dial {
    fn set(&self, now_ns: u64) {
        self.0.store(now_ns, Ordering::Relaxed);
    }
}

impl Clock for Dial {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs the task that `init` makes, on a core with a clock that it sets.
fn on_a_core<Fut: Future<Output = ()> + 'static>(init: impl FnOnce(Arc<Dial>) -> Fut + Send + 'static) {
    // Memory is counted for the process.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let config = Config { cores: 1, ..Config::default() };
    let (fabric, seats) = Fabric::new(config, Arc::new(Machine)).expect("a valid configuration");
    let remote = Remote::new(&fabric);
    let dial = Arc::new(Dial::default());
    let clock = dial.clone();
    let task = remote.spawn_on(CoreId::new(0), move || {
        let task = init(dial);
        async move {
            // Also when it panics.
            let _stop = Stop;
            task.await;
        }
    });
    for seat in seats {
        let (remote, clock) = (remote.clone(), clock.clone());
        let run = move || Executor::new(seat.enter(), remote, clock, SpinPolicy::Never).run(&mut Machine);
        thread::spawn(run).join().expect("no panic");
    }
    assert!(task.is_finished());
    let mut task = task;
    let outcome = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(outcome, Poll::Ready(Ok(()))), "the task panicked");
}

struct Stop;

impl Drop for Stop {
    fn drop(&mut self) {
        with_here(|executor| executor.remote().stop());
    }
}

fn with_here<R>(f: impl FnOnce(&Executor) -> R) -> R {
    let port: &dyn Port = &Machine;
    with_current(port, f).expect("a core")
}

fn until(deadline_ns: u64) -> Sleep {
    with_here(|executor| sleep_until(executor, deadline_ns))
}

#[derive(Default)]
struct Counter(AtomicU32);

impl Counter {
    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll(sleep: &mut Sleep, waker: &Waker) -> bool {
    Pin::new(sleep).poll(&mut Context::from_waker(waker)).is_ready()
}

/// Polls tasks of which one does nothing, so that the core looks at its timers many times.
async fn looks(looks: usize) {
    for _ in 0..looks * 128 {
        yield_now().await;
    }
}

#[test]
fn a_sleep_is_armed_anew_before_it_fires_after_it_and_when_it_is_over() {
    on_a_core(|dial| async move {
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(counter.clone());
        let mut sleep = until(5_000_000);
        assert!(!poll(&mut sleep, &waker));
        // Before: the old deadline is forgotten.
        sleep.reset(8_000_000);
        assert!(!poll(&mut sleep, &waker));
        dial.set(7_000_000);
        looks(2).await;
        assert_eq!(counter.count(), 0, "early");
        dial.set(8_000_000);
        looks(2).await;
        assert_eq!(counter.count(), 1, "lost");
        // After it has fired, unpolled since.
        sleep.reset(9_000_000);
        assert!(!poll(&mut sleep, &waker));
        dial.set(9_000_000);
        looks(2).await;
        assert_eq!(counter.count(), 2);
        assert!(poll(&mut sleep, &waker) && poll(&mut sleep, &waker), "over is over");
        // When it is over; to the past, for ever, and back.
        sleep.reset(1);
        assert!(poll(&mut sleep, &waker));
        sleep.reset(u64::MAX);
        assert!(!poll(&mut sleep, &waker));
        dial.set(u64::MAX - 1);
        looks(2).await;
        assert!(!poll(&mut sleep, &waker));
        sleep.reset(u64::MAX - 1);
        assert!(poll(&mut sleep, &waker));
    });
}

#[test]
fn who_polls_a_sleep_last_is_woken() {
    on_a_core(|dial| async move {
        let [first, last] = [(); 2].map(|()| Arc::new(Counter::default()));
        let mut sleep = until(5_000_000);
        assert!(!poll(&mut sleep, &first.clone().into()));
        assert!(!poll(&mut sleep, &last.clone().into()));
        assert_eq!(Arc::strong_count(&first), 1, "the replaced waker is dropped");
        dial.set(5_000_000);
        looks(2).await;
        assert_eq!((first.count(), last.count()), (0, 1));
        assert_eq!(Arc::strong_count(&last), 1);
        // Fired, and dropped without a poll.
        drop(sleep);
        let mut sleep = until(6_000_000);
        assert!(!poll(&mut sleep, &last.clone().into()));
        drop(sleep);
        assert_eq!(Arc::strong_count(&last), 1, "a sleep that is dropped drops its waker");
        dial.set(6_000_000);
        looks(2).await;
        assert_eq!(last.count(), 1, "what was dropped fires no more");
    });
}

#[test]
fn a_sleep_that_is_polled_in_a_loop_ends_without_a_look_of_the_core() {
    on_a_core(|dial| async move {
        let mut sleep = until(50_000_000);
        assert!(!poll(&mut sleep, Waker::noop()));
        dial.set(50_000_000);
        assert!(poll(&mut sleep, Waker::noop()));
    });
}

#[test]
fn other_tasks_go_on_beside_one_that_is_late_for_every_tick() {
    on_a_core(|dial| async move {
        let here = |executor: &Executor| {
            let turns = Rc::new(Cell::new(0));
            let others = turns.clone();
            drop(executor.spawn(async move {
                loop {
                    others.set(others.get() + 1);
                    yield_now().await;
                }
            }));
            (interval(executor, Duration::from_nanos(10)), turns)
        };
        let (mut ticks, turns) = with_current(&Machine, here).expect("a core");
        for round in 1..=100 {
            ticks.tick().await;
            // What it does then takes longer than a period.
            dial.set(15 * round);
        }
        assert!(turns.get() >= 99, "{} turns of another task", turns.get());
        // It gives way once per tick, not once per future.
        let is_ready =
            |ticks: &mut Interval| pin!(ticks.tick()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!is_ready(&mut ticks));
        assert!(is_ready(&mut ticks));
    });
}

#[test]
fn other_tasks_go_on_while_a_hundred_thousand_timers_expire_at_once() {
    const TIMERS: u32 = 100_000;
    on_a_core(|dial| async move {
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(counter.clone());
        let mut sleeps: Vec<Sleep> = (0..TIMERS).map(|n| until(5_000_000 + u64::from(n % 7))).collect();
        assert!(sleeps.iter_mut().all(|sleep| !poll(sleep, &waker)));
        dial.set(6_000_000);
        let (mut polls, mut before, mut most) = (0, 0, 0);
        while counter.count() < TIMERS {
            yield_now().await;
            most = most.max(counter.count() - before);
            before = counter.count();
            polls += 1;
            assert!(polls < 100 * TIMERS, "timers are lost: {} of {TIMERS}", counter.count());
        }
        assert!(most <= 64, "{most} timers between two polls of a task");
        assert!(sleeps.iter_mut().all(|sleep| poll(sleep, &waker)));
    });
}

#[test]
fn a_pending_sleep_costs_forty_bytes_and_a_burst_gives_its_memory_back() {
    const SLEEPS: usize = 100_000;
    on_a_core(|_dial| async move {
        let mut sleeps: Vec<Sleep> = (0..SLEEPS as u64).map(|n| until(1_000_000_000 + n * 777)).collect();
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        sleeps.iter_mut().for_each(|sleep| assert!(!poll(sleep, Waker::noop())));
        let bytes = LIVE_BYTES.load(Ordering::Relaxed) - before;
        assert!(bytes <= 41 * SLEEPS as isize, "{} bytes per sleep", bytes as f64 / SLEEPS as f64);
        drop(sleeps);
        for n in 0..SLEEPS as u64 / 128 {
            assert!(!poll(&mut until(1_000_000_000 + n), Waker::noop()));
        }
        let left = LIVE_BYTES.load(Ordering::Relaxed) - before + (SLEEPS * size_of::<Sleep>()) as isize;
        assert!(left <= 16 << 10, "{left} bytes are left");
    });
}

#[test]
fn dropping_a_core_with_sleeps_in_every_state_drops_their_wakers() {
    let counter = Arc::new(Counter::default());
    let kept = counter.clone();
    on_a_core(|dial| async move {
        let waker = Waker::from(counter);
        let mut sleeps: Vec<Sleep> = [2_000_000, 5_000_000, u64::MAX, 9].map(until).into();
        sleeps[..3].iter_mut().for_each(|sleep| assert!(!poll(sleep, &waker)));
        dial.set(3_000_000);
        looks(2).await;
        let for_ever = poll_fn(move |_| {
            let _owned = &sleeps;
            Poll::<()>::Pending
        });
        with_here(|executor| drop(executor.spawn(for_ever)));
        looks(1).await;
    });
    assert_eq!(Arc::strong_count(&kept), 1);
}
