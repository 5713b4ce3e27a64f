//! What sections promise, on one thread, with interrupts made by hand.

use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::CoreSet;
use crate::shootdown::{Replica, Source};
use crate::urgent::InterruptSafe;
use crate::urgent::tests::{Notebook, arrive, machine};

const B: CoreId = CoreId::new(1);

struct Master(AtomicU64);

impl Source for Master {
    type Value = u64;

    fn current(&self) -> (u64, Arc<u64>) {
        let value = self.0.load(Ordering::Relaxed);
        (value, Arc::new(value))
    }
}

/// An initiator, a core that accepts interrupts, and a source with a replica there.
struct Scene {
    port: Arc<Notebook>,
    cores: Vec<Core>,
    master: Arc<Master>,
    replica: Replica<u64>,
    done: Rc<Cell<u32>>,
}

impl Scene {
    fn new() -> Self {
        let (port, _fabric, cores) = machine(2);
        let master = Arc::new(Master(AtomicU64::new(0)));
        let replica = cores[1].replica(&master);
        Self { port, cores, master, replica, done: Rc::default() }
    }

    fn update(&self) {
        self.master.0.fetch_add(1, Ordering::Relaxed);
        let done = self.done.clone();
        self.cores[0].start_update(&self.master, move |_, outcome| done.set(done.get() + u32::from(outcome.is_ok())));
    }

    /// How many updates have ended.
    fn done(&self) -> u32 {
        pass(&self.cores[0]);
        self.done.get()
    }

    fn read(&self) -> u64 {
        self.replica.read(|value| *value)
    }

    fn section<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: 1. and 2. the test itself is the loop, and is not inside a read.
        unsafe { self.cores[1].preemptible(f, |_| ()) }
    }
}

fn pass(core: &Core) {
    // SAFETY: 1. and 2. the test itself is the loop, and is not inside a read.
    unsafe { core.safe_point() };
}

#[test]
fn an_update_is_acknowledged_in_a_section_and_carried_out_at_its_end() {
    let scene = Scene::new();
    let accepting = scene.cores[1].accept_interrupts();
    scene.section(|| {
        scene.update();
        assert_eq!((scene.port.interrupted(), scene.done()), (alloc::vec![B], 0));
        arrive();
        assert_eq!((scene.done(), scene.read()), (1, 0), "the copy stays as it is");
        scene.update();
        arrive();
        assert_eq!(scene.done(), 2);
    });
    assert_eq!((scene.read(), scene.replica.version()), (2, 2));
    pass(&scene.cores[1]);
    assert_eq!(scene.read(), 2);
    drop(accepting);
}

#[test]
fn what_was_asked_for_before_a_section_is_acknowledged_at_its_begin() {
    let scene = Scene::new();
    scene.update();
    assert!(scene.port.interrupted().is_empty(), "outside of sections nobody is interrupted");
    scene.section(|| assert_eq!(scene.done(), 1));
    assert_eq!(scene.read(), 1);
}

#[test]
fn an_interrupt_after_a_section_acknowledges_nothing() {
    let scene = Scene::new();
    let accepting = scene.cores[1].accept_interrupts();
    scene.section(|| scene.update());
    arrive();
    assert_eq!((scene.done(), scene.read()), (0, 0));
    pass(&scene.cores[1]);
    assert_eq!((scene.done(), scene.read()), (1, 1));
    drop(accepting);
}

#[test]
fn a_section_that_panics_carries_out_what_it_has_acknowledged() {
    let scene = Scene::new();
    scene.update();
    let panicked = catch_unwind(AssertUnwindSafe(|| scene.section(|| panic!("in a section"))));
    assert!(panicked.is_err());
    assert_eq!((scene.done(), scene.read()), (1, 1));
    scene.section(|| ());
}

#[test]
fn an_operation_with_notes_is_acknowledged_by_a_note_and_one_without_waits() {
    let scene = Scene::new();
    let accepting = scene.cores[1].accept_interrupts();
    let (initiator, all) = (&scene.cores[0], CoreSet::first(2));
    let (notes, executed) = (Arc::new(Notes::new(2)), Arc::new(AtomicU64::new(0)));
    let operation = || {
        let executed = executed.clone();
        move |core: &Core| _ = executed.fetch_add(1 << (8 * core.id().index()), Ordering::Relaxed)
    };
    let done = Rc::new(Cell::new(0));
    let told = || {
        let done = done.clone();
        move |_: &Core, outcome: Result<usize, _>| done.set(done.get() + u32::from(outcome.is_ok()))
    };
    scene.section(|| {
        initiator.start_shootdown_noting(&all, operation(), &notes, told());
        arrive();
        initiator.drain(1);
        assert_eq!((done.get(), executed.load(Ordering::Relaxed)), (1, 1), "on the initiator alone");
        initiator.start_shootdown(&all, operation(), told());
        assert!(scene.port.interrupted().len() < 2, "no interrupt for what cannot be acknowledged");
        arrive();
        initiator.drain(1);
        assert_eq!(done.get(), 1);
    });
    assert!(notes.take(B) && !notes.take(B) && !notes.take(CoreId::new(0)));
    scene.cores[1].drain(1);
    initiator.drain(1);
    assert_eq!((done.get(), executed.load(Ordering::Relaxed)), (2, 0x102));
    initiator.start_shootdown_noting(&all, operation(), &notes, told());
    scene.cores[1].drain(1);
    assert!(!notes.take(B), "outside of a section it is executed");
    assert_eq!(executed.load(Ordering::Relaxed), 0x203);
    drop(accepting);
}

#[test]
fn a_prompt_operation_is_executed_in_a_section_and_waits_for_no_other_one() {
    let scene = Scene::new();
    let accepting = scene.cores[1].accept_interrupts();
    let (initiator, all) = (&scene.cores[0], CoreSet::first(2));
    let (executed, done) = (Arc::new(AtomicU64::new(0)), Rc::new(Cell::new(0)));
    let told = || {
        let done = done.clone();
        move |_: &Core, outcome: Result<usize, _>| done.set(done.get() + u32::from(outcome.is_ok()))
    };
    let prompt = || {
        let executed = executed.clone();
        // SAFETY: 1. to 5. it adds to an atomic.
        unsafe {
            InterruptSafe::new(move |core: CoreId| _ = executed.fetch_add(1 << (8 * core.index()), Ordering::Relaxed))
        }
    };
    scene.section(|| {
        initiator.start_shootdown(&all, |_: &Core| (), told());
        initiator.start_shootdown_prompt(&all, prompt(), told());
        assert_eq!((scene.port.interrupted(), executed.load(Ordering::Relaxed)), (alloc::vec![B], 1));
        arrive();
        initiator.drain(1);
        assert_eq!((done.get(), executed.load(Ordering::Relaxed)), (1, 0x101));
    });
    scene.cores[1].drain(1);
    initiator.drain(1);
    assert_eq!(done.get(), 2, "the other one comes after the section");
    initiator.start_shootdown_prompt(&all, prompt(), told());
    arrive();
    assert_eq!(executed.load(Ordering::Relaxed), 0x102, "outside of a section an interrupt leaves it");
    scene.cores[1].drain(1);
    initiator.drain(1);
    assert_eq!((done.get(), executed.load(Ordering::Relaxed)), (3, 0x202));
    // What was asked for before a section, at its begin.
    initiator.start_shootdown_prompt(&all, prompt(), told());
    scene.section(|| assert_eq!(executed.load(Ordering::Relaxed), 0x303));
    assert_eq!(Arc::strong_count(&executed), 2, "who asked has not looked");
    initiator.drain(1);
    assert_eq!((done.get(), Arc::strong_count(&executed)), (4, 1));
    drop(accepting);
}

#[test]
#[should_panic(expected = "inside another")]
fn sections_do_not_nest() {
    let scene = Scene::new();
    scene.section(|| scene.section(|| ()));
}

std::thread_local! {
    static HELD: RefCell<Option<Replica<Leaving>>> = const { RefCell::new(None) };
    static BREAKS: Cell<bool> = const { Cell::new(false) };
}

/// A value that lets go of its own replica when it is cloned, and breaks when it goes, if it `leaves`.
struct Leaving {
    version: u64,
    leaves: bool,
}

impl Clone for Leaving {
    fn clone(&self) -> Self {
        if self.leaves {
            drop(HELD.take());
        }
        Self { ..*self }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        assert!(!(self.leaves && BREAKS.get()), "it breaks as it goes");
    }
}

struct Shelf {
    version: AtomicU64,
    leaves: AtomicBool,
}

impl Source for Shelf {
    type Value = Leaving;

    fn current(&self) -> (u64, Arc<Leaving>) {
        let (version, leaves) = (self.version.load(Ordering::Relaxed), self.leaves.load(Ordering::Relaxed));
        (version, Arc::new(Leaving { version, leaves }))
    }
}

#[test]
fn a_replica_that_goes_in_the_middle_with_a_panic_keeps_no_other_from_being_refreshed() {
    let scene = Scene::new();
    let shelf = || Arc::new(Shelf { version: AtomicU64::new(0), leaves: AtomicBool::new(false) });
    let mut shelves: Vec<_> = (0..4).map(|_| shelf()).collect();
    // The one that is refreshed first.
    shelves.sort_by_key(Arc::as_ptr);
    shelves[0].leaves.store(true, Ordering::Relaxed);
    let mut replicas: Vec<_> = shelves.iter().map(|shelf| scene.cores[1].replica(shelf)).collect();
    HELD.set(Some(replicas.remove(0)));
    shelves.iter().for_each(|shelf| shelf.version.store(1, Ordering::Relaxed));
    // A round of any source owes them all.
    scene.update();
    scene.section(|| BREAKS.set(true));
    BREAKS.set(false);
    assert!(HELD.take().is_none());
    assert!(replicas.iter().all(|replica| replica.read(|value| value.version) == 1));
}
