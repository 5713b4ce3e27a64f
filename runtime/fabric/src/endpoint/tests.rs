//! What the kernels' sources promise of sends and drains, in exact figures, on one thread.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::{Context, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;

use crate::call::PendingCall;
use crate::tests::machine::{Awake, Script};
use crate::tests::{cores, reached, reaching};
use crate::{Config, Core, CoreId, CoreSet, Fabric, Seat, SendError, SpaceWait};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

std::thread_local! {
    /// Turns of wait loops.
    static TURNS: Cell<u32> = const { Cell::new(0) };
    /// Kicks, by target.
    static KICKS: RefCell<Vec<CoreId>> = const { RefCell::new(Vec::new()) };
}

/// A machine in which, whenever core 0 waits, core 1 runs one message.
struct OneByOne;

impl Script for OneByOne {
    fn kick(&self, target: CoreId) {
        KICKS.with_borrow_mut(|kicks| kicks.push(target));
    }
    fn relax(&self, _turn: u32) {
        TURNS.set(TURNS.get() + 1);
        assert_eq!(reached(1).expect("the target").drain_all(1), 1, "a wait without a reason");
    }
}

fn one_by_one(capacity: usize, scenario: impl FnOnce(&Fabric, &Core, &Core)) {
    let config = Config { cores: 2, ring_capacity: capacity, first_index: u32::MAX - 4 };
    let (fabric, seats) = Fabric::new(config, Arc::new(Awake(OneByOne))).expect("a valid configuration");
    TURNS.set(0);
    KICKS.take();
    reaching(seats.into_iter().map(Seat::enter).collect(), || {
        let (a, b): (Rc<Core>, Rc<Core>) = (reached(0).expect("core 0"), reached(1).expect("core 1"));
        scenario(&fabric, &a, &b);
    });
}

fn send(core: &Core, target: CoreId) {
    core.send(target, |_, _| ()).map_err(drop).expect("nobody leaves");
}

#[test]
fn a_synchronous_send_begins_to_wait_above_half_and_ends_at_a_quarter() {
    for capacity in [16, 32] {
        one_by_one(capacity, |fabric, a, b| {
            let half = capacity as u32 / 2;
            (0..=half).for_each(|_| send(a, B));
            assert_eq!(TURNS.get(), 0, "{capacity}: with half the ring in use before it, a send does not wait");
            send(a, B);
            assert_eq!(TURNS.get(), half + 1 - capacity as u32 / 4, "{capacity}: until a quarter is in use");
            assert_eq!(fabric.pair_counters(A, B).full, 1, "once for the whole wait");
            assert_eq!(b.drain_all(u32::MAX), capacity / 4 + 1);
        });
    }
}

#[test]
fn a_nested_synchronous_send_waits_at_all_but_three_slots_until_all_but_five() {
    for capacity in [16, 32] {
        one_by_one(capacity, |fabric, a, b| {
            let capacity = capacity as u32;
            let nested = move |core: &Core, source: CoreId| {
                assert_eq!(core.nesting(), 1);
                (0..capacity - 2).for_each(|_| send(core, source));
                assert_eq!(TURNS.get(), 0, "{capacity}: up to all but three in use, it does not wait");
                send(core, source);
                assert_eq!(TURNS.get(), 3, "{capacity}: from all but two to all but five");
            };
            b.try_send(A, nested).map_err(drop).expect("space");
            a.drain_all(1);
            assert_eq!(fabric.pair_counters(A, B).full, 1);
        });
    }
}

#[test]
fn a_spare_send_is_refused_from_two_thirds_full_on() {
    for (capacity, accepted) in [(16, 10), (32, 21), (2, 1), (1 << 12, 2730)] {
        let (fabric, cores) = cores(2, capacity);
        let spare = || cores[0].try_send_spare(B, |_, _| ());
        for _ in 0..accepted {
            spare().map_err(drop).expect("below two thirds");
        }
        assert!(spare().expect_err("two thirds are in use").is_full());
        cores[0].try_send(B, |_, _| ()).map_err(drop).expect("others find the rest");
        assert_eq!(fabric.pair_counters(A, B).full, 1);
        cores[1].drain_all(2);
        spare().map_err(drop).expect("below two thirds again");
    }
}

#[test]
fn every_way_to_send_to_the_own_core_runs_inside_the_call_and_is_not_counted() {
    let (fabric, cores) = cores(2, 4);
    let core = &cores[0];
    let ran = Arc::new(AtomicU32::new(0));
    let note = || {
        let ran = ran.clone();
        move |core: &Core, source: CoreId| {
            assert_eq!((core.id(), source), (A, A));
            ran.fetch_add(1, Ordering::Relaxed);
        }
    };
    let seen = |times| assert_eq!(ran.load(Ordering::Relaxed), times);
    core.try_send(A, note()).map_err(drop).expect("inline");
    seen(1);
    core.try_send_passive(A, note()).map_err(drop).expect("inline");
    seen(2);
    core.try_send_spare(A, note()).map_err(drop).expect("inline");
    seen(3);
    let mut wait = SpaceWait::default();
    core.try_send_in_turn(A, note(), &mut wait).map_err(drop).expect("inline");
    seen(4);
    let sequence = core.send(A, note()).map_err(drop).expect("inline");
    seen(5);
    assert!(core.has_executed(A, sequence));
    core.wait_executed(A, core.sequence(A));
    core.send_or_list(A, note());
    seen(6);
    assert_eq!(core.send_to_set(&CoreSet::first(1), note()), 1);
    seen(7);
    assert_eq!(fabric.pair_counters(A, A), crate::PairCounters::default());
}

#[test]
fn a_set_is_walked_from_the_next_core_on_and_the_own_one_comes_last() {
    let config = Config { cores: 5, ring_capacity: 8, first_index: 0 };
    let (_fabric, seats) = Fabric::new(config, Arc::new(Awake(OneByOne))).expect("a valid configuration");
    let mut cores: Vec<_> = seats.into_iter().map(Seat::enter).collect();
    // Core 3 has left.
    cores.remove(3);
    cores.iter().for_each(|core| _ = core.flush());
    KICKS.take();
    let armed: Vec<_> = [0, 1, 3].iter().map(|&core| cores[core].arm(|| true).expect("nothing waits")).collect();
    let order = Arc::new(Mutex::new(Vec::new()));
    let own = CoreId::new(2);
    let note = |order: &Arc<Mutex<Vec<usize>>>| {
        let order = order.clone();
        move |core: &Core, _: CoreId| order.lock().expect("not poisoned").push(core.id().index())
    };
    let all = CoreSet::first(5);
    assert_eq!(cores[2].send_to_set(&all, note(&order)), 4, "all but the one that has left");
    assert_eq!(*order.lock().expect("not poisoned"), [2], "the own one has run it, the others will");
    assert_eq!(KICKS.take(), [4, 0, 1].map(CoreId::new));
    drop(armed);
    let mut others = all;
    others.remove(own);
    assert_eq!(cores[2].send_to_set(&others, note(&order)), 3, "without the own core");
    assert_eq!(cores[2].send_to_set(&CoreSet::empty(), note(&order)), 0);
    assert_eq!(cores.iter().map(|core| core.drain(64)).collect::<Vec<_>>(), [2, 2, 0, 2]);
}

#[test]
fn a_sequence_is_not_executed_while_its_function_runs_a_later_message() {
    let (_fabric, cores) = cores(2, 8);
    reaching(cores, || {
        let (source, target) = (reached(0).expect("the source"), reached(1).expect("the target"));
        let outer = |core: &Core, _: CoreId| {
            let source = reached(0).expect("the source");
            assert_eq!(core.drain_all(64), 1, "the later message, inside this one");
            let last = source.sequence(B);
            let first = super::Sequence(last.0.wrapping_sub(1));
            assert!(!source.has_executed(B, first), "this one has not ended");
            assert!(!source.has_executed(B, last), "nor do later ones count before it");
        };
        let first = source.try_send(B, outer).map_err(drop).expect("space");
        let last = source.try_send(B, |_, _| ()).map_err(drop).expect("space");
        target.drain_all(64);
        assert!(source.has_executed(B, first) && source.has_executed(B, last));
    });
}

#[test]
fn the_sequence_of_a_pair_that_never_talked_has_executed_and_stays_so() {
    // Near the wrap, where a sequence of 0 would lie ahead.
    let (_fabric, cores) = cores(2, 8);
    let before = cores[0].sequence(B);
    assert!(cores[0].has_executed(B, before));
    cores[0].try_send(B, |_, _| ()).map_err(drop).expect("space");
    assert!(cores[0].has_executed(B, before) && !cores[0].has_executed(B, cores[0].sequence(B)));
    cores[1].drain(64);
    cores[0].synchronize_blocking();
}

#[test]
fn each_message_is_announced_in_one_of_three_ways() {
    let (fabric, mut cores) = cores(3, 4);
    let target = cores.pop().expect("three cores");
    let id = target.id();
    let mut random = 7_u32;
    for round in 0..2_000 {
        let core = &cores[round % 2];
        let armed = if round % 3 == 0 { target.arm(|| true) } else { None };
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match random >> 29 {
            0 => drop(core.try_send(id, |_, _| ())),
            1 => drop(core.try_send_passive(id, |_, _| ())),
            2 => drop(core.try_send_spare(id, |_, _| ())),
            3 => core.send_or_list(id, |_, _| ()),
            4 => drop(PendingCall::new(core, id, || ())),
            // One that drains inside itself.
            5 => drop(core.try_send(id, |core, _| _ = core.drain_all(64))),
            6 => drop(target.try_send(core.id(), |_, _| ())),
            _ => _ = core.flush(),
        }
        drop(armed);
        if random >> 27 & 3 == 0 {
            target.drain(64);
            target.flush();
            core.drain(64);
            core.flush();
        }
    }
    while cores.iter().chain([&target]).map(|core| core.drain_all(64) + core.flush()).sum::<usize>() > 0 {}
    let mut kicked = 0;
    for (source, target) in [(A, id), (B, id), (id, A), (id, B)] {
        let pair = fabric.pair_counters(source, target);
        assert_eq!(pair.sent, pair.avoided + pair.kicked + pair.passive, "{source} to {target}: {pair:?}");
        assert!(pair.sent > 100, "{pair:?}");
        kicked += pair.kicked;
    }
    assert!(kicked > 100);
}

#[test]
fn a_passive_message_disturbs_no_busy_target_and_wakes_a_sleeping_one_at_the_flush() {
    one_by_one(8, |fabric, a, b| {
        let kicks = || KICKS.take().len();
        let passive = || _ = a.try_send_passive(B, |_, _| ()).map_err(drop).expect("space");
        // Busy: it does not look until it is done, and then sees the message in its first tick.
        passive();
        a.flush();
        assert_eq!((kicks(), b.drain(64)), (0, 1));
        // Asleep when the message is sent, and when the sender ends its tick.
        let armed = b.arm(|| true).expect("nothing waits");
        passive();
        passive();
        assert_eq!(kicks(), 0);
        a.flush();
        assert_eq!(kicks(), 1, "one for both");
        drop(armed);
        assert_eq!(b.drain(64), 2);
        // Falling asleep between the send and the flush: it looks at every ring first.
        passive();
        assert!(b.arm(|| true).is_none());
        assert_eq!(b.drain(64), 1);
        assert!(a.arm(|| true).is_none(), "the sender flushes before it sleeps");
        a.flush();
        assert!(a.arm(|| true).is_some());
        assert_eq!(fabric.pair_counters(A, B).repeated, 1);
    });
}

#[test]
fn a_source_that_keeps_its_ring_filled_holds_a_pass_no_longer_than_the_budget() {
    one_by_one(4, |_, a, b| {
        fn again(_: &Core, _: CoreId) {
            reached(0).expect("the source").try_send(B, again).map_err(drop).expect("the slot just left");
        }
        a.try_send(B, again).map_err(drop).expect("space");
        assert_eq!(b.drain(8), 8);
        assert_eq!(b.drain_all(3), 3);
    });
}

#[test]
fn at_most_twenty_functions_wait_inside_each_other() {
    one_by_one(64, |fabric, a, b| {
        // Each message to core 0 sends more than fits, and finds the next such message while it waits.
        let greedy = |core: &Core, source: CoreId| (0..80).for_each(|_| send(core, source));
        for _ in 0..60 {
            b.send_or_list(A, greedy);
        }
        while a.drain_all(64) + a.flush() + b.drain_all(64) + b.flush() > 0 {}
        assert_eq!(fabric.core_counters(A).max_nesting, 20);
        assert_eq!(fabric.pair_counters(A, B).received, 60 * 80);
    });
}

#[test]
fn a_panic_in_a_messages_function_reaches_who_drains_and_holds_up_nobody() {
    let (fabric, cores) = cores(2, 4);
    let ran = Arc::new(AtomicU32::new(0));
    let hook = std::panic::take_hook();
    std::panic::set_hook(std::boxed::Box::new(|_| ()));
    cores[0].try_send(B, |_, _| std::panic::panic_any("a function's panic")).map_err(drop).expect("space");
    let broken = cores[0].sequence(B);
    let note = ran.clone();
    let count = move |_: &Core, _: CoreId| _ = note.fetch_add(1, Ordering::Relaxed);
    for _ in 0..3 {
        cores[0].try_send(B, count.clone()).map_err(drop).expect("space");
    }
    let mut wait = SpaceWait::default();
    assert!(cores[0].poll_space(B, &mut wait, &Context::from_waker(Waker::noop())).is_pending());
    let armed = cores[0].arm(|| true).expect("it waits for space");
    assert!(catch_unwind(AssertUnwindSafe(|| cores[1].drain(64))).is_err());
    std::panic::set_hook(hook);
    assert!(cores[0].has_executed(B, broken), "who waits for it is released");
    assert!(armed.is_kicked(), "who sleeps for space is woken");
    drop(armed);
    assert_eq!((cores[1].nesting(), cores[1].drain(64)), (0, 3), "the others run");
    assert_eq!((ran.load(Ordering::Relaxed), fabric.pair_counters(A, B).received), (3, 4));
    cores[0].end_wait(&mut wait);
}

#[test]
fn a_full_ring_refuses_each_kind_of_try_and_gives_the_closure_back() {
    let (fabric, cores) = cores(2, 2);
    let token = Arc::new(());
    let held = || {
        let token = token.clone();
        move |_: &Core, _: CoreId| drop(token)
    };
    for _ in 0..2 {
        cores[0].try_send(B, held()).map_err(drop).expect("space");
    }
    let refused = [
        cores[0].try_send(B, held()).map(drop),
        cores[0].try_send_passive(B, held()).map(drop),
        cores[0].try_send_spare(B, held()).map(drop),
    ];
    for refusal in refused {
        let Err(SendError::Full(f)) = refusal else { panic!("it was taken") };
        f(&cores[0], A);
    }
    assert_eq!((Arc::strong_count(&token), fabric.pair_counters(A, B).full), (3, 3));
}
