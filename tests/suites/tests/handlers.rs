//! Handlers, the mailbox and doorbells on real threads: nothing told is lost, nothing runs too late, nothing waits for ever.
//!
//! At full size: a million triggers on each of 2, 4 and 16 cores, half of them with either fence; a million of threads that are no cores; two
//! million rings.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use ipiq::ipi::{self, Doorbell};
use ipiq::{CoreId, CoreSet, IdlePolicy, Runtime, core_id, spawn_local, yield_now};
use ipiq_fabric::handlers::{HandlerId, TriggerError};
use ipiq_fabric::{Config, Core, Fabric, PanicPayload};
use ipiq_linux::port::FenceChoice;
use ipiq_suites::alone::alone;
use ipiq_suites::cores::{FENCES, Seated, on_cores};
use ipiq_suites::runtimes::{Census, each_kind};
use ipiq_suites::scale::{scaled, scaled_up_to};

const LIMIT: Duration = Duration::from_secs(120);
const CORES: [usize; 3] = [2, 4, 16];

fn config(cores: usize) -> Config {
    Config { cores, ring_capacity: 16, ..Config::default() }
}

fn each_shape(scenario: impl Fn(FenceChoice, usize)) {
    for fence in FENCES {
        CORES.into_iter().for_each(|cores| scenario(fence, cores));
    }
}

fn no_panic(core: &Core, _: PanicPayload) {
    panic!("a handler panicked on {}", core.id());
}

/// Registers on one core, for all of them.
fn register_once(
    seated: &Seated<'_>,
    id: &Mutex<Option<HandlerId>>,
    f: impl FnOnce(&Fabric) -> HandlerId,
) -> HandlerId {
    *id.lock().expect("not poisoned").get_or_insert_with(|| f(&seated.core.fabric()))
}

/// What each source last told each target of, and what the target last saw: written and read relaxed, so that only the triggers order it.
struct Told {
    cores: usize,
    told: Vec<AtomicU64>,
    seen: Vec<AtomicU64>,
}

impl Told {
    fn new(cores: usize) -> Arc<Self> {
        let words = || (0..cores * cores).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { cores, told: words(), seen: words() })
    }

    fn pair(&self, source: CoreId, target: CoreId) -> usize {
        target.index() * self.cores + source.index()
    }

    fn look(&self, target: CoreId) {
        for pair in target.index() * self.cores..(target.index() + 1) * self.cores {
            let told = self.told[pair].load(Ordering::Relaxed);
            self.seen[pair].store(told, Ordering::Release);
        }
    }
}

#[test]
fn no_trigger_is_lost() {
    alone("no_trigger_is_lost", LIMIT, || {
        each_shape(|fence, cores| triggers(fence, cores, scaled_up_to(20_000, 500_000, 1_000_000)));
    });
}

/// Every core triggers the others at random and now and then waits, asleep or not, until its last trigger was seen: nothing else would make
/// the target look.
fn triggers(fence: FenceChoice, cores: usize, triggers: usize) {
    let (told, id) = (Told::new(cores), Mutex::new(None));
    let fabric = on_cores(config(cores), fence, |seated| {
        let own = seated.id();
        let id = register_once(seated, &id, |fabric| {
            let told = told.clone();
            let id = fabric.register_handler(move |core| told.look(core.id()), no_panic);
            id.expect("a free slot")
        });
        let mut random = Rng::with_seed(own.index() as u64);
        let waits = if cores > 2 { 64 } else { 4 };
        for number in 1..=(triggers / cores) as u64 {
            let target = CoreId::new((own.index() + random.usize(1..cores)) % cores);
            let pair = told.pair(own, target);
            told.told[pair].store(number, Ordering::Relaxed);
            seated.core.trigger(id, target).expect("live");
            if random.usize(..waits) == 0 {
                let mut turn = 0;
                while told.seen[pair].load(Ordering::Acquire) < number {
                    seated.serve();
                    seated.core.port().relax(turn);
                    turn += 1;
                }
            } else if random.usize(..16) == 0 {
                seated.serve();
                seated.park(Some(random.u64(..50_000)));
            }
        }
        // Nobody triggers any more when all have come here, but everyone must still see.
        let all_seen = |told: &Told| {
            (0..cores).all(|pair| {
                let pair = own.index() * cores + pair;
                told.seen[pair].load(Ordering::Acquire) == told.told[pair].load(Ordering::Acquire)
            })
        };
        seated.serve_until_all_are_done();
        assert!(all_seen(&told), "{own} has not seen every trigger");
    });
    let runs: u64 = (0..cores).map(|core| fabric.core_counters(CoreId::new(core)).handlers_run).sum();
    assert!(runs > 0 && runs <= triggers as u64);
}

#[test]
fn no_trigger_of_a_foreign_thread_is_lost() {
    alone("no_trigger_of_a_foreign_thread_is_lost", LIMIT, || {
        each_kind(|builder| {
            const THREADS: usize = 3;
            let runtime = builder.cores(2).idle(IdlePolicy::Park).build().expect("a runtime");
            let told = Arc::new([const { AtomicU64::new(0) }; THREADS]);
            let seen = Arc::new([const { [const { AtomicU64::new(0) }; THREADS] }; 2]);
            let handler = runtime.handle().register_handler({
                let (told, seen) = (told.clone(), seen.clone());
                move |core| {
                    for (told, seen) in told.iter().zip(&seen[core.index()]) {
                        seen.store(told.load(Ordering::Relaxed), Ordering::Release);
                    }
                }
            });
            let handler = handler.expect("a free slot");
            thread::scope(|scope| {
                for own in 0..THREADS {
                    let (trigger, told, seen) = (handler.to_trigger(), &told, &seen);
                    scope.spawn(move || {
                        for number in 1..=scaled(2_000, 1_000_000 / 12) {
                            told[own].store(number, Ordering::Relaxed);
                            let core = (own + number as usize) % 2;
                            trigger.trigger(CoreId::new(core)).expect("live");
                            while number % 2 == 0 && seen[core][own].load(Ordering::Acquire) < number {
                                thread::yield_now();
                            }
                        }
                    });
                }
            });
            Runtime::wait(handler.unregister());
        });
    });
}

/// A handler's life: what it was told, and whether it has ended.
#[derive(Default)]
struct Life {
    runs: AtomicU64,
    accepted: AtomicU64,
    ended: AtomicBool,
}

#[test]
fn gap_n2_handlers_registered_and_unregistered_under_triggers_run_never_too_late() {
    alone("gap_n2_handlers_registered_and_unregistered_under_triggers_run_never_too_late", LIMIT, || {
        each_shape(|fence, cores| lives(fence, cores, (scaled(600, 50_000) / (cores * cores)).max(8)));
    });
}

/// The first core registers and unregisters; the others, and two threads that are no cores, trigger whatever there is.
fn lives(fence: FenceChoice, cores: usize, lives: usize) {
    type Current = Mutex<Option<(HandlerId, Arc<Life>)>>;
    fn trigger(current: &Current, trigger: impl Fn(HandlerId) -> Result<(), TriggerError>) {
        let Some((id, life)) = current.lock().expect("not poisoned").clone() else { return };
        match trigger(id) {
            Ok(()) => {
                life.accepted.fetch_add(1, Ordering::AcqRel);
            }
            Err(error) => assert_eq!(error, TriggerError::Unregistered),
        }
    }
    let current: Current = Mutex::new(None);
    let (fabric_of, over) = (Mutex::new(None), AtomicBool::new(false));
    thread::scope(|scope| {
        for thread in 0..2 {
            let (current, fabric_of, over) = (&current, &fabric_of, &over);
            scope.spawn(move || {
                let mut random = Rng::with_seed(thread);
                while !over.load(Ordering::Acquire) {
                    let fabric: Option<Fabric> = fabric_of.lock().expect("not poisoned").clone();
                    if let Some(fabric) = fabric {
                        let target = CoreId::new(random.usize(..cores));
                        trigger(current, |id| fabric.trigger(id, target));
                    }
                    thread::yield_now();
                }
                fabric_of.lock().expect("not poisoned").take();
            });
        }
        let ended = AtomicBool::new(false);
        on_cores(config(cores), fence, |seated| {
            let mut random = Rng::with_seed(seated.id().index() as u64 + 7);
            if seated.id().index() > 0 {
                let mut turn = 0;
                while !ended.load(Ordering::Acquire) {
                    let target = CoreId::new(random.usize(..cores));
                    trigger(&current, |id| seated.core.trigger(id, target));
                    seated.serve();
                    turn += 1;
                    if turn % 16 == 0 {
                        thread::yield_now();
                    }
                }
                return seated.serve_until_all_are_done();
            }
            let fabric = seated.core.fabric();
            *fabric_of.lock().expect("not poisoned") = Some(fabric.clone());
            for number in 0..lives {
                let life = Arc::new(Life::default());
                let (own, token) = (life.clone(), Arc::new(()));
                let held = token.clone();
                let run = move |_: &Core| {
                    let _held = &held;
                    assert!(!own.ended.load(Ordering::Acquire), "it runs after its end");
                    own.runs.fetch_add(1, Ordering::AcqRel);
                };
                let id = fabric.register_handler(run, no_panic).expect("a free slot");
                *current.lock().expect("not poisoned") = Some((id, life.clone()));
                for _ in 0..random.u32(..4) {
                    seated.serve();
                    thread::yield_now();
                }
                if number % 2 == 0 {
                    seated.core.unregister_handler(id).expect("live");
                } else {
                    let mut ending = pin!(fabric.unregister_handler(id).expect("live"));
                    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                    while Future::poll(ending.as_mut(), &mut cx).is_pending() {
                        seated.serve();
                        thread::yield_now();
                    }
                }
                life.ended.store(true, Ordering::Release);
                assert!(life.accepted.load(Ordering::Acquire) == 0 || life.runs.load(Ordering::Acquire) > 0);
                assert_eq!(Arc::strong_count(&token), 1, "the function was dropped");
            }
            ended.store(true, Ordering::Release);
            seated.serve_until_all_are_done();
        });
        over.store(true, Ordering::Release);
    });
}

#[test]
fn gap_n3_broadcasts_of_all_cores_at_once_through_full_mailboxes_end() {
    alone("gap_n3_broadcasts_of_all_cores_at_once_through_full_mailboxes_end", LIMIT, || {
        each_shape(|fence, cores| broadcasts(fence, cores, scaled(4_000, 100_000) / (cores * cores)));
    });
}

/// Every core broadcasts to all, itself included; now and then the function sends one on, and waits for it, on the core that runs it.
fn broadcasts(fence: FenceChoice, cores: usize, broadcasts: usize) {
    thread_local!(static RAN: Cell<usize> = const { Cell::new(0) });
    let total = AtomicUsize::new(0);
    let fabric = on_cores(config(cores), fence, |seated| {
        let core = &seated.core;
        for number in 0..broadcasts {
            let local = AtomicUsize::new(0);
            let next = CoreId::new((core.id().index() + 1) % cores);
            let ran = core.broadcast(true, |core| {
                local.fetch_add(1, Ordering::Relaxed);
                RAN.set(RAN.get() + 1);
                if number % 8 == 0 && core.id() == next {
                    let onward = CoreId::new((core.id().index() + 1) % cores);
                    core.unicast(onward, |_| RAN.set(RAN.get() + 1)).expect("nobody leaves");
                }
            });
            assert_eq!(ran.expect("no panic"), cores);
            assert_eq!(local.into_inner(), cores, "each core once, and seen");
        }
        seated.serve_until_all_are_done();
        total.fetch_add(RAN.get(), Ordering::Relaxed);
    });
    assert_eq!(total.into_inner(), cores * (broadcasts * cores + broadcasts.div_ceil(8)));
    let full: u64 = (0..cores).map(|core| fabric.core_counters(CoreId::new(core)).mailbox_full).sum();
    println!("{fence:?}, {cores} cores: {full} of {} messages found a mailbox full", cores * cores * broadcasts);
}

#[test]
fn messages_to_cores_that_leave_under_them_are_all_answered() {
    alone("messages_to_cores_that_leave_under_them_are_all_answered", LIMIT, || {
        each_shape(|fence, cores| {
            for round in 0..scaled(4, 50) {
                let ran = AtomicUsize::new(0);
                on_cores(config(cores), fence, |seated| {
                    let own = seated.id().index();
                    // All but the last leave, the earlier the lower.
                    for _ in 0..(own + 1) * (round % 7 + 1) {
                        let answered = seated.core.broadcast(false, |_| {
                            ran.fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(answered.expect("no panic") < cores);
                        seated.serve();
                    }
                });
            }
        });
    });
}

/// What producers have put into a core's queue, and a doorbell for it.
struct Channel {
    queued: [AtomicU64; 2],
    doorbell: Doorbell,
}

#[test]
fn no_ring_of_a_doorbell_is_lost() {
    alone("no_ring_of_a_doorbell_is_lost", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).idle(IdlePolicy::Park).build().expect("a runtime");
            let rings: u64 = scaled(4_000, 1_000_000 / 4);
            let queued = [const { AtomicU64::new(0) }; 2];
            let channel = Arc::new(Channel { queued, doorbell: runtime.handle().doorbell() });
            let consumers: Vec<_> = (0..2)
                .map(|core| {
                    let channel = channel.clone();
                    runtime.handle().spawn_on(CoreId::new(core), move || consume(channel, rings))
                })
                .collect();
            let producers: Vec<_> = (0..2)
                .map(|core| {
                    let channel = channel.clone();
                    runtime.handle().spawn_on(CoreId::new(core), move || async move {
                        for number in 0..rings / 2 {
                            put(&channel, CoreId::new((core_id().index() + number as usize) % 2));
                            if number % 5 == 0 {
                                yield_now().await;
                            }
                        }
                    })
                })
                .collect();
            thread::scope(|scope| {
                for thread in 0..2 {
                    let channel = &channel;
                    scope.spawn(move || {
                        for number in 0..rings / 2 {
                            let core = (thread + number as usize) % 2;
                            put(channel, CoreId::new(core));
                            // No next ring makes up for this one, if it is lost.
                            while number % 3 == 0 && channel.queued[core].load(Ordering::Acquire) > 0 {
                                thread::yield_now();
                            }
                        }
                    });
                }
            });
            producers.into_iter().for_each(|producer| Runtime::wait(producer).expect("no panic"));
            let consumed: u64 = consumers.into_iter().map(|task| Runtime::wait(task).expect("no panic")).sum();
            assert_eq!(consumed, rings * 2);
        });
    });
}

fn put(channel: &Channel, core: CoreId) {
    channel.queued[core.index()].fetch_add(1, Ordering::Relaxed);
    channel.doorbell.ring(core);
}

/// Takes what there is at each notification, until `items` have come; gives up now and then, and waits again.
async fn consume(channel: Arc<Channel>, items: u64) -> u64 {
    let mut consumed = 0;
    while consumed < items {
        let mut notified = channel.doorbell.notified();
        if consumed % 7 == 0 {
            // A wait that is dropped after one poll, which may have been the one that was to be woken.
            let polled = poll_fn(|cx| Poll::Ready(Future::poll(pin!(&mut notified), cx))).await;
            drop(notified);
            if polled.is_pending() {
                channel.doorbell.notified().await;
            }
        } else {
            notified.await;
        }
        consumed += channel.queued[core_id().index()].swap(0, Ordering::Relaxed);
    }
    consumed
}

#[test]
fn several_tasks_of_a_core_share_a_doorbell_and_each_ring_serves_one() {
    alone("several_tasks_of_a_core_share_a_doorbell_and_each_ring_serves_one", LIMIT, || {
        each_kind(|builder| {
            const TASKS: usize = 8;
            let runtime = builder.cores(1).build().expect("a runtime");
            let served = runtime.block_on(|| async {
                let doorbell = Doorbell::new();
                let tasks: Vec<_> = (0..TASKS)
                    .map(|_| {
                        let doorbell = doorbell.clone();
                        spawn_local(async move { doorbell.notified().await })
                    })
                    .collect();
                yield_now().await;
                let mut served = Vec::new();
                for ring in 1..=TASKS {
                    doorbell.ring(core_id());
                    while tasks.iter().filter(|task| task.is_finished()).count() < ring {
                        yield_now().await;
                    }
                    for _ in 0..10 {
                        yield_now().await;
                    }
                    served.push(tasks.iter().filter(|task| task.is_finished()).count());
                }
                served
            });
            assert_eq!(served, (1..=TASKS).collect::<Vec<_>>());
        });
    });
}

#[test]
fn broadcasts_of_tasks_on_all_cores_at_once_are_all_answered() {
    alone("broadcasts_of_tasks_on_all_cores_at_once_are_all_answered", LIMIT, || {
        each_kind(|builder| {
            const CORES: usize = 4;
            const TASKS: usize = 8;
            let runtime = builder.cores(CORES).build().expect("a runtime");
            let rounds = scaled(30, 1_000);
            let ran = Arc::new(AtomicUsize::new(0));
            let senders: Vec<_> = (0..CORES * TASKS)
                .map(|sender| {
                    let ran = ran.clone();
                    runtime.handle().spawn_on(CoreId::new(sender % CORES), move || async move {
                        for _ in 0..rounds {
                            let ran = ran.clone();
                            let cores = ipi::broadcast(move |_| {
                                ran.fetch_add(1, Ordering::Relaxed);
                            });
                            assert_eq!(cores.await.expect("no panic"), CORES);
                        }
                    })
                })
                .collect();
            let all = CoreSet::first(CORES);
            for _ in 0..rounds {
                let ran = ran.clone();
                let message = runtime.handle().multicast(&all, move |_| {
                    ran.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(Runtime::wait(message).expect("no panic"), CORES);
            }
            senders.into_iter().for_each(|sender| Runtime::wait(sender).expect("no panic"));
            assert_eq!(ran.load(Ordering::Relaxed), rounds * CORES * (CORES * TASKS + 1));
        });
    });
}

#[test]
fn a_panicking_handler_reaches_nobody_and_a_dropped_runtime_drops_every_handler() {
    alone("a_panicking_handler_reaches_nobody_and_a_dropped_runtime_drops_every_handler", LIMIT, || {
        each_kind(|builder| {
            let census = Census::default();
            let runtime = builder.cores(2).build().expect("a runtime");
            let handle = runtime.handle();
            // The function holds the runtime it is registered with, and its own trigger.
            let held = (census.token(), handle.clone());
            let handler = handle.register_handler(move |core| {
                let _held = &held;
                assert_eq!(core.index(), 0, "only there");
            });
            let handler = handler.expect("a free slot");
            let trigger = handler.to_trigger();
            let there = CoreId::new(1);
            for panics in 1..=3 {
                assert_eq!(handler.trigger_all(), Ok(2));
                while handle.core_counters(there).handler_panics < panics {
                    thread::yield_now();
                }
            }
            assert_eq!(Runtime::wait(handle.call_on(there, core_id)).expect("it goes on"), there);
            drop(runtime);
            assert_eq!(census.alive(), 0);
            trigger.trigger(there).expect_err("nobody is there");
            Runtime::wait(handler.unregister());
        });
    });
}
