//! [Urgent](crate::urgent) with real endpoints, gates and tables. An interrupt is a call on the thread it interrupts, at any edge after it was sent; a
//! core in the middle of a long poll is one that waits for interrupts and looks at nothing: a lost one is a deadlock here.

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::Cell;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Waker};
use std::vec::Vec;

use super::handlers::{Signal, serve_until};
use super::{A, B, Ended, Machine, explore};
use crate::port::{FenceKind, Port};
use crate::sync::checker::{GATE, INTERRUPTS, Notify, thread};
use crate::sync::{AtomicBool, AtomicU32, Counter, Ordering, edge};
use crate::urgent::{Gate, InterruptSafe, UrgentId};
use crate::{Config, Core, CoreId, Fabric, Seat};

/// A machine that interrupts.
pub(super) struct Interrupting {
    pub(super) machine: Arc<Machine>,
    /// Interrupts still to be refused.
    refusals: Counter,
    /// What its clock says, and how much it goes on with each look.
    now_ns: Counter,
    step_ns: u64,
    lines: Vec<Wire>,
}

struct Wire {
    raised: AtomicBool,
    /// For a core that waits for nothing else.
    hint: Notify,
    gate: Gate,
}

// SAFETY: 1. a gate is touched by the one thread that has taken it for its core.
unsafe impl Sync for Interrupting {}
// SAFETY: 1. as above.
unsafe impl Send for Interrupting {}

impl Interrupting {
    pub(super) fn new(cores: usize, refusals: u64) -> Arc<Self> {
        Self::with_clock(cores, refusals, 0)
    }

    /// With a clock on which between two looks so much time passes.
    pub(super) fn with_clock(cores: usize, refusals: u64, step_ns: u64) -> Arc<Self> {
        let wire = |_| Wire { raised: AtomicBool::new(false), hint: Notify::new(), gate: Gate::new() };
        let machine = Machine::new(FenceKind::Symmetric, cores);
        let lines = (0..cores).map(wire).collect();
        let this = Self { machine, refusals: Counter::default(), now_ns: Counter::default(), step_ns, lines };
        this.refusals.add(refusals);
        Arc::new(this)
    }

    pub(super) fn fabric(self: &Arc<Self>) -> (Fabric, Vec<Seat>) {
        let config = Config { cores: self.lines.len(), ring_capacity: 2, first_index: u32::MAX };
        Fabric::new(config, self.clone()).expect("a valid configuration")
    }

    /// Makes the calling thread the one of `seat`, whose gate it takes and whose interrupts it gets.
    pub(super) fn enter(self: &Arc<Self>, seat: Seat) -> Core {
        let (this, id, inside) = (self.clone(), seat.id().index(), Cell::new(false));
        GATE.with(|gate| gate.set(&raw const self.lines[id].gate));
        let interrupt = move || {
            let wire = &this.lines[id];
            // What interrupts is not interrupted by the same.
            if !inside.get() && wire.raised.swap(false, Ordering::AcqRel) {
                inside.set(true);
                wire.gate.arrive();
                inside.set(false);
            }
        };
        INTERRUPTS.with(|interrupts| *interrupts.borrow_mut() = Some(Rc::new(interrupt)));
        seat.enter()
    }

    /// One interrupt, or what the last edges have left of it.
    pub(super) fn wait(&self, core: CoreId) {
        self.lines[core.index()].hint.wait();
        edge();
    }

    /// Ends a [`wait`](Self::wait) of a core without an interrupt.
    pub(super) fn tell(&self, core: CoreId) {
        self.lines[core.index()].hint.notify();
    }

    /// Ends the thread's part: from here on it is none of the core's.
    pub(super) fn end(core: Core) -> Ended {
        core.refuse_interrupts();
        INTERRUPTS.with(|interrupts| interrupts.borrow_mut().take());
        GATE.with(|gate| gate.set(core::ptr::null()));
        Ended(core)
    }
}

// SAFETY: 1. and 2. are `Machine`'s. 3. the default. 4. a thread's gate is the one that it took in `enter`, in a machine that its core's fabric holds.
unsafe impl Port for Interrupting {
    fn fence_kind(&self) -> FenceKind {
        self.machine.fence_kind()
    }

    fn heavy_fence(&self) -> bool {
        self.machine.heavy_fence()
    }

    fn kick(&self, target: CoreId) {
        self.machine.kick(target);
    }

    fn interrupt(&self, target: CoreId) -> bool {
        if self.refusals.get() > 0 {
            self.refusals.add(u64::MAX);
            return false;
        }
        let wire = &self.lines[target.index()];
        // An RMW: of a store the checker believes that it may come before an exchange that it has not read.
        wire.raised.swap(true, Ordering::AcqRel);
        wire.hint.notify();
        true
    }

    fn gate(&self) -> *const Gate {
        if crate::sync::unwinds_in_a_model() {
            return core::ptr::null();
        }
        GATE.with(Cell::get)
    }

    fn relax(&self, turn: u32) {
        self.machine.relax(turn);
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.add_shared(self.step_ns);
        self.now_ns.get()
    }

    fn current(&self) -> *const () {
        core::ptr::null()
    }

    unsafe fn set_current(&self, _slot: *const ()) {}
}

fn register(fabric: &Fabric, f: impl Fn(CoreId) + Send + Sync + 'static) -> UrgentId {
    // SAFETY: 1. to 5. an interrupt is a call at an edge here, and no edge lies in the middle of anything.
    let f = unsafe { InterruptSafe::new(f) };
    fabric.register_urgent(f).expect("a free slot")
}

/// A bit per trigger, written before it, as weak as the memory model allows.
#[derive(Clone)]
struct Told {
    written: Arc<[AtomicU32; 2]>,
    seen: Arc<Counter>,
}

impl Told {
    fn new() -> Self {
        Self { written: Arc::new([AtomicU32::new(0), AtomicU32::new(0)]), seen: Arc::default() }
    }

    fn tell(&self, which: usize) {
        self.written[which].store(1, Ordering::Relaxed);
    }

    fn handler(&self) -> impl Fn(CoreId) + Send + Sync + 'static {
        let this = self.clone();
        move |_| {
            let seen = this.written.iter().map(|written| u64::from(written.load(Ordering::Relaxed))).sum::<u64>();
            this.seen.add(seen - this.seen.get());
        }
    }

    fn all_seen(&self) -> bool {
        self.seen.get() == 2
    }
}

/// Two triggers by one thread of a core that accepts interrupts and does nothing else; some interrupts are refused.
fn never_looks(preemptions: usize, refusals: u64) {
    explore(preemptions, move || {
        let machine = Interrupting::new(1, refusals);
        let (fabric, mut seats) = machine.fabric();
        let told = Told::new();
        let id = register(&fabric, told.handler());
        let sender = two_triggers(&fabric, id, &told);
        let core = machine.enter(seats.remove(0));
        // One that comes here finds nobody.
        edge();
        let accepting = core.accept_interrupts().expect("a gate");
        while !told.all_seen() {
            machine.wait(A);
        }
        sender.join().expect("no panic");
        drop(accepting);
        drop(Interrupting::end(core));
    });
}

fn two_triggers(fabric: &Fabric, id: UrgentId, told: &Told) -> thread::JoinHandle<()> {
    let (fabric, told) = (fabric.clone(), told.clone());
    thread::spawn(move || {
        for which in [0, 1] {
            told.tell(which);
            fabric.trigger_urgent(id, A).expect("live");
        }
    })
}

#[test]
fn every_trigger_reaches_a_core_that_never_looks() {
    never_looks(4, 0);
}

#[test]
fn a_refused_interrupt_does_not_stand_in_the_way_of_the_next() {
    never_looks(3, 1);
}

#[test]
fn triggers_of_two_threads_are_seen_with_what_they_tell_of() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let told = Told::new();
        let id = register(&fabric, told.handler());
        let sender = |which| {
            let (told, fabric) = (told.clone(), fabric.clone());
            thread::spawn(move || {
                told.tell(which);
                fabric.trigger_urgent(id, A).expect("live");
            })
        };
        let senders = [0, 1].map(sender);
        let core = machine.enter(seats.remove(0));
        let accepting = core.accept_interrupts().expect("a gate");
        while !told.all_seen() {
            machine.wait(A);
        }
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
        drop(accepting);
        drop(Interrupting::end(core));
    });
}

#[test]
fn a_core_that_sleeps_is_woken_for_a_trigger() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let told = Told::new();
        let id = register(&fabric, told.handler());
        let sender = two_triggers(&fabric, id, &told);
        // It accepts no interrupts: all that it gets is by looking.
        let core = machine.enter(seats.remove(0));
        machine.machine.serve(&core, || told.all_seen());
        sender.join().expect("no panic");
        drop(Interrupting::end(core));
    });
}

#[test]
fn a_critical_section_is_not_interrupted_and_its_end_serves_what_came() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let (told, inside) = (Told::new(), Arc::new(Counter::default()));
        let id = register(&fabric, {
            let (look, inside) = (told.handler(), inside.clone());
            move |core| {
                assert_eq!(inside.get(), 0, "in a critical section");
                look(core);
            }
        });
        let sender = two_triggers(&fabric, id, &told);
        let core = machine.enter(seats.remove(0));
        let accepting = core.accept_interrupts().expect("a gate");
        let gate = &machine.lines[0].gate;
        gate.critical(|| {
            inside.set(1);
            // Nested: the end of the inner one is not the end.
            gate.critical(edge);
            edge();
            inside.set(0);
        });
        while !told.all_seen() {
            machine.wait(A);
        }
        sender.join().expect("no panic");
        drop(accepting);
        drop(Interrupting::end(core));
    });
}

#[test]
fn a_look_in_a_critical_section_leaves_the_trigger_to_a_later_one() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let told = Told::new();
        let id = register(&fabric, told.handler());
        told.tell(1);
        let sender = thread::spawn({
            let told = told.clone();
            move || {
                told.tell(0);
                fabric.trigger_urgent(id, A).expect("live");
            }
        });
        let core = machine.enter(seats.remove(0));
        machine.lines[0].gate.critical(|| core.drain(8));
        machine.machine.serve(&core, || told.all_seen());
        sender.join().expect("no panic");
        drop(Interrupting::end(core));
    });
}

#[test]
fn handlers_do_not_interrupt_each_other() {
    explore(4, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let (told, running) = (Told::new(), Arc::new(Counter::default()));
        let id = register(&fabric, {
            let (look, running) = (told.handler(), running.clone());
            move |core| {
                assert_eq!(running.get(), 0, "inside of itself");
                running.set(1);
                look(core);
                edge();
                running.set(0);
            }
        });
        let sender = two_triggers(&fabric, id, &told);
        let core = machine.enter(seats.remove(0));
        let accepting = core.accept_interrupts().expect("a gate");
        core.drain(8);
        while !told.all_seen() {
            machine.wait(A);
        }
        sender.join().expect("no panic");
        drop(accepting);
        drop(Interrupting::end(core));
    });
}

/// Counts down when the function goes away.
struct Function {
    gone: Arc<Counter>,
}

impl Drop for Function {
    fn drop(&mut self) {
        self.gone.add(1);
    }
}

#[test]
fn an_unregistered_function_is_dropped_after_its_last_run() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let (gone, ran) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
        let id = register(&fabric, {
            let (function, ran) = (Function { gone: gone.clone() }, ran.clone());
            move |_| {
                assert_eq!(function.gone.get(), 0, "it is gone");
                thread::yield_now();
                assert_eq!(function.gone.get(), 0, "it is gone");
                ran.add(1);
            }
        });
        let sender = thread::spawn({
            let fabric = fabric.clone();
            move || fabric.trigger_urgent(id, A).is_ok()
        });
        let ender = thread::spawn({
            let fabric = fabric.clone();
            move || {
                let mut end = fabric.unregister_urgent(id).expect("live");
                while !end.advance() {
                    thread::yield_now();
                }
            }
        });
        let core = machine.enter(seats.remove(0));
        let accepting = core.accept_interrupts().expect("a gate");
        edge();
        let accepted = sender.join().expect("no panic");
        // Whatever was accepted has been sent by now.
        edge();
        ender.join().expect("no panic");
        assert_eq!(gone.get(), 1);
        assert_eq!(ran.get() > 0, accepted, "accepted or refused, and run or not");
        assert!(fabric.trigger_urgent(id, A).is_err());
        drop(accepting);
        drop(Interrupting::end(core));
    });
}

/// Waits for the end of `id` as a task does that sleeps until it is woken.
fn await_end(fabric: &Fabric, id: UrgentId) {
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(signal.clone());
    let Ok(end) = fabric.unregister_urgent(id) else { return };
    let mut end = pin!(end);
    while end.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        signal.0.wait();
        thread::yield_now();
    }
}

/// One preemption: the waker's queue, two sleeps and the looks make too many executions with two.
#[test]
fn who_awaits_the_end_is_woken_by_a_core_that_looks_by_itself() {
    explore(1, || {
        let machine = Interrupting::new(1, 1);
        let (fabric, mut seats) = machine.fabric();
        let ended = Arc::new(Counter::default());
        let id = register(&fabric, |_| ());
        let ender = thread::spawn({
            let (fabric, ended) = (fabric.clone(), ended.clone());
            move || {
                fabric.trigger_urgent(id, A).expect("live");
                await_end(&fabric, id);
                ended.add(1);
                fabric.nudge(A);
            }
        });
        // It accepts no interrupts.
        let core = machine.enter(seats.remove(0));
        serve_until(&machine.machine, &core, || ended.get() == 1);
        ender.join().expect("no panic");
        drop(Interrupting::end(core));
    });
}

#[test]
fn who_awaits_the_end_polls_until_an_interrupt_has_brought_it() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, mut seats) = machine.fabric();
        let (told, ended) = (Told::new(), Arc::new(Counter::default()));
        told.tell(1);
        let id = register(&fabric, told.handler());
        let ender = thread::spawn({
            let (fabric, told, ended) = (fabric.clone(), told.clone(), ended.clone());
            move || {
                told.tell(0);
                fabric.trigger_urgent(id, A).expect("live");
                await_end(&fabric, id);
                ended.add(1);
            }
        });
        let core = machine.enter(seats.remove(0));
        let accepting = core.accept_interrupts().expect("a gate");
        // It looks at nothing.
        while !told.all_seen() {
            machine.wait(A);
        }
        ender.join().expect("no panic");
        assert_eq!(ended.get(), 1);
        drop(accepting);
        drop(Interrupting::end(core));
    });
}

#[test]
fn who_awaits_the_end_is_woken_by_a_core_that_leaves() {
    explore(3, || {
        let machine = Interrupting::new(2, 2);
        let (fabric, mut seats) = machine.fabric();
        let id = register(&fabric, |_| ());
        let (other, own) = (seats.remove(1), seats.remove(0));
        let leaver = thread::spawn({
            let machine = machine.clone();
            move || {
                drop(machine.enter(other));
                INTERRUPTS.with(|interrupts| interrupts.borrow_mut().take());
            }
        });
        // Accepted or not: it leaves.
        let _ = fabric.trigger_urgent(id, B);
        await_end(&fabric, id);
        leaver.join().expect("no panic");
        drop(Interrupting::end(machine.enter(own)));
    });
}

#[test]
fn a_function_registered_while_the_last_core_leaves_is_dropped() {
    explore(3, || {
        let machine = Interrupting::new(1, 0);
        let (fabric, seats) = machine.fabric();
        let leaver = thread::spawn(move || seats.into_iter().for_each(|seat| drop(seat.enter())));
        let gone = Arc::new(Counter::default());
        let id = register(&fabric, {
            let function = Function { gone: gone.clone() };
            move |_| assert_eq!(function.gone.get(), 0, "it is gone")
        });
        leaver.join().expect("no panic");
        assert!(fabric.trigger_urgent(id, A).is_err());
        assert_eq!(gone.get(), 1, "nobody runs it any more");
    });
}

#[test]
fn unregistering_does_not_wait_for_a_core_that_leaves() {
    explore(3, || {
        let machine = Interrupting::new(2, 0);
        let (fabric, mut seats) = machine.fabric();
        let gone = Arc::new(Counter::default());
        let id = register(&fabric, {
            let function = Function { gone: gone.clone() };
            move |_| assert_eq!(function.gone.get(), 0, "it is gone")
        });
        let (other, own) = (seats.remove(1), seats.remove(0));
        let leaver = thread::spawn({
            let machine = machine.clone();
            move || {
                let core = machine.enter(other);
                let accepting = core.accept_interrupts();
                edge();
                drop(accepting);
                drop(core);
                INTERRUPTS.with(|interrupts| interrupts.borrow_mut().take());
            }
        });
        // Accepted or not: it leaves.
        let _ = fabric.trigger_urgent(id, B);
        let mut end = fabric.unregister_urgent(id).expect("live");
        while !end.advance() {
            thread::yield_now();
        }
        assert_eq!(gone.get(), 1);
        leaver.join().expect("no panic");
        drop(Interrupting::end(machine.enter(own)));
    });
}
