//! [Urgent calls](crate::urgent_call) with real endpoints, gates and interrupts. A target in the middle of a long poll is one that waits for interrupts and looks at nothing; a
//! caller sleeps as cores do: what is lost on either way is a deadlock here.

use alloc::sync::Arc as StdArc;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use super::handlers::{Signal, serve_until};
use super::urgent::Interrupting;
use super::{A, B, Ended, Plain, explore};
use crate::call::Outcome;
use crate::sync::checker::thread;
use crate::sync::{AtomicBool, Counter, Ordering, edge};
use crate::urgent::InterruptSafe;
use crate::urgent_call::{ForeignUrgentCall, UrgentCall};
use crate::{Core, CoreId, Fabric, Seat};

/// What a call's function does: reads a plain word of its caller, and returns another one that it has written.
struct Probe {
    told: StdArc<Plain>,
    reply: StdArc<Plain>,
    runs: StdArc<Counter>,
    /// Counts up when the function is dropped.
    dropped: StdArc<Counter>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.dropped.add(1);
    }
}

impl Probe {
    fn new() -> Self {
        Self { told: Plain::new(), reply: Plain::new(), runs: StdArc::default(), dropped: StdArc::default() }
    }

    fn function(self) -> InterruptSafe<impl Fn(CoreId) -> StdArc<Plain> + Send + 'static> {
        self.told.write(7);
        let f = move |_| {
            assert_eq!(self.told.read(), 7);
            self.runs.add(1);
            self.reply.write(8);
            self.reply.clone()
        };
        // SAFETY: 1. to 5. an interrupt is a call at an edge here, and no edge lies in the middle of anything.
        unsafe { InterruptSafe::new(f) }
    }

    fn call(self, core: &Core, target: CoreId) -> UrgentCall<StdArc<Plain>> {
        core.call_urgent(target, self.function())
    }
}

fn poll<R>(call: &mut UrgentCall<R>) -> Poll<Outcome<R>> {
    Pin::new(call).poll(&mut Context::from_waker(Waker::noop()))
}

/// Sleeps until the call has ended.
fn finish(machine: &Interrupting, core: &Core, mut call: UrgentCall<StdArc<Plain>>) -> bool {
    let outcome = core::cell::Cell::new(None);
    let call = core::cell::RefCell::new(&mut call);
    machine.machine.serve(core, || {
        if outcome.get().is_none()
            && let Poll::Ready(answer) = poll(&mut call.borrow_mut())
        {
            outcome.set(Some(answer.is_ok_and(|reply| reply.read() == 8)));
        }
        outcome.get().is_some()
    });
    outcome.get().is_some_and(|answered| answered)
}

/// A core that is in the middle of a poll until `enough` functions have run there.
fn busy(
    machine: &StdArc<Interrupting>,
    seat: Seat,
    enough: impl Fn() -> bool + Send + 'static,
) -> thread::JoinHandle<Ended> {
    let machine = machine.clone();
    thread::spawn(move || {
        let id = seat.id();
        let core = machine.enter(seat);
        let accepting = core.accept_interrupts().expect("a gate");
        edge();
        while !enough() {
            machine.wait(id);
        }
        drop(accepting);
        Interrupting::end(core)
    })
}

#[test]
fn a_call_runs_in_the_middle_of_a_poll_and_brings_its_value_to_a_caller_that_sleeps() {
    explore(3, || {
        let machine = Interrupting::new(2, 0);
        let (_fabric, mut seats) = machine.fabric();
        let probe = Probe::new();
        let (runs, dropped) = (probe.runs.clone(), probe.dropped.clone());
        let target = busy(&machine, seats.remove(1), {
            let runs = runs.clone();
            move || runs.get() == 1
        });
        let core = machine.enter(seats.remove(0));
        let call = probe.call(&core, B);
        assert!(finish(&machine, &core, call));
        assert_eq!((runs.get(), dropped.get()), (1, 1));
        let target = target.join().expect("no panic");
        drop((target, Interrupting::end(core)));
    });
}

#[test]
fn two_answers_come_home_whole_whichever_tells_of_them() {
    explore(2, || {
        let machine = Interrupting::new(2, 0);
        let (_fabric, mut seats) = machine.fabric();
        let probes = [Probe::new(), Probe::new()];
        let runs = [probes[0].runs.clone(), probes[1].runs.clone()];
        let target = busy(&machine, seats.remove(1), move || runs.iter().all(|runs| runs.get() == 1));
        let core = machine.enter(seats.remove(0));
        let calls = probes.map(|probe| probe.call(&core, B));
        for call in calls {
            assert!(finish(&machine, &core, call));
        }
        let target = target.join().expect("no panic");
        drop((target, Interrupting::end(core)));
    });
}

#[test]
fn calls_of_two_callers_arrive_whole_whoever_interrupts() {
    explore(2, || {
        let machine = Interrupting::new(3, 0);
        let (_fabric, mut seats) = machine.fabric();
        let probes = [Probe::new(), Probe::new()];
        let runs = probes[0].runs.clone();
        let [mine, other] = probes;
        let (third, second) = (seats.remove(2), seats.remove(1));
        let caller = thread::spawn({
            let machine = machine.clone();
            move || {
                let core = machine.enter(third);
                drop(other.call(&core, B));
                Interrupting::end(core)
            }
        });
        let target = busy(&machine, second, move || runs.get() == 1);
        let core = machine.enter(seats.remove(0));
        let call = mine.call(&core, B);
        assert!(finish(&machine, &core, call));
        let (target, other) = (target.join().expect("no panic"), caller.join().expect("no panic"));
        drop((target, other, Interrupting::end(core)));
    });
}

#[test]
fn a_call_that_is_dropped_runs_only_if_the_drop_says_so_and_is_freed_once() {
    explore(3, || {
        let machine = Interrupting::new(2, 0);
        let (_fabric, mut seats) = machine.fabric();
        let probe = Probe::new();
        let (runs, dropped) = (probe.runs.clone(), probe.dropped.clone());
        let over = StdArc::new(AtomicBool::new(false));
        let target = thread::spawn({
            let (machine, seat, over) = (machine.clone(), seats.remove(1), over.clone());
            move || {
                let core = machine.enter(seat);
                let accepting = core.accept_interrupts().expect("a gate");
                edge();
                while !over.load(Ordering::Acquire) {
                    thread::yield_now();
                    edge();
                }
                edge();
                drop(accepting);
                Interrupting::end(core)
            }
        });
        let core = machine.enter(seats.remove(0));
        let call = probe.call(&core, B);
        edge();
        let prevented = call.cancel();
        over.store(true, Ordering::Release);
        let target = target.join().expect("no panic");
        assert_eq!(runs.get(), u64::from(!prevented));
        core.drain(8);
        assert_eq!(dropped.get(), 1);
        drop((target, Interrupting::end(core)));
    });
}

#[test]
fn a_call_to_a_core_that_leaves_ends_run_or_not() {
    explore(3, || {
        let machine = Interrupting::new(2, 0);
        let (_fabric, mut seats) = machine.fabric();
        let probe = Probe::new();
        let (runs, dropped) = (probe.runs.clone(), probe.dropped.clone());
        let leaver = leaver(&machine, seats.remove(1));
        let core = machine.enter(seats.remove(0));
        let call = probe.call(&core, B);
        let answered = finish(&machine, &core, call);
        leaver.join().expect("no panic");
        assert_eq!((runs.get(), dropped.get()), (u64::from(answered), 1));
        drop(Interrupting::end(core));
    });
}

#[test]
fn calls_of_two_callers_to_a_core_that_leaves_both_end() {
    explore(2, || {
        let machine = Interrupting::new(3, 0);
        let (_fabric, mut seats) = machine.fabric();
        let (third, second) = (seats.remove(2), seats.remove(1));
        let caller = thread::spawn({
            let machine = machine.clone();
            move || {
                let core = machine.enter(third);
                drop(Probe::new().call(&core, B));
                Interrupting::end(core)
            }
        });
        let leaver = leaver(&machine, second);
        let core = machine.enter(seats.remove(0));
        let call = Probe::new().call(&core, B);
        finish(&machine, &core, call);
        leaver.join().expect("no panic");
        drop((caller.join().expect("no panic"), Interrupting::end(core)));
    });
}

/// One that may be interrupted before it leaves.
fn leaver(machine: &StdArc<Interrupting>, seat: Seat) -> thread::JoinHandle<()> {
    let machine = machine.clone();
    thread::spawn(move || {
        let core = machine.enter(seat);
        let accepting = core.accept_interrupts();
        edge();
        drop(accepting);
        drop(core);
        crate::sync::checker::INTERRUPTS.with(|interrupts| interrupts.borrow_mut().take());
    })
}

#[test]
fn what_two_cores_that_leave_have_called_on_each_other_is_freed() {
    explore(2, || {
        let machine = Interrupting::new(2, 0);
        let (fabric, mut seats) = machine.fabric();
        let probes = [Probe::new(), Probe::new()];
        let dropped = [probes[0].dropped.clone(), probes[1].dropped.clone()];
        let [one, two] = probes;
        let other = thread::spawn({
            let (machine, seat) = (machine.clone(), seats.remove(1));
            move || {
                let core = machine.enter(seat);
                drop(two.call(&core, A));
                drop(core);
                crate::sync::checker::INTERRUPTS.with(|interrupts| interrupts.borrow_mut().take());
            }
        });
        let core = machine.enter(seats.remove(0));
        drop(one.call(&core, B));
        drop(core);
        crate::sync::checker::INTERRUPTS.with(|interrupts| interrupts.borrow_mut().take());
        other.join().expect("no panic");
        // While the fabric lives: a function may hold it.
        assert_eq!(dropped.map(|count| count.get()), [1, 1]);
        drop(fabric);
    });
}

/// Waits for the end of a foreign call as a task does that sleeps until it is woken.
fn await_foreign(mut call: ForeignUrgentCall<StdArc<Plain>>) -> bool {
    let signal = StdArc::new(Signal::default());
    let waker = Waker::from(signal.clone());
    loop {
        if let Poll::Ready(outcome) = Pin::new(&mut call).poll(&mut Context::from_waker(&waker)) {
            return outcome.is_ok_and(|reply| reply.read() == 8);
        }
        signal.0.wait();
        thread::yield_now();
    }
}

fn call_from_elsewhere(fabric: &Fabric, probe: Probe) -> ForeignUrgentCall<StdArc<Plain>> {
    fabric.call_urgent(A, probe.function())
}

#[test]
fn a_foreign_call_ends_while_the_poll_goes_on() {
    explore(2, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let probe = Probe::new();
        let (runs, dropped) = (probe.runs.clone(), probe.dropped.clone());
        let target = busy(&machine, seats.remove(0), {
            let runs = runs.clone();
            move || runs.get() == 1
        });
        assert!(await_foreign(call_from_elsewhere(&fabric, probe)));
        assert_eq!((runs.get(), dropped.get()), (1, 1), "what it captures waits for no drain");
        drop(target.join().expect("no panic"));
    });
}

/// One preemption: the waker's queue, two sleeps and the looks make too many executions with two.
#[test]
fn a_foreign_call_is_woken_by_a_core_that_looks_by_itself() {
    explore(1, || {
        let machine = Interrupting::new(1, 1);
        let (fabric, mut seats) = machine.fabric();
        let ended = StdArc::new(Counter::default());
        let caller = thread::spawn({
            let (fabric, ended) = (fabric.clone(), ended.clone());
            move || {
                assert!(await_foreign(call_from_elsewhere(&fabric, Probe::new())));
                ended.add(1);
                fabric.nudge(A);
            }
        });
        // It accepts no interrupts.
        let core = machine.enter(seats.remove(0));
        serve_until(&machine.machine, &core, || ended.get() == 1);
        caller.join().expect("no panic");
        drop(Interrupting::end(core));
    });
}

#[test]
fn a_foreign_call_to_a_core_that_leaves_ends_run_or_not_and_is_freed() {
    explore(2, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let probe = Probe::new();
        let (runs, dropped) = (probe.runs.clone(), probe.dropped.clone());
        let leaver = leaver(&machine, seats.remove(0));
        let answered = await_foreign(call_from_elsewhere(&fabric, probe));
        leaver.join().expect("no panic");
        // While the fabric lives: a function may hold it.
        assert_eq!((runs.get(), dropped.get()), (u64::from(answered), 1));
        drop(fabric);
    });
}

#[test]
fn a_foreign_call_that_is_dropped_is_freed_as_its_target_leaves() {
    explore(2, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let probe = Probe::new();
        let (runs, dropped) = (probe.runs.clone(), probe.dropped.clone());
        let leaver = leaver(&machine, seats.remove(0));
        let prevented = call_from_elsewhere(&fabric, probe).cancel();
        leaver.join().expect("no panic");
        // While the fabric lives: a function may hold it.
        assert_eq!((runs.get(), dropped.get()), (u64::from(!prevented), 1));
        drop(fabric);
    });
}

#[test]
fn a_foreign_call_that_is_dropped_runs_only_if_the_drop_says_so() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let probe = Probe::new();
        let (runs, dropped) = (probe.runs.clone(), probe.dropped.clone());
        let over = StdArc::new(AtomicBool::new(false));
        let caller = thread::spawn({
            let over = over.clone();
            move || {
                let prevented = call_from_elsewhere(&fabric, probe).cancel();
                over.store(true, Ordering::Release);
                prevented
            }
        });
        let core = machine.enter(seats.remove(0));
        let accepting = core.accept_interrupts().expect("a gate");
        edge();
        while !over.load(Ordering::Acquire) {
            thread::yield_now();
            edge();
        }
        let prevented = caller.join().expect("no panic");
        edge();
        assert_eq!(runs.get(), u64::from(!prevented));
        drop(accepting);
        core.drain(8);
        assert_eq!(dropped.get(), 1);
        drop(Interrupting::end(core));
    });
}
