//! Scheduling classes on real cores.
//!
//! What a class got is measured by what the runtime has counted of it, or by equal pieces of work: how often the machine lets the cores run does not matter.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use ipiq::classes::{ClassSpec, DEFAULT_SHARES, MAX_CLASSES, MAX_SHARES, SchedulingClass, current};
use ipiq::{CoreId, JoinSet, Runtime, call_on, core_id, handle, spawn_local, spawn_on, time, xcall, yield_now};
use ipiq_suites::had::Moment;
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

fn class(name: &str) -> SchedulingClass {
    handle().scheduling_class(name).expect("it was made")
}

fn current_name() -> String {
    current().name().to_owned()
}

/// Some microseconds of work.
fn work(rounds: u64) {
    let mut sum = 1_u64;
    for round in 0..rounds {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(round));
    }
}

/// Tasks that can always run, some with long polls and some with short ones.
fn load(class: &SchedulingClass, tasks: usize, rounds: u64) -> JoinSet<()> {
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        set.insert(class.spawn_local(async move {
            loop {
                work(rounds);
                yield_now().await;
            }
        }));
    }
    set
}

fn contended_ns(class: &SchedulingClass) -> u64 {
    class.counters(core_id()).contended_ns
}

/// What each has got since `before`, once all together have got `for_ns`.
async fn got(classes: &[SchedulingClass], before: &[u64], for_ns: u64) -> Vec<u64> {
    loop {
        let got: Vec<u64> = classes.iter().zip(before).map(|(class, before)| contended_ns(class) - before).collect();
        if got.iter().sum::<u64>() >= for_ns {
            return got;
        }
        time::sleep(Duration::from_millis(2)).await;
    }
}

fn are_shared(got: &[u64], shares: &[u64]) -> bool {
    let (all, sum) = (got.iter().sum::<u64>() as f64, shares.iter().sum::<u64>() as f64);
    let ratio = |(got, shares): (&u64, &u64)| *got as f64 / all / (*shares as f64 / sum);
    got.iter().zip(shares).map(ratio).all(|ratio| (0.95..1.05).contains(&ratio))
}

/// Whether each has got its share within a twentieth, and what the machine took away in the middle of turns, which counts as theirs.
fn are_shared_but_for(missed: Duration, got: &[u64], shares: &[u64]) -> bool {
    let (all, sum) = (got.iter().sum::<u64>() as f64, shares.iter().sum::<u64>() as f64);
    let off = |(got, shares): (&u64, &u64)| {
        let due = all * *shares as f64 / sum;
        ((*got as f64 - due).abs() - missed.as_nanos() as f64) / due
    };
    got.iter().zip(shares).map(off).all(|off| off < 0.05)
}

/// Awaits that what each gets from now on is its share within a twentieth, once all together have got a second. That is so at once, unless the machine took the CPU away
/// in the middle of a turn, which counts as that class's and is made up for in the next ones: then it is soon.
async fn share(classes: &[SchedulingClass], shares: &[u64]) {
    let begun = Moment::now();
    let before: Vec<u64> = classes.iter().map(contended_ns).collect();
    let mut for_ns = 1_000_000_000;
    loop {
        let got = got(classes, &before, for_ns).await;
        // The core never sleeps.
        let missed = Moment::now().missed_since(begun);
        println!("shares {shares:?}: {got:?} of {} ns, {missed:?} missed", got.iter().sum::<u64>());
        assert!(are_shared_but_for(missed, &got, shares), "{got:?}, {missed:?} missed");
        if are_shared(&got, shares) {
            return;
        }
        for_ns = got.iter().sum::<u64>() + 1;
        assert!(for_ns < 40_000_000_000, "{got:?}");
    }
}

#[test]
fn one_two_and_four_shares_get_theirs_within_a_second() {
    with_watchdog("one, two, four", LIMIT, || {
        let names = ["one", "two", "four"];
        let builder =
            names.into_iter().zip([100, 200, 400]).fold(Runtime::builder().cores(1), |builder, (name, shares)| {
                builder.scheduling_class(ClassSpec::new(name).shares(shares))
            });
        let runtime = builder.build().expect("a runtime");
        runtime.block_on(move || async move {
            let classes = names.map(class);
            // Whatever the number of tasks and the length of their polls.
            let loads = [load(&classes[0], 7, 100), load(&classes[1], 1, 5_000), load(&classes[2], 3, 30_000)];
            share(&classes, &[1, 2, 4]).await;
            drop(loads);
        });
    });
}

#[test]
fn shares_that_any_thread_changes_count_from_then_on() {
    with_watchdog("changed shares", LIMIT, || {
        let runtime = Runtime::builder().cores(1).build().expect("a runtime");
        let make = |spec| runtime.handle().create_class(spec).expect("there is room");
        let (small, large) =
            (make(ClassSpec::new("small").shares(1)), make(ClassSpec::new("large").shares(MAX_SHARES)));
        let changed = small.clone();
        runtime.block_on(move || async move {
            let loads = [load(&small, 2, 1_000), load(&large, 2, 1_000)];
            let classes = [small, large];
            // One turn, which the machine may make long, beside what it has a right to.
            let (mut small_ns, mut longest_ns) = (0, 0);
            while contended_ns(&classes[1]) < 300_000_000 {
                let before_ns = std::mem::replace(&mut small_ns, contended_ns(&classes[0]));
                longest_ns = longest_ns.max(small_ns - before_ns);
                yield_now().await;
            }
            let large_ns = contended_ns(&classes[1]);
            assert!(
                (small_ns - longest_ns) * u64::from(MAX_SHARES) <= 2 * large_ns,
                "{small_ns} {longest_ns} {large_ns}"
            );
            let other = thread::spawn(move || changed.set_shares(MAX_SHARES));
            while !other.is_finished() {
                yield_now().await;
            }
            share(&classes, &[1, 1]).await;
            drop(loads);
        });
    });
}

#[test]
fn with_a_paused_clock_polls_are_shared() {
    with_watchdog("paused clock", LIMIT, || {
        let runtime = Runtime::builder().cores(1).paused_clock().build().expect("a runtime");
        let make = |spec| runtime.handle().create_class(spec).expect("there is room");
        let (one, three) = (make(ClassSpec::new("one")), make(ClassSpec::new("three").shares(3 * DEFAULT_SHARES)));
        let polls = runtime.block_on(move || async move {
            let loads = [load(&one, 1, 0), load(&three, 1, 0)];
            while one.counters(A).polls < 3_000 {
                yield_now().await;
            }
            drop(loads);
            [one.counters(A).polls, three.counters(A).polls]
        });
        assert!((polls[1] as f64 / polls[0] as f64 - 3.0).abs() < 0.2, "{polls:?}");
    });
}

#[test]
fn a_class_goes_along_with_spawns_calls_and_what_they_spawn() {
    with_watchdog("inherited classes", LIMIT, || {
        each_kind(|builder| {
            let builder = builder.cores(2).ring_capacity(2).scheduling_class(ClassSpec::new("x"));
            let runtime = builder.build().expect("a runtime");
            runtime.block_on(|| async {
                let x = class("x");
                assert_eq!(current_name(), "default");
                for target in [A, B] {
                    let seen = x.spawn_on(target, move || async move {
                        let other = CoreId::new(1 - target.index());
                        let mut names = vec![current_name()];
                        names.push(spawn_local(async { current_name() }).await.expect("no panic"));
                        names.push(spawn_on(other, || async { current_name() }).await.expect("no panic"));
                        names.push(handle().spawn_on(other, || async { current_name() }).await.expect("no panic"));
                        yield_now().await;
                        names.push(call_on(other, current_name).await.expect("no panic"));
                        names.push(call_on(target, current_name).await.expect("no panic"));
                        names.push(handle().call_on(other, current_name).await.expect("no panic"));
                        let spawned = call_on(other, || spawn_local(async { current_name() }));
                        names.push(spawned.await.expect("no panic").await.expect("no panic"));
                        // More than the ring holds: some wait for space, and take their class along then.
                        let calls: Vec<_> = (0..20).map(|_| call_on(other, current_name)).collect();
                        for call in calls {
                            names.push(call.await.expect("no panic"));
                        }
                        let everywhere = xcall::low::broadcast(|| async { current_name() }).await;
                        names.extend(everywhere.into_iter().map(|(_, name)| name.expect("no panic")));
                        let between_polls = xcall::high::broadcast(current_name).await;
                        names.extend(between_polls.into_iter().map(|(_, name)| name.expect("no panic")));
                        let spawned = xcall::high::unicast(target, || spawn_local(async { current_name() }));
                        names.push(spawned.await.expect("no panic").await.expect("no panic"));
                        names
                    });
                    let seen = seen.await.expect("no panic");
                    assert!(seen.iter().all(|name| name == "x"), "{seen:?}");
                }
                // And nothing stays behind.
                assert_eq!(current_name(), "default");
                for target in [A, B] {
                    assert_eq!(call_on(target, current_name).await.expect("no panic"), "default");
                    assert_eq!(spawn_on(target, || async { current_name() }).await.expect("no panic"), "default");
                }
                let panics = x.spawn_local(async { call_on(B, || panic!("on purpose")).await });
                assert!(panics.await.expect("no panic").is_err());
                assert_eq!(call_on(B, current_name).await.expect("no panic"), "default");
            });
            let x = runtime.handle().scheduling_class("x").expect("it was made");
            let here = Runtime::wait(x.spawn_on(B, || async { current_name() }));
            assert_eq!(here.expect("no panic"), "x");
            assert_eq!(Runtime::wait(runtime.handle().call_on(B, current_name)).expect("no panic"), "default");
        });
    });
}

#[test]
fn classes_are_few_have_one_name_each_and_are_found_by_it() {
    with_watchdog("names", LIMIT, || {
        let twice = Runtime::builder().cores(1).scheduling_class(ClassSpec::new("x"));
        let error = twice.clone().scheduling_class(ClassSpec::new("x")).build().expect_err("two of a name");
        assert!(error.is_config() && error.to_string().contains("`x`"), "{error}");
        let runtime = twice.scheduling_class(ClassSpec::new("default").shares(7)).build().expect("a runtime");
        let handle = runtime.handle();
        assert_eq!(handle.scheduling_class("default").expect("always there").shares(), 7);
        assert!(handle.scheduling_class("y").is_none());
        // Many threads make the same ones.
        let made = thread::scope(|scope| {
            let makers: Vec<_> = (0..4)
                .map(|_| {
                    let handle = &handle;
                    scope.spawn(move || {
                        let make = |n| handle.create_class(ClassSpec::new(format!("{n}")));
                        (0..MAX_CLASSES).filter_map(|n| make(n).ok()).map(|class| class.name().to_owned()).collect()
                    })
                })
                .collect();
            let names: Vec<Vec<String>> = makers.into_iter().map(|maker| maker.join().expect("no panic")).collect();
            names.concat()
        });
        assert_eq!(made.len(), MAX_CLASSES - 2, "{made:?}");
        let mut names: Vec<_> = handle.scheduling_classes().iter().map(|class| class.name().to_owned()).collect();
        assert_eq!(names.len(), MAX_CLASSES);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), MAX_CLASSES, "each name once");
        let error = handle.create_class(ClassSpec::new("one more")).expect_err("there is no room");
        assert!(error.is_full() && !error.is_name_taken(), "{error}");
        // The last one works like the first.
        let last = handle.scheduling_classes().pop().expect("many");
        let (name, expected) = (last.spawn_on(A, || async { current_name() }), last.name().to_owned());
        assert_eq!(Runtime::wait(name).expect("no panic"), expected);
    });
}

#[test]
fn a_class_of_another_runtime_is_refused_with_its_name() {
    with_watchdog("foreign classes", LIMIT, || {
        let runtime = || Runtime::builder().cores(1).build().expect("a runtime");
        let (ours, theirs) = (runtime(), runtime());
        let foreign = theirs.handle().create_class(ClassSpec::new("theirs")).expect("there is room");
        assert_ne!(ours.handle().scheduling_classes()[0], theirs.handle().scheduling_classes()[0]);
        let spawned = ours.handle().spawn_on(A, {
            let foreign = foreign.clone();
            move || async move { foreign.spawn_local(async {}).await.is_ok() }
        });
        let error = Runtime::wait(spawned).expect_err("it panics");
        assert!(format!("{error}").contains("`theirs`"), "{error}");
        // By its own way in it is reached from there, too.
        let name = ours.block_on(move || async move { foreign.spawn_on(A, || async { current_name() }).await });
        assert_eq!(name.expect("no panic"), "theirs");
    });
}

/// Spins in one poll until it is told to give way.
fn spin_until_told() -> Duration {
    let begun = Instant::now();
    while !ipiq::should_yield() {
        std::hint::spin_loop();
    }
    begun.elapsed()
}

#[test]
fn each_class_has_its_slice_and_a_goal_shortens_those_of_the_others() {
    with_watchdog("slices of classes", LIMIT, || {
        // Whoever is told within the test's time is told by something else than the runtime's slice.
        let builder = Runtime::builder().cores(1).time_slice(Duration::from_secs(3_600));
        let builder = builder.scheduling_class(ClassSpec::new("short").time_slice(Duration::from_millis(2)));
        let runtime = builder.build().expect("a runtime");
        let polite = runtime.handle().create_class(ClassSpec::new("polite")).expect("there is room");
        runtime.block_on(|| async move {
            class("short").spawn_local(async { spin_until_told() }).await.expect("no panic");
            polite.set_time_slice(Duration::from_millis(3));
            polite.spawn_local(async { spin_until_told() }).await.expect("no panic");
            polite.set_time_slice(None);
            // A class with a goal, which has had tasks on this core.
            let urgent = handle().create_class(ClassSpec::new("urgent").latency_goal(Duration::from_millis(2)));
            let urgent = urgent.expect("there is room");
            urgent.spawn_local(async {}).await.expect("no panic");
            polite.spawn_local(async { spin_until_told() }).await.expect("no panic");
            // Its own tasks are not told by it.
            let told = urgent.spawn_local(async {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_millis(60) {
                    if ipiq::should_yield() {
                        return true;
                    }
                }
                false
            });
            assert!(!told.await.expect("no panic"), "its goal is for the others");
        });
    });
}

#[test]
fn a_class_with_a_goal_goes_before_many_others() {
    with_watchdog("goals", LIMIT, || {
        // The clock stands still, so that all take the same time whatever the machine does, and a goal of a millisecond is always about to be passed.
        let runtime = Runtime::builder().cores(1).paused_clock().build().expect("a runtime");
        let make = |spec| runtime.handle().create_class(spec).expect("there is room");
        let goal = make(ClassSpec::new("goal").latency_goal(Duration::from_millis(1)));
        let none = make(ClassSpec::new("none"));
        let others: Vec<_> = (0..12).map(|n| make(ClassSpec::new(format!("other {n}")))).collect();
        let turns = runtime.block_on(move || async move {
            let loads: Vec<_> = others.iter().map(|other| load(other, 2, 0)).collect();
            let others: Rc<[SchedulingClass]> = others.into();
            let mut turns = Vec::new();
            for class in [goal, none] {
                let others = others.clone();
                turns.push(class.spawn_local(async move {
                    let turned = || -> u64 { others.iter().map(|other| other.counters(A).contended_turns).sum() };
                    let before = turned();
                    // More than a turn's polls.
                    for _ in 0..500 {
                        yield_now().await;
                    }
                    turned() - before
                }));
            }
            let turns = [turns.remove(0).await.expect("no panic"), turns.remove(0).await.expect("no panic")];
            drop(loads);
            turns
        });
        assert_eq!(turns[0], 0, "turns of others");
        assert!(turns[1] > 100, "{} turns of others", turns[1]);
    });
}

#[test]
fn every_task_of_every_class_is_dropped_at_home_when_the_runtime_ends() {
    with_watchdog("the end with classes", LIMIT, || {
        each_kind(|builder| {
            for round in 0..scaled(10, 50) {
                let runtime = builder.clone().cores(2).ring_capacity(2).build().expect("a runtime");
                let make = |n| runtime.handle().create_class(ClassSpec::new(format!("{n}"))).expect("there is room");
                let classes: Vec<_> = (0..5).map(make).collect();
                let census = Census::default();
                let started = Arc::new(AtomicU32::new(0));
                for (n, class) in classes.iter().cycle().take(60).enumerate() {
                    let (token, started) = (census.token(), started.clone());
                    let task = class.spawn_on(CoreId::new(n % 2), move || async move {
                        let _token = token;
                        started.fetch_add(1, Ordering::Relaxed);
                        match n % 4 {
                            // Queued, resting, timed, and one that spawns all the time.
                            0 => loop {
                                yield_now().await;
                            },
                            1 => pending().await,
                            2 => time::sleep(Duration::from_secs(3_600)).await,
                            _ => loop {
                                drop(spawn_local(yield_now()));
                                yield_now().await;
                            },
                        }
                    });
                    drop(task);
                }
                while round % 2 == 0 && started.load(Ordering::Relaxed) < 60 {
                    thread::yield_now();
                }
                drop(runtime);
                assert_eq!(census.alive(), 0);
            }
        });
    });
}

#[test]
fn a_task_is_woken_into_its_class_by_its_core_by_others_and_by_threads() {
    with_watchdog("wakes", LIMIT, || {
        each_kind(|builder| {
            let builder = builder.cores(2).scheduling_class(ClassSpec::new("x"));
            let runtime = builder.build().expect("a runtime");
            runtime.block_on(|| async {
                let x = class("x");
                let before = x.counters(A).polls;
                let (woken, wakers) = (Arc::new(AtomicBool::new(false)), futures::channel::mpsc::unbounded());
                let (told, mut wakers) = wakers;
                let (seen, sender) = (woken.clone(), told.clone());
                let task = x.spawn_local(poll_fn(move |cx| {
                    assert_eq!(current_name(), "x");
                    let _ = sender.unbounded_send(cx.waker().clone());
                    if seen.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
                }));
                let mut next = async || futures::StreamExt::next(&mut wakers).await.expect("it is polled");
                next().await.wake();
                let waker = next().await;
                call_on(B, move || waker.wake()).await.expect("no panic");
                let waker = next().await;
                thread::spawn(move || waker.wake());
                let waker = next().await;
                woken.store(true, Ordering::Release);
                waker.wake();
                task.await.expect("no panic");
                drop(told);
                assert!(x.counters(A).polls - before >= 5);
            });
        });
    });
}

#[test]
fn counters_tell_of_polls_turns_and_waits() {
    with_watchdog("counters", LIMIT, || {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime");
        let x = runtime.handle().create_class(ClassSpec::new("x")).expect("there is room");
        let default = runtime.handle().scheduling_class("default").expect("always there");
        let theirs = x.clone();
        runtime.block_on(move || async move {
            // Alone, nothing is measured but the polls.
            let polled = Rc::new(Cell::new(0));
            theirs.spawn_local(async { yield_now().await }).await.expect("no panic");
            let loads = [load(&theirs, 3, 100), load(&current(), 2, 100)];
            while theirs.counters(A).contended_turns < 50 || theirs.counters(A).queued == 0 {
                polled.set(polled.get() + 1);
                yield_now().await;
            }
            drop(loads);
        });
        let counters = x.counters(A);
        assert!(counters.polls > 50 && counters.contended_ns > 0, "{counters:?}");
        assert!(counters.waited_ns >= counters.longest_wait_ns && counters.longest_wait_ns > 0, "{counters:?}");
        assert!(default.counters(A).contended_turns > 0);
        assert_eq!(x.counters(B), Default::default());
        // In the end nothing is queued, which the core tells when it looks next.
        while x.counters(A).queued > 0 {
            thread::yield_now();
        }
    });
}

#[test]
fn a_core_that_has_ended_tells_of_no_queued_tasks() {
    with_watchdog("queued at the end", LIMIT, || {
        let runtime = Runtime::builder().cores(2).scheduling_class(ClassSpec::new("x")).build().expect("a runtime");
        let handle = runtime.handle();
        let x = handle.scheduling_class("x").expect("it was made");
        for core in [A, B] {
            for _ in 0..3 {
                drop(x.spawn_on(core, || async {
                    loop {
                        yield_now().await;
                    }
                }));
            }
            while x.counters(core).queued == 0 {
                thread::yield_now();
            }
        }
        Runtime::wait(handle.leave(B).expect("it may"));
        drop(runtime);
        assert_eq!([A, B].map(|core| x.counters(core).queued), [0, 0]);
    });
}

#[test]
fn a_slice_that_is_set_while_the_runtime_runs_is_soon_seen() {
    with_watchdog("slices set later", LIMIT, || {
        // The next look by the runtime's slice is half an hour away.
        let runtime = Runtime::builder().cores(1).time_slice(Duration::from_secs(3_600)).build().expect("a runtime");
        runtime.block_on(|| async {
            let late = handle().create_class(ClassSpec::new("late").time_slice(Duration::from_millis(2)));
            late.expect("there is room").spawn_local(async { spin_until_told() }).await.expect("no panic");
        });
    });
}
