//! [Shootdowns](crate::shootdown) with real endpoints: a lost request or acknowledgement is a deadlock here.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use super::{A, B, Ended, Machine, Plain, Woken, explore, pair};
use crate::port::FenceKind;
use crate::shootdown::{EarlyAck, PendingShootdown, Replica, ShootdownError, Source};
use crate::sync::Counter;
use crate::sync::checker::{Mutex, thread};
use crate::{Core, CoreId, CoreSet, Seat};

type Outcome = Result<usize, ShootdownError>;

/// One core's loop until `done`, as an executor's: it passes a safe point every turn.
pub(super) fn serve(machine: &Machine, core: &Core, done: impl Fn() -> bool) {
    while !done() {
        // SAFETY: 1. and 2. the model itself is the loop, and is not inside a read.
        unsafe { core.safe_point() };
        if core.drain(8) + core.flush() > 0 || done() {
            continue;
        }
        if let Some(_armed) = core.arm(|| true) {
            machine.sleep(core.id());
        }
    }
}

/// Polls `pending` when it was woken, and sleeps and serves meanwhile.
pub(super) fn outcome(machine: &Machine, core: &Core, mut pending: Pin<Box<PendingShootdown>>) -> Outcome {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    loop {
        let seen = woken.0.get();
        if let Poll::Ready(outcome) = pending.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        serve(machine, core, || woken.0.get() != seen);
    }
}

/// A core that serves until operations have run on it `times` times.
fn target(machine: &Arc<Machine>, seat: Seat, ran: &Arc<Counter>, times: u64) -> thread::JoinHandle<Ended> {
    let (machine, ran) = (machine.clone(), ran.clone());
    thread::spawn(move || {
        let core = seat.enter();
        serve(&machine, &core, || ran.get() == times);
        Ended(core)
    })
}

/// A core that serves once, and leaves.
fn leaver(seat: Seat) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let core = seat.enter();
        core.drain(8);
        drop(core);
    })
}

fn only_b() -> CoreSet {
    [B].into_iter().collect()
}

/// An operation that writes a plain word, which the checker watches: the initiator touches it before and after.
fn writing(cell: &Arc<Plain>, ran: &Arc<Counter>, value: u32) -> impl Fn(&Core) + Send + Sync + 'static {
    let (cell, ran) = (cell.clone(), ran.clone());
    move |_: &Core| {
        cell.write(value);
        ran.add(1);
    }
}

#[test]
fn a_target_that_sleeps_executes_each_request_once_while_generations_wrap() {
    explore(2, || {
        let (machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (cell, ran) = (Plain::new(), Arc::new(Counter::default()));
        let there = target(&machine, there, &ran, 2);
        let here = here.enter();
        for n in 1..=2 {
            // Preparation: the target finds what was written before.
            cell.write(10 * n);
            let (written, ran) = (cell.clone(), ran.clone());
            let op = move |_: &Core| {
                assert_eq!(written.read(), 10 * n, "what came before the request");
                written.write(n);
                ran.add(1);
            };
            assert!(matches!(here.shootdown(&only_b(), op), Ok(1)));
            assert_eq!(cell.read(), n, "executed when it was acknowledged");
        }
        drop(there.join().expect("no panic"));
        assert_eq!(ran.get(), 2);
    });
}

#[test]
fn an_initiator_that_sleeps_is_woken_by_the_last_acknowledgement() {
    explore(2, || {
        let (machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (cell, ran) = (Plain::new(), Arc::new(Counter::default()));
        let there = target(&machine, there, &ran, 2);
        let here = here.enter();
        let first = Box::pin(PendingShootdown::new(&here, &only_b(), writing(&cell, &ran, 1)));
        let second = Box::pin(PendingShootdown::new(&here, &only_b(), writing(&cell, &ran, 2)));
        assert!(matches!(outcome(&machine, &here, first), Ok(1)));
        assert!(matches!(outcome(&machine, &here, second), Ok(1)));
        assert_eq!(cell.read(), 2);
        drop(there.join().expect("no panic"));
    });
}

#[test]
fn a_target_that_was_asked_by_one_initiator_finds_the_request_of_another_whole() {
    explore(1, || {
        let machine = Machine::new(FenceKind::Symmetric, 3);
        let (_fabric, mut seats) = machine.fabric();
        let there = seats.pop().expect("three cores");
        let ran = Arc::new(Counter::default());
        let initiators = [1, 2].map(|n| {
            let (seat, id) = (seats.pop().expect("three cores"), there.id());
            let op = writing(&Plain::new(), &ran, n);
            thread::spawn(move || {
                let core = seat.enter();
                core.start_shootdown(&[id].into_iter().collect(), op, |_, _| ());
                Ended(core)
            })
        });
        let there = there.enter();
        serve(&machine, &there, || ran.get() == 2);
        drop(initiators.map(|initiator| initiator.join().expect("no panic")));
    });
}

#[test]
fn two_initiators_that_wait_for_each_other_both_land() {
    explore(2, || {
        let (machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let ran = Arc::new(Counter::default());
        let shoot = |machine: &Machine, seat: Seat, ran: &Arc<Counter>| {
            let core = seat.enter();
            let (cell, counted) = (Plain::new(), ran.clone());
            let written = cell.clone();
            let other = if core.id() == A { B } else { A };
            let op = move |_: &Core| {
                written.write(7);
                counted.add(1);
            };
            assert!(matches!(core.shootdown(&[other].into_iter().collect(), op), Ok(1)));
            assert_eq!(cell.read(), 7);
            serve(machine, &core, || ran.get() == 2);
            Ended(core)
        };
        let other = thread::spawn({
            let (machine, ran) = (machine.clone(), ran.clone());
            move || shoot(&machine, there, &ran)
        });
        let here = shoot(&machine, here, &ran);
        drop((here, other.join().expect("no panic")));
    });
}

#[test]
fn two_initiators_that_sleep_both_wake() {
    explore(2, || {
        let (machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (ran, all) = (Arc::new(Counter::default()), CoreSet::first(2));
        let counting = |ran: &Arc<Counter>| {
            let ran = ran.clone();
            move |_: &Core| ran.add(1)
        };
        let other = thread::spawn({
            let (machine, ran) = (machine.clone(), ran.clone());
            move || {
                let core = there.enter();
                let pending = Box::pin(PendingShootdown::new(&core, &all, counting(&ran)));
                assert!(matches!(outcome(&machine, &core, pending), Ok(2)));
                serve(&machine, &core, || ran.get() == 4);
                Ended(core)
            }
        });
        let here = here.enter();
        let pending = Box::pin(PendingShootdown::new(&here, &all, counting(&ran)));
        assert!(matches!(outcome(&machine, &here, pending), Ok(2)));
        serve(&machine, &here, || ran.get() == 4);
        drop(other.join().expect("no panic"));
    });
}

/// Tells that it was executed.
#[derive(Clone, Copy)]
struct Early(&'static Plain, &'static Counter);

// SAFETY: 1. the model waits for the target's thread before it looks.
unsafe impl EarlyAck for Early {
    fn execute(self, _core: &Core) {
        self.0.write(self.0.read() + 1);
        self.1.add(1);
    }
}

#[test]
fn early_operations_are_executed_once_each_from_their_copies() {
    explore(2, || {
        let (machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (cell, ran) = (Plain::new(), Arc::new(Counter::default()));
        // Operations that are copied hold no counts: these are given back below.
        let (held, counted) = (Arc::into_raw(cell.clone()), Arc::into_raw(ran.clone()));
        // SAFETY: 1. the counts just leaked. 2. as above.
        let op = Early(unsafe { &*held }, unsafe { &*counted });
        let there = target(&machine, there, &ran, 2);
        let here = here.enter();
        for _ in 0..2 {
            assert!(matches!(here.shootdown_early(&only_b(), op), Ok(1)));
        }
        drop(there.join().expect("no panic"));
        assert_eq!(cell.read(), 2);
        // SAFETY: 1. the counts leaked above; nobody executes any more.
        drop(unsafe { Arc::from_raw(held) });
        // SAFETY: as above.
        drop(unsafe { Arc::from_raw(counted) });
    });
}

#[test]
fn an_initiator_that_spins_does_not_wait_for_a_target_that_leaves() {
    explore(2, || {
        let (_machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let leaver = leaver(there);
        let here = here.enter();
        let (cell, ran) = (Plain::new(), Arc::new(Counter::default()));
        let executed = here.shootdown(&only_b(), writing(&cell, &ran, 1)).expect("no panic");
        assert_eq!(cell.read(), executed as u32, "what it executed is visible, though it has left");
        leaver.join().expect("no panic");
    });
}

#[test]
fn an_initiator_that_sleeps_does_not_wait_for_a_target_that_leaves() {
    explore(1, || {
        let machine = Machine::new(FenceKind::Symmetric, 3);
        let (_fabric, mut seats) = machine.fabric();
        let ran = Arc::new(Counter::default());
        let leaver = leaver(seats.pop().expect("three cores"));
        let (here, there) = pair(seats);
        let there = target(&machine, there, &ran, 1);
        let here = here.enter();
        let counted = ran.clone();
        let op = move |core: &Core| {
            if core.id() == B {
                counted.add(1);
            }
        };
        let pending = Box::pin(PendingShootdown::new(&here, &CoreSet::first(3), op));
        assert!((2..=3).contains(&outcome(&machine, &here, pending).expect("no panic")));
        drop(there.join().expect("no panic"));
        leaver.join().expect("no panic");
    });
}

#[test]
fn an_operation_outlives_an_initiator_that_leaves() {
    explore(2, || {
        let (_machine, fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let token = Arc::new(());
        let there = thread::spawn(move || {
            let core = there.enter();
            core.drain(8);
            Ended(core)
        });
        let here = here.enter();
        let cell = Plain::new();
        let held = Held(cell.clone(), token.clone());
        let op = move |_: &Core| assert_eq!(held.0.read(), 0, "not freed");
        let pending = PendingShootdown::new(&here, &only_b(), op);
        drop(here);
        drop(there.join().expect("no panic"));
        assert_eq!((cell.read(), Arc::strong_count(&token)), (1, 1), "freed once, by the last that left");
        drop((pending, fabric));
    });
}

#[test]
fn two_that_leave_as_the_last_free_once_what_one_of_them_left_behind() {
    explore(3, || {
        let (_machine, fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (cell, token) = (Plain::new(), Arc::new(()));
        let held = Held(cell.clone(), token.clone());
        let leaver = thread::spawn(move || drop(there.enter()));
        let here = here.enter();
        drop(PendingShootdown::new(&here, &only_b(), move |_: &Core| assert_eq!(held.0.read(), 0, "not freed")));
        drop(here);
        leaver.join().expect("no panic");
        assert_eq!((cell.read(), Arc::strong_count(&token)), (1, 1), "freed once");
        drop(fabric);
    });
}

/// Writes as it is dropped: an access that races with whoever still reads.
struct Held(Arc<Plain>, #[allow(dead_code, reason = "counts")] Arc<()>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.write(1);
    }
}

/// A source whose value is a version and a plain word that is written when its last copy has gone.
pub(super) struct Master(Mutex<(u64, Arc<Value>)>);

pub(super) struct Value {
    /// A counter: the compiler may take for granted that nothing else changes behind a reference, which is what a mutant does.
    pub(super) number: Counter,
    /// What a reader reads: freed, that is written, by who updates.
    memory: Arc<Plain>,
}

impl Value {
    fn new(number: u64, memory: &Arc<Plain>) -> Self {
        let value = Self { number: Counter::default(), memory: memory.clone() };
        value.number.add(number);
        value
    }
}

impl Clone for Value {
    fn clone(&self) -> Self {
        Self::new(self.number.get(), &self.memory)
    }
}

impl Master {
    pub(super) fn new(memory: &Arc<Plain>) -> Arc<Self> {
        let value = Arc::new(Value::new(0, memory));
        Arc::new(Self(Mutex::new((0, value))))
    }

    pub(super) fn put(&self, number: u64, memory: &Arc<Plain>) {
        let mut current = self.0.lock().expect("not poisoned");
        *current = (current.0 + 1, Arc::new(Value::new(number, memory)));
    }
}

impl Source for Master {
    type Value = Value;

    fn current(&self) -> (u64, Arc<Value>) {
        self.0.lock().expect("not poisoned").clone()
    }
}

/// Asks for an update, and serves until it is done.
pub(super) fn update(machine: &Machine, core: &Core, master: &Arc<Master>) {
    let done = alloc::rc::Rc::new(core::cell::Cell::new(false));
    let told = done.clone();
    core.start_update(master, move |_, outcome| told.set(outcome.is_ok()));
    serve(machine, core, || done.get());
}

/// Makes `target` count `done`, and wakes it.
fn tell(core: &Core, target: CoreId, done: &Arc<Counter>) {
    let done = done.clone();
    core.send_or_list(target, move |_, _| done.add(1));
}

#[test]
fn when_an_update_is_done_nobody_reads_the_old_value_not_even_in_a_read_with_a_drain_in_it() {
    explore(2, || {
        let (machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (old, new) = (Plain::new(), Plain::new());
        let (master, told) = (Master::new(&old), Arc::new(Counter::default()));
        let reader = thread::spawn({
            let (machine, master, told) = (machine.clone(), master.clone(), told.clone());
            move || {
                let core = there.enter();
                let replica: Replica<Value> = core.replica(&master);
                serve(&machine, &core, || {
                    replica.read(|value| {
                        let number = value.number.get();
                        core.drain(8);
                        // The checker fails if the updater has written it.
                        value.memory.read();
                        assert_eq!(value.number.get(), number, "replaced under a reader");
                    });
                    told.get() == 1
                });
                assert_eq!(replica.read(|value| value.number.get()), 1);
                Ended(core)
            }
        });
        let here = here.enter();
        master.put(1, &new);
        update(&machine, &here, &master);
        // Nobody holds it any more.
        old.write(9);
        tell(&here, B, &told);
        drop(reader.join().expect("no panic"));
    });
}

/// Puts a value into the master, brings it everywhere, and serves until the other core has done the same. Returns the version and the
/// number that this core has then.
fn put_and_update(machine: &Machine, core: &Core, master: &Arc<Master>, done: [&Arc<Counter>; 2]) -> (u64, u64) {
    let (own, other) = (core.id().index(), CoreId::new(1 - core.id().index()));
    let replica = core.replica(master);
    let before = replica.version();
    master.put(1 + own as u64, &Plain::new());
    update(machine, core, master);
    assert!(replica.version() > before);
    tell(core, other, done[other.index()]);
    serve(machine, core, || done[own].get() == 1);
    (replica.version(), replica.read(|value| value.number.get()))
}

#[test]
fn concurrent_updates_end_with_the_later_value_everywhere() {
    explore(1, || {
        let (machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let (master, done) = (Master::new(&Plain::new()), [(); 2].map(|()| Arc::new(Counter::default())));
        let other = thread::spawn({
            let (machine, master, done) = (machine.clone(), master.clone(), done.clone());
            move || {
                let core = there.enter();
                let has = put_and_update(&machine, &core, &master, done.each_ref());
                (Ended(core), has)
            }
        });
        let here = here.enter();
        let has = put_and_update(&machine, &here, &master, done.each_ref());
        let (_there, other_has) = other.join().expect("no panic");
        let (last, value) = master.current();
        assert_eq!((has, other_has), ((last, value.number.get()), (last, value.number.get())));
    });
}
