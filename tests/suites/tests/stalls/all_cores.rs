//! What all cores are in the middle of.

use std::sync::OnceLock;

use ipiq::urgent::critical;
use ipiq::{CoreState, IdlePolicy, InterruptPolicy, NoBacktrace};
use ipiq_suites::watchdog::watch;

use super::*;

#[test]
fn sleeping_busy_and_silent_cores_are_told_apart_in_bounded_time() {
    let _watchdog = watch("all cores");
    let runtime = Runtime::builder().cores(3).idle(IdlePolicy::Park).build().expect("a runtime");
    let handle = runtime.handle();
    let told = Arc::new(AtomicBool::new(false));
    let (busy, silent) = (told.clone(), told.clone());
    let tasks = [
        handle.spawn_on(B, move || ipiq::named("busy", async move { spin_until(&busy) })),
        handle.spawn_on(CoreId::new(2), move || ipiq::named("silent", async move { critical(|| spin_until(&silent)) })),
    ];
    let begun = Instant::now();
    loop {
        let all = handle.backtrace_all_cores();
        assert_eq!(all.cores.len(), 3);
        let [a, b, c] = &all.cores[..] else { unreachable!("three") };
        let found = b.backtrace.as_ref().is_some_and(|found| found.as_ref().is_ok_and(|found| has(found, "spin_here")));
        let silent = c.backtrace == Some(Err(NoBacktrace::NoAnswer));
        // It names the future also where the core says nothing.
        let named = c.task.as_ref().is_some_and(|task| task.future.contains("sleeping_busy_and_silent"));
        let for_a_while = matches!(b.state, CoreState::Awake { turn_lasted: Some(time) } if time > Duration::ZERO);
        if a.state == CoreState::Asleep && found && silent && named && for_a_while {
            let name = b.task.as_ref().and_then(|task| task.name.as_ref()).expect("it has one");
            assert_eq!(name.text(), "busy");
            let text = all.to_string();
            for expected in ["core 0 is asleep", "core 1 is in a turn for ", "busy", "spin_here", "did not answer"] {
                assert!(text.contains(expected), "no {expected:?} in {text}");
            }
            println!("{text}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{all}");
    }
    told.store(true, Ordering::Relaxed);
    tasks.into_iter().for_each(|task| Runtime::wait(task).expect("no panic"));
    drop(runtime);
    assert!(handle.backtrace_all_cores().cores.iter().all(|core| core.state == CoreState::Gone));
}

#[test]
fn a_core_that_does_not_answer_keeps_the_answers_of_no_other() {
    let _watchdog = watch("a silent core before a busy one");
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    let handle = runtime.handle();
    let told = Arc::new(AtomicBool::new(false));
    let (silent, busy) = (told.clone(), told.clone());
    let tasks = [
        handle.spawn_on(A, move || async move { critical(|| _ = spin_here(|| silent.load(Ordering::Relaxed))) }),
        handle.spawn_on(B, move || async move { spin_until(&busy) }),
    ];
    let begun = Instant::now();
    loop {
        let all = handle.backtrace_all_cores();
        let [a, b] = &all.cores[..] else { unreachable!("two") };
        let found = b.backtrace.as_ref().is_some_and(|found| found.as_ref().is_ok_and(|found| has(found, "spin_here")));
        if found && a.backtrace == Some(Err(NoBacktrace::NoAnswer)) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{all}");
    }
    told.store(true, Ordering::Relaxed);
    tasks.into_iter().for_each(|task| Runtime::wait(task).expect("no panic"));
}

#[test]
fn several_may_ask_at_once_while_stalls_are_reported() {
    let _watchdog = watch("several ask");
    let scene = Scene::new(|builder| builder);
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let task = scene.runtime.handle().spawn_on(B, move || ipiq::named("stuck", async move { spin_until(&told) }));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let handle = scene.runtime.handle();
            scope.spawn(move || {
                // The watcher may be asking just then, and the machine be busy with other things.
                let found = || {
                    let core = handle.backtrace_all_cores().cores.swap_remove(B.index());
                    core.backtrace.is_some_and(|found| found.is_ok_and(|found| has(&found, "spin_here")))
                };
                (0..5).for_each(|_| while !found() {});
            });
        }
        scene.report(|report| is_of(report, "stuck"));
    });
    tell.store(true, Ordering::Relaxed);
    Runtime::wait(task).expect("no panic");
}

#[test]
fn a_core_that_asks_is_told_so_and_one_that_cannot_be_interrupted_too() {
    let _watchdog = watch("a core asks");
    for (interrupts, reason) in [(InterruptPolicy::Auto, NoBacktrace::Asks), (InterruptPolicy::Off, NoBacktrace::Asks)]
    {
        let runtime = Runtime::builder().cores(2).interrupts(interrupts).build().expect("a runtime");
        let all = runtime.block_on(|| async { ipiq::handle().backtrace_all_cores() });
        assert_eq!(all.cores[0].backtrace, Some(Err(reason)), "{all}");
        assert!(all.cores[0].task.is_some(), "{all}");
        let other = &all.cores[1];
        assert!(
            other.state == CoreState::Asleep
                || interrupts == InterruptPolicy::Auto
                || other.backtrace == Some(Err(NoBacktrace::Off))
        );
    }
}

#[test]
fn a_callback_and_two_cores_may_ask_at_once() {
    let _watchdog = watch("a callback and cores ask");
    let told = Arc::new(AtomicBool::new(false));
    let (tell, kept) = (told.clone(), Arc::new(OnceLock::<ipiq::Handle>::new()));
    let handle = kept.clone();
    let scene = Scene::new(|builder| {
        builder.on_stall(move |_| {
            let all = handle.get().map(ipiq::Handle::backtrace_all_cores);
            tell.store(all.is_some_and(|all| all.cores.len() == 2), Ordering::Relaxed);
        })
    });
    assert!(kept.set(scene.runtime.handle()).is_ok(), "the first one");
    // They are stuck for having asked so often.
    let tasks = [A, B].map(|core| {
        let told = told.clone();
        scene.runtime.handle().spawn_on(core, move || async move {
            while !told.load(Ordering::Relaxed) {
                assert_eq!(ipiq::handle().backtrace_all_cores().cores.len(), 2);
            }
        })
    });
    tasks.into_iter().for_each(|task| Runtime::wait(task).expect("no panic"));
    assert!(told.load(Ordering::Relaxed));
}
