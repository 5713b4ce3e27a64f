//! Where it says that tasks were spawned.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;

use ipiq::net::TcpListener;
use ipiq::sharded::{Shard, Sharded};
use ipiq::{Handle, InterruptPolicy, JoinSet, scope, spawn_local, spawn_on, xcall};
use ipiq_suites::watchdog::watch;

use super::*;

/// The line of the last `at!`.
static LINE: AtomicU32 = AtomicU32::new(0);

/// Notes the line of what spawns.
macro_rules! at {
    ($spawn:expr) => {{
        LINE.store(line!(), Ordering::SeqCst);
        $spawn
    }};
}

type Told = Arc<AtomicBool>;
/// Runs on core A, and spawns something that spins until it is told.
type Case = fn(Told) -> Pin<Box<dyn Future<Output = ()>>>;

async fn spins(told: Told) {
    spin_until(&told);
}

/// Every way to begin a task on a core, and on which one it spins.
const CASES: &[(&str, CoreId, Case)] = &[
    ("spawn_local", A, |told| Box::pin(async { at!(spawn_local(spins(told))).await.unwrap() })),
    ("spawn_on", B, |told| Box::pin(async { at!(spawn_on(B, || spins(told))).await.unwrap() })),
    ("Handle::spawn_on", B, |told| Box::pin(async { at!(ipiq::handle().spawn_on(B, || spins(told))).await.unwrap() })),
    ("JoinSet::spawn_local", A, |told| {
        Box::pin(async {
            let mut set = JoinSet::new();
            at!(set.spawn_local(spins(told)));
            set.join_next().await.unwrap().unwrap();
        })
    }),
    ("JoinSet::spawn_on", B, |told| {
        Box::pin(async {
            let mut set = JoinSet::new();
            at!(set.spawn_on(B, || spins(told)));
            set.join_next().await.unwrap().unwrap();
        })
    }),
    ("scope", A, |told| Box::pin(scope(async |scope| at!(scope.spawn(spins(told))).await))),
    ("xcall::low::unicast", B, |told| Box::pin(async { at!(xcall::low::unicast(B, || spins(told))).await.unwrap() })),
    ("xcall::low::broadcast", B, |told| Box::pin(async { drop(at!(xcall::low::broadcast(|| spins(told))).await) })),
    ("Handle::broadcast_low", B, |told| {
        Box::pin(async { drop(at!(ipiq::handle().broadcast_low(|| spins(told))).await) })
    }),
    ("Sharded::start", B, |told| {
        Box::pin(async { at!(Sharded::start(|_| spins(told))).await.unwrap().stop().await.unwrap() })
    }),
    ("On::spawn", B, |told| {
        Box::pin(async {
            let service = Sharded::start(|_| async {}).await.unwrap();
            at!(service.on(B).spawn(async |_: Shard<()>| spins(told).await)).await.unwrap();
            service.stop().await.unwrap();
        })
    }),
    ("Sharded::invoke_on_others", B, |told| {
        Box::pin(async {
            let service = Sharded::start(|_| async {}).await.unwrap();
            at!(service.invoke_on_others(async |_: Shard<()>| spins(told).await)).await.unwrap();
            service.stop().await.unwrap();
        })
    }),
    ("TcpListener::bind_each_core", B, |told| {
        Box::pin(async {
            let serve = move |_| {
                let told = told.clone();
                async move {
                    spins(told).await;
                    Ok(())
                }
            };
            for task in at!(TcpListener::bind_each_core("127.0.0.1:0", serve)).unwrap().into_handles() {
                task.await.unwrap().unwrap();
            }
        })
    }),
];

/// Where what spins on `core` was spawned.
fn spawned_at(handle: &Handle, core: CoreId) -> (&'static Location<'static>, String) {
    let begun = Instant::now();
    loop {
        let all = handle.backtrace_all_cores();
        let found = &all.cores[core.index()];
        let spins = found.backtrace.as_ref().is_some_and(|found| found.as_ref().is_ok_and(|it| has(it, "spin_here")));
        if let Some(task) = found.task.as_ref().filter(|_| spins) {
            return (task.spawned_at, found.to_string());
        }
        assert!(begun.elapsed() < PATIENCE, "{all}");
    }
}

#[test]
fn every_way_to_spawn_has_the_line_of_who_called_it() {
    let _watchdog = watch("where tasks were spawned");
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    let handle = runtime.handle();
    let check = |what: &str, core| {
        let (place, text) = spawned_at(&handle, core);
        assert_eq!((place.file(), place.line()), (file!(), LINE.load(Ordering::SeqCst)), "{what}: {text}");
        let expected = format!("an unnamed task, spawned at {}:{}:{} (", file!(), place.line(), place.column());
        assert!(text.contains(&expected), "no {expected:?} in {text}");
    };
    for &(what, core, case) in CASES {
        let told = Told::default();
        let tell = told.clone();
        let task = handle.spawn_on(A, move || case(told));
        check(what, core);
        tell.store(true, Ordering::Relaxed);
        Runtime::wait(task).expect("no panic");
    }
    let told = Told::default();
    let tell = told.clone();
    std::thread::scope(|threads| {
        threads.spawn(|| at!(runtime.block_on(|| spins(told))));
        check("Runtime::block_on", A);
        tell.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_part_of_a_task_gives_the_place_back_when_it_gives_way() {
    let _watchdog = watch("the place after a part");
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    let told = Told::default();
    let tell = told.clone();
    let outer = line!() + 1;
    let task = runtime.handle().spawn_on(A, || async {
        scope(async |scope| {
            let panics = scope.spawn(async { panic!("on purpose") });
            scope.spawn(ipiq::yield_now()).await;
            std::mem::forget(panics);
            spins(told).await;
        })
        .await;
    });
    let (place, text) = spawned_at(&runtime.handle(), A);
    assert_eq!(place.line(), outer, "{text}");
    tell.store(true, Ordering::Relaxed);
    drop(Runtime::wait(task));
}

#[test]
fn without_interrupts_it_is_told_all_the_same() {
    let _watchdog = watch("a place without interrupts");
    let scene = Scene::new(|builder| builder.interrupts(InterruptPolicy::Off));
    let told = Told::default();
    let tell = told.clone();
    let line = line!() + 1;
    let task = scene.runtime.handle().spawn_on(B, move || spins(told));
    let spins = |report: &StallReport| report.task.as_ref().is_some_and(|task| task.future.contains("spins"));
    let report = scene.report(|report| report.core == B && spins(report));
    tell.store(true, Ordering::Relaxed);
    Runtime::wait(task).expect("no panic");
    let place = report.task.as_ref().expect("it is in a task").spawned_at;
    assert_eq!((place.file(), place.line()), (file!(), line), "{report}");
    assert!(report.to_string().contains(&format!("spawned at {place} (")), "{report}");
}
