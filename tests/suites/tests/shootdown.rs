//! Shootdowns on real threads: every core initiates at once, and every core reads what the others invalidate.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ipiq::{CoreId, Replicated, Runtime};
use ipiq_fabric::shootdown::{EarlyAck, PendingShootdown};
use ipiq_fabric::{Config, Core, CoreSet};
use ipiq_suites::cores::{FENCES, Seated, on_cores};
use ipiq_suites::scale::{scaled, scaled_up_to};
use ipiq_suites::watchdog::with_watchdog;

/// The full scale takes its time where the CPUs are fewer than the cores.
fn watched(what: &str, scenario: impl FnOnce()) {
    with_watchdog(what, Duration::from_secs(scaled_up_to(120, 360, 3600)), scenario);
}

/// A fabric whose generations wrap soon.
fn config(cores: usize) -> Config {
    Config { cores, ring_capacity: 64, first_index: u32::MAX - 9 }
}

/// Pages that each core owns one of, and what their owners have heard acknowledged.
struct Pages {
    origin: Vec<AtomicU64>,
    acknowledged: Vec<AtomicU64>,
}

thread_local! {
    /// What this core has cached of each page.
    static CACHED: RefCell<Vec<Option<u64>>> = const { RefCell::new(Vec::new()) };
}

impl Pages {
    fn new(cores: usize) -> Arc<Self> {
        let zeros = || (0..cores).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { origin: zeros(), acknowledged: zeros() })
    }

    /// Reads every page through the cache: none may be older than what its owner had heard acknowledged before the read.
    fn read_all(&self) {
        for (page, origin) in self.origin.iter().enumerate() {
            let floor = self.acknowledged[page].load(Ordering::Acquire);
            let value = CACHED.with_borrow_mut(|cached| {
                cached.resize(self.origin.len(), None);
                *cached[page].get_or_insert_with(|| origin.load(Ordering::Acquire))
            });
            assert!(value >= floor, "page {page}: read {value} after the acknowledgement of {floor}");
        }
    }

    fn change(&self, page: usize) -> u64 {
        let value = self.origin[page].load(Ordering::Relaxed) + 1;
        self.origin[page].store(value, Ordering::Release);
        value
    }
}

fn forget(page: usize) -> impl Fn(&Core) + Send + Sync + 'static {
    move |_: &Core| CACHED.with_borrow_mut(|cached| cached.get_mut(page).map_or((), |entry| *entry = None))
}

/// `IPIQ_STRESS=full` makes it a million.
fn shootdowns() -> u64 {
    scaled(2_000, 1_000_000)
}

fn from_all_at_once(cores: usize) {
    watched("shootdowns from all cores", || {
        for fence in FENCES {
            let (pages, executed) = (Pages::new(cores), AtomicU64::new(0));
            on_cores(config(cores), fence, |seated: &mut Seated<'_>| {
                let own = seated.id().index();
                for _ in 0..shootdowns() / cores as u64 / 2 {
                    pages.read_all();
                    let value = pages.change(own);
                    let on = seated.core.shootdown(&CoreSet::first(cores), forget(own)).expect("no panic");
                    pages.acknowledged[own].store(value, Ordering::Release);
                    executed.fetch_add(on as u64, Ordering::Relaxed);
                    seated.serve();
                }
                seated.serve_until_all_are_done();
            });
            assert_eq!(executed.into_inner(), shootdowns() / cores as u64 / 2 * (cores * cores) as u64);
        }
    });
}

#[test]
fn two_cores_shoot_at_once_and_no_read_is_stale_after_an_acknowledgement() {
    from_all_at_once(2);
}

#[test]
fn four_cores_shoot_at_once_and_no_read_is_stale_after_an_acknowledgement() {
    from_all_at_once(4);
}

#[test]
fn sixteen_cores_shoot_at_once_and_no_read_is_stale_after_an_acknowledgement() {
    from_all_at_once(16);
}

/// Polls `pending` between turns of the core's loop, which sleeps when there is nothing to do.
fn await_asleep(seated: &mut Seated<'_>, pending: PendingShootdown) -> usize {
    let mut pending = pin!(pending);
    let mut poll = || pending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    loop {
        // After serving: the last acknowledgement may have been found there.
        seated.serve();
        if let Poll::Ready(outcome) = poll() {
            return outcome.expect("no panic");
        }
        seated.park(None);
    }
}

#[test]
fn initiators_that_sleep_are_woken_by_the_last_acknowledgement() {
    watched("initiators that sleep", || {
        for (cores, fence) in [2, 4].into_iter().flat_map(|cores| FENCES.map(|fence| (cores, fence))) {
            let pages = Pages::new(cores);
            on_cores(config(cores), fence, |seated: &mut Seated<'_>| {
                let own = seated.id().index();
                for _ in 0..scaled_up_to(100, 1_000, 20_000) {
                    pages.read_all();
                    let value = pages.change(own);
                    let pending = PendingShootdown::new(&seated.core, &CoreSet::first(cores), forget(own));
                    assert_eq!(await_asleep(seated, pending), cores);
                    pages.acknowledged[own].store(value, Ordering::Release);
                }
                seated.serve_until_all_are_done();
            });
        }
    });
}

#[test]
fn several_requests_of_one_core_are_carried_out_in_order() {
    watched("several requests of one core", || {
        thread_local!(static LAST: Cell<u64> = const { Cell::new(0) });
        on_cores(config(3), FENCES[0], |seated: &mut Seated<'_>| {
            if seated.id() == CoreId::new(0) {
                let all = CoreSet::first(3);
                for batch in 0..scaled_up_to(50, 200, 2_000) {
                    let op = |n: u64| move |_: &Core| assert_eq!(LAST.replace(n), n - 1);
                    let first = batch * 9;
                    let pending: Vec<_> =
                        (1..9).map(|n| PendingShootdown::new(&seated.core, &all, op(first + n))).collect();
                    // One that spins waits its turn too.
                    assert_eq!(seated.core.shootdown(&all, op(first + 9)).expect("in order"), 3);
                    for pending in pending {
                        assert_eq!(await_asleep(seated, pending), 3);
                    }
                }
            }
            seated.serve_until_all_are_done();
        });
    });
}

/// Tells that it is being executed, and returns when it may.
#[derive(Clone, Copy)]
struct Held<'a> {
    begun: &'a AtomicBool,
    may_end: &'a AtomicBool,
}

// SAFETY: 1. nothing relies on it. 2. it is the point of the test that it takes its time; it runs no message.
unsafe impl EarlyAck for Held<'static> {
    fn execute(self, _core: &Core) {
        self.hold();
    }
}

impl Held<'_> {
    fn hold(&self) {
        self.begun.store(true, Ordering::Release);
        while !self.may_end.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_panic_that_a_wait_for_acknowledgements_meets_goes_on_only_when_the_operation_has_run() {
    watched("a panic in the wait", || {
        on_cores(config(2), FENCES[0], |seated: &mut Seated<'_>| {
            if seated.id() == CoreId::new(0) {
                let other: CoreSet = [CoreId::new(1)].into_iter().collect();
                let begun = Arc::new(AtomicBool::new(false));
                let ended = AtomicBool::new(false);
                let operation = |core: &Core| {
                    let thrown = begun.clone();
                    let throw = move |_: &Core, _: CoreId| {
                        thrown.store(true, Ordering::Release);
                        std::panic::resume_unwind(Box::new(7));
                    };
                    core.try_send(CoreId::new(0), throw).map_err(drop).expect("space");
                    while !begun.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    // Time for who does not wait.
                    (0..100).for_each(|_| std::thread::yield_now());
                    ended.store(true, Ordering::Relaxed);
                };
                let shoot = || drop(seated.core.shootdown(&other, operation));
                let thrown =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(shoot)).expect_err("the message's panic");
                assert_eq!(thrown.downcast_ref(), Some(&7));
                assert!(ended.load(Ordering::Relaxed), "what it borrows goes now");
                assert_eq!(seated.core.shootdown(&other, |_: &Core| ()).expect("no panic"), 1);
            }
            seated.serve_until_all_are_done();
        });
    });
}

#[test]
fn an_early_operation_is_acknowledged_while_it_runs_and_any_other_after_it_has_run() {
    watched("early acknowledgement", || {
        static BEGUN: AtomicBool = AtomicBool::new(false);
        static MAY_END: AtomicBool = AtomicBool::new(false);
        let ended = AtomicBool::new(false);
        on_cores(config(2), FENCES[0], |seated: &mut Seated<'_>| {
            if seated.id() == CoreId::new(0) {
                let other: CoreSet = [CoreId::new(1)].into_iter().collect();
                // It would never return if the target executed it first.
                let early = Held { begun: &BEGUN, may_end: &MAY_END };
                assert_eq!(seated.core.shootdown_early(&other, early).expect("no panic"), 1);
                MAY_END.store(true, Ordering::Release);
                let (begun, may_end) = (AtomicBool::new(false), AtomicBool::new(false));
                let late = Held { begun: &begun, may_end: &may_end };
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while !begun.load(Ordering::Acquire) {
                            std::thread::yield_now();
                        }
                        ended.store(true, Ordering::Relaxed);
                        may_end.store(true, Ordering::Release);
                    });
                    // It borrows from this frame: the call returns when nobody uses it any more.
                    seated.core.shootdown(&other, |_: &Core| late.hold()).expect("no panic");
                    assert!(ended.load(Ordering::Relaxed), "acknowledged before it had run");
                });
                assert!(BEGUN.load(Ordering::Relaxed));
            }
            seated.serve_until_all_are_done();
        });
    });
}

#[test]
fn cores_that_leave_in_the_middle_are_not_waited_for_and_what_is_executed_is_executed_once() {
    watched("departures", || {
        for round in 0..scaled_up_to(60, 300, 2_000) {
            let (cores, executed) = (4, AtomicUsize::new(0));
            let acknowledged = AtomicUsize::new(0);
            on_cores(config(cores), FENCES[round % 2], |seated: &mut Seated<'_>| {
                let all = CoreSet::first(cores);
                let count = |_: &Core| {
                    executed.fetch_add(1, Ordering::Relaxed);
                };
                // Core n stays for n more rounds than core 0.
                for _ in 0..=seated.id().index() * (1 + round % 3) {
                    acknowledged.fetch_add(seated.core.shootdown(&all, count).expect("no panic"), Ordering::Relaxed);
                    seated.serve();
                }
                seated.leave();
            });
            let (executed, acknowledged) = (executed.into_inner(), acknowledged.into_inner());
            assert_eq!(executed, acknowledged, "counted are those that executed it");
        }
    });
}

/// How many updates all cores of a runtime make together.
fn updates() -> u64 {
    scaled_up_to(320, 3_200, 100_000)
}

fn replicated_from_all_at_once(cores: usize) {
    watched("updates from all cores", || {
        let runtime = Runtime::builder().cores(cores).build().expect("a runtime");
        let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..cores).map(|_| AtomicU64::new(0)).collect());
        let value = runtime.handle().replicated(vec![0u64; cores]);
        let stopped = Arc::new(AtomicBool::new(false));
        let tasks = |core: usize| {
            let (value, acknowledged, stopped) = (value.clone(), acknowledged.clone(), stopped.clone());
            let (read_value, floors) = (value.clone(), acknowledged.clone());
            let reader = runtime.handle().spawn_on(CoreId::new(core), move || async move {
                let local = read_value.local();
                while !stopped.load(Ordering::Acquire) {
                    // One poll: what is acknowledged in the middle of it elsewhere cannot be, as this core has not.
                    for _ in 0..20 {
                        for (of, floor) in floors.iter().enumerate() {
                            let floor = floor.load(Ordering::Acquire);
                            let read = local.read(|value| value[of]);
                            assert!(read >= floor, "read {read} of core {of} after the acknowledgement of {floor}");
                        }
                    }
                    ipiq::yield_now().await;
                }
            });
            let updater = runtime.handle().spawn_on(CoreId::new(core), move || async move {
                for n in 1..=updates() / cores as u64 {
                    value.modify(|value| value[core] = n).await.expect("no panic");
                    acknowledged[core].store(n, Ordering::Release);
                }
            });
            (reader, updater)
        };
        let (readers, updaters): (Vec<_>, Vec<_>) = (0..cores).map(tasks).unzip();
        for updater in updaters {
            Runtime::wait(updater).expect("no panic");
        }
        stopped.store(true, Ordering::Release);
        for reader in readers {
            Runtime::wait(reader).expect("no stale read");
        }
        assert_eq!(*value.snapshot(), vec![updates() / cores as u64; cores], "no update was lost");
    });
}

#[test]
fn replicated_values_updated_by_two_cores_at_once_are_never_read_stale() {
    replicated_from_all_at_once(2);
}

#[test]
fn replicated_values_updated_by_four_cores_at_once_are_never_read_stale() {
    replicated_from_all_at_once(4);
}

#[test]
fn replicated_values_updated_by_sixteen_cores_at_once_are_never_read_stale() {
    replicated_from_all_at_once(16);
}

#[test]
fn an_update_waits_for_the_poll_that_runs_and_no_longer() {
    watched("an update and a long poll", || {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime");
        let value: Replicated<u32> = runtime.handle().replicated(1);
        let (in_poll, may_end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let poll = {
            let (value, in_poll, may_end) = (value.clone(), in_poll.clone(), may_end.clone());
            runtime.handle().spawn_on(CoreId::new(1), move || async move {
                let local = value.local();
                in_poll.store(true, Ordering::Release);
                while !may_end.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                let in_the_poll = local.get();
                ipiq::yield_now().await;
                (in_the_poll, local.get())
            })
        };
        while !in_poll.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let mut update = pin!(value.replace(2));
        // Core 0 has it long before core 1.
        while Runtime::wait(runtime.handle().call_on(CoreId::new(0), {
            let value = value.clone();
            move || value.local().get()
        }))
        .expect("no panic")
            != 2
        {}
        assert!(update.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        may_end.store(true, Ordering::Release);
        Runtime::wait(update).expect("no panic");
        assert_eq!(Runtime::wait(poll).expect("no panic"), (1, 2));
    });
}

#[test]
fn caches_filled_while_others_invalidate_never_serve_what_was_acknowledged_as_forgotten() {
    const KEYS: usize = 8;
    watched("caches", || {
        for cores in [2, 4, 16] {
            let runtime = Runtime::builder().cores(cores).build().expect("a runtime");
            let cache = runtime.handle().core_cache::<usize, u64>(KEYS / 2 + 2);
            let pages = Pages::new(KEYS);
            let stopped = Arc::new(AtomicBool::new(false));
            let reader = |core| {
                let (cache, pages, stopped) = (cache.clone(), pages.clone(), stopped.clone());
                runtime.handle().spawn_on(CoreId::new(core), move || async move {
                    let local = cache.local();
                    let fetched = Cell::new(0u64);
                    for key in (0..KEYS).cycle() {
                        if stopped.load(Ordering::Acquire) {
                            break;
                        }
                        let floor = pages.acknowledged[key].load(Ordering::Acquire);
                        let origin = || async {
                            fetched.set(fetched.get() + 1);
                            let value = pages.origin[key].load(Ordering::Acquire);
                            // The value is on its way: invalidations overtake it.
                            ipiq::yield_now().await;
                            value
                        };
                        let value = local.get_or_fetch(key, origin).await;
                        assert!(value >= floor, "key {key}: read {value} after the acknowledgement of {floor}");
                        ipiq::yield_now().await;
                    }
                    fetched.get()
                })
            };
            let writer = |core: usize| {
                let (cache, pages) = (cache.clone(), pages.clone());
                runtime.handle().spawn_on(CoreId::new(core), move || async move {
                    // Each key has one writer.
                    let own: Vec<usize> = (0..KEYS).filter(|key| key % cores == core).collect();
                    for n in 0..scaled_up_to(40, 400, 10_000) {
                        for &key in &own {
                            let value = pages.change(key);
                            match n % 5 {
                                0 => cache.invalidate_range(key..=key).await,
                                1 => cache.invalidate_all().await,
                                _ => cache.invalidate(key).await,
                            }
                            .expect("no panic");
                            pages.acknowledged[key].store(value, Ordering::Release);
                        }
                    }
                })
            };
            let readers: Vec<_> = (0..cores).map(reader).collect();
            for writer in (0..cores).map(writer).collect::<Vec<_>>() {
                Runtime::wait(writer).expect("no panic");
            }
            stopped.store(true, Ordering::Release);
            for reader in readers {
                assert!(Runtime::wait(reader).expect("no stale read") > 0);
            }
        }
    });
}

#[test]
fn foreign_threads_and_cores_update_at_once() {
    watched("foreign threads", || {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime");
        let value = runtime.handle().replicated(0u64);
        let rounds = scaled_up_to(200, 2_000, 20_000);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        Runtime::wait(value.modify(|n| *n += 1)).expect("no panic");
                    }
                });
            }
            let on_core = value.clone();
            let task = runtime.handle().spawn_on(CoreId::new(1), move || async move {
                let local = on_core.local();
                for _ in 0..rounds {
                    on_core.modify(|n| *n += 1).await.expect("no panic");
                }
                local.get()
            });
            assert!(Runtime::wait(task).expect("no panic") >= rounds);
        });
        assert_eq!(*value.snapshot(), 4 * rounds);
    });
}

#[test]
fn a_runtime_that_stops_while_updates_are_under_way_ends() {
    watched("the end of a runtime", || {
        for round in 0..scaled_up_to(20, 60, 500) {
            let runtime = Runtime::builder().cores(3).build().expect("a runtime");
            let value = runtime.handle().replicated(0u64);
            for core in 0..3 {
                let value = value.clone();
                drop(runtime.handle().spawn_on(CoreId::new(core), move || async move {
                    let _local = value.local();
                    loop {
                        let _ = value.modify(|n| *n += 1).await;
                        drop(ipiq::shootdown(|| ()));
                    }
                }));
            }
            if round % 2 == 0 {
                while *value.snapshot() < round {
                    std::thread::yield_now();
                }
            }
            let held = value.clone();
            let foreign = std::thread::spawn(move || while let Ok(()) = Runtime::wait(held.modify(|n| *n += 1)) {});
            drop(runtime);
            foreign.join().expect("it was told that the runtime has stopped");
        }
    });
}
