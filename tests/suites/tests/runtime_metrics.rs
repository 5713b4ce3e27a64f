//! What a runtime tells of itself: its figures are what was done, and reading them disturbs nobody.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::pending;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use ipiq::classes::ClassSpec;
use ipiq::metrics::{CoreMetrics, Metrics};
use ipiq::net::TcpListener;
use ipiq::{CoreId, DriverKind, Handle, IdlePolicy, Runtime, Stall, time};
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::watchdog::watch;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// The system's allocator, with a count of what the calling thread asks of it.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: 1. everything is the system allocator's. 2. counting allocates nothing: a thread-local variable without destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: 1. as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: 1. as the caller promises; it came from `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The first reading that `holds`; the watchdog ends the wait.
fn until(handle: &Handle, holds: impl Fn(&Metrics) -> bool) -> Metrics {
    let mut metrics = handle.metrics();
    while !holds(&metrics) {
        thread::yield_now();
        handle.read_metrics(&mut metrics);
    }
    metrics
}

fn of(metrics: &Metrics, core: CoreId) -> &CoreMetrics {
    metrics.core(core).expect("a core of the runtime")
}

#[test]
fn each_call_is_one_message_there_and_one_back() {
    let _watch = watch("each_call_is_one_message_there_and_one_back");
    const CALLS: u64 = 1000;
    each_kind(|builder| {
        let runtime = builder.cores(2).build().expect("a runtime");
        let before = runtime.handle().metrics();
        runtime.block_on(|| async {
            for _ in 0..CALLS {
                ipiq::call_on(B, || ()).await.expect("an answer");
            }
        });
        let all_came = |metrics: &Metrics| [(A, B), (B, A)].iter().all(|&(a, b)| metrics.pair(a, b).received == CALLS);
        let between = until(&runtime.handle(), all_came) - &before;
        for (source, target) in [(A, B), (B, A)] {
            let pair = between.pair(source, target);
            assert_eq!((pair.sent, pair.received, pair.queued, pair.full, pair.listed), (CALLS, CALLS, 0, 0, 0));
            assert_eq!(pair.sent, pair.avoided + pair.kicked + pair.passive);
        }
        assert_eq!(between.pairs.len(), 2, "nobody else talked");
        assert!(of(&between, A).counters.foreign_received >= 1, "the task that called");
    });
}

#[test]
fn a_ring_that_is_full_and_the_list_before_it_show_their_depth_while_the_target_is_busy() {
    let _watch = watch("a_ring_that_is_full_and_the_list_before_it_show_their_depth_while_the_target_is_busy");
    const TASKS: u64 = 20;
    each_kind(|builder| {
        let runtime = builder.cores(2).ring_capacity(4).build().expect("a runtime");
        let handle = runtime.handle();
        let go_on = Arc::new(AtomicBool::new(false));
        let busy = Arc::new(AtomicBool::new(false));
        let (go_on_there, busy_there) = (go_on.clone(), busy.clone());
        // Given a core in a long poll,
        let long = handle.spawn_on(B, move || async move {
            busy_there.store(true, Ordering::Release);
            while !go_on_there.load(Ordering::Acquire) {
                thread::yield_now();
            }
        });
        while !busy.load(Ordering::Acquire) {
            thread::yield_now();
        }
        // when another one sends it more than the ring holds,
        let sent = handle.spawn_on(A, || async {
            let tasks: Vec<_> = (0..TASKS).map(|_| ipiq::spawn_on(B, || async {})).collect();
            for task in tasks {
                task.await.expect("it ends");
            }
        });
        // both depths are seen from outside.
        let full = until(&handle, |metrics| metrics.pair(A, B).queued + metrics.pair(A, B).listed == TASKS);
        assert_eq!((full.pair(A, B).queued, full.pair(A, B).listed), (4, TASKS - 4));
        assert_eq!(full.pair(A, B).overflowed, TASKS - 4);
        go_on.store(true, Ordering::Release);
        Runtime::wait(long).expect("it ends");
        Runtime::wait(sent).expect("it ends");
        let empty = until(&handle, |metrics| metrics.pair(A, B).queued == 0);
        assert_eq!((empty.pair(A, B).listed, empty.pair(A, B).overflowed), (0, TASKS - 4));
    });
}

#[test]
fn tasks_and_timers_are_counted_from_their_beginning_to_their_end() {
    let _watch = watch("tasks_and_timers_are_counted_from_their_beginning_to_their_end");
    each_kind(|builder| {
        let runtime = builder.cores(2).build().expect("a runtime");
        let handle = runtime.handle();
        let before = handle.metrics();
        let (ending, panicking, waiting) = (60, 30, 10);
        let ended = (0..ending).map(|_| handle.spawn_on(B, ipiq::yield_now)).collect::<Vec<_>>();
        let fired = handle.spawn_on(B, || async { time::sleep(Duration::from_nanos(1)).await });
        let panicked = (0..panicking).map(|i| {
            handle.spawn_on(B, move || async move {
                // Some in the first poll, some later.
                if i % 2 == 0 {
                    ipiq::yield_now().await;
                }
                std::panic::panic_any(());
            })
        });
        let panicked = panicked.collect::<Vec<_>>();
        let sleeping = (0..waiting).map(|_| handle.spawn_on(B, || time::sleep(Duration::MAX)));
        let sleeping = sleeping.collect::<Vec<_>>();
        ended.into_iter().for_each(|task| Runtime::wait(task).expect("it ends"));
        Runtime::wait(fired).expect("it ends");
        panicked.into_iter().for_each(|task| assert!(Runtime::wait(task).expect_err("it panics").is_panic()));

        let all_begun = |metrics: &Metrics| {
            let load = of(metrics, B).load;
            load.timers == waiting && load.tasks_ready == 0 && load.tasks_alive() == waiting
        };
        let between = until(&handle, all_begun) - &before;
        let load = of(&between, B).load;
        assert_eq!(load.tasks_spawned, ending + 1 + panicking + waiting);
        assert_eq!((load.tasks_finished, load.tasks_panicked), (ending + 1 + panicking, panicking));
        // Each once, and those that give way once more.
        assert!(load.polls >= load.tasks_spawned + ending + panicking / 2, "{load:?}");
        assert!(load.timers_fired <= 1, "{load:?}");
        assert_eq!(of(&between, A).load.tasks_spawned, 0);

        sleeping.iter().for_each(|task| task.abort());
        let ended = until(&handle, |metrics| of(metrics, B).load.tasks_alive() == 0) - &before;
        assert_eq!(of(&ended, B).load.tasks_finished, ending + 1 + panicking + waiting);
        assert_eq!(of(&ended, B).load.timers, 0);
    });
}

#[test]
fn a_task_that_panicked_has_ended_and_one_that_ended_was_spawned_also_in_the_middle_of_the_next_poll() {
    let _watch =
        watch("a_task_that_panicked_has_ended_and_one_that_ended_was_spawned_also_in_the_middle_of_the_next_poll");
    let runtime = Runtime::builder().cores(1).build().expect("a runtime");
    let handle = runtime.handle();
    let load = runtime.block_on(|| async move {
        let panics = ipiq::spawn_local(async { std::panic::panic_any(()) });
        let reads = ipiq::spawn_local(async move { of(&handle.metrics(), A).load });
        assert!(panics.await.expect_err("it panics").is_panic());
        reads.await.expect("it ends")
    });
    assert!(load.tasks_panicked <= load.tasks_finished, "{load:?}");
    assert!(load.tasks_finished <= load.tasks_spawned, "{load:?}");
}

/// Whether `part` of the core's time grows, while `others` stand still.
fn grows(handle: &Handle, core: CoreId, part: fn(&CoreMetrics) -> u64, others: fn(&CoreMetrics) -> u64) {
    let before = handle.metrics();
    let long = part(of(&before, core)) + 2_000_000;
    let after = until(handle, |metrics| part(of(metrics, core)) >= long);
    assert_eq!(others(of(&before, core)), others(of(&after, core)));
}

#[test]
fn a_core_that_sleeps_spins_or_polls_for_long_is_seen_to_while_it_does() {
    let _watch = watch("a_core_that_sleeps_spins_or_polls_for_long_is_seen_to_while_it_does");
    each_kind(|builder| {
        let runtime = builder.clone().cores(1).time_slice(None).idle(IdlePolicy::Park).build().expect("a runtime");
        let handle = runtime.handle();
        // Asleep: nobody wakes it.
        until(&handle, |metrics| of(metrics, A).load.parked_ns > 0);
        grows(&handle, A, |core| core.load.parked_ns, |core| core.load.busy_ns + core.counters.ticks);
        // In the middle of a poll: it tells nobody anything.
        let go_on = Arc::new(AtomicUsize::new(0));
        let go_on_there = go_on.clone();
        let long = handle.spawn_on(A, move || async move {
            go_on_there.store(1, Ordering::Release);
            while go_on_there.load(Ordering::Acquire) < 2 {
                thread::yield_now();
            }
        });
        while go_on.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        grows(&handle, A, |core| core.load.busy_ns, |core| core.load.parked_ns + core.load.spinning_ns);
        go_on.store(2, Ordering::Release);
        Runtime::wait(long).expect("it ends");
        drop(runtime);

        let runtime = builder.cores(1).idle(IdlePolicy::Spin).build().expect("a runtime");
        grows(&runtime.handle(), A, |core| core.load.spinning_ns, |core| core.load.parked_ns);
        let load = of(&runtime.handle().metrics(), A).load;
        assert_eq!(load.up_ns, load.busy_ns + load.spinning_ns + load.parked_ns);
    });
}

#[test]
fn a_paused_clocks_sleep_is_as_long_as_the_clock_says() {
    let _watch = watch("a_paused_clocks_sleep_is_as_long_as_the_clock_says");
    let runtime = Runtime::builder().cores(1).paused_clock().build().expect("a runtime");
    runtime.block_on(|| time::sleep(Duration::from_secs(3600)));
    let load = of(&runtime.handle().metrics(), A).load;
    assert_eq!((load.up_ns, load.busy_ns), (3_600_000_000_000, 0));
}

/// Everything that only grows.
fn counts(metrics: &Metrics) -> Vec<u64> {
    let cores = metrics.cores.iter().flat_map(|core| {
        let (load, counters, driver) = (core.load, core.counters, core.driver);
        [load.polls, load.tasks_spawned, load.tasks_finished, load.timers_fired]
            .into_iter()
            .chain([counters.ticks, counters.parked, counters.foreign_received])
            .chain([driver.enters, driver.completions, driver.batches])
    });
    let pairs = [(A, B), (B, A)].into_iter().flat_map(|(source, target)| {
        let pair = metrics.pair(source, target);
        [pair.sent, pair.received, pair.avoided, pair.kicked]
    });
    cores.chain(pairs).collect()
}

#[test]
fn several_threads_read_what_only_grows_while_cores_run_and_what_stands_still_when_they_have_ended() {
    let _watch = watch("several_threads_read_what_only_grows_while_cores_run_and_what_stands_still");
    each_kind(|builder| {
        let runtime = builder.cores(2).build().expect("a runtime");
        let handle = runtime.handle();
        let ended = AtomicBool::new(false);
        let read = || {
            let (mut before, mut readings) = (counts(&handle.metrics()), 0);
            let mut metrics = Metrics::default();
            while !ended.load(Ordering::Acquire) {
                handle.read_metrics(&mut metrics);
                let now = counts(&metrics);
                assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "{before:?} {now:?}");
                (before, readings) = (now, readings + 1);
                thread::yield_now();
            }
            readings
        };
        thread::scope(|scope| {
            let readers: Vec<_> = (0..3).map(|_| scope.spawn(read)).collect();
            runtime.block_on(|| async {
                for _ in 0..500 {
                    ipiq::call_on(B, || ()).await.expect("an answer");
                    time::sleep(Duration::from_nanos(1)).await;
                }
            });
            drop(runtime);
            ended.store(true, Ordering::Release);
            readers.into_iter().for_each(|reader| assert!(reader.join().expect("no panic") < u64::MAX));
        });
        let (first, second) = (handle.metrics(), handle.metrics());
        assert_eq!((&first.cores, &first.pairs), (&second.cores, &second.pairs));
        for core in [A, B] {
            let load = of(&first, core).load;
            assert_eq!((load.tasks_alive(), load.tasks_ready, load.timers), (0, 0, 0));
            assert!(load.up_ns > 0);
        }
        assert_eq!(first.pair(A, B).sent, first.pair(A, B).received);
    });
}

#[test]
fn each_class_has_its_polls_its_queue_and_its_part_of_the_cores_time() {
    let _watch = watch("each_class_has_its_polls_its_queue_and_its_part_of_the_cores_time");
    each_kind(|builder| {
        let runtime = builder.cores(2).build().expect("a runtime");
        let handle = runtime.handle();
        let before = handle.metrics();
        assert_eq!(before.classes.len(), 2, "the default one on each core");
        // Given a class that is made by then, and tasks of both that go on and on,
        let small = handle.create_class(ClassSpec::new("small").shares(10)).expect("a free name");
        let ended = Arc::new(AtomicBool::new(false));
        let goes_on = |ended: Arc<AtomicBool>| {
            move || async move {
                while !ended.load(Ordering::Acquire) {
                    ipiq::yield_now().await;
                }
            }
        };
        let tasks = (0..3).map(|_| small.spawn_on(B, goes_on(ended.clone())));
        let tasks = tasks.chain((0..2).map(|_| handle.spawn_on(B, goes_on(ended.clone()))));
        let tasks = tasks.collect::<Vec<_>>();
        // their queues are seen while the core is busy,
        let of_class = |metrics: &Metrics, name| metrics.class(B, name).expect("a class of the runtime").clone();
        let busy = until(&handle, |metrics| {
            let counters = ["small", "default"].map(|name| of_class(metrics, name).counters);
            counters[0].queued == 3
                && counters[1].queued == 2
                && counters.iter().all(|class| class.contended_turns > 10)
        }) - &before;
        let of_small = of_class(&busy, "small");
        assert_eq!((&*of_small.class, of_small.core, of_small.shares), ("small", B, 10));
        assert!(of_small.counters.polls > 10 && of_small.run_ns > 0, "{of_small:?}");
        assert!(of_class(&busy, "default").run_ns > 0);
        assert_eq!(busy.class(A, "small").expect("on every core").counters.polls, 0);
        // and when all has ended their parts make the whole.
        small.set_shares(20);
        ended.store(true, Ordering::Release);
        tasks.into_iter().for_each(|task| Runtime::wait(task).expect("it ends"));
        drop(runtime);
        let metrics = handle.metrics();
        assert_eq!(of_class(&metrics, "small").shares, 20);
        let of_core = || metrics.classes.iter().filter(|class| class.core == B);
        let load = of(&metrics, B).load;
        assert_eq!(of_core().map(|class| class.counters.polls).sum::<u64>(), load.polls);
        assert_eq!(of_core().map(|class| class.run_ns).sum::<u64>(), load.busy_ns);
        assert!(of_core().all(|class| class.counters.queued == 0));
        let text = metrics.to_string();
        assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("small ")).count(), 2, "{text}");
        assert_eq!((handle.metrics() - &metrics).class(B, "small").expect("as before").run_ns, 0);
    });
}

#[test]
fn reading_again_allocates_nothing_and_wakes_nobody() {
    let _watch = watch("reading_again_allocates_nothing_and_wakes_nobody");
    let runtime = Runtime::builder().cores(2).time_slice(None).idle(IdlePolicy::Park).build().expect("a runtime");
    let handle = runtime.handle();
    runtime.block_on(|| async { ipiq::call_on(B, || ()).await.expect("an answer") });
    // Given two cores that sleep,
    let parks = |metrics: &Metrics| [A, B].map(|core| of(metrics, core).counters.parked);
    let ticks = |metrics: &Metrics| [A, B].map(|core| of(metrics, core).counters.ticks);
    let mut metrics = handle.metrics();
    loop {
        let before = ticks(&metrics);
        let parked = [A, B].map(|core| of(&metrics, core).load.parked_ns);
        handle.read_metrics(&mut metrics);
        let sleeps = [A, B].map(|core| of(&metrics, core).load.parked_ns);
        if before == ticks(&metrics) && parked[0] < sleeps[0] && parked[1] < sleeps[1] {
            break;
        }
    }
    let (slept, ticked) = (parks(&metrics), ticks(&metrics));
    // when somebody reads,
    let asked = ASKED.get();
    for _ in 0..1000 {
        handle.read_metrics(&mut metrics);
    }
    // nothing is allocated, and they go on sleeping.
    assert_eq!(ASKED.get(), asked);
    assert_eq!((parks(&metrics), ticks(&metrics)), (slept, ticked));
}

#[test]
fn blocking_threads_and_what_waits_for_them_are_told() {
    let _watch = watch("blocking_threads_and_what_waits_for_them_are_told");
    let runtime = Runtime::builder().cores(1).blocking_threads(3).build().expect("a runtime");
    let handle = runtime.handle();
    assert_eq!((handle.metrics().blocking.threads, handle.metrics().blocking.queued), (0, 0));
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let all = handle.spawn_on(A, move || async move {
        let jobs: Vec<_> = (0..5)
            .map(|_| {
                let wait = wait.clone();
                // An error: the test lets all of them go on.
                ipiq::spawn_blocking(move || _ = wait.lock().expect("not poisoned").recv())
            })
            .collect();
        for job in jobs {
            job.await.expect("it ends");
        }
    });
    let busy = until(&handle, |metrics| metrics.blocking.threads == 3 && metrics.blocking.queued == 2).blocking;
    assert_eq!(busy.idle, 0);
    drop(go_on);
    Runtime::wait(all).expect("they end");
    let idle = until(&handle, |metrics| metrics.blocking.idle == 3).blocking;
    assert_eq!((idle.threads, idle.queued), (3, 0));
    drop(runtime);
    assert_eq!(handle.metrics().blocking, Default::default());
}

#[test]
fn a_drivers_operations_and_system_calls_are_counted() {
    let _watch = watch("a_drivers_operations_and_system_calls_are_counted");
    const ROUNDS: usize = 50;
    each_kind(|builder| {
        let runtime = builder.cores(1).build().expect("a runtime");
        let handle = runtime.handle();
        let (say, address) = mpsc::channel();
        let serving = handle.spawn_on(A, move || async move {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            say.send(listener.local_addr().expect("its address")).expect("the test waits");
            let (stream, _) = listener.accept().await.expect("a connection");
            for _ in 0..ROUNDS {
                let (received, bytes) = stream.recv(Vec::with_capacity(16)).await.into();
                assert_eq!(received.expect("bytes"), 4);
                let (sent, _) = stream.send_all(bytes).await.into();
                sent.expect("sent");
            }
        });
        let mut client = std::net::TcpStream::connect(address.recv().expect("an address")).expect("a connection");
        let before = handle.metrics();
        let mut echo = [0; 4];
        for _ in 0..ROUNDS {
            client.write_all(b"ping").expect("sent");
            client.read_exact(&mut echo).expect("received");
        }
        Runtime::wait(serving).expect("it ends");
        let driver = of(&(handle.metrics() - &before), A).driver;
        let rounds = ROUNDS as u64;
        assert!(driver.completions + driver.transfers >= rounds, "{driver:?}");
        assert!(driver.batches <= driver.completions && driver.system_calls() >= rounds, "{driver:?}");
        let submits = of(&handle.metrics(), A).driver.submissions > 0;
        assert_eq!(submits, runtime.info().driver == DriverKind::Uring, "{driver:?}");
    });
}

#[test]
fn stalls_and_long_waits_are_counted() {
    let _watch = watch("stalls_and_long_waits_are_counted");
    each_kind(|builder| {
        let limit = Duration::from_millis(10);
        let reports: Arc<[AtomicU64; 2]> = Arc::default();
        let reported = reports.clone();
        let report = move |stall: &Stall| _ = reported[stall.wait.core.index()].fetch_add(1, Ordering::Relaxed);
        let builder = builder.cores(2).stall_limit(limit).stall_reports(limit, report);
        let runtime = builder.build().expect("a runtime");
        let handle = runtime.handle();
        let told = handle.clone();
        runtime.block_on(move || async move {
            // A poll that ends when it has been found to be long, and to keep another core waiting.
            let begun = Arc::new(AtomicBool::new(false));
            let begun_there = begun.clone();
            let long = ipiq::spawn_on(B, move || async move {
                begun_there.store(true, Ordering::Release);
                until(&told, |metrics| of(metrics, B).stalls > 0 && of(metrics, A).counters.waits_reported > 0);
            });
            while !begun.load(Ordering::Acquire) {
                ipiq::yield_now().await;
            }
            ipiq::call_on(B, || ()).await.expect("an answer");
            long.await.expect("it ends");
        });
        drop(runtime);
        // Where threads wait for a CPU, others may be found to wait for them.
        let waits = [A, B].map(|core| of(&handle.metrics(), core).counters.waits_reported);
        assert_eq!(waits, [0, 1].map(|core| reports[core].load(Ordering::Relaxed)));
    });
}

#[test]
fn what_is_printed_has_a_line_for_each_core_and_pair() {
    let _watch = watch("what_is_printed_has_a_line_for_each_core_and_pair");
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    runtime.block_on(|| async { ipiq::call_on(B, || ()).await.expect("an answer") });
    let waiting = runtime.handle().spawn_on(A, pending::<()>);
    let text = runtime.handle().metrics().to_string();
    assert!(text.starts_with("2 cores, "), "{text}");
    assert_eq!(text.lines().count(), 2 + 3 + 3, "{text}");
    waiting.abort();
}
