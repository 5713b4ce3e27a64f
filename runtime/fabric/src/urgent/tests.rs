//! What urgent handlers promise, on one thread, with interrupts made by hand.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::*;
use crate::port::{FenceKind, Port};
use crate::{Config, Seat};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

std::thread_local! {
    static GATE: Gate = const { Gate::new() };
}

/// Notes what it is asked for.
#[derive(Default)]
pub(crate) struct Notebook {
    pub(crate) refuses: AtomicBool,
    interrupts: Mutex<Vec<CoreId>>,
    kicks: Mutex<Vec<CoreId>>,
}

// SAFETY: 1. the slot is always null, and nobody sets it. 2. the fence kind is symmetric: the heavy fence is never used. 3. the default. 4. a thread's gate is its
// thread-local one, without a destructor.
unsafe impl Port for Notebook {
    fn fence_kind(&self) -> FenceKind {
        FenceKind::Symmetric
    }
    fn heavy_fence(&self) -> bool {
        unreachable!("symmetric")
    }
    fn kick(&self, target: CoreId) {
        self.kicks.lock().expect("not poisoned").push(target);
    }
    fn interrupt(&self, target: CoreId) -> bool {
        if self.refuses.load(Ordering::Relaxed) {
            return false;
        }
        self.interrupts.lock().expect("not poisoned").push(target);
        true
    }
    fn gate(&self) -> *const Gate {
        GATE.with(|gate| gate as *const Gate)
    }
    fn relax(&self, _turn: u32) {}
    fn current(&self) -> *const () {
        core::ptr::null()
    }
    unsafe fn set_current(&self, _slot: *const ()) {}
}

impl Notebook {
    pub(crate) fn interrupted(&self) -> Vec<CoreId> {
        core::mem::take(&mut self.interrupts.lock().expect("not poisoned"))
    }

    pub(crate) fn kicked(&self) -> Vec<CoreId> {
        core::mem::take(&mut self.kicks.lock().expect("not poisoned"))
    }
}

pub(crate) fn machine(cores: usize) -> (Arc<Notebook>, Fabric, Vec<Core>) {
    let port = Arc::new(Notebook::default());
    let (fabric, seats) = Fabric::new(Config { cores, ..Config::default() }, port.clone()).expect("a configuration");
    (port, fabric, seats.into_iter().map(Seat::enter).collect())
}

fn register(fabric: &Fabric, f: impl Fn(CoreId) + Send + Sync + 'static) -> Result<UrgentId, TableFull> {
    // SAFETY: 1. to 5. interrupts are calls of the test here, in the middle of nothing.
    fabric.register_urgent(unsafe { InterruptSafe::new(f) })
}

fn counter(fabric: &Fabric) -> (UrgentId, Arc<AtomicU32>) {
    let ran = Arc::new(AtomicU32::new(0));
    let count = ran.clone();
    let id = register(fabric, move |_| _ = count.fetch_add(1, Ordering::Relaxed)).expect("a free slot");
    (id, ran)
}

pub(crate) fn arrive() {
    GATE.with(Gate::arrive);
}

pub(crate) fn is_closed() -> bool {
    GATE.with(Gate::is_closed)
}

pub(crate) fn critical<R>(f: impl FnOnce() -> R) -> R {
    GATE.with(|gate| gate.critical(f))
}

#[test]
fn an_interrupt_runs_what_was_triggered_and_a_second_is_sent_only_after_it() {
    let (port, fabric, cores) = machine(2);
    let (id, ran) = counter(&fabric);
    let accepting = cores[0].accept_interrupts();
    fabric.trigger_urgent(id, A).expect("live");
    fabric.trigger_urgent(id, A).expect("live");
    assert_eq!((port.interrupted(), ran.load(Ordering::Relaxed)), (vec![A], 0));
    arrive();
    arrive();
    assert_eq!(ran.load(Ordering::Relaxed), 1, "both triggers in one run, and a forged interrupt in none");
    fabric.trigger_urgent(id, A).expect("live");
    assert_eq!(port.interrupted(), [A]);
    drop(accepting);
    arrive();
    assert_eq!(ran.load(Ordering::Relaxed), 1, "nobody accepts it");
    assert_eq!((cores[0].drain(64), ran.load(Ordering::Relaxed)), (1, 2), "it finds it by itself");
    let counted = fabric.core_counters(A);
    assert_eq!((counted.interrupts_sent, counted.interrupts_refused, counted.urgent_run), (2, 0, 2));
    assert!(port.kicked().is_empty());
}

#[test]
fn a_refused_interrupt_costs_no_trigger_and_the_next_one_tries_again() {
    let (port, fabric, cores) = machine(1);
    let (id, ran) = counter(&fabric);
    port.refuses.store(true, Ordering::Relaxed);
    fabric.trigger_urgent(id, A).expect("accepted all the same");
    fabric.trigger_urgent(id, A).expect("accepted all the same");
    assert_eq!((fabric.core_counters(A).interrupts_refused, cores[0].drain(64)), (2, 1));
    assert_eq!(ran.load(Ordering::Relaxed), 1);
    port.refuses.store(false, Ordering::Relaxed);
    fabric.trigger_urgent(id, A).expect("live");
    assert_eq!(port.interrupted(), [A]);
}

#[test]
fn a_core_that_sleeps_is_kicked_and_not_interrupted() {
    let (port, fabric, cores) = machine(1);
    let (id, ran) = counter(&fabric);
    let armed = cores[0].arm(|| true).expect("nothing waits");
    fabric.trigger_urgent(id, A).expect("live");
    fabric.trigger_urgent(id, A).expect("live");
    assert_eq!((port.kicked(), port.interrupted()), (vec![A], vec![]));
    drop(armed);
    assert!(cores[0].arm(|| true).is_none(), "it does not fall asleep again before it has looked");
    assert_eq!((cores[0].drain(64), ran.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn a_resting_core_that_does_not_look_is_interrupted_all_the_same() {
    let (port, fabric, cores) = machine(2);
    let (id, _) = counter(&fabric);
    cores[0].set_resting(true);
    fabric.trigger_urgent(id, A).expect("live");
    assert_eq!(port.interrupted(), [A]);
    cores[0].drain(64);
    assert_eq!(fabric.trigger_urgent_set(id, &CoreSet::first(2)), Ok(2));
    assert_eq!(port.interrupted(), [B, A], "the busy ones first");
}

#[test]
fn handlers_run_lowest_slot_first_with_the_core_that_was_triggered() {
    let (_port, fabric, cores) = machine(2);
    let order = Arc::new(AtomicU32::new(0));
    let ids: Vec<_> = (1..=3)
        .map(|digit| {
            let order = order.clone();
            register(&fabric, move |core| {
                assert_eq!(core, B);
                order.store(order.load(Ordering::Relaxed) * 10 + digit, Ordering::Relaxed);
            })
        })
        .map(|id| id.expect("a free slot"))
        .collect();
    for id in ids.iter().rev() {
        fabric.trigger_urgent(*id, B).expect("live");
    }
    cores[0].drain(64);
    assert_eq!(order.load(Ordering::Relaxed), 0);
    cores[1].drain(64);
    assert_eq!(order.load(Ordering::Relaxed), 123);
}

#[test]
fn what_comes_in_a_critical_section_runs_at_its_outermost_end() {
    let (_port, fabric, cores) = machine(1);
    let (id, ran) = counter(&fabric);
    let accepting = cores[0].accept_interrupts();
    let seen = || ran.load(Ordering::Relaxed);
    critical(|| {
        fabric.trigger_urgent(id, A).expect("live");
        arrive();
        critical(arrive);
        assert_eq!((cores[0].drain(64), seen()), (1, 0), "a look finds the gate closed too");
    });
    assert_eq!(seen(), 1);
    arrive();
    assert_eq!((critical(seen), cores[0].drain(64), seen()), (1, 1, 1), "it asked itself to look again, for nothing");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        critical(|| {
            fabric.trigger_urgent(id, A).expect("live");
            arrive();
            std::panic::resume_unwind(Box::new("in a critical section"))
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(seen(), 2, "the gate is open again");
    assert!(!GATE.with(Gate::is_closed));
    drop(accepting);
}

#[test]
fn a_handler_that_triggers_itself_runs_again_and_not_inside_of_itself() {
    let (port, fabric, cores) = machine(1);
    let (ran, own) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(None)));
    let id = register(&fabric, {
        let (ran, own, fabric) = (ran.clone(), own.clone(), fabric.clone());
        move |core| {
            let before = ran.fetch_add(1, Ordering::Relaxed);
            let id = own.lock().expect("not poisoned").expect("it is told");
            if before < 2 {
                fabric.trigger_urgent(id, core).expect("live");
                // The machine is quick.
                arrive();
            }
            assert!(ran.load(Ordering::Relaxed) == before + 1, "inside of itself");
        }
    });
    let id = id.expect("a free slot");
    *own.lock().expect("not poisoned") = Some(id);
    let accepting = cores[0].accept_interrupts();
    fabric.trigger_urgent(id, A).expect("live");
    arrive();
    assert_eq!((ran.load(Ordering::Relaxed), port.interrupted()), (3, vec![A; 3]));
    drop(accepting);
}

/// A machine on which an interrupt comes with each run of a handler, for ever.
#[test]
fn interrupts_without_end_hold_up_no_critical_section_and_none_is_lost() {
    let (port, fabric, cores) = machine(1);
    let (ran, own, hostile) =
        (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(true)));
    let id = register(&fabric, {
        let (ran, own, hostile, fabric) = (ran.clone(), own.clone(), hostile.clone(), fabric.clone());
        move |core| {
            ran.fetch_add(1, Ordering::Relaxed);
            if hostile.load(Ordering::Relaxed) {
                let id = own.lock().expect("not poisoned").expect("it is told");
                fabric.trigger_urgent(id, core).expect("live");
                arrive();
            }
        }
    });
    let id = id.expect("a free slot");
    *own.lock().expect("not poisoned") = Some(id);
    let accepting = cores[0].accept_interrupts();
    let seen = || ran.load(Ordering::Relaxed);
    critical(|| {
        fabric.trigger_urgent(id, A).expect("live");
        arrive();
    });
    let first = seen();
    assert!((2..100).contains(&first), "it has ended, {first} runs later");
    assert!(!port.interrupted().is_empty() && !GATE.with(Gate::is_closed));
    // The interrupt that it has sent itself.
    arrive();
    assert!((first + 1..200).contains(&seen()));
    // A machine that refuses: the core finds what is left when it looks.
    port.refuses.store(true, Ordering::Relaxed);
    critical(arrive);
    let before = seen();
    hostile.store(false, Ordering::Relaxed);
    assert_eq!((cores[0].drain(64), seen()), (1, before + 1));
    assert_eq!((cores[0].drain(64), seen()), (0, before + 1), "that was all");
    // From then on as before.
    port.refuses.store(false, Ordering::Relaxed);
    port.interrupted();
    fabric.trigger_urgent(id, A).expect("live");
    assert_eq!(port.interrupted(), [A]);
    arrive();
    assert_eq!(seen(), before + 2);
    drop(accepting);
}

#[test]
fn one_core_per_thread_accepts_interrupts_and_a_forgotten_guard_ends_with_it() {
    let (_port, fabric, mut cores) = machine(2);
    let (id, ran) = counter(&fabric);
    let first = cores[0].accept_interrupts().expect("the first");
    assert!(cores[1].accept_interrupts().is_none());
    drop(first);
    core::mem::forget(cores[1].accept_interrupts().expect("the first again"));
    fabric.trigger_urgent(id, B).expect("live");
    drop(cores.pop());
    arrive();
    assert_eq!(ran.load(Ordering::Relaxed), 0, "it has left");
    assert!(cores[0].accept_interrupts().is_some());
}

#[test]
fn a_core_that_accepts_runs_what_was_triggered_before() {
    let (_port, fabric, cores) = machine(1);
    let (id, ran) = counter(&fabric);
    fabric.trigger_urgent(id, A).expect("live");
    arrive();
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    let accepting = cores[0].accept_interrupts();
    assert_eq!(ran.load(Ordering::Relaxed), 1);
    drop(accepting);
}

#[test]
fn a_full_table_refuses_and_a_freed_slot_has_a_new_name() {
    let (_port, fabric, cores) = machine(1);
    let ids: Vec<_> = (0..MAX_URGENT).map(|_| counter(&fabric).0).collect();
    let refused = register(&fabric, |_| ()).expect_err("it is full");
    assert!(std::format!("{refused}").contains("all 32"));
    // Nobody awaits the end.
    drop(fabric.unregister_urgent(ids[5]).expect("live"));
    let again = register(&fabric, |_| ()).expect("a slot was freed");
    assert_eq!(again.slot(), 5);
    assert_ne!(again, ids[5]);
    assert_eq!(fabric.trigger_urgent(ids[5], A), Err(TriggerError::Unregistered));
    assert_eq!(fabric.trigger_urgent_set(ids[5], &CoreSet::first(1)), Err(Unregistered));
    assert!(fabric.unregister_urgent(ids[5]).is_err());
    fabric.trigger_urgent(again, A).expect("live");
    drop(cores);
    assert_eq!(fabric.trigger_urgent(ids[0], A), Err(TriggerError::Unregistered), "retired when all had left");
}

#[test]
fn unregistering_waits_for_what_was_triggered_and_drops_the_function() {
    let (_port, fabric, cores) = machine(2);
    let token = Arc::new(());
    let ran = Arc::new(AtomicU32::new(0));
    let (held, count) = (token.clone(), ran.clone());
    let id = register(&fabric, move |_| _ = count.fetch_add(Arc::strong_count(&held) as u32, Ordering::Relaxed));
    let id = id.expect("a free slot");
    assert_eq!(fabric.trigger_urgent_set(id, &CoreSet::first(2)), Ok(2));
    let mut end = fabric.unregister_urgent(id).expect("live");
    assert!(!end.advance());
    cores[0].drain(64);
    assert!(!end.advance(), "the other one has not run it");
    assert_eq!(Arc::strong_count(&token), 2);
    cores[1].drain(64);
    assert!(end.advance() && end.advance());
    assert_eq!((ran.load(Ordering::Relaxed), Arc::strong_count(&token)), (4, 1));
}

#[test]
fn cores_that_have_left_are_errors_are_skipped_and_are_not_waited_for() {
    let (port, fabric, mut cores) = machine(2);
    let (id, ran) = counter(&fabric);
    fabric.trigger_urgent(id, B).expect("live");
    drop(cores.pop());
    assert_eq!(fabric.trigger_urgent(id, B), Err(TriggerError::Gone));
    port.interrupted();
    assert_eq!(fabric.trigger_urgent_set(id, &CoreSet::first(2)), Ok(1));
    assert_eq!(port.interrupted(), [A]);
    cores[0].drain(64);
    assert!(fabric.unregister_urgent(id).expect("live").advance());
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

#[test]
fn a_function_that_holds_its_fabric_does_not_keep_it_alive() {
    let (port, fabric, cores) = machine(1);
    let held = fabric.clone();
    register(&fabric, move |core| assert!(core.index() < held.cores())).expect("a free slot");
    drop((fabric, cores));
    assert_eq!(Arc::strong_count(&port), 1);
}

#[test]
fn a_function_registered_when_all_have_left_is_dropped_at_once() {
    let (port, fabric, cores) = machine(2);
    drop(cores);
    let held = fabric.clone();
    let id = register(&fabric, move |core| assert!(core.index() < held.cores())).expect("a free slot");
    assert_eq!(fabric.trigger_urgent(id, A), Err(TriggerError::Unregistered));
    assert!(fabric.unregister_urgent(id).is_err());
    for _ in 0..2 * MAX_URGENT {
        register(&fabric, |_| ()).expect("the slots are free again");
    }
    drop(fabric);
    assert_eq!(Arc::strong_count(&port), 1);
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_awaits_the_end_is_woken_once_by_a_look_and_again_and_again_for_an_interrupt() {
    let (port, fabric, mut cores) = machine(2);
    let count = Arc::new(Woken::default());
    let waker = core::task::Waker::from(count.clone());
    let mut cx = Context::from_waker(&waker);
    let woken = || count.0.swap(0, Ordering::Relaxed);
    // Refused: the core will look by itself.
    port.refuses.store(true, Ordering::Relaxed);
    let (id, _) = counter(&fabric);
    fabric.trigger_urgent(id, A).expect("live");
    let mut end = fabric.unregister_urgent(id).expect("live");
    for _ in 0..3 {
        assert!(Pin::new(&mut end).poll(&mut cx).is_pending());
    }
    assert_eq!(woken(), 0, "there is nothing to be polled for");
    cores[0].drain(64);
    assert_eq!(woken(), 3, "each waker that it was left");
    assert!(Pin::new(&mut end).poll(&mut cx).is_ready());
    // A core that leaves.
    let (id, _) = counter(&fabric);
    fabric.trigger_urgent(id, B).expect("live");
    let mut end = fabric.unregister_urgent(id).expect("live");
    assert!(Pin::new(&mut end).poll(&mut cx).is_pending());
    drop(cores.pop());
    assert_eq!(woken(), 1);
    assert!(Pin::new(&mut end).poll(&mut cx).is_ready());
    // An interrupt is under way.
    port.refuses.store(false, Ordering::Relaxed);
    let (id, _) = counter(&fabric);
    let accepting = cores[0].accept_interrupts();
    fabric.trigger_urgent(id, A).expect("live");
    let mut end = fabric.unregister_urgent(id).expect("live");
    assert!(Pin::new(&mut end).poll(&mut cx).is_pending());
    assert_eq!(woken(), 1);
    arrive();
    assert!(Pin::new(&mut end).poll(&mut cx).is_ready());
    drop(accepting);
}

#[test]
fn a_panic_in_a_handler_aborts() {
    // The harness must not be the one to go.
    if std::env::var_os("IPIQ_URGENT_PANIC").is_none() {
        let this = std::env::current_exe().expect("this program has a path");
        let mut child = std::process::Command::new(this);
        child.args(["--exact", "urgent::tests::a_panic_in_a_handler_aborts"]).env("IPIQ_URGENT_PANIC", "1");
        let output = child.output().expect("this program starts again");
        assert_eq!(output.status.code(), None, "killed by a signal: {output:?}");
        return;
    }
    let (_port, fabric, cores) = machine(1);
    let id = register(&fabric, |_| std::panic::panic_any("in a handler")).expect("a free slot");
    fabric.trigger_urgent(id, A).expect("live");
    let _ = catch_unwind(AssertUnwindSafe(|| cores[0].drain(64)));
}

#[test]
fn a_machine_without_interrupts_runs_handlers_in_drains() {
    let (fabric, cores) = crate::tests::cores(1, 4);
    let (id, ran) = counter(&fabric);
    assert!(cores[0].accept_interrupts().is_none());
    fabric.trigger_urgent(id, A).expect("live");
    assert_eq!((cores[0].drain(64), ran.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(fabric.core_counters(A).interrupts_refused, 1);
    let cell = Cell::new(0);
    critical(|| cell.set(1));
    assert_eq!(cell.get(), 1, "a gate to no core holds nothing off");
}
