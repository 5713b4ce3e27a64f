//! Runtimes that end while a core is stuck, or because it is.

use std::sync::Mutex;

use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use super::*;

#[test]
fn a_stall_that_holds_up_the_end_of_its_runtime_is_told_before_the_end() {
    let _watchdog = watch("a stall at the end");
    for _ in 0..scaled(5, 100) {
        let (tell, reports) = channel();
        let told = Arc::new(AtomicBool::new(false));
        let heard = told.clone();
        let on_stall = move |report: &StallReport| {
            if names(report, "spin_here") {
                heard.store(true, Ordering::Relaxed);
            }
            let _ = tell.send(report.clone());
        };
        let builder = Runtime::builder().cores(2).stall_limit(LIMIT).on_stall(on_stall);
        let runtime = builder.build().expect("a runtime");
        let (begin, began) = channel();
        let task = runtime.handle().spawn_on(B, move || async move {
            begin.send(()).expect("somebody waits");
            spin_until(&told);
        });
        began.recv().expect("it begins");
        drop(task);
        drop(runtime);
        assert!(reports.try_iter().any(|report| report.core == B && names(&report, "spin_here")));
    }
}

#[test]
fn runtimes_that_end_at_any_moment_of_a_stall() {
    let _watchdog = watch("ends at any moment");
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..scaled(30, 500) {
        let stall = Duration::from_micros(random.u64(0..12_000));
        let wait = Duration::from_micros(random.u64(0..12_000));
        let scene = Scene::new(|builder| builder.stall_limit(Duration::from_millis(2)));
        let task = scene.runtime.handle().spawn_on(B, move || async move {
            let begun = Instant::now();
            spin_here(|| begun.elapsed() >= stall);
        });
        std::thread::sleep(wait);
        drop(task);
        drop(scene);
    }
}

#[test]
fn a_callback_may_drop_the_runtime() {
    let _watchdog = watch("dropped by the callback");
    for _ in 0..scaled(5, 50) {
        let kept: Arc<Mutex<Option<Runtime>>> = Arc::default();
        let (dropped, told) = (kept.clone(), Arc::new(AtomicBool::new(false)));
        let (say, is_dropped) = channel();
        let end = told.clone();
        let on_stall = move |_: &StallReport| {
            end.store(true, Ordering::Relaxed);
            let runtime = dropped.lock().expect("not poisoned").take();
            if runtime.is_some() {
                drop(runtime);
                say.send(()).expect("somebody waits");
            }
        };
        let builder = Runtime::builder().cores(2).stall_limit(LIMIT).on_stall(on_stall);
        let runtime = builder.build().expect("a runtime");
        let handle = runtime.handle();
        *kept.lock().expect("not poisoned") = Some(runtime);
        drop(handle.spawn_on(B, move || async move { spin_until(&told) }));
        is_dropped.recv().expect("the callback ends");
    }
}

#[test]
fn a_core_may_drop_its_runtime_in_the_middle_of_a_stall() {
    let _watchdog = watch("dropped by the core");
    for _ in 0..scaled(5, 50) {
        let scene = Scene::new(|builder| builder);
        let Scene { runtime, reports } = scene;
        let handle = runtime.handle();
        let task = handle.spawn_on(B, move || async move {
            let begun = Instant::now();
            spin_here(|| begun.elapsed() >= LIMIT * 2);
            drop(runtime);
            spin_here(|| begun.elapsed() >= LIMIT * 4);
        });
        drop(task);
        // It ends when the watcher and the teller have.
        while reports.recv().is_ok() {}
    }
}

#[test]
fn a_thread_for_blocking_closures_may_drop_the_runtime_in_the_middle_of_a_stall() {
    let _watchdog = watch("dropped by a blocking closure");
    for _ in 0..scaled(5, 50) {
        let Scene { runtime, reports } = Scene::new(|builder| builder);
        let handle = runtime.handle();
        let dropping = handle.spawn_on(A, move || async move {
            drop(ipiq::spawn_blocking(move || drop(runtime)));
        });
        drop(dropping);
        drop(handle.spawn_on(B, || async {
            let begun = Instant::now();
            spin_here(|| begun.elapsed() >= LIMIT * 4);
        }));
        // It ends when the watcher and the teller have.
        while reports.recv().is_ok() {}
    }
}

#[test]
fn a_runtime_that_ends_leaves_the_reports_of_another_alone() {
    let _watchdog = watch("two runtimes");
    for _ in 0..scaled(5, 50) {
        let (ending, staying) = (Scene::new(|builder| builder), Scene::new(|builder| builder));
        let told = Arc::new(AtomicBool::new(false));
        let stuck = |scene: &Scene| {
            let told = told.clone();
            scene.runtime.handle().spawn_on(B, move || ipiq::named("stuck", async move { spin_until(&told) }))
        };
        let task = stuck(&staying);
        drop(ending.runtime.handle().spawn_on(B, || async {
            let begun = Instant::now();
            spin_here(|| begun.elapsed() >= LIMIT * 2);
        }));
        drop(ending);
        staying.report(|report| is_of(report, "stuck") && names(report, "spin_here"));
        told.store(true, Ordering::Relaxed);
        Runtime::wait(task).expect("no panic");
    }
}
