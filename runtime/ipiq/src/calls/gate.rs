//! Slots, and those who wait for one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ipiq_fabric::CoreId;

use super::limit::Limit;
use crate::home;

/// What a gate is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) service: Option<home::Key>,
    pub(super) target: CoreId,
    pub(super) depth: u8,
}

thread_local! {
    static GATES: RefCell<Gates> = RefCell::default();
}

/// Those of a core.
#[derive(Default)]
struct Gates {
    by_key: HashMap<Key, Rc<Gate>>,
    /// So many gates, and those that nobody uses go: their services may be gone.
    clear_at: usize,
}

/// Fewer are not worth it.
const FEW: usize = 64;

/// How many calls are outstanding, and who waits.
#[derive(Default)]
pub(super) struct Gate {
    held: Cell<usize>,
    /// How many may be, as far as the last one to come knew.
    most: Cell<usize>,
    /// In the order in which they came.
    line: RefCell<BTreeMap<u64, Rc<Waiter>>>,
    next_place: Cell<u64>,
}

#[derive(Default)]
struct Waiter {
    /// It has left the line with a slot.
    granted: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// What a gate gives to a call.
pub(super) enum Entry {
    Slot(Slot),
    Place(Place),
    Full,
}

/// The calling core's gate for `key`.
pub(super) fn gate(key: Key) -> Rc<Gate> {
    GATES.with_borrow_mut(|gates| gates.get(key))
}

impl Gates {
    fn get(&mut self, key: Key) -> Rc<Gate> {
        if let Some(gate) = self.by_key.get(&key) {
            return gate.clone();
        }
        if self.by_key.len() >= self.clear_at {
            self.by_key.retain(|_, gate| gate.is_used());
            self.clear_at = FEW.max(2 * self.by_key.len());
        }
        self.by_key.entry(key).or_default().clone()
    }
}

impl Gate {
    fn is_used(&self) -> bool {
        self.held.get() > 0
    }

    pub(super) fn enter(self: Rc<Self>, limit: Limit) -> Entry {
        self.most.set(limit.most());
        // [calls L4]
        self.grant();
        // [calls L1]
        if self.held.get() < limit.most() {
            self.held.set(self.held.get() + 1);
            return Entry::Slot(Slot { gate: self });
        }
        if !limit.waits() {
            return Entry::Full;
        }
        let (number, waiter) = (self.next_place.get(), Rc::<Waiter>::default());
        self.next_place.set(number + 1);
        self.line.borrow_mut().insert(number, waiter.clone());
        Entry::Place(Place { gate: self, number, waiter })
    }

    fn give_back(&self) {
        // [calls L2]
        self.held.set(self.held.get() - 1);
        self.grant();
    }

    /// Gives those in line what is free. Nobody is left in line afterwards, or nothing free.
    fn grant(&self) {
        while self.held.get() < self.most.get() {
            let first = self.line.borrow_mut().pop_first();
            let Some((_, waiter)) = first else { break };
            self.held.set(self.held.get() + 1);
            waiter.granted.set(true);
            waiter.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// One of those that a gate has.
pub(super) struct Slot {
    gate: Rc<Gate>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.give_back();
    }
}

/// A place in line.
pub(super) struct Place {
    gate: Rc<Gate>,
    number: u64,
    waiter: Rc<Waiter>,
}

impl Place {
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Slot> {
        if self.waiter.granted.take() {
            return Poll::Ready(Slot { gate: self.gate.clone() });
        }
        drop(self.waiter.waker.replace(Some(cx.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // [calls L3]
        let left = self.gate.line.borrow_mut().remove(&self.number);
        if left.is_none() && self.waiter.granted.get() {
            self.gate.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_that_nobody_uses_go_when_there_are_many() {
        let mut gates = Gates::default();
        let key = |n| Key { service: None, target: CoreId::new(n % 100), depth: (n / 100) as u8 };
        let Entry::Slot(_slot) = enter(&gates.get(key(0)), Limit::wait(1)) else { panic!("a slot") };
        (1..10 * FEW).for_each(|n| drop(gates.get(key(n))));
        assert!(gates.by_key.len() <= FEW);
        assert!(matches!(enter(&gates.get(key(0)), Limit::reject(1)), Entry::Full));
    }

    fn enter(gate: &Rc<Gate>, limit: Limit) -> Entry {
        gate.clone().enter(limit)
    }

    #[test]
    fn another_limit_holds_for_those_in_line_too() {
        let gate = Rc::<Gate>::default();
        let cx = Context::from_waker(Waker::noop());
        let Entry::Slot(one) = enter(&gate, Limit::wait(1)) else { panic!("a slot") };
        let line = [(); 3].map(|()| place(&gate, Limit::wait(1)));
        assert!(line.iter().all(|place| place.poll(&cx).is_pending()));
        let last = place(&gate, Limit::wait(4));
        let [Poll::Ready(two), Poll::Ready(three), Poll::Ready(four)] = line.map(|place| place.poll(&cx)) else {
            panic!("three more slots")
        };
        assert!(last.poll(&cx).is_pending() && matches!(enter(&gate, Limit::reject(2)), Entry::Full));
        drop((one, two, three));
        let Poll::Ready(slot) = last.poll(&cx) else { panic!("one of two") };
        assert!(matches!(enter(&gate, Limit::reject(2)), Entry::Full));
        drop((four, slot));
        assert_eq!((gate.held.get(), gate.line.borrow().len()), (0, 0));
    }

    fn place(gate: &Rc<Gate>, limit: Limit) -> Place {
        let Entry::Place(place) = enter(gate, limit) else { panic!("a place in line") };
        place
    }

    #[test]
    fn slots_go_to_those_in_line_in_their_order_and_past_those_who_leave() {
        let (gate, limit) = (Rc::<Gate>::default(), Limit::wait(2));
        let (Entry::Slot(one), Entry::Slot(two)) = (enter(&gate, limit), enter(&gate, limit)) else { panic!("slots") };
        let [first, second, third, fourth] = [(); 4].map(|()| place(&gate, limit));
        let cx = Context::from_waker(Waker::noop());
        assert!(first.poll(&cx).is_pending() && third.poll(&cx).is_pending());
        drop(second);
        drop(one);
        let Poll::Ready(slot) = first.poll(&cx) else { panic!("the first in line") };
        assert!(third.poll(&cx).is_pending());
        drop(two);
        // It has been given one, and does not take it.
        drop(third);
        let Poll::Ready(last) = fourth.poll(&cx) else { panic!("passed on") };
        assert!(matches!(enter(&gate, Limit::reject(2)), Entry::Full));
        drop((slot, last, first, fourth));
        assert_eq!((gate.held.get(), gate.line.borrow().len()), (0, 0));
    }
}
