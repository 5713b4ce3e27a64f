//! On one thread, where no other core acts between two lines.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{EarlyAck, Operation, PendingShootdown, ShootdownError, Source};
use crate::tests::{cores, meddling, reached, reaching};
use crate::{Core, CoreId, CoreSet};

type Log = Arc<Mutex<Vec<usize>>>;

fn noting(log: &Log) -> impl Fn(&Core) + Send + Sync + 'static {
    let log = log.clone();
    move |core| log.lock().expect("not poisoned").push(core.id().index())
}

fn noted(log: &Log) -> Vec<usize> {
    core::mem::take(&mut log.lock().expect("not poisoned"))
}

fn poll(future: Pin<&mut PendingShootdown>) -> Poll<Result<usize, ShootdownError>> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn of(indices: &[usize]) -> CoreSet {
    indices.iter().copied().map(CoreId::new).collect()
}

#[test]
fn alone_or_on_no_core_it_is_executed_inside_the_call() {
    let (_fabric, cores) = cores(2, 4);
    let log = Log::default();
    assert_eq!(cores[0].shootdown(&of(&[0]), noting(&log)).expect("no panic"), 1);
    assert_eq!(noted(&log), [0]);
    assert_eq!(cores[0].shootdown(&of(&[]), noting(&log)).expect("no panic"), 0);
    assert!(noted(&log).is_empty());
}

#[test]
fn it_is_executed_once_on_each_core_of_the_set_and_ready_when_all_have_acknowledged() {
    let (_fabric, cores) = cores(4, 4);
    let log = Log::default();
    let mut pending = pin!(PendingShootdown::new(&cores[1], &of(&[0, 1, 3]), noting(&log)));
    assert_eq!(noted(&log), [1], "the own part overlaps with the others'");
    cores[0].drain(1);
    cores[2].drain(1);
    cores[1].drain(1);
    assert!(poll(pending.as_mut()).is_pending());
    cores[3].drain(1);
    cores[3].drain(1);
    cores[1].drain(1);
    assert!(matches!(poll(pending.as_mut()), Poll::Ready(Ok(3))));
    assert_eq!(noted(&log), [0, 3]);
}

#[test]
fn every_core_may_be_an_initiator_at_once_and_low_ids_are_not_favoured() {
    let (_fabric, cores) = cores(3, 4);
    let log = Log::default();
    let all = CoreSet::first(3);
    let from = |initiator: usize| {
        let log = log.clone();
        move |core: &Core| log.lock().expect("not poisoned").push(10 * initiator + core.id().index())
    };
    let pending: Vec<_> = (0..3).map(|n| Box::pin(PendingShootdown::new(&cores[n], &all, from(n)))).collect();
    assert_eq!(noted(&log), [0, 11, 22]);
    cores[1].drain(1);
    assert_eq!(noted(&log), [21, 1], "from the own column on");
    cores[0].drain(1);
    cores[2].drain(1);
    for core in &cores {
        core.drain(1);
    }
    for mut pending in pending {
        assert!(matches!(poll(pending.as_mut()), Poll::Ready(Ok(3))));
    }
}

#[test]
fn requests_of_one_core_are_carried_out_in_order_one_at_a_time() {
    let (_fabric, cores) = cores(2, 4);
    let log = Log::default();
    let op = |n: usize| {
        let log = log.clone();
        move |core: &Core| log.lock().expect("not poisoned").push(10 * n + core.id().index())
    };
    let all = CoreSet::first(2);
    let mut first = pin!(PendingShootdown::new(&cores[0], &all, op(1)));
    let mut second = pin!(PendingShootdown::new(&cores[0], &all, op(2)));
    assert_eq!(noted(&log), [10], "the second waits for the first");
    cores[1].drain(1);
    assert_eq!(noted(&log), [11]);
    cores[0].drain(1);
    assert_eq!(noted(&log), [20]);
    assert!(poll(first.as_mut()).is_ready() && poll(second.as_mut()).is_pending());
    cores[1].drain(1);
    cores[0].drain(1);
    assert!(poll(second.as_mut()).is_ready());
}

#[test]
fn generations_wrap_past_zero() {
    // The first generation is `u32::MAX - 2`.
    let (_fabric, cores) = cores(2, 4);
    let log = Log::default();
    for _ in 0..6 {
        let mut pending = pin!(PendingShootdown::new(&cores[0], &of(&[1]), noting(&log)));
        cores[1].drain(1);
        cores[1].drain(1);
        cores[0].drain(1);
        assert!(matches!(poll(pending.as_mut()), Poll::Ready(Ok(1))));
        assert_eq!(noted(&log), [1]);
    }
}

/// Tells where it is prepared and executed.
struct Prepared(Log, bool);

impl Operation for Prepared {
    fn prepare(&mut self, initiator: &Core) {
        self.1 = true;
        self.0.lock().expect("not poisoned").push(100 + initiator.id().index());
    }

    fn execute(&self, core: &Core) {
        assert!(self.1);
        self.0.lock().expect("not poisoned").push(core.id().index());
    }
}

#[test]
fn preparation_comes_before_any_target_can_hear_of_it() {
    let (_fabric, cores) = cores(2, 4);
    let log = Log::default();
    let mut first = pin!(PendingShootdown::new(&cores[0], &CoreSet::first(2), Prepared(log.clone(), false)));
    let _queued = PendingShootdown::new(&cores[0], &CoreSet::first(2), Prepared(log.clone(), false));
    assert_eq!(noted(&log), [100, 0], "a request that waits is not prepared yet");
    cores[1].drain(1);
    cores[0].drain(1);
    assert!(poll(first.as_mut()).is_ready());
    assert_eq!(noted(&log), [1, 100, 0]);
    cores[1].drain(1);
}

#[test]
fn cores_that_are_gone_are_skipped_and_those_that_leave_meanwhile_are_not_waited_for() {
    let (_fabric, mut cores) = cores(4, 4);
    let log = Log::default();
    drop(cores.remove(2));
    let mut pending = pin!(PendingShootdown::new(&cores[0], &CoreSet::first(4), noting(&log)));
    cores[1].drain(1);
    cores[0].drain(1);
    assert!(poll(pending.as_mut()).is_pending());
    drop(cores.pop());
    cores[0].flush();
    assert!(matches!(poll(pending.as_mut()), Poll::Ready(Ok(2))));
    assert_eq!(noted(&log), [0, 1]);
}

#[test]
fn a_core_that_leaves_after_its_acknowledgement_counts() {
    let (_fabric, mut cores) = cores(3, 4);
    let log = Log::default();
    let mut pending = pin!(PendingShootdown::new(&cores[0], &CoreSet::first(3), noting(&log)));
    cores[2].drain(1);
    drop(cores.pop());
    cores[0].flush();
    assert!(poll(pending.as_mut()).is_pending());
    cores[1].drain(1);
    cores[0].drain(1);
    assert!(matches!(poll(pending.as_mut()), Poll::Ready(Ok(3))));
}

#[test]
fn an_initiator_that_leaves_waits_for_nobody_and_what_targets_still_execute_lives_on() {
    let token = Arc::new(());
    {
        let (_fabric, mut cores) = cores(2, 4);
        let log = Log::default();
        let (note, held) = (noting(&log), token.clone());
        let op = move |core: &Core| {
            note(core);
            assert!(Arc::strong_count(&held) >= 2);
        };
        let mut flying = pin!(PendingShootdown::new(&cores[0], &of(&[1]), op));
        let held = token.clone();
        let mut queued =
            pin!(PendingShootdown::new(&cores[0], &of(&[1]), move |_: &Core| assert!(Arc::strong_count(&held) > 9)));
        drop(cores.remove(0));
        for pending in [flying.as_mut(), queued.as_mut()] {
            assert!(matches!(poll(pending), Poll::Ready(Err(error)) if error.is_gone()));
        }
        assert_eq!(Arc::strong_count(&token), 2, "the queued one is gone, the flying one is kept");
        cores[0].drain(1);
        assert_eq!(noted(&log), [1]);
    }
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn an_operation_that_holds_its_fabric_and_was_in_flight_ends_when_all_cores_have_left() {
    for drained in [false, true] {
        let token = Arc::new(());
        let (fabric, mut cores) = cores(2, 4);
        let held = (token.clone(), fabric.clone());
        drop(PendingShootdown::new(&cores[0], &of(&[1]), move |_: &Core| drop(held.clone())));
        drop(cores.remove(0));
        assert_eq!(Arc::strong_count(&token), 2, "the other may still execute it");
        if drained {
            cores[0].drain(1);
        }
        drop(cores);
        assert_eq!(Arc::strong_count(&token), 1, "drained: {drained}");
    }
}

#[test]
fn a_panic_reaches_the_initiator_and_everybody_else_executes_it() {
    let (_fabric, cores) = cores(3, 4);
    let log = Log::default();
    let note = noting(&log);
    let op = move |core: &Core| {
        note(core);
        assert!(core.id().index() != 1, "not on core 1");
    };
    let mut pending = pin!(PendingShootdown::new(&cores[0], &CoreSet::first(3), op));
    cores[1].drain(1);
    cores[2].drain(1);
    cores[0].drain(1);
    let Poll::Ready(Err(error)) = poll(pending.as_mut()) else { panic!("an error") };
    assert_eq!(error.panicked_on(), Some(CoreId::new(1)));
    assert_eq!(error.to_string(), "the operation panicked on core 1: not on core 1");
    assert_eq!(noted(&log), [0, 1, 2]);
    // The next one is not told of it.
    assert_eq!(cores[0].shootdown(&of(&[0]), noting(&log)).expect("no panic"), 1);
}

#[test]
fn a_panic_of_the_preparation_or_of_the_own_part_reaches_the_caller() {
    struct Refuses;
    impl Operation for Refuses {
        fn prepare(&mut self, _: &Core) {
            panic!("not prepared");
        }
        fn execute(&self, _: &Core) {
            unreachable!("it was not prepared");
        }
    }
    let (_fabric, cores) = cores(2, 4);
    let error = cores[0].shootdown(&CoreSet::first(2), Refuses).expect_err("a panic");
    assert_eq!(error.to_string(), "the operation panicked on core 0: not prepared");
    cores[1].drain(1);
    let error = cores[0].shootdown(&of(&[0]), |_: &Core| panic!("mine")).expect_err("a panic");
    assert_eq!(error.panicked_on(), Some(CoreId::new(0)));
}

#[test]
fn an_operation_that_would_wait_for_a_shootdown_panics_and_one_that_runs_messages_is_not_executed_twice() {
    let (_fabric, cores) = cores(2, 4);
    let error = cores[0].shootdown(&of(&[0]), |core: &Core| drop(core.shootdown(&of(&[0]), |_: &Core| ())));
    assert!(error.expect_err("a panic").to_string().contains("must not wait"));
    let ran = Arc::new(AtomicUsize::new(0));
    let count = ran.clone();
    let op = move |core: &Core| {
        count.fetch_add(1, Ordering::Relaxed);
        // Somebody else asks in the middle of it.
        core.ask(super::Lane::InDrains, core.id());
        core.drain(1);
    };
    let _pending = PendingShootdown::new(&cores[0], &of(&[1]), op);
    cores[1].drain(1);
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

#[test]
fn an_operation_that_sends_into_a_full_ring_does_not_wait() {
    let (_fabric, cores) = cores(2, 4);
    let got = Arc::new(AtomicUsize::new(0));
    let count = got.clone();
    let op = move |core: &Core| {
        for _ in 0..9 {
            let count = count.clone();
            core.send(CoreId::new(0), move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .expect("not gone");
        }
    };
    let _pending = PendingShootdown::new(&cores[0], &of(&[1]), op);
    cores[1].drain(1);
    while got.load(Ordering::Relaxed) < 9 {
        cores[0].drain_all(8);
        cores[1].flush();
    }
}

#[derive(Clone, Copy)]
struct Mark(&'static AtomicUsize);

// SAFETY: 1. nothing relies on it. 2. it stores.
unsafe impl EarlyAck for Mark {
    fn execute(self, _core: &Core) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_early_operation_is_executed_once_on_each_core() {
    static MARKS: AtomicUsize = AtomicUsize::new(0);
    let (_fabric, cores) = cores(3, 4);
    let mut pending = pin!(PendingShootdown::early(&cores[0], &CoreSet::first(3), Mark(&MARKS)));
    cores[1].drain(1);
    cores[2].drain(1);
    cores[0].drain(1);
    assert!(matches!(poll(pending.as_mut()), Poll::Ready(Ok(3))));
    assert_eq!(MARKS.load(Ordering::Relaxed), 3);
    assert_eq!(cores[0].shootdown_early(&of(&[0]), Mark(&MARKS)).expect("no panic"), 1);
}

#[test]
fn a_callback_may_ask_for_the_next_one() {
    let (_fabric, cores) = cores(1, 4);
    let rounds = Rc::new(Cell::new(0));
    fn again(core: &Core, rounds: Rc<Cell<u32>>) {
        core.start_shootdown(
            &CoreSet::first(1),
            |_: &Core| (),
            move |core, outcome| {
                assert_eq!(outcome.expect("no panic"), 1);
                rounds.set(rounds.get() + 1);
                if rounds.get() < 5 {
                    again(core, rounds);
                }
            },
        );
    }
    again(&cores[0], rounds.clone());
    assert_eq!(rounds.get(), 5);
}

#[test]
fn a_row_and_a_request_area_have_the_size_that_is_stated() {
    assert_eq!(super::board::sizes(64), (64 * 256, 64 * 256));
    assert_eq!(super::board::sizes(256), (256 * 1024, 256 * 256));
}

/// A value with a version, and a count of those alive.
struct Master {
    value: Mutex<(u64, Arc<Counted>)>,
}

struct Counted {
    text: u64,
    alive: Arc<AtomicU64>,
}

impl Counted {
    fn new(text: u64, alive: &Arc<AtomicU64>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self { text, alive: alive.clone() }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(self.text, &self.alive)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Master {
    fn new(alive: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { value: Mutex::new((0, Arc::new(Counted::new(0, alive)))) })
    }

    fn put(&self, text: u64, alive: &Arc<AtomicU64>) {
        let mut value = self.value.lock().expect("not poisoned");
        *value = (value.0 + 1, Arc::new(Counted::new(text, alive)));
    }
}

impl Source for Master {
    type Value = Counted;

    fn current(&self) -> (u64, Arc<Counted>) {
        self.value.lock().expect("not poisoned").clone()
    }
}

fn pass(core: &Core) {
    // SAFETY: 1. and 2. the test itself is the loop, and is not inside a read.
    unsafe { core.safe_point() };
}

#[test]
fn replicas_change_at_safe_points_and_the_old_values_are_dropped_there() {
    let alive = Arc::new(AtomicU64::new(0));
    let (_fabric, cores) = cores(3, 4);
    let master = Master::new(&alive);
    let (here, there) = (cores[0].replica(&master), cores[1].replica(&master));
    assert_eq!(alive.load(Ordering::Relaxed), 3, "core 2 has none");
    let done = Rc::new(Cell::new(None));
    master.put(7, &alive);
    let told = done.clone();
    cores[0].start_update(&master, move |_, outcome| told.set(outcome.ok()));
    for core in &cores {
        core.drain(1);
        core.drain_all(1);
    }
    assert_eq!((here.read(|value| value.text), there.read(|value| value.text)), (0, 0), "no drain changes it");
    cores.iter().for_each(pass);
    assert_eq!(done.get(), None, "it takes one more look of the initiator");
    pass(&cores[0]);
    assert_eq!(done.get(), Some(3));
    assert_eq!((here.read(|value| value.text), there.read(|value| value.text)), (7, 7));
    assert_eq!(alive.load(Ordering::Relaxed), 3);
    assert_eq!(cores[2].replica(&master).read(|value| value.text), 7, "a new one has the current value");
    drop((here, there));
    assert_eq!(alive.load(Ordering::Relaxed), 1, "only the source's own");
}

#[test]
fn concurrent_updates_end_with_the_highest_version_on_every_core() {
    let alive = Arc::new(AtomicU64::new(0));
    let (_fabric, cores) = cores(3, 4);
    let master = Master::new(&alive);
    let replicas: Vec<_> = cores.iter().map(|core| core.replica(&master)).collect();
    for core in [1, 0, 2] {
        master.put(core as u64, &alive);
        cores[core].start_update(&master, |_, outcome| drop(outcome));
    }
    // Each passes in its own order of rounds.
    for _ in 0..3 {
        cores.iter().rev().for_each(pass);
    }
    for replica in replicas {
        assert_eq!((replica.version(), replica.read(|value| value.text)), (3, 2));
    }
}

#[test]
fn an_update_asked_for_while_one_waits_joins_it() {
    let alive = Arc::new(AtomicU64::new(0));
    let (_fabric, cores) = cores(2, 4);
    let master = Master::new(&alive);
    let there = cores[1].replica(&master);
    let done = Rc::new(RefCell::new(Vec::new()));
    for n in 0..4 {
        master.put(10 + n, &alive);
        let done = done.clone();
        cores[0].start_update(&master, move |_, outcome| done.borrow_mut().push((n, outcome.is_ok())));
    }
    cores.iter().for_each(pass);
    pass(&cores[0]);
    assert_eq!(*done.borrow(), [(0, true)], "the first was under way, the others are one round");
    cores.iter().rev().for_each(pass);
    pass(&cores[0]);
    assert_eq!(done.borrow().len(), 4);
    assert_eq!(there.read(|value| value.text), 13);
}

#[test]
fn a_value_whose_clone_panics_leaves_the_old_one_and_says_so() {
    #[derive(Debug)]
    struct Fragile(u64);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(self.0 != 1, "cannot be cloned");
            Self(self.0)
        }
    }
    struct Plain(Mutex<(u64, Arc<Fragile>)>);
    impl Source for Plain {
        type Value = Fragile;
        fn current(&self) -> (u64, Arc<Fragile>) {
            self.0.lock().expect("not poisoned").clone()
        }
    }
    let (_fabric, cores) = cores(2, 4);
    let master = Arc::new(Plain(Mutex::new((0, Arc::new(Fragile(0))))));
    let there = cores[1].replica(&master);
    let outcomes = Rc::new(RefCell::new(Vec::new()));
    for value in [1, 2] {
        *master.0.lock().expect("not poisoned") = (value, Arc::new(Fragile(value)));
        let outcomes = outcomes.clone();
        cores[0].start_update(&master, move |_, outcome| {
            outcomes.borrow_mut().push(outcome.map_err(|error| error.panicked_on()));
        });
        cores.iter().for_each(pass);
        pass(&cores[0]);
        assert_eq!(there.read(|value| value.0), if value == 1 { 0 } else { 2 });
    }
    assert_eq!(*outcomes.borrow(), [Err(Some(CoreId::new(1))), Ok(2)]);
}

#[test]
fn the_last_acknowledgement_may_come_in_the_middle_of_a_wakers_clone() {
    let (_fabric, cores) = cores(2, 4);
    reaching(cores, || {
        let core = reached(0).expect("the initiator");
        let mut pending = PendingShootdown::new(&core, &CoreSet::first(2), |_: &Core| ());
        let waker = meddling(|| [1, 0].into_iter().filter_map(reached).for_each(|core| _ = core.drain_all(64)));
        let polled = Pin::new(&mut pending).poll(&mut Context::from_waker(&waker));
        assert!(matches!(polled, Poll::Ready(Ok(2))), "{polled:?}");
    });
}
