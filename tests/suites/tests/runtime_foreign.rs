//! Threads that are no cores call sleeping cores and wake their tasks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ipiq::{CoreId, IdlePolicy, JoinHandle, Runtime, core_id};
use ipiq_suites::alone::alone;
use ipiq_suites::runtimes::{Census, Token, each_kind};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const THREADS: usize = 4;

#[test]
fn calls_of_four_threads_to_sleeping_cores_are_all_answered() {
    alone("calls_of_four_threads_to_sleeping_cores_are_all_answered", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).idle(IdlePolicy::Park).build().expect("a runtime");
            thread::scope(|scope| {
                for caller in 0..THREADS {
                    let handle = runtime.handle();
                    scope.spawn(move || {
                        for number in 0..scaled(500, 10_000) {
                            let core = CoreId::new((caller + number) % 2);
                            let answer = Runtime::wait(handle.call_on(core, move || (core_id(), number * 4 + caller)));
                            assert_eq!(answer.expect("it runs"), (core, number * 4 + caller));
                        }
                    });
                }
            });
            // A core counts at the end of its pass, after the last answer.
            let handle = runtime.handle();
            let received = || (0..2).map(|core| handle.core_counters(CoreId::new(core)).foreign_received).sum::<u64>();
            while received() < scaled(500, 10_000) * THREADS as u64 {
                thread::yield_now();
            }
        });
    });
}

/// A round in which two threads wake one task.
#[derive(Default)]
struct Round {
    number: AtomicU64,
    woken: [AtomicU64; 2],
    waker: Mutex<Option<Waker>>,
    /// When the later of the two woke it.
    woken_at: Mutex<Option<Instant>>,
}

#[test]
fn two_threads_wake_a_task_whose_core_sleeps_every_round() {
    alone("two_threads_wake_a_task_whose_core_sleeps_every_round", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(1).idle(IdlePolicy::Park).build().expect("a runtime");
            let rounds = scaled(2_000, 100_000);
            let round = Arc::new(Round::default());
            let shared = round.clone();
            let task = runtime.handle().spawn_on(CoreId::new(0), move || wait_for_wakes(shared, rounds));
            thread::scope(|scope| {
                for own in 0..2 {
                    let round = &round;
                    scope.spawn(move || wake_each_round(round, own, rounds));
                }
            });
            let latest = Runtime::wait(task).expect("no panic");
            let parked = runtime.handle().core_counters(CoreId::new(0)).parked;
            println!(
                "{:?}: {rounds} rounds, slept {parked} times, latest wake after {latest:?}",
                runtime.info().driver
            );
            assert!(latest < Duration::from_secs(10), "{latest:?}");
        });
    });
}

/// Ends when both threads have woken it in every round; returns the longest time from a wake to the poll.
async fn wait_for_wakes(round: Arc<Round>, rounds: u64) -> Duration {
    let mut latest = Duration::ZERO;
    for number in 1..=rounds {
        let mut begun = false;
        poll_fn(|cx| {
            *round.waker.lock().expect("not poisoned") = Some(cx.waker().clone());
            if !std::mem::replace(&mut begun, true) {
                round.number.store(number, Ordering::Release);
            }
            let all = round.woken.iter().all(|woken| woken.load(Ordering::Acquire) >= number);
            if all { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let woken_at = round.woken_at.lock().expect("not poisoned").take();
        latest = latest.max(woken_at.map_or(Duration::ZERO, |at| at.elapsed()));
    }
    latest
}

fn wake_each_round(round: &Round, own: usize, rounds: u64) {
    for number in 1..=rounds {
        while round.number.load(Ordering::Acquire) < number {
            thread::yield_now();
        }
        let waker = round.waker.lock().expect("not poisoned").clone().expect("the round has begun");
        *round.woken_at.lock().expect("not poisoned") = Some(Instant::now());
        round.woken[own].store(number, Ordering::Release);
        waker.wake();
    }
}

/// Completes when told to; a poll after that is a defect.
struct OneLife {
    end: Arc<AtomicBool>,
    ended: bool,
    wakers: Arc<Mutex<Vec<Waker>>>,
    _token: Token,
}

impl Future for OneLife {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert!(!self.ended, "polled after it was ready");
        let mut wakers = self.wakers.lock().expect("not poisoned");
        if wakers.is_empty() {
            wakers.push(cx.waker().clone());
        }
        drop(wakers);
        self.ended = self.end.load(Ordering::Acquire);
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[test]
fn a_storm_of_wakes_of_tasks_that_end_meanwhile_polls_nothing_twice() {
    alone("a_storm_of_wakes_of_tasks_that_end_meanwhile_polls_nothing_twice", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).build().expect("a runtime");
            for round in 0..scaled(20, 100) {
                storm(&runtime, round % 2 == 0);
            }
        });
    });
}

fn storm(runtime: &Runtime, abort: bool) {
    const WAKES: usize = 2_000;
    let census = Census::default();
    let (end, wakers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let life = OneLife { end: end.clone(), ended: false, wakers: wakers.clone(), _token: census.token() };
    let task: JoinHandle<()> = runtime.handle().spawn_on(CoreId::new(0), move || life);
    let waker = loop {
        if let Some(waker) = wakers.lock().expect("not poisoned").first().cloned() {
            break waker;
        }
        thread::yield_now();
    };
    // From the task's own core, from another one, and from two threads at once; in the middle of it the task ends.
    let stormers: Vec<_> = (0..2)
        .map(|core| {
            let waker = waker.clone();
            runtime.handle().spawn_on(CoreId::new(core), move || async move {
                for wake in 0..WAKES {
                    waker.wake_by_ref();
                    if wake % 64 == 0 {
                        ipiq::yield_now().await;
                    }
                }
            })
        })
        .collect();
    thread::scope(|scope| {
        for _ in 0..2 {
            let waker = waker.clone();
            scope.spawn(move || (0..WAKES).for_each(|_| waker.wake_by_ref()));
        }
        if abort { task.abort() } else { end.store(true, Ordering::Release) }
    });
    waker.wake();
    let outcome = Runtime::wait(task);
    assert_eq!(outcome.is_err_and(|error| error.is_cancelled()), abort);
    stormers.into_iter().for_each(|stormer| Runtime::wait(stormer).expect("no panic"));
    assert_eq!(census.alive(), 0, "the future is dropped before its outcome is there");
}
