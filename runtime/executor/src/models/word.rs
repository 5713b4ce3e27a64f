//! The word with a task that is nothing but its memory, its home and what is kept of them.

use alloc::collections::VecDeque;
use alloc::sync::Arc as Shared;
use core::array;
use core::cell::Cell;
use core::sync::atomic::AtomicBool;

use ipiq_fabric::model_check::explore;

use crate::sync::checker::{Arc, Mutex, Notify, UnsafeCell, thread};
use crate::sync::{AtomicUsize, Ordering};
use crate::task::word::{Abort, Finish, Released, Word};

/// Memory that ends: the checker fails if its end is not ordered after each use.
struct Memory {
    place: UnsafeCell<()>,
    ended: AtomicBool,
}

impl Memory {
    fn new() -> Self {
        Self { place: UnsafeCell::new(()), ended: AtomicBool::new(false) }
    }

    fn touch(&self) {
        assert!(!self.ended.load(Ordering::Relaxed), "used after its end");
        self.place.with(|_| ());
    }

    fn write(&self) {
        assert!(!self.ended.load(Ordering::Relaxed), "written after its end");
        self.place.with_mut(|_| ());
    }

    fn end(&self) {
        self.write();
        self.ended.store(true, Ordering::Relaxed);
    }
}

// SAFETY: 1. the model checker stops at the first access that races.
unsafe impl Sync for Memory {}

/// What other threads know of a home.
struct Home {
    memory: Memory,
    /// The fabric: it outlives the home.
    inbox: Shared<Inbox>,
}

struct Inbox {
    /// `None`: the home has left.
    wakes: Mutex<Option<VecDeque<Reference>>>,
    posted: Notify,
}

impl Inbox {
    fn post(&self, reference: Reference) -> Result<(), Reference> {
        let mut wakes = self.wakes.lock().expect("not poisoned");
        let Some(wakes) = &mut *wakes else { return Err(reference) };
        wakes.push_back(reference);
        self.posted.notify();
        Ok(())
    }

    fn try_next(&self) -> Option<Reference> {
        self.wakes.lock().expect("not poisoned").as_mut().and_then(VecDeque::pop_front)
    }

    fn next(&self) -> Reference {
        loop {
            if let Some(reference) = self.try_next() {
                return reference;
            }
            self.posted.wait();
        }
    }
}

struct Task {
    memory: Memory,
    word: Word,
    home: Home,
    /// Written when the home takes the task in.
    taken_in: Memory,
    kept: UnsafeCell<Option<Kept>>,
}

// SAFETY: 1. the model checker stops at the first access that races.
unsafe impl Sync for Task {}

impl Task {
    fn home(&self) -> &Home {
        self.memory.touch();
        self.taken_in.touch();
        self.home.memory.touch();
        &self.home
    }

    /// By who drops the last reference.
    fn give_up(&self) {
        self.memory.touch();
        // SAFETY: 1. the checker has found no access that races.
        let kept = self.kept.with_mut(|kept| unsafe { (*kept).take() });
        drop(kept.expect("kept, and given up once"));
    }
}

/// A count of the task's memory.
struct Allocation(Shared<Task>);

impl Drop for Allocation {
    fn drop(&mut self) {
        self.0.memory.end();
    }
}

/// A count of the home.
struct Residence(Shared<Task>);

impl Drop for Residence {
    fn drop(&mut self) {
        self.0.home.memory.end();
    }
}

struct Kept {
    _allocation: Arc<Allocation>,
    _home: Arc<Residence>,
}

// SAFETY: 1. the model checker stops at the first access that races.
unsafe impl Send for Kept {}

/// A waker, away from home.
struct Reference(Shared<Task>);

impl Reference {
    fn clone(&self) -> Self {
        self.0.memory.touch();
        self.0.word.add();
        Self(self.0.clone())
    }

    fn wake(self) {
        self.0.home();
        if self.0.word.notify() { self.travel() } else { self.drop() }
    }

    fn wake_by_ref(&self) {
        self.0.home();
        if self.0.word.notify() {
            self.clone().travel();
        }
    }

    fn travel(self) {
        let inbox = self.0.home().inbox.clone();
        if let Err(reference) = inbox.post(self) {
            reference.drop();
        }
    }

    fn drop(self) {
        self.0.memory.touch();
        if self.0.word.release() == Released::Last {
            self.0.give_up();
        }
    }
}

/// What the handle keeps.
struct Handle(Arc<Allocation>);

impl Handle {
    fn abort(&self) {
        let task = &self.0.0;
        task.memory.touch();
        match task.word.abort() {
            Abort::Seen => {}
            Abort::Wake => Reference(task.clone()).wake(),
        }
    }
}

/// The home's thread.
struct Thread {
    task: Shared<Task>,
    runnable: Arc<Allocation>,
    residence: Arc<Residence>,
    own: Cell<isize>,
}

impl Thread {
    fn new() -> Self {
        let inbox = Shared::new(Inbox { wakes: Mutex::new(Some(VecDeque::new())), posted: Notify::new() });
        let task = Shared::new(Task {
            memory: Memory::new(),
            word: Word::new(),
            home: Home { memory: Memory::new(), inbox },
            taken_in: Memory::new(),
            kept: UnsafeCell::new(None),
        });
        Self {
            runnable: Arc::new(Allocation(task.clone())),
            residence: Arc::new(Residence(task.clone())),
            task,
            own: Cell::new(0),
        }
    }

    fn handle(&self) -> Handle {
        Handle(self.runnable.clone())
    }

    /// A waker cloned at home.
    fn reference(&self) -> Reference {
        self.own.set(self.own.get() + 1);
        Reference(self.task.clone())
    }

    /// A wake-up comes home.
    fn arrive(&self, reference: Reference) {
        self.task.word.take_notified();
        drop(reference);
        self.own.set(self.own.get() - 1);
    }

    /// Waits for wake-ups until a poll that follows one is ready.
    fn sleep_until(&self, poll: impl Fn() -> bool) {
        let mut is_ready = false;
        while !is_ready {
            self.arrive(self.task.home.inbox.next());
            is_ready = poll();
        }
    }

    fn finish(self) {
        let Self { task, runnable, residence, own } = self;
        let keep = || {
            let kept = Kept { _allocation: runnable.clone(), _home: residence.clone() };
            // SAFETY: 1. the checker has found no access that races.
            let before = task.kept.with_mut(|place| unsafe { (*place).replace(kept) });
            assert!(before.is_none(), "kept once");
        };
        match task.word.finish(own.get() as usize, keep) {
            Finish::Alone | Finish::Kept => {}
            Finish::KeptForNobody => task.give_up(),
        }
        let inbox = task.home.inbox.clone();
        drop(runnable);
        let late = inbox.wakes.lock().expect("not poisoned").take();
        late.into_iter().flatten().for_each(Reference::drop);
        drop(residence);
    }
}

fn flags() -> Shared<[AtomicUsize; 2]> {
    Shared::new(array::from_fn(|_| AtomicUsize::new(0)))
}

#[test]
fn wake_ups_that_travel_as_one_bring_what_each_is_for() {
    explore(3, || {
        let home = Thread::new();
        home.task.taken_in.write();
        let said = flags();
        assert!(!home.task.word.wait());
        let wakers = array::from_fn::<_, 2, _>(|own| {
            let (said, reference) = (said.clone(), home.reference());
            thread::spawn(move || {
                said[own].store(1, Ordering::Relaxed);
                reference.wake();
            })
        });
        home.sleep_until(|| said.iter().all(|flag| flag.load(Ordering::Relaxed) == 1));
        home.finish();
        wakers.into_iter().for_each(|waker| waker.join().expect("no panic"));
    });
}

/// A task that has waited, or not, finishes while another thread uses, clones and drops a reference of its own.
fn finish_against(has_waited: bool, threads: usize, away: fn(Reference)) {
    explore(3, move || {
        let home = Thread::new();
        home.task.taken_in.write();
        if has_waited {
            assert!(!home.task.word.wait());
        }
        let others: alloc::vec::Vec<_> = (0..threads)
            .map(|_| {
                let reference = home.reference();
                thread::spawn(move || away(reference))
            })
            .collect();
        while let Some(reference) = home.task.home.inbox.try_next() {
            home.arrive(reference);
        }
        home.finish();
        others.into_iter().for_each(|other| other.join().expect("no panic"));
    });
}

#[test]
fn the_last_of_two_references_dropped_elsewhere_gives_up_what_was_kept() {
    finish_against(false, 2, Reference::drop);
}

#[test]
fn a_reference_cloned_woken_and_dropped_around_the_finish_keeps_task_and_home() {
    finish_against(true, 1, |reference| {
        let second = reference.clone();
        reference.wake_by_ref();
        reference.drop();
        second.wake();
    });
}

#[test]
fn two_threads_that_wake_around_the_finish_use_neither_task_nor_home_after_its_end() {
    finish_against(true, 2, |reference| {
        reference.wake_by_ref();
        reference.drop();
    });
}

/// Every reference of the home's is home again, and those made elsewhere are dropped elsewhere, when the task finishes.
fn finish_alone(has_waited: bool) {
    explore(4, move || {
        let home = Thread::new();
        home.task.taken_in.write();
        if has_waited {
            assert!(!home.task.word.wait());
        }
        let reference = home.reference();
        let other = thread::spawn(move || {
            let second = reference.clone();
            reference.wake();
            second.drop();
        });
        home.arrive(home.task.home.inbox.next());
        assert_eq!(home.own.get(), 0);
        home.finish();
        other.join().expect("no panic");
    });
}

#[test]
fn a_task_that_never_waited_ends_after_every_use_of_it() {
    finish_alone(false);
}

#[test]
fn a_task_that_has_waited_ends_after_every_use_of_it() {
    finish_alone(true);
}

#[test]
fn an_abort_around_the_first_wait_is_seen_before_it_or_wakes() {
    explore(4, || {
        let home = Thread::new();
        let (said, handle) = (flags(), home.handle());
        let aborting = thread::spawn({
            let said = said.clone();
            move || {
                said[0].store(1, Ordering::Relaxed);
                handle.abort();
            }
        });
        home.task.taken_in.write();
        if !home.task.word.wait() {
            home.sleep_until(|| home.task.word.is_aborted());
        }
        assert_eq!(said[0].load(Ordering::Relaxed), 1, "who sees an abort sees what led to it");
        home.finish();
        aborting.join().expect("no panic");
    });
}

#[test]
fn an_abort_seen_by_a_poll_brings_what_led_to_it() {
    explore(4, || {
        let home = Thread::new();
        home.task.taken_in.write();
        let (said, handle) = (Shared::new(Memory::new()), home.handle());
        let aborting = thread::spawn({
            let said = said.clone();
            move || {
                said.write();
                handle.abort();
            }
        });
        // As a task that never waits is polled.
        while !home.task.word.is_aborted() {
            thread::yield_now();
        }
        said.touch();
        home.finish();
        aborting.join().expect("no panic");
    });
}

/// A task that has waited finishes while it is aborted, and woken if `waker`.
fn abort_around_the_finish(waker: bool) {
    explore(3, move || {
        let home = Thread::new();
        home.task.taken_in.write();
        let handle = home.handle();
        let aborting = thread::spawn(move || {
            handle.abort();
            handle.abort();
        });
        let waking = waker.then(|| {
            let reference = home.reference();
            thread::spawn(move || reference.wake())
        });
        assert!(!home.task.word.wait() || home.task.word.is_aborted());
        if let Some(reference) = home.task.home.inbox.try_next() {
            home.arrive(reference);
        }
        home.finish();
        aborting.join().expect("no panic");
        waking.into_iter().for_each(|waking| waking.join().expect("no panic"));
    });
}

#[test]
fn aborts_around_the_finish_keep_the_home_or_leave_it_alone() {
    abort_around_the_finish(false);
}

#[test]
fn an_abort_and_a_wake_up_around_the_finish_keep_the_home_or_leave_it_alone() {
    abort_around_the_finish(true);
}
