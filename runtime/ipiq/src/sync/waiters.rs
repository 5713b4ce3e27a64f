//! Who waits, oldest first, and single wakers.

use std::cell::Cell;
use std::task::Waker;

use ipiq_fabric::contain;
use slab::Slab;

const NONE: usize = usize::MAX;

/// Waiters in the order in which they came. A plain structure: it calls, clones and drops no waker.
///
/// A waiter is *in line* until it is called; what it is called with stays in its place until it leaves.
#[derive(Debug)]
pub(super) struct Line<C> {
    places: Slab<Place<C>>,
    first: usize,
    last: usize,
    waiting: usize,
}

#[derive(Debug)]
struct Place<C> {
    /// How much it waits for.
    need: usize,
    before: usize,
    after: usize,
    state: State<C>,
}

#[derive(Debug)]
enum State<C> {
    InLine(Waker),
    Called(C),
}

/// How a waiter left.
#[derive(Debug)]
pub(super) enum Left<C> {
    /// It was in line; its waker is to be dropped outside of every borrow.
    InLine(Waker),
    Called(C),
}

impl<C> Line<C> {
    pub(super) const fn new() -> Self {
        Self { places: Slab::new(), first: NONE, last: NONE, waiting: 0 }
    }

    /// How many are in line.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// What the first in line needs.
    pub(super) fn first_need(&self) -> Option<usize> {
        self.places.get(self.first).map(|place| place.need)
    }

    /// Adds a waiter as the last.
    pub(super) fn join(&mut self, need: usize, waker: Waker) -> usize {
        let place = Place { need, before: self.last, after: NONE, state: State::InLine(waker) };
        let key = self.places.insert(place);
        match self.places.get_mut(self.last) {
            Some(last) => last.after = key,
            None => self.first = key,
        }
        self.last = key;
        self.waiting += 1;
        key
    }

    /// Takes the first out of line. Its waker is to be called outside of every borrow.
    pub(super) fn call_first(&mut self, with: C) -> Option<Waker> {
        let key = self.first;
        self.places.get(key)?;
        self.unlink(key);
        match std::mem::replace(&mut self.places[key].state, State::Called(with)) {
            State::InLine(waker) => Some(waker),
            State::Called(_) => unreachable!("who was called is not in line"),
        }
    }

    /// Takes all out of line, as one step.
    pub(super) fn call_all(&mut self, with: C) -> Vec<Waker>
    where
        C: Copy,
    {
        std::iter::from_fn(|| self.call_first(with)).collect()
    }

    pub(super) fn is_called(&self, key: usize) -> bool {
        matches!(self.places[key].state, State::Called(_))
    }

    /// Whether it is in line with a waker like this one.
    pub(super) fn knows(&self, key: usize, waker: &Waker) -> bool {
        matches!(&self.places[key].state, State::InLine(known) if known.will_wake(waker))
    }

    /// Replaces the waker of one in line.
    pub(super) fn keep(&mut self, key: usize, waker: Waker) -> Option<Waker> {
        match &mut self.places[key].state {
            State::InLine(known) => Some(std::mem::replace(known, waker)),
            State::Called(_) => Some(waker),
        }
    }

    pub(super) fn leave(&mut self, key: usize) -> Left<C> {
        if !self.is_called(key) {
            self.unlink(key);
        }
        match self.places.remove(key).state {
            State::InLine(waker) => Left::InLine(waker),
            State::Called(with) => Left::Called(with),
        }
    }

    fn unlink(&mut self, key: usize) {
        let (before, after) = (self.places[key].before, self.places[key].after);
        match self.places.get_mut(before) {
            Some(place) => place.after = after,
            None => self.first = after,
        }
        match self.places.get_mut(after) {
            Some(place) => place.before = before,
            None => self.last = before,
        }
        self.waiting -= 1;
    }
}

/// The waker of the one who may wait.
#[derive(Default)]
pub(super) struct WakerSlot(Cell<Option<Waker>>);

impl WakerSlot {
    /// Keeps the waker. Cloning it runs foreign code, in which what is waited for may come: look again afterwards.
    pub(super) fn keep(&self, waker: &Waker) {
        let old = match self.0.take() {
            Some(known) if known.will_wake(waker) => self.0.replace(Some(known)),
            old => {
                let between = self.0.replace(Some(waker.clone()));
                between.into_iter().for_each(discard);
                old
            }
        };
        // [sync W2]
        old.into_iter().for_each(discard);
    }

    /// [sync W2]
    pub(super) fn wake(&self) {
        if let Some(waker) = self.0.take() {
            call(waker);
        }
    }
}

/// Wakes; a waker's panic reaches nobody, for the others who wait must not miss their turn.
pub(super) fn call(waker: Waker) {
    // [sync W2]
    contain(|| waker.wake());
}

/// Drops a waker; its panic reaches nobody.
pub(super) fn discard(waker: Waker) {
    // [sync W2]
    contain(|| drop(waker));
}
