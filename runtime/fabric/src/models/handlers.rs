//! [Handlers](crate::handlers), the mailbox and bells with real endpoints: what a core sleeps through is a deadlock here, a wait that never ends
//! exceeds the checker's limit.

use alloc::sync::Arc;
use alloc::task::Wake;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::vec::Vec;

use super::{A, B, Ended, Machine, Plain, Woken, explore, leaver};
use crate::call::CallError;
use crate::handlers::{BellWait, HandlerId, TriggerError};
use crate::port::FenceKind;
use crate::sync::checker::{Notify, thread};
use crate::sync::{AtomicU32, Counter, Ordering};
use crate::{Core, CoreId, CoreSet, Fabric, PanicPayload, Seat};

const FENCES: [FenceKind; 2] = [FenceKind::Symmetric, FenceKind::Asymmetric];

fn no_panic(_: &Core, _: PanicPayload) {
    unreachable!("the model's handlers do not panic");
}

fn register(fabric: &Fabric, f: impl Fn(&Core) + Send + Sync + 'static) -> HandlerId {
    fabric.register_handler(f, no_panic).expect("a free slot")
}

/// What triggers and rings tell of, as weak as the memory model allows.
#[derive(Clone)]
struct Data {
    written: Arc<AtomicU32>,
    seen: Arc<Counter>,
}

impl Data {
    fn new() -> Self {
        Self { written: Arc::new(AtomicU32::new(0)), seen: Arc::default() }
    }

    fn write(&self, value: u32) {
        self.written.store(value, Ordering::Relaxed);
    }

    fn look(&self) {
        let value = u64::from(self.written.load(Ordering::Relaxed));
        self.seen.add(value - self.seen.get());
    }
}

/// Two triggers, of which the second may find the first one's bit: the handler sees what was written before each.
fn two_triggers(fence: FenceKind, trigger: impl Fn(&Fabric, Option<&Core>, HandlerId) + Send + Sync + Copy + 'static) {
    explore(3, move || {
        let (machine, fabric, (source, target)) = Machine::pair(fence);
        let data = Data::new();
        let id = register(&fabric, {
            let data = data.clone();
            move |_| data.look()
        });
        let sender = thread::spawn({
            let data = data.clone();
            move || {
                let core = source.enter();
                for value in [1, 2] {
                    data.write(value);
                    trigger(&fabric, Some(&core), id);
                }
                Ended(core)
            }
        });
        let target = target.enter();
        machine.serve(&target, || data.seen.get() == 2);
        drop(sender.join().expect("no panic"));
    });
}

#[test]
fn every_trigger_is_followed_by_a_run_that_sees_what_it_tells_of() {
    for fence in FENCES {
        two_triggers(fence, |_, core, id| core.expect("on a core").trigger(id, B).expect("live"));
    }
}

#[test]
fn every_trigger_of_a_foreign_thread_is_followed_by_a_run() {
    for fence in FENCES {
        two_triggers(fence, |fabric, _, id| fabric.trigger(id, B).expect("live"));
    }
}

/// A handler that must have been run after an accepted trigger, and must not be once `closed` counts.
struct Watched {
    id: HandlerId,
    ran: Arc<Counter>,
    closed: Arc<Counter>,
}

fn watched(fabric: &Fabric) -> Watched {
    let (ran, closed) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
    let id = register(fabric, {
        let (ran, closed) = (ran.clone(), closed.clone());
        move |_| {
            assert_eq!(closed.get(), 0, "it runs after it was unregistered");
            ran.add(1);
        }
    });
    Watched { id, ran, closed }
}

#[test]
fn a_trigger_that_races_with_unregistering_is_refused_or_run_before_its_end() {
    explore(3, || {
        let (_machine, fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let Watched { id, ran, closed } = watched(&fabric);
        let ended = Arc::new(AtomicU32::new(0));
        let sender = thread::spawn({
            let ended = ended.clone();
            move || {
                let core = source.enter();
                let accepted = core.trigger(id, B).is_ok();
                while ended.load(Ordering::Acquire) == 0 {
                    core.drain(8);
                    thread::yield_now();
                }
                (Ended(core), accepted)
            }
        });
        let target = target.enter();
        target.unregister_handler(id).expect("live");
        closed.add(1);
        ended.store(1, Ordering::Release);
        let (source, accepted) = sender.join().expect("no panic");
        target.drain(8);
        assert!(!accepted || ran.get() > 0, "accepted and never run");
        assert!(fabric.trigger(id, B).is_err());
        drop(source);
    });
}

#[test]
fn a_foreign_trigger_that_races_with_unregistering_is_refused_or_run_before_its_end() {
    explore(4, || {
        let machine = Machine::new(FenceKind::Asymmetric, 1);
        let (fabric, seats) = machine.fabric();
        let Watched { id, ran, closed } = watched(&fabric);
        let sender = thread::spawn({
            let fabric = fabric.clone();
            move || fabric.trigger(id, A).is_ok()
        });
        let core = seats.into_iter().next().expect("one core").enter();
        core.unregister_handler(id).expect("live");
        closed.add(1);
        let accepted = sender.join().expect("no panic");
        core.drain(8);
        assert!(!accepted || ran.get() > 0, "accepted and never run");
    });
}

#[test]
fn a_handler_registered_while_the_last_core_leaves_is_unregistered() {
    for fence in FENCES {
        explore(3, move || {
            let machine = Machine::new(fence, 1);
            let (fabric, seats) = machine.fabric();
            let leaver = thread::spawn(move || seats.into_iter().for_each(|seat| drop(seat.enter())));
            let token = Arc::new(());
            let held = token.clone();
            let id = register(&fabric, move |_| drop(held.clone()));
            leaver.join().expect("no panic");
            assert_eq!(fabric.trigger(id, A), Err(TriggerError::Unregistered));
            assert_eq!(Arc::strong_count(&token), 1, "nobody runs it any more");
        });
    }
}

/// One core triggers a handler of another, which drains below itself, and unregisters it: after that nothing of the handler goes on.
#[test]
fn unregistering_waits_for_a_handler_that_drains_below_itself() {
    explore(2, || {
        let (machine, fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let (written, ended) = (Plain::new(), Arc::new(Counter::default()));
        let id = register(&fabric, {
            let written = written.clone();
            move |core| {
                // Twice: once for each round.
                for _ in 0..2 {
                    thread::yield_now();
                    core.drain_all(8);
                }
                written.write(7);
            }
        });
        let runner = runner(&machine, target, &ended);
        let source = source.enter();
        source.trigger(id, B).expect("live");
        source.unregister_handler(id).expect("live");
        assert_eq!(written.read(), 7);
        ended.add(1);
        fabric.nudge(B);
        drop(runner.join().expect("no panic"));
    });
}

#[test]
fn who_awaits_an_unregistration_is_woken_at_its_end() {
    explore(2, || {
        let machine = Machine::new(FenceKind::Symmetric, 1);
        let (fabric, seats) = machine.fabric();
        let ended = Arc::new(Counter::default());
        let id = register(&fabric, |_| ());
        let seat = seats.into_iter().next().expect("one core");
        let runner = runner(&machine, seat, &ended);
        let signal = Arc::new(Signal::default());
        let waker = Waker::from(signal.clone());
        let mut unregister = pin!(fabric.unregister_handler(id).expect("live"));
        while unregister.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            signal.0.wait();
        }
        ended.add(1);
        fabric.nudge(A);
        drop(runner.join().expect("no panic"));
    });
}

#[test]
fn who_awaits_an_unregistration_is_woken_when_the_core_leaves() {
    explore(3, || {
        let machine = Machine::new(FenceKind::Symmetric, 1);
        let (fabric, seats) = machine.fabric();
        let id = register(&fabric, |_| ());
        let seat = seats.into_iter().next().expect("one core");
        let leaver = thread::spawn(move || drop(seat.enter()));
        let signal = Arc::new(Signal::default());
        let waker = Waker::from(signal.clone());
        // The core that leaves may have unregistered it.
        if let Ok(unregister) = fabric.unregister_handler(id) {
            let mut unregister = pin!(unregister);
            while unregister.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                signal.0.wait();
            }
        }
        leaver.join().expect("no panic");
    });
}

/// A handler that holds something; who else holds it sees when the handler is freed.
fn holding(fabric: &Fabric) -> (HandlerId, Arc<()>) {
    let token = Arc::new(());
    let held = token.clone();
    (register(fabric, move |_| assert!(Arc::strong_count(&held) > 0)), token)
}

#[test]
fn an_unregistration_that_is_given_up_while_the_last_core_leaves_is_ended() {
    explore(4, || {
        let machine = Machine::new(FenceKind::Symmetric, 1);
        let (fabric, seats) = machine.fabric();
        let (id, token) = holding(&fabric);
        let seat = seats.into_iter().next().expect("one core");
        let leaver = thread::spawn(move || drop(seat.enter()));
        drop(fabric.unregister_handler(id));
        leaver.join().expect("no panic");
        assert_eq!(Arc::strong_count(&token), 1, "freed though the fabric lives");
        drop(fabric);
    });
}

#[test]
fn a_handler_that_nobody_unregisters_is_freed_by_the_last_core_that_leaves() {
    explore(3, || {
        let machine = Machine::new(FenceKind::Symmetric, 2);
        let (fabric, seats) = machine.fabric();
        let (_, token) = holding(&fabric);
        let leavers: Vec<_> = seats.into_iter().map(|seat| thread::spawn(move || drop(seat.enter()))).collect();
        leavers.into_iter().for_each(|leaver| leaver.join().expect("no panic"));
        assert_eq!(Arc::strong_count(&token), 1, "freed though the fabric lives");
        drop(fabric);
    });
}

/// Blocks a thread that runs no core.
#[derive(Default)]
pub(super) struct Signal(pub(super) Notify);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// As [`Machine::serve`], for what other threads bring about and then nudge the core.
pub(super) fn serve_until(machine: &Machine, core: &Core, done: impl Fn() -> bool) {
    while !done() {
        if core.drain(8) + core.drain_foreign(8) + core.flush() == 0
            && let Some(_armed) = core.arm(|| !done())
        {
            machine.sleep(core.id());
        }
    }
}

/// A core that serves until `done` counts something.
fn runner(machine: &Arc<Machine>, seat: Seat, done: &Arc<Counter>) -> thread::JoinHandle<Ended> {
    let (machine, done) = (machine.clone(), done.clone());
    thread::spawn(move || {
        let core = seat.enter();
        serve_until(&machine, &core, || done.get() > 0);
        Ended(core)
    })
}

/// Ends the sleep of a core whose task it wakes, as an executor's waker does.
struct Nudge {
    fabric: Fabric,
    core: CoreId,
    /// Orders the wake before the poll, as an executor does.
    woken: AtomicU32,
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Release);
        self.fabric.nudge(self.core);
    }
}

fn await_on<F: Future>(machine: &Machine, fabric: &Fabric, core: &Core, future: F) -> F::Output {
    let nudge = Arc::new(Nudge { fabric: fabric.clone(), core: core.id(), woken: AtomicU32::new(0) });
    let waker = Waker::from(nudge.clone());
    let mut future: Pin<&mut F> = pin!(future);
    loop {
        let seen = nudge.woken.load(Ordering::Acquire);
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        serve_until(machine, core, || nudge.woken.load(Ordering::Acquire) != seen);
    }
}

/// One core has another run a function that reads what the first wrote and writes what the first reads.
fn message(send: impl Fn(&Machine, &Fabric, &Core, Arc<Plain>, Arc<Plain>) + Send + Sync + Copy + 'static) {
    explore(2, move || {
        let machine = Machine::new(FenceKind::Symmetric, 3);
        let (fabric, seats) = machine.fabric();
        let mut seats = seats.into_iter();
        let (source, target) = (seats.next().expect("a core"), seats.next().expect("a core"));
        let third = seats.next().expect("a core").enter();
        let (question, answer, done) = (Plain::new(), Plain::new(), Arc::new(Counter::default()));
        // Somebody else's message: a pass for it may find the other one before its bit is set.
        let other = third.multicast_later(&CoreSet::from_iter([B]), |_| ());
        let runner = runner(&machine, target, &done);
        let source = source.enter();
        question.write(3);
        send(&machine, &fabric, &source, question, answer.clone());
        assert_eq!(answer.read(), 4);
        done.add(1);
        fabric.nudge(B);
        drop((runner.join().expect("no panic"), other, third));
    });
}

#[test]
fn a_function_of_the_mailbox_sees_its_senders_writes_and_is_seen() {
    message(|_, _, core, question, answer| {
        core.unicast(B, |_| answer.write(question.read() + 1)).expect("it runs");
    });
}

#[test]
fn who_awaits_a_function_of_the_mailbox_is_woken() {
    message(|machine, fabric, core, question, answer| {
        let message = core.multicast_later(&CoreSet::from_iter([B]), move |_| answer.write(question.read() + 1));
        assert!(matches!(await_on(machine, fabric, core, message), Ok(1)));
    });
}

#[test]
fn who_awaits_a_place_in_a_full_mailbox_is_woken() {
    explore(2, || {
        let (machine, fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let (ran, done) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
        let source = source.enter();
        let send = |last: bool| {
            let ran = ran.clone();
            source.multicast_later(&CoreSet::from_iter([B]), move |_| ran.add(u64::from(last)))
        };
        let fill = [send(false), send(false)];
        let last = send(true);
        let runner = runner(&machine, target, &done);
        assert!(matches!(await_on(&machine, &fabric, &source, last), Ok(1)));
        assert_eq!(ran.get(), 1);
        done.add(1);
        fabric.nudge(B);
        drop((runner.join().expect("no panic"), fill));
    });
}

#[test]
fn two_cores_with_full_mailboxes_that_wait_for_each_other_both_go_on() {
    explore(1, || {
        let (_machine, _fabric, (here, there)) = Machine::pair(FenceKind::Symmetric);
        let ran = Arc::new(AtomicU32::new(0));
        let count = |ran: &Arc<AtomicU32>| {
            let ran = ran.clone();
            move |_: &Core| {
                ran.fetch_add(1, Ordering::AcqRel);
            }
        };
        let exchange = move |core: Core, target, ran: Arc<AtomicU32>| {
            let set = CoreSet::from_iter([target]);
            let fill = [core.multicast_later(&set, count(&ran)), core.multicast_later(&set, count(&ran))];
            core.unicast(target, count(&ran)).expect("it runs");
            while ran.load(Ordering::Acquire) < 6 {
                core.drain(8);
                thread::yield_now();
            }
            drop(fill);
            Ended(core)
        };
        let other = thread::spawn({
            let ran = ran.clone();
            move || exchange(there.enter(), A, ran)
        });
        let here = exchange(here.enter(), B, ran);
        drop((here, other.join().expect("no panic")));
    });
}

#[test]
fn a_message_to_a_core_that_leaves_is_run_or_answered_for() {
    for fence in FENCES {
        explore(3, move || {
            let (_machine, _fabric, (source, target)) = Machine::pair(fence);
            let leaver = leaver(target);
            let source = source.enter();
            let ran = Counter::default();
            let outcome = source.unicast(B, |_| ran.add(1));
            assert_eq!(outcome.is_ok(), ran.get() == 1);
            assert!(outcome.as_ref().err().is_none_or(CallError::is_gone));
            leaver.join().expect("no panic");
        });
    }
}

#[test]
fn every_ring_is_followed_by_a_notification_that_sees_what_it_tells_of() {
    for fence in FENCES {
        explore(3, move || {
            let machine = Machine::new(fence, 1);
            let (fabric, seats) = machine.fabric();
            let (data, bell) = (Data::new(), fabric.bell());
            let ringer = thread::spawn({
                let (data, bell) = (data.clone(), bell.clone());
                move || {
                    for value in [1, 2] {
                        data.write(value);
                        bell.ring(A);
                    }
                }
            });
            let core = seats.into_iter().next().expect("one core").enter();
            let woken = Arc::new(Woken::default());
            let (waker, mut wait) = (Waker::from(woken.clone()), BellWait::default());
            while data.seen.get() < 2 {
                let seen = woken.0.get();
                if core.poll_bell(&bell, &mut wait, &Context::from_waker(&waker)).is_ready() {
                    data.look();
                } else {
                    machine.serve(&core, || woken.0.get() != seen);
                }
            }
            ringer.join().expect("no panic");
        });
    }
}

#[test]
fn two_bells_that_share_a_bit_are_both_heard() {
    explore(2, || {
        let machine = Machine::new(FenceKind::Symmetric, 1);
        let (fabric, seats) = machine.fabric();
        let bells = [fabric.bell(), fabric.bell()];
        let ringers = bells.clone().map(|bell| thread::spawn(move || bell.ring(A)));
        let core = seats.into_iter().next().expect("one core").enter();
        let tasks = [0, 1].map(|_| (Arc::new(Woken::default()), Counter::default()));
        let mut waits = [BellWait::default(), BellWait::default()];
        let unheard = || tasks.iter().filter(|(_, heard)| heard.get() == 0).count();
        while unheard() > 0 {
            let seen = [0, 1].map(|bell| tasks[bell].0.0.get());
            for bell in 0..2 {
                let (woken, heard) = &tasks[bell];
                let waker = Waker::from(woken.clone());
                let polled = heard.get() == 0
                    && core.poll_bell(&bells[bell], &mut waits[bell], &Context::from_waker(&waker)).is_ready();
                heard.add(u64::from(polled));
            }
            if unheard() > 0 {
                machine.serve(&core, || (0..2).any(|bell| tasks[bell].0.0.get() != seen[bell]));
            }
        }
        ringers.into_iter().for_each(|ringer| ringer.join().expect("no panic"));
    });
}
