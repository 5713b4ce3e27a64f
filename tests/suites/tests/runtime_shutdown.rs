//! The end of a runtime in phases.

use std::cell::Cell;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ipiq::net::{TcpListener, is_shutdown};
use ipiq::sharded::Sharded;
use ipiq::shutdown::{self, CANCEL, DRAIN, Guard, JOIN, STOP_ACCEPTING, ShutdownReport};
use ipiq::{Builder, CoreId, Runtime, named, spawn_local, spawn_on, time, yield_now};
use ipiq_suites::alone::alone;
use ipiq_suites::process::holdings;
use ipiq_suites::runtimes::{Census, Token, drivers, each_kind};
use ipiq_suites::sandbox::{Refusal, refuse_to_all_threads, refusing};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
/// Nobody waits that long.
const LONG: Duration = Duration::from_secs(100);
const SHORT: Duration = Duration::from_millis(30);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// Two cores whose phases nobody cuts by accident.
fn builder() -> Builder {
    let patient = [STOP_ACCEPTING, DRAIN, CANCEL, JOIN].into_iter();
    patient.fold(Runtime::builder().cores(2), |builder, phase| builder.phase(phase, LONG))
}

fn end(runtime: &Runtime) -> ShutdownReport {
    Runtime::wait(runtime.handle().shutdown())
}

/// Runs `scenario` in a process of its own with both drivers; nothing is left of each.
fn each_driver(test: &str, scenario: impl Fn(Builder)) {
    alone(test, LIMIT, || {
        let before = holdings();
        for driver in drivers() {
            scenario(builder().driver(driver));
            while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
                thread::yield_now();
            }
        }
    });
}

/// Spawns what `init` makes on a core, and waits until it has been polled.
fn start<Fut: Future<Output = ()> + 'static>(
    runtime: &Runtime,
    core: CoreId,
    init: impl FnOnce() -> Fut + Send + 'static,
) {
    drop(runtime.handle().spawn_on(core, init));
    // Tasks of one thread run in their order.
    Runtime::wait(runtime.handle().spawn_on(core, yield_now)).expect("no panic");
}

#[test]
fn phases_come_in_order_and_each_waits_for_what_holds_it() {
    each_driver("phases_come_in_order_and_each_waits_for_what_holds_it", |builder| {
        let runtime = builder.phase("flush", LONG).phase("sync", LONG).build().expect("a runtime");
        let log = Arc::new(Mutex::new(Vec::new()));
        for (core, phase) in [(B, "sync"), (A, "flush"), (B, "drain"), (A, "stop accepting")] {
            let log = log.clone();
            start(&runtime, core, move || async move {
                let guard = shutdown::phase(phase).await;
                log.lock().expect("not poisoned").push(format!("{phase} begins"));
                time::sleep(Duration::from_millis(2)).await;
                assert!(!guard.is_late());
                log.lock().expect("not poisoned").push(format!("{phase} ends"));
            });
        }
        let report = end(&runtime);
        assert!(report.is_clean(), "{report}");
        let names: Vec<&str> = report.phases.iter().map(|phase| &*phase.name).collect();
        assert_eq!(names, ["stop accepting", "drain", "flush", "sync", "cancel", "join"]);
        let log = log.lock().expect("not poisoned").join(", ");
        let expected =
            ["stop accepting", "drain", "flush", "sync"].map(|phase| format!("{phase} begins, {phase} ends"));
        assert_eq!(log, expected.join(", "));
    });
}

#[test]
fn a_phase_that_is_held_too_long_is_cut_and_its_holders_are_named() {
    each_driver("a_phase_that_is_held_too_long_is_cut_and_its_holders_are_named", |builder| {
        let runtime = builder.phase(DRAIN, SHORT).build().expect("a runtime");
        start(&runtime, B, || async {
            let _open = shutdown::guard_named(DRAIN, "upload");
            pending::<()>().await;
        });
        let foreign = runtime.handle().guard(DRAIN);
        let report = end(&runtime);
        let drain = report.phase(DRAIN).expect("it is reported");
        assert!(drain.is_cut() && drain.took.expect("it began") >= SHORT, "{report}");
        let held: Vec<_> = drain.held_by.iter().map(|holder| (&*holder.name, holder.core)).collect();
        assert_eq!(held, [("upload", Some(B)), ("guard", None)]);
        assert!(drain.held_by.iter().all(|holder| holder.location.file().ends_with("runtime_shutdown.rs")), "{report}");
        assert!(report.to_string().contains("upload, "), "{report}");
        assert!(foreign.is_late() && runtime.handle().guard(DRAIN).is_late());
        assert_eq!(report.tasks_cut.len(), 1, "{report}");
    });
}

#[test]
fn a_core_in_a_long_poll_is_named_and_not_waited_for() {
    each_driver("a_core_in_a_long_poll_is_named_and_not_waited_for", |builder| {
        let runtime = builder.phase(CANCEL, SHORT).phase(JOIN, SHORT).build().expect("a runtime");
        let (stuck, go_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (says, told) = (stuck.clone(), go_on.clone());
        drop(runtime.handle().spawn_on(B, move || async move {
            says.store(true, Ordering::Release);
            while !told.load(Ordering::Acquire) {
                thread::yield_now();
            }
        }));
        while !stuck.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let report = end(&runtime);
        let cancel: Vec<_> = report.phase(CANCEL).expect("reported").cores.iter().map(|stuck| stuck.core).collect();
        assert!(cancel.contains(&B), "{report}");
        let polled = report.phase(CANCEL).expect("reported").cores.iter().find(|stuck| stuck.core == B);
        assert!(
            polled.expect("there").polls.is_some_and(|future| future.contains("a_core_in_a_long_poll")),
            "{report}"
        );
        // The others wait for it at their end.
        assert!(report.phase(JOIN).expect("reported").cores.iter().any(|stuck| stuck.core == B), "{report}");
        go_on.store(true, Ordering::Release);
        drop(runtime);
    });
}

#[test]
fn tasks_that_are_cut_are_told_by_name_or_type() {
    each_driver("tasks_that_are_cut_are_told_by_name_or_type", |builder| {
        let (runtime, census) = (builder.build().expect("a runtime"), Census::default());
        let rest = |token: Token| async move {
            let _token = token;
            pending::<()>().await;
        };
        let [one, other] = [census.token(), census.token()];
        start(&runtime, A, move || named("indexer", named("inner", rest(one))));
        start(&runtime, B, move || rest(other));
        // What the runtime keeps for itself is not told of.
        let _local = runtime.block_on(|| async {
            let local = ipiq::CoreLocal::new(|| 1);
            assert_eq!(*local.get(), 1);
            local
        });
        for _ in 0..100 {
            start(&runtime, B, pending::<()>);
        }
        let report = end(&runtime);
        assert_eq!(census.alive(), 0);
        assert!(!report.is_clean() && !report.phase(CANCEL).expect("reported").is_cut());
        let told = report.to_string();
        assert!(told.contains("cut on core 0: indexer, ") && !told.contains("inner"), "{told}");
        assert_eq!(report.tasks_cut.len() + report.more_tasks_cut, 102, "{told}");
        let named = report.tasks_cut.iter().filter(|(_, task)| task.name.is_some());
        assert_eq!(named.count(), 1);
    });
}

#[test]
fn whoever_asks_from_wherever_is_told_the_same_end() {
    each_driver("whoever_asks_from_wherever_is_told_the_same_end", |builder| {
        let runtime = builder.build().expect("a runtime");
        let first = Arc::new(Mutex::new(Vec::new()));
        let open = runtime.handle().guard(DRAIN);
        for core in [A, B] {
            let first = first.clone();
            start(&runtime, core, move || async move {
                first.lock().expect("not poisoned").push(ipiq::handle().shutdown());
            });
        }
        let handle = runtime.handle();
        let foreign = thread::spawn(move || Runtime::wait(handle.shutdown()));
        drop(open);
        let mut reports = vec![end(&runtime), foreign.join().expect("no panic")];
        reports.extend(first.lock().expect("not poisoned").drain(..).map(Runtime::wait));
        let handle = runtime.handle();
        drop(runtime);
        reports.push(Runtime::wait(handle.shutdown()));
        assert!(reports.iter().all(|report| report.is_clean() && report.phases.len() == 4));
        let took: Vec<_> = reports.iter().map(|report| report.phases[1].took).collect();
        assert!(took.iter().all(|each| *each == took[0]), "{took:?}");
    });
}

struct PanicInDrop;

impl Drop for PanicInDrop {
    fn drop(&mut self) {
        panic!("a shard that ends badly");
    }
}

#[test]
fn panics_of_a_phases_work_end_that_work_alone() {
    each_driver("panics_of_a_phases_work_end_that_work_alone", |builder| {
        let runtime = builder.build().expect("a runtime");
        start(&runtime, B, || async {
            let _open = shutdown::phase(DRAIN).await;
            panic!("a connection that ends badly");
        });
        let other = Arc::new(AtomicBool::new(false));
        let ends = other.clone();
        start(&runtime, A, move || async move {
            let _open = shutdown::phase(DRAIN).await;
            time::sleep(Duration::from_millis(1)).await;
            ends.store(true, Ordering::Release);
        });
        runtime.block_on(|| async {
            drop(Sharded::start(|_| async { PanicInDrop }).await.expect("a service"));
        });
        let report = end(&runtime);
        assert!(other.load(Ordering::Acquire));
        let drain = report.phase(DRAIN).expect("reported");
        assert!(!drain.is_cut() && drain.failures.len() == 1, "{report}");
        assert!(drain.failures[0].contains("PanicInDrop") && drain.failures[0].contains("ends badly"), "{report}");
    });
}

/// Says in what order it was dropped.
struct Logged(&'static str, Sender<&'static str>);

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

#[test]
fn services_stop_after_what_drains_the_last_one_started_first() {
    each_driver("services_stop_after_what_drains_the_last_one_started_first", |builder| {
        let runtime = builder.build().expect("a runtime");
        let (log, order): (Sender<&str>, Receiver<&str>) = channel();
        let request = log.clone();
        runtime.block_on(move || async move {
            let mut services = Vec::new();
            for name in ["storage", "index", "stopped before", "front"] {
                let log = log.clone();
                services.push(Sharded::start(move |_| async move { Logged(name, log) }).await.expect("a service"));
            }
            services[2].stop().await.expect("no panic");
            let open = shutdown::guard(DRAIN);
            let front = services[3].clone();
            drop(spawn_local(async move {
                let begun = shutdown::phase(DRAIN).await;
                time::sleep(Duration::from_millis(2)).await;
                front.map(|_| ()).await.expect("services live as long as a request");
                let _ = request.send("request");
                drop((begun, open));
            }));
            yield_now().await;
        });
        let report = end(&runtime);
        assert!(report.is_clean(), "{report}");
        drop(runtime);
        let order: Vec<&str> = order.iter().collect();
        let expected = ["stopped before", "request", "front", "index", "storage"];
        let repeated = expected.map(|name| vec![name; if name == "request" { 1 } else { 2 }]).concat();
        assert_eq!(order, repeated);
    });
}

#[test]
fn a_stop_that_is_under_way_is_waited_for_before_services_started_earlier_stop() {
    each_driver("a_stop_that_is_under_way_is_waited_for_before_services_started_earlier_stop", |builder| {
        let runtime = builder.build().expect("a runtime");
        let (log, order): (Sender<&str>, Receiver<&str>) = channel();
        runtime.block_on(move || async move {
            let storage = log.clone();
            drop(Sharded::start(move |_| async move { Logged("storage", storage) }).await.expect("a service"));
            let front = Sharded::start(|_| async {}).await.expect("a service");
            drop(front.stop_with(async move |_| {
                time::sleep(Duration::from_millis(20)).await;
                let _ = log.send("front flushed");
            }));
        });
        let report = end(&runtime);
        assert!(report.is_clean(), "{report}");
        drop(runtime);
        assert_eq!(order.iter().collect::<Vec<_>>(), ["front flushed", "front flushed", "storage", "storage"]);
    });
}

/// A service that has something to do for a while.
async fn start_worker(name: &'static str, log: Sender<&'static str>) {
    let value = log.clone();
    let service = Sharded::start(move |_| async move { Logged(name, value) }).await.expect("a service");
    drop(service.on(B).spawn(async move |_| {
        time::sleep(Duration::from_millis(20)).await;
        let _ = log.send("worked");
    }));
}

#[test]
fn services_that_start_while_services_stop_or_later_are_stopped_too() {
    each_driver("services_that_start_while_services_stop_or_later_are_stopped_too", |builder| {
        let runtime = builder.phase("flush", LONG).build().expect("a runtime");
        let (log, order): (Sender<&str>, Receiver<&str>) = channel();
        runtime.block_on(move || async move {
            let first = Sharded::start(|_| async {}).await.expect("a service");
            let (peers, in_drain) = (first.clone(), log.clone());
            drop(first.on(A).spawn(async move |_| {
                // Its stop has begun, and waits for this.
                while !peers.on(A).call(|_| ()).await.is_err_and(|error| error.is_stopped()) {
                    yield_now().await;
                }
                start_worker("second", in_drain).await;
            }));
            drop(spawn_local(async move {
                let _begun = shutdown::phase("flush").await;
                start_worker("third", log).await;
            }));
            yield_now().await;
        });
        let report = end(&runtime);
        assert!(report.is_clean(), "{report}");
        drop(runtime);
        let order: Vec<&str> = order.iter().collect();
        assert_eq!(order, ["worked", "second", "second", "worked", "third", "third"]);
    });
}

#[test]
fn a_service_that_does_not_stop_in_time_is_named() {
    each_driver("a_service_that_does_not_stop_in_time_is_named", |builder| {
        let runtime = builder.phase(DRAIN, SHORT).build().expect("a runtime");
        runtime.block_on(|| async {
            let service = Sharded::start(|_| async { Cell::new(1_u8) }).await.expect("a service");
            let used = service.local();
            drop(spawn_local(async move {
                let _used = used;
                pending::<()>().await;
            }));
            yield_now().await;
        });
        let report = end(&runtime);
        let drain = report.phase(DRAIN).expect("reported");
        assert_eq!(drain.held_by.len(), 1, "{report}");
        assert!(drain.held_by[0].name.contains("Cell<u8>"), "{report}");
        assert!(drain.held_by[0].location.file().ends_with("runtime_shutdown.rs"), "{report}");
    });
}

#[test]
fn tasks_of_shards_that_are_cut_are_told() {
    each_driver("tasks_of_shards_that_are_cut_are_told", |builder| {
        let runtime = builder.phase(DRAIN, SHORT).build().expect("a runtime");
        runtime.block_on(|| async {
            let service = Sharded::start(|_| async { Cell::new(1_u8) }).await.expect("a service");
            drop(service.on(B).spawn(async |_| named("indexer", pending::<()>()).await));
            spawn_on(B, yield_now).await.expect("no panic");
        });
        let report = end(&runtime);
        assert_eq!(report.tasks_cut.len(), 1, "{report}");
        assert!(report.to_string().contains("cut on core 1: indexer"), "{report}");
    });
}

#[test]
fn every_accept_ends_when_accepting_stops() {
    each_driver("every_accept_ends_when_accepting_stops", |builder| {
        let runtime = builder.build().expect("a runtime");
        let ended = Arc::new(AtomicU32::new(0));
        let count = ended.clone();
        runtime.block_on(move || async move {
            let serve = move |listener: TcpListener| {
                let count = count.clone();
                async move {
                    let (one, other) = futures::join!(listener.accept(), listener.accept());
                    for error in [one, other, listener.accept().await].map(|accepted| accepted.expect_err("it ends")) {
                        assert!(is_shutdown(&error), "{error}");
                        count.fetch_add(1, Ordering::AcqRel);
                    }
                    std::io::Result::Ok(())
                }
            };
            drop(TcpListener::bind_each_core("127.0.0.1:0", serve).expect("a port"));
            let listening = [A, B].map(|core| spawn_on(core, yield_now));
            for task in listening {
                task.await.expect("no panic");
            }
        });
        let report = end(&runtime);
        drop(runtime);
        assert!(!report.phase(STOP_ACCEPTING).expect("reported").is_cut(), "{report}");
        // A task that ends within the phases ends by itself; all of them have been told before it was over.
        assert_eq!(ended.load(Ordering::Acquire) as usize + 3 * report.tasks_cut.len(), 6, "{report}");
        let other = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
        assert!(!is_shutdown(&other));
    });
}

#[test]
fn a_stop_cuts_what_is_held() {
    each_driver("a_stop_cuts_what_is_held", |builder| {
        let runtime = builder.phase(DRAIN, Duration::MAX).phase("flush", LONG).build().expect("a runtime");
        let guard = runtime.handle().guard(DRAIN);
        let (handle, begun) = (runtime.handle(), runtime.handle().phase(DRAIN));
        let ending = handle.shutdown();
        drop(Runtime::wait(begun));
        handle.stop();
        let report = Runtime::wait(ending);
        assert_eq!(report.phase(DRAIN).expect("reported").held_by.len(), 1, "{report}");
        assert_eq!(report.phase("flush").expect("reported").took, None);
        assert!(!report.phase(CANCEL).expect("reported").is_cut() && guard.is_late(), "{report}");
        assert_eq!(report.phases.len(), 5);
    });
}

#[test]
fn services_that_a_stop_cuts_are_told_of() {
    each_driver("services_that_a_stop_cuts_are_told_of", |builder| {
        for builder in [builder.clone(), builder.paused_clock()] {
            let runtime = builder.build().expect("a runtime");
            let (stops, stopping) = channel();
            runtime.block_on(|| async move {
                let service = Sharded::start(|_| async {}).await.expect("a service");
                drop(service.stop_with(async move |_| {
                    let _ = stops.send(());
                    pending::<()>().await;
                }));
            });
            let (handle, begun) = (runtime.handle(), runtime.handle().phase(DRAIN));
            let ending = handle.shutdown();
            drop(Runtime::wait(begun));
            stopping.recv().expect("it stops");
            handle.stop();
            let report = Runtime::wait(ending);
            assert!(!report.phase(DRAIN).expect("reported").is_clean(), "{report}");
        }
    });
}

#[test]
fn a_drop_lets_the_phases_come_to_their_end() {
    each_driver("a_drop_lets_the_phases_come_to_their_end", |builder| {
        for on_own_core in [false, true] {
            let runtime = builder.clone().build().expect("a runtime");
            let flushed = Arc::new(AtomicBool::new(false));
            let flushes = flushed.clone();
            start(&runtime, B, move || async move {
                let _open = shutdown::phase(DRAIN).await;
                time::sleep(Duration::from_millis(5)).await;
                flushes.store(true, Ordering::Release);
            });
            // As a `main` does that returns when it is time to.
            let ending = runtime.block_on(|| async {
                let ending = ipiq::handle().shutdown();
                drop(shutdown::phase(DRAIN).await);
                [ending]
            });
            if on_own_core {
                drop(runtime.handle().spawn_on(A, move || async move { drop(runtime) }));
            } else {
                drop(runtime);
                assert!(flushed.load(Ordering::Acquire));
            }
            let [report] = ending.map(Runtime::wait);
            assert!(flushed.load(Ordering::Acquire) && !report.phase(DRAIN).expect("reported").is_cut(), "{report}");
        }
    });
}

#[test]
fn who_awaits_a_phase_that_never_begins_is_told_by_the_end() {
    each_driver("who_awaits_a_phase_that_never_begins_is_told_by_the_end", |builder| {
        let runtime = builder.build().expect("a runtime");
        let began = Arc::new(AtomicBool::new(false));
        let tells = began.clone();
        start(&runtime, B, move || async move {
            let _guard = shutdown::phase(DRAIN).await;
            tells.store(true, Ordering::Release);
        });
        let (handle, (say, said)) = (runtime.handle(), channel());
        let waiting = thread::spawn(move || {
            let mut begin = Box::pin(handle.phase(DRAIN));
            assert!(futures::FutureExt::now_or_never(begin.as_mut()).is_none());
            say.send(()).expect("somebody waits");
            Runtime::wait(begin).is_late()
        });
        said.recv().expect("it waits");
        drop(runtime);
        assert!(waiting.join().expect("no panic"));
        assert!(!began.load(Ordering::Acquire), "a task is dropped instead");
    });
}

#[test]
fn who_awaits_a_phase_on_a_core_and_then_on_another_thread_is_told() {
    each_driver("who_awaits_a_phase_on_a_core_and_then_on_another_thread_is_told", |builder| {
        let runtime = builder.build().expect("a runtime");
        let [begun] = runtime.block_on(|| async {
            let mut begin = shutdown::phase(DRAIN);
            assert!(futures::FutureExt::now_or_never(&mut begin).is_none());
            [begin]
        });
        let (say, said) = channel();
        let waiting = thread::spawn(move || {
            let mut begun = Box::pin(begun);
            assert!(futures::FutureExt::now_or_never(begun.as_mut()).is_none());
            say.send(()).expect("somebody waits");
            Runtime::wait(begun).is_late()
        });
        said.recv().expect("it waits");
        drop(runtime);
        assert!(waiting.join().expect("no panic"));
    });
}

#[test]
fn limits_follow_a_clock_that_stands_still() {
    each_driver("limits_follow_a_clock_that_stands_still", |builder| {
        let (minutes, hour) = (Duration::from_secs(600), Duration::from_secs(3600));
        for held in [minutes, Duration::MAX] {
            let runtime = builder.clone().paused_clock().phase(DRAIN, hour).build().expect("a runtime");
            start(&runtime, B, move || async move {
                let _open = shutdown::phase(DRAIN).await;
                time::sleep(held).await;
            });
            let start = Instant::now();
            let report = end(&runtime);
            assert_eq!(report.phase(DRAIN).expect("reported").took, Some(held.min(hour)), "{report}");
            assert_eq!(report.is_clean(), held == minutes, "{report}");
            assert!(start.elapsed() < minutes);
        }
    });
}

#[test]
fn a_core_that_has_left_before_is_not_waited_for() {
    each_driver("a_core_that_has_left_before_is_not_waited_for", |builder| {
        let runtime = builder.build().expect("a runtime");
        let held = runtime.handle().guard(DRAIN);
        start(&runtime, B, pending::<()>);
        let leaving = runtime.handle().leave(B).expect("it may");
        let ending = runtime.handle().shutdown();
        Runtime::wait(leaving);
        drop(held);
        let report = Runtime::wait(ending);
        assert!(report.is_clean(), "{report}");
    });
}

#[test]
fn a_closure_that_blocks_is_counted_and_not_waited_for() {
    each_driver("a_closure_that_blocks_is_counted_and_not_waited_for", |builder| {
        let runtime = builder.phase(JOIN, SHORT).build().expect("a runtime");
        let ((go_on, told), (say, begun)) = (channel::<()>(), channel());
        runtime.block_on(move || async move {
            drop(ipiq::spawn_blocking(move || {
                say.send(()).expect("somebody waits");
                let _ = told.recv();
            }));
        });
        begun.recv().expect("it begins");
        let report = end(&runtime);
        assert_eq!(report.phase(JOIN).expect("reported").blocking, 1, "{report}");
        drop(go_on);
        drop(runtime);
    });
}

#[test]
fn without_a_thread_for_the_phases_the_runtime_stops_at_once() {
    refusing("without_a_thread_for_the_phases_the_runtime_stops_at_once", &[], || {
        let runtime = builder().build().expect("a runtime");
        let threads = &[libc::SYS_clone, libc::SYS_clone3];
        refuse_to_all_threads(&Refusal { calls: threads, first_argument: None, errno: libc::EAGAIN });
        let report = end(&runtime);
        assert!(report.refused.as_ref().is_some_and(|reason| reason.contains("no thread")), "{report}");
        assert!(report.phases.len() == 4 && report.phases.iter().all(|phase| phase.took.is_none()), "{report}");
        drop(runtime);
    });
}

/// A chain of holders: each takes a guard for the next, on a core by chance, before it drops its own.
fn hand_over(guard: Guard, left: u32, seed: u64, ended: Arc<AtomicU32>) {
    let core = CoreId::new(Rng::with_seed(seed).usize(..2));
    drop(ipiq::handle().spawn_on(core, move || async move {
        if seed.is_multiple_of(3) {
            yield_now().await;
        }
        assert!(!guard.is_late(), "the phase ended while it was held");
        if left > 0 {
            hand_over(shutdown::guard(DRAIN), left - 1, seed.wrapping_mul(0x9e37_79b9).wrapping_add(1), ended);
        } else {
            ended.fetch_add(1, Ordering::AcqRel);
        }
        drop(guard);
    }));
}

#[test]
fn a_phase_that_passes_from_holder_to_holder_is_held_all_the_while() {
    alone("a_phase_that_passes_from_holder_to_holder_is_held_all_the_while", LIMIT, || {
        each_kind(|kind| {
            for seed in 0..scaled(30, 75) {
                let runtime = kind.clone().cores(2).phase(DRAIN, LONG).build().expect("a runtime");
                let ended = Arc::new(AtomicU32::new(0));
                for chain in 0..4 {
                    let ended = ended.clone();
                    runtime
                        .block_on(move || async move { hand_over(shutdown::guard(DRAIN), 200, seed + chain, ended) });
                }
                let report = end(&runtime);
                assert!(report.is_clean(), "{report}");
                assert_eq!(ended.load(Ordering::Acquire), 4);
            }
        });
    });
}

#[test]
fn a_phase_that_there_is_not_is_named_with_those_that_there_are() {
    let runtime = builder().phase("flush", SHORT).build().expect("a runtime");
    for name in ["drane", CANCEL, JOIN] {
        let handle = runtime.handle();
        let panic = thread::spawn(move || drop(handle.guard(name))).join().expect_err("a panic");
        let text = panic.downcast::<String>().expect("a text");
        assert!(text.contains(name) && text.contains("stop accepting, drain, flush"), "{text}");
    }
}
