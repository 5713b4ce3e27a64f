//! Sleeps that are never early and never lost; intervals that keep their phase.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use ipiq::time::{Sleep, interval, sleep, timeout};
use ipiq::{Builder, CoreId, IdlePolicy, Runtime, spawn_local};
use ipiq_suites::alone::alone;
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const LONGEST_US: u64 = 50_000;

fn two_cores(builder: Builder, idle: IdlePolicy) -> Runtime {
    builder.cores(2).idle(idle).build().expect("a runtime")
}

fn each_runtime(scenario: impl Fn(Runtime)) {
    each_kind(|builder| {
        for idle in [IdlePolicy::Adaptive, IdlePolicy::Park] {
            scenario(two_cores(builder.clone(), idle));
        }
    });
}

#[test]
fn none_of_many_sleeps_is_early_or_lost() {
    alone("none_of_many_sleeps_is_early_or_lost", LIMIT, || {
        each_runtime(|runtime| {
            let sleeps = scaled(5_000, 50_000);
            let cores = (0..2)
                .map(|core| runtime.handle().spawn_on(CoreId::new(core), move || sleep_at_random(sleeps, core as u64)));
            let mut late: Vec<Duration> =
                cores.collect::<Vec<_>>().into_iter().flat_map(|core| Runtime::wait(core).expect("no panic")).collect();
            assert_eq!(late.len(), 2 * sleeps);
            late.sort_unstable();
            let (median, p99, latest) = (late[late.len() / 2], late[late.len() * 99 / 100], late[late.len() - 1]);
            let driver = runtime.info().driver;
            println!(
                "{driver:?}: {} sleeps: late by {median:.0?} (median), {p99:.0?} (p99), {latest:.0?} (most)",
                late.len()
            );
        });
    });
}

/// Sleeps for many random times, a thousand at once; returns how late each ended.
async fn sleep_at_random(sleeps: usize, seed: u64) -> Vec<Duration> {
    let sleeper = |sleeper: u64| async move {
        let mut random = Rng::with_seed(seed << 32 | sleeper);
        let mut late = Vec::new();
        for _ in 0..sleeps / 1_000 {
            let wanted = Duration::from_micros(random.u64(..LONGEST_US));
            let start = Instant::now();
            sleep(wanted).await;
            late.push(start.elapsed().checked_sub(wanted).expect("never early"));
        }
        late
    };
    let sleepers: Vec<_> = (0..1_000).map(|number| spawn_local(sleeper(number))).collect();
    join_all(sleepers).await.into_iter().flat_map(|late| late.expect("no panic")).collect()
}

#[test]
fn the_shortest_and_the_longest_sleep() {
    alone("the_shortest_and_the_longest_sleep", LIMIT, || {
        each_runtime(|runtime| {
            runtime.block_on(|| async {
                sleep(Duration::ZERO).await;
                let mut for_ever = sleep(Duration::MAX);
                let mut nearly = sleep(Duration::from_secs(u64::MAX / 2));
                for _ in 0..5 {
                    timeout(Duration::from_millis(2), &mut for_ever).await.expect_err("it never ends");
                    timeout(Duration::from_millis(2), &mut nearly).await.expect_err("nor does this one");
                }
                timeout(Duration::MAX, sleep(Duration::from_millis(1))).await.expect("in time");
                assert!(timeout(Duration::ZERO, std::future::pending::<()>()).await.is_err());
                timeout(Duration::ZERO, std::future::ready(())).await.expect("what is ready is never late");
            });
        });
    });
}

fn is_over(sleep: &mut Sleep) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(sleep).poll(&mut cx), Poll::Ready(()))
}

#[test]
fn sleeps_dropped_and_armed_anew_at_random_end_at_their_last_deadline() {
    alone("sleeps_dropped_and_armed_anew_at_random_end_at_their_last_deadline", LIMIT, || {
        each_runtime(|runtime| {
            let cores =
                (0..2).map(|core| runtime.handle().spawn_on(CoreId::new(core), move || arm_at_random(core as u64)));
            for core in cores.collect::<Vec<_>>() {
                Runtime::wait(core).expect("no panic");
            }
        });
    });
}

async fn arm_at_random(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let begin = |random: &mut Rng| {
        let wanted = Duration::from_micros(random.u64(..5_000));
        let start = Instant::now();
        (sleep(wanted), start, wanted)
    };
    let mut sleeps: Vec<_> = (0..200).map(|_| begin(&mut random)).collect();
    for _ in 0..scaled(20_000, 500_000) {
        let place = random.u64(..sleeps.len() as u64) as usize;
        match random.u64(..4) {
            // The old one is dropped, polled or not.
            0 => sleeps[place] = begin(&mut random),
            1 => {
                let (new, start, wanted) = begin(&mut random);
                sleeps[place].0.reset(new.deadline_ns());
                (sleeps[place].1, sleeps[place].2) = (start, wanted);
            }
            2 => ipiq::yield_now().await,
            _ => {
                let (sleep, start, wanted) = &mut sleeps[place];
                if is_over(sleep) {
                    assert!(start.elapsed() >= *wanted, "early");
                    sleeps[place] = begin(&mut random);
                }
            }
        }
    }
    for (sleep, start, wanted) in sleeps {
        sleep.await;
        assert!(start.elapsed() >= wanted, "early");
    }
}

#[test]
fn an_interval_keeps_its_phase_when_ticks_are_missed() {
    alone("an_interval_keeps_its_phase_when_ticks_are_missed", LIMIT, || {
        each_runtime(|runtime| {
            runtime.block_on(|| async {
                const PERIOD: Duration = Duration::from_micros(1_500);
                let period_ns = PERIOD.as_nanos() as u64;
                let start = Instant::now();
                let mut ticks = interval(PERIOD);
                let first = ticks.tick().await;
                let mut last = first;
                for number in 0..scaled(100, 300) {
                    if number % 10 == 3 {
                        // The core is held up for more than three periods.
                        std::thread::sleep(PERIOD * 7 / 2);
                    }
                    let tick = ticks.tick().await;
                    let since_ns = tick.deadline_ns() - first.deadline_ns();
                    assert_eq!(since_ns, tick.number() * period_ns, "out of phase");
                    assert!(tick.number() > last.number(), "twice");
                    assert!(start.elapsed() >= Duration::from_nanos(since_ns) + tick.late_by(), "early");
                    assert!(number % 10 != 3 || tick.late_by() >= PERIOD * 2, "it was held up");
                    last = tick;
                }
                // A tick that is waited for and given up is not lost.
                let _ = timeout(Duration::ZERO, ticks.tick()).await;
                let tick = ticks.tick().await;
                assert_eq!(tick.deadline_ns() - first.deadline_ns(), tick.number() * period_ns);
            });
        });
    });
}
