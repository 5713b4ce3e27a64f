//! What a report says, and how many there are.

use std::panic;
use std::sync::atomic::AtomicU32;

use ipiq::{InterruptPolicy, NoBacktrace, Pause};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use super::*;

#[test]
fn a_stall_of_four_limits_names_its_task_its_function_and_how_long() {
    const LIMIT: Duration = Duration::from_millis(50);
    const STALL: Duration = Duration::from_millis(200);
    let _watchdog = watch("a stall of four limits");
    let scene = Scene::new(|builder| builder.stall_limit(LIMIT));
    let mut longest = Duration::ZERO;
    // A machine that is busy may not let the watcher run in time.
    let (report, line, spawned_at) = loop {
        // The turn may begin long before its poll, if the core loses its CPU there.
        let spawned = Instant::now();
        let spawned_at = line!() + 1;
        let task = scene.runtime.handle().spawn_on(B, || {
            let line = line!() + 1;
            let task = ipiq::named("four limits", async {
                let begun = Instant::now();
                black_box(spin_here(|| begun.elapsed() >= STALL));
            });
            async move {
                task.await;
                line
            }
        });
        let line = Runtime::wait(task).expect("no panic");
        longest = longest.max(spawned.elapsed());
        if let Some(report) = scene.reports.try_iter().find(|report| names(report, "spin_here")) {
            break (report, line, spawned_at);
        }
    };
    assert_eq!(report.core, B);
    assert!(report.lasted >= LIMIT && report.lasted <= longest, "{report}");
    let task = report.task.as_ref().expect("it is in a task");
    assert!(task.future.contains("a_stall_of_four_limits"), "{}", task.future);
    let name = task.name.as_ref().expect("it has a name");
    assert_eq!((name.text(), name.location().line()), ("four limits", line));
    assert_eq!((task.spawned_at.file(), task.spawned_at.line()), (file!(), spawned_at));
    let text = report.to_string();
    for expected in ["core 1 is stuck for ", "four limits", "stalls/reports.rs", "spin_here", " of the runtime"] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    assert!(!text.contains("poll_at"), "{text}");
    println!("{text}");
}

#[test]
fn a_stall_is_reported_once_however_long_it_is() {
    let _watchdog = watch("one report per stall");
    let scene = Scene::new(|builder| builder);
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let task = scene.runtime.handle().spawn_on(B, move || {
        ipiq::named("long", async move {
            spin_until(&told);
            let begun = Instant::now();
            spin_here(|| begun.elapsed() >= 10 * LIMIT);
        })
    });
    scene.report(|report| is_of(report, "long"));
    tell.store(true, Ordering::Relaxed);
    Runtime::wait(task).expect("no panic");
    let Scene { runtime, reports } = scene;
    drop(runtime);
    assert_eq!(reports.iter().filter(|report| is_of(report, "long")).count(), 0, "not again");
}

#[test]
fn a_turn_of_many_polls_is_no_stall() {
    // So long that it is none either if the thread loses its CPU for a while.
    const LIMIT: Duration = Duration::from_secs(2);
    let _watchdog = watch("many short polls");
    let scene = Scene::new(|builder| builder.stall_limit(LIMIT).time_slice(None));
    let tasks = scene.runtime.handle().call_on(B, || {
        let poll = || async {
            let begun = Instant::now();
            spin_here(|| begun.elapsed() >= LIMIT / 20);
            assert!(!ipiq::should_yield(), "to come back is not to give way");
        };
        (0..30).map(|_| drop(ipiq::spawn_local(ipiq::named("short", poll())))).count()
    });
    assert_eq!(Runtime::wait(tasks).expect("no panic"), 30);
    let all = scene.runtime.handle().spawn_on(B, || async {});
    Runtime::wait(all).expect("no panic");
    let Scene { runtime, reports } = scene;
    drop(runtime);
    let told: Vec<_> =
        reports.iter().filter(|report| is_of(report, "short")).map(|report| report.to_string()).collect();
    assert!(told.is_empty(), "{told:#?}");
}

#[test]
fn of_cores_that_stand_still_only_the_one_that_keeps_them_is_told_of() {
    let _watchdog = watch("a long stop");
    let scene = Scene::new(|builder| builder);
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let pausing = scene.runtime.handle().pause(A, Pause::all(), move |_| {
        spin_until(&told);
        // Long enough for the other one to be told of, too.
        let begun = Instant::now();
        spin_here(|| begun.elapsed() >= 5 * LIMIT);
    });
    let stands_still = |report: &StallReport| report.core == B && names(report, "obey");
    scene.report(|report| {
        assert!(!stands_still(report), "{report}");
        report.core == A && names(report, "spin_here")
    });
    tell.store(true, Ordering::Relaxed);
    Runtime::wait(pausing).expect("it is carried out");
    let Scene { runtime, reports } = scene;
    drop(runtime);
    reports.iter().for_each(|report| assert!(!stands_still(&report), "{report}"));
}

#[test]
fn called_closures_stall_too() {
    let _watchdog = watch("a called closure");
    let scene = Scene::new(|builder| builder);
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let call = scene.runtime.handle().call_on(B, move || spin_until(&told));
    let report = scene.report(|report| names(report, "spin_here"));
    tell.store(true, Ordering::Relaxed);
    Runtime::wait(call).expect("no panic");
    assert_eq!((report.core, &report.task), (B, &None));
    assert!(report.to_string().contains("in a call, a message or the runtime"), "{report}");
}

#[test]
fn without_interrupts_it_names_the_future_and_says_why_there_is_no_backtrace() {
    let _watchdog = watch("no interrupts");
    let scene = Scene::new(|builder| builder.interrupts(InterruptPolicy::Off));
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let task = scene.runtime.handle().spawn_on(B, move || async move { spin_until(&told) });
    let report = scene.report(|report| report.task.is_some());
    tell.store(true, Ordering::Relaxed);
    Runtime::wait(task).expect("no panic");
    assert!(report.task.as_ref().is_some_and(|task| task.future.contains("without_interrupts_it_names")), "{report}");
    assert_eq!(report.backtrace, Err(NoBacktrace::Off));
    assert!(report.to_string().contains("interrupts are off"), "{report}");
    assert_eq!(scene.runtime.handle().core_counters(B).interrupts_sent, 0);
}

#[test]
fn long_names_are_cut_between_characters() {
    let _watchdog = watch("a long name");
    let scene = Scene::new(|builder| builder);
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    // 63 bytes, and one of two.
    let name = format!("{}ßßß", "n".repeat(63));
    let task = scene.runtime.handle().spawn_on(B, move || ipiq::named(name, async move { spin_until(&told) }));
    let expected = format!("{}…", "n".repeat(63));
    scene.report(|report| is_of(report, &expected));
    tell.store(true, Ordering::Relaxed);
    Runtime::wait(task).expect("no panic");
}

#[test]
fn two_cores_that_stall_at_once_are_both_told_of() {
    let _watchdog = watch("two cores at once");
    let scene = Scene::new(|builder| builder);
    let told: Arc<[AtomicBool; 2]> = Arc::default();
    let tasks = [A, B].map(|core| {
        let told = told.clone();
        scene.runtime.handle().spawn_on(core, move || {
            ipiq::named(format!("stuck {}", core.index()), async move { spin_until(&told[core.index()]) })
        })
    });
    let mut left = vec![A, B];
    while !left.is_empty() {
        let report = scene.report(|report| names(report, "spin_here"));
        assert!(is_of(&report, &format!("stuck {}", report.core.index())), "{report}");
        left.retain(|core| *core != report.core);
    }
    told.iter().for_each(|told| told.store(true, Ordering::Relaxed));
    tasks.into_iter().for_each(|task| Runtime::wait(task).expect("no panic"));
}

#[test]
fn of_many_stalls_some_are_told_and_all_are_counted() {
    let _watchdog = watch("many stalls");
    let (limit, stall) = (Duration::from_millis(4), Duration::from_millis(20));
    let scene = Scene::new(|builder| builder.cores(1).stall_limit(limit));
    let begun = Instant::now();
    let (mut reports_read, mut suppressed, mut stalls) = (Vec::new(), 0, 0);
    // A machine that is busy may not let the watcher run in time for most of them.
    while suppressed < 2 || reports_read.len() as u64 + suppressed < 30 {
        assert!(begun.elapsed() < PATIENCE, "{} told, {suppressed} not, of {stalls}", reports_read.len());
        stalls += 60;
        let task = scene.runtime.handle().spawn_on(A, move || async move {
            for _ in 0..60 {
                let begun = Instant::now();
                ipiq::named("one of many", async { spin_here(|| begun.elapsed() >= stall) }).await;
                ipiq::yield_now().await;
            }
        });
        Runtime::wait(task).expect("no panic");
        // One that lasts until there may be a report again, so that the last ones are counted by somebody.
        reports_read.extend(scene.read_until_told_on(A));
        suppressed = reports_read.iter().map(|report| report.suppressed).sum();
    }
    let Scene { runtime, reports } = scene;
    drop(runtime);
    reports_read.extend(reports.iter());
    let reports = reports_read;
    let (told, seconds) = (reports.len() as u64, begun.elapsed().as_secs() + 2);
    assert!(told <= 4 * seconds, "{told} in {seconds} s");
    let with = reports.iter().find(|report| report.suppressed > 1).expect("some were");
    assert!(with.to_string().contains("stalls of this core before were not reported"), "{with}");
}

impl Scene {
    /// Has `core` stall until that has been reported; all reports up to that one.
    fn read_until_told_on(&self, core: CoreId) -> Vec<StallReport> {
        let told = Arc::new(AtomicBool::new(false));
        let tell = told.clone();
        let task = self.runtime.handle().spawn_on(core, move || ipiq::named("last", async move { spin_until(&told) }));
        let mut read = Vec::new();
        while !read.last().is_some_and(|report| is_of(report, "last")) {
            read.push(self.report(|_| true));
        }
        tell.store(true, Ordering::Relaxed);
        Runtime::wait(task).expect("no panic");
        read
    }
}

#[test]
fn a_callback_that_panics_is_called_again() {
    let _watchdog = watch("a callback that panics");
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let scene = Scene::new(|builder| {
        builder.on_stall(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            panic!("as expected");
        })
    });
    for n in 1..=2 {
        let calls = calls.clone();
        let task = scene.runtime.handle().spawn_on(B, move || async move {
            spin_here(|| calls.load(Ordering::Relaxed) >= n);
        });
        Runtime::wait(task).expect("no panic");
    }
    panic::set_hook(hook);
}

#[test]
fn stalls_that_end_while_they_are_looked_at_are_told_as_ended_or_with_their_own_functions() {
    let _watchdog = watch("stalls that end");
    let limit = Duration::from_millis(2);
    let mut random = fastrand::Rng::with_seed(11);
    let scene = Scene::new(|builder| builder.stall_limit(limit));
    let rounds = scaled(200, 2_000);
    let task = scene.runtime.handle().spawn_on(B, move || async move {
        for _ in 0..rounds {
            let stall = limit + Duration::from_micros(random.u64(0..6_000));
            ipiq::named("ends soon", async move {
                let begun = Instant::now();
                spin_here(|| begun.elapsed() >= stall);
            })
            .await;
            ipiq::yield_now().await;
            other_work();
        }
    });
    Runtime::wait(task).expect("no panic");
    let Scene { runtime, reports } = scene;
    drop(runtime);
    let (mut ended, mut found) = (0, 0);
    for report in reports.iter().filter(|report| report.core == B) {
        match &report.backtrace {
            Ok(backtrace) => {
                found += 1;
                assert!(!is_of(&report, "ends soon") || !has(backtrace, "other_work"), "{report}");
            }
            Err(reason) => {
                ended += u32::from(*reason == NoBacktrace::Ended);
                assert!(report.task.is_none() || report.task.as_ref().is_some_and(|task| task.name.is_none()));
            }
        }
    }
    println!("{found} with a backtrace, {ended} ended");
}

#[inline(never)]
fn other_work() {
    black_box((0..1_000_u64).map(black_box).sum::<u64>());
}
