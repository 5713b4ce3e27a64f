//! Full rings, blocked targets, passive messages, sequences, and cores that leave under traffic.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::time::Duration;

use fastrand::Rng;
use ipiq_fabric::{Config, Core, CoreId, CoreSet, SendError, SpaceWait};
use ipiq_linux::port::FenceChoice;
use ipiq_suites::alone::alone;
use ipiq_suites::cores::{FENCES, on_cores};
use ipiq_suites::runtimes::Census;
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const BUSY: CoreId = CoreId::new(2);

fn config(cores: usize, ring_capacity: usize) -> Config {
    Config { cores, ring_capacity, first_index: u32::MAX - 100 }
}

fn each_fence(scenario: impl Fn(FenceChoice)) {
    FENCES.into_iter().for_each(scenario);
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Keeps the core that runs it, from `begun` on, for as long as `held` is set.
fn hold(begun: &AtomicBool, held: &AtomicBool) {
    begun.store(true, Ordering::Release);
    while held.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
}

#[test]
fn a_blocked_target_refuses_its_senders_and_slows_nobody_else() {
    alone("a_blocked_target_refuses_its_senders_and_slows_nobody_else", LIMIT, || {
        each_fence(|fence| [2, 16, 1024].into_iter().for_each(|capacity| blocked_target(fence, capacity)));
    });
}

fn blocked_target(fence: FenceChoice, capacity: usize) {
    const OTHERS: u64 = 20_000;
    thread_local!(static RECEIVED: Cell<u64> = const { Cell::new(0) });
    let count = |_: &Core, _: CoreId| RECEIVED.set(RECEIVED.get() + 1);
    let (begun, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let accepted = AtomicU64::new(0);
    let both = Barrier::new(2);
    let fabric = on_cores(config(3, capacity), fence, |seated| {
        let core = &seated.core;
        if core.id() == BUSY {
            seated.serve_until(|| !held.load(Ordering::Acquire));
            return seated.serve_until_all_are_done();
        }
        if core.id() == A {
            let (begun, held) = (begun.clone(), held.clone());
            core.try_send(BUSY, move |_, _| hold(&begun, &held)).map_err(drop).expect("an empty ring");
        }
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // Given a target that is in the middle of a long function, each sender is refused once the ring is full.
        let mut mine = 0;
        while let Ok(_sequence) = core.try_send(BUSY, count) {
            mine += 1;
            assert!(mine <= capacity as u64 * 2, "the ring never fills");
        }
        accepted.fetch_add(mine, Ordering::Relaxed);
        let (cx, mut wait) = (Context::from_waker(Waker::noop()), SpaceWait::default());
        assert!(core.poll_space(BUSY, &mut wait, &cx).is_pending());
        // The other pair goes on as if nothing were.
        let other = if core.id() == A { B } else { A };
        for _ in 0..OTHERS {
            core.send(other, count).map_err(drop).expect("nobody leaves");
        }
        seated.serve_until(|| RECEIVED.get() == OTHERS);
        assert!(seated.core.poll_space(BUSY, &mut wait, &cx).is_pending(), "still blocked");
        both.wait();
        held.store(false, Ordering::Release);
        // Space comes to who waited for it, asleep.
        while seated.core.poll_space(BUSY, &mut wait, &cx).is_pending() {
            if seated.serve() == 0 {
                seated.park(None);
            }
        }
        seated.core.try_send_in_turn(BUSY, count, &mut wait).map_err(drop).expect("its turn");
        accepted.fetch_add(1, Ordering::Relaxed);
        seated.serve_until_all_are_done();
    });
    let (from_a, from_b) = (fabric.pair_counters(A, BUSY), fabric.pair_counters(B, BUSY));
    // The function that held the target up is one more.
    assert_eq!(from_a.received + from_b.received, accepted.load(Ordering::Relaxed) + 1);
    assert_eq!((from_a.overflowed, from_b.overflowed), (0, 0), "nothing grew");
}

#[test]
fn blocking_sends_from_handlers_between_all_cores_end() {
    alone("blocking_sends_from_handlers_between_all_cores_end", LIMIT, || {
        each_fence(|fence| {
            for (cores, messages) in [(2, scaled(8_000, 80_000)), (4, scaled(1_500, 10_000)), (16, scaled(60, 300))] {
                [2, 4, 16].into_iter().for_each(|capacity| storm(fence, cores, capacity, messages));
            }
        });
    });
}

/// Every core sends to every other; each message is answered by a blocking send from its function, each answer by one more, and that one by
/// a third: three deep.
fn storm(fence: FenceChoice, cores: usize, capacity: usize, messages: u64) {
    const DEEP: u8 = 3;
    thread_local!(static SEEN: Cell<u64> = const { Cell::new(0) });
    fn see(core: &Core, source: CoreId, answers: u8) {
        SEEN.set(SEEN.get() + 1);
        if answers > 0 {
            let answer = move |core: &Core, source: CoreId| see(core, source, answers - 1);
            core.send(source, answer).map_err(drop).expect("nobody leaves");
        }
    }
    let fabric = on_cores(config(cores, capacity), fence, |seated| {
        let own = seated.id();
        for _ in 0..messages {
            for target in (0..cores).map(CoreId::new).filter(|&target| target != own) {
                let ask = move |core: &Core, source: CoreId| see(core, source, DEEP);
                seated.core.send(target, ask).map_err(drop).expect("nobody leaves");
            }
        }
        // Each of the others' messages, the answers to the own ones, the answers to the answers, and those to them.
        let expected = messages * (cores as u64 - 1) * u64::from(DEEP + 1);
        seated.serve_until(|| SEEN.get() >= expected);
        assert_eq!(SEEN.get(), expected);
        seated.serve_until_all_are_done();
    });
    let nesting = |core| fabric.core_counters(CoreId::new(core)).max_nesting;
    let deepest = (0..cores).map(nesting).max().unwrap_or_default();
    println!("{fence:?}, {cores} cores, {capacity} slots: {deepest} functions on one stack at most");
    assert!(deepest <= 20, "{deepest} functions on one stack");
}

#[test]
fn a_set_is_sent_to_once_per_core() {
    alone("a_set_is_sent_to_once_per_core", LIMIT, || {
        each_fence(|fence| {
            const CORES: usize = 4;
            const ROUNDS: u64 = 2_000;
            let seen = [const { AtomicU64::new(0) }; CORES].map(Arc::new);
            on_cores(config(CORES, 4), fence, |seated| {
                for _ in 0..ROUNDS {
                    let seen = seen.clone();
                    let note = move |core: &Core, _: CoreId| bump(&seen[core.id().index()]);
                    assert_eq!(seated.core.send_to_set(&CoreSet::first(CORES), note), CORES);
                }
                seated.serve_until_all_are_done();
            });
            seen.iter().for_each(|seen| assert_eq!(seen.load(Ordering::Relaxed), ROUNDS * CORES as u64));
        });
    });
}

#[test]
fn a_passive_message_reaches_a_sleeper_at_the_end_of_the_senders_tick() {
    alone("a_passive_message_reaches_a_sleeper_at_the_end_of_the_senders_tick", LIMIT, || {
        each_fence(|fence| {
            const ROUNDS: u64 = 5_000;
            thread_local!(static SEEN: Cell<u64> = const { Cell::new(0) });
            let count = |_: &Core, _: CoreId| SEEN.set(SEEN.get() + 1);
            let fabric = on_cores(config(2, 8), fence, |seated| {
                for round in 1..=ROUNDS {
                    // Given a core that sleeps until it is kicked, when the other one ends its tick, it wakes.
                    if seated.id() == A {
                        for _ in 0..3 {
                            seated.core.try_send_passive(B, count).map_err(drop).expect("space");
                        }
                        seated.core.flush();
                        seated.serve_until(|| SEEN.get() == round);
                    } else {
                        seated.serve_until(|| SEEN.get() == 3 * round);
                        seated.core.try_send(A, count).map_err(drop).expect("space");
                    }
                }
                seated.serve_until_all_are_done();
            });
            let pair = fabric.pair_counters(A, B);
            assert_eq!(pair.passive, 3 * ROUNDS);
            assert!(pair.repeated <= ROUNDS && pair.kicked == 0, "a tick kicks once: {pair:?}");
        });
    });
}

#[test]
fn a_passive_message_waits_for_a_busy_core_and_no_longer() {
    alone("a_passive_message_waits_for_a_busy_core_and_no_longer", LIMIT, || {
        each_fence(|fence| {
            let (begun, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
            let (seen, tick) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
            let fabric = on_cores(config(2, 8), fence, |seated| {
                if seated.id() == A {
                    // Given a core in the middle of a long function,
                    let (begun_there, held_there) = (begun.clone(), held.clone());
                    let busy = move |_: &Core, _: CoreId| hold(&begun_there, &held_there);
                    seated.core.try_send(B, busy).map_err(drop).expect("space");
                    while !begun.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    // when passive messages are sent to it,
                    for _ in 0..3 {
                        let seen = seen.clone();
                        seated.core.try_send_passive(B, move |_, _| bump(&seen)).map_err(drop).expect("space");
                    }
                    seated.core.flush();
                    tick.store(seated.fabric.core_counters(B).ticks, Ordering::Release);
                    held.store(false, Ordering::Release);
                } else {
                    seated.serve_until(|| seen.load(Ordering::Relaxed) > 0);
                    // then it sees them in the pass it is in, or the next one,
                    let passes = seated.fabric.core_counters(B).ticks - tick.load(Ordering::Acquire);
                    assert!(passes <= 1, "{passes} ticks");
                    assert_eq!(seen.load(Ordering::Relaxed), 3);
                }
                seated.serve_until_all_are_done();
            });
            // and is not kicked for them.
            let pair = fabric.pair_counters(A, B);
            assert_eq!((pair.passive, pair.repeated), (3, 0), "{pair:?}");
        });
    });
}

#[test]
fn what_has_executed_is_visible_to_who_waited_for_it() {
    alone("what_has_executed_is_visible_to_who_waited_for_it", LIMIT, || {
        each_fence(|fence| {
            // Both directions at once, past the wrap of the index at the hundredth message.
            let done = [const { AtomicU64::new(0) }; 2].map(Arc::new);
            on_cores(config(2, 4), fence, |seated| {
                let (own, peer) = (seated.id().index(), CoreId::new(1 - seated.id().index()));
                for round in 1..=5_000 {
                    let mut sequence = None;
                    for _ in 0..1 + round % 3 {
                        let done = done[own].clone();
                        let note = move |_: &Core, _: CoreId| bump(&done);
                        sequence = Some(seated.core.send(peer, note).map_err(drop).expect("nobody leaves"));
                    }
                    seated.core.wait_executed(peer, sequence.expect("one at least"));
                    let sent: u64 = (1..=round).map(|round| 1 + round % 3).sum();
                    assert_eq!(done[own].load(Ordering::Relaxed), sent);
                }
                seated.serve_until_all_are_done();
            });
        });
    });
}

#[test]
fn a_core_that_leaves_under_traffic_costs_no_payload() {
    alone("a_core_that_leaves_under_traffic_costs_no_payload", LIMIT, || {
        for seed in 0..scaled(400, 10_000) {
            departure(FENCES[seed as usize % 2], [2, 4, 64][seed as usize % 3], seed);
        }
    });
}

/// Two cores send to a third in every way there is until it has left; the third sends to them too.
fn departure(fence: FenceChoice, capacity: usize, seed: u64) {
    let census = Census::default();
    let ran = Arc::new(AtomicUsize::new(0));
    on_cores(config(3, capacity), fence, |seated| {
        let mut random = Rng::with_seed(seed * 3 + seated.id().index() as u64);
        if seated.id() == BUSY {
            let enough = random.u64(..200) as usize;
            let mut target = A;
            while ran.load(Ordering::Relaxed) < enough {
                let payload = census.token();
                let _ = seated.core.try_send(target, move |_, _| drop(payload));
                target = if target == A { B } else { A };
                if seated.core.drain(random.u64(..8) as u32 + 1) == 0 {
                    seated.core.flush();
                    seated.park(Some(50_000));
                }
            }
            // It leaves here, with full rings in both directions.
            return seated.leave();
        }
        let mut gone = false;
        while !gone {
            let (payload, large) = (census.token(), [0_u64; 16]);
            let seen = ran.clone();
            let small = move |_: &Core, _: CoreId| drop((payload, seen.fetch_add(1, Ordering::Relaxed)));
            gone = match random.u64(..5) {
                0 => matches!(seated.core.try_send(BUSY, small), Err(SendError::Gone(_))),
                1 => matches!(seated.core.try_send_passive(BUSY, small), Err(SendError::Gone(_))),
                2 => {
                    let large = move |core: &Core, source: CoreId| {
                        std::hint::black_box(&large);
                        small(core, source);
                    };
                    seated.core.send(BUSY, large).is_err()
                }
                3 => {
                    seated.core.send_or_list(BUSY, small);
                    false
                }
                _ => {
                    seated.serve();
                    false
                }
            };
        }
        seated.serve_until_all_are_done();
    });
    assert_eq!(census.alive(), 0, "seed {seed}: a payload is lost");
}
