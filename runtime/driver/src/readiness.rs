//! What is known of one direction of a socket, and who waits for it.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use rustix::event::epoll::EventFlags;
use slab::Slab;

/// Which half of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Read,
    Write,
}

impl Half {
    /// The events that make this half ready, and those after which no further edge comes.
    fn of(self, events: EventFlags) -> (bool, bool) {
        let end = EventFlags::HUP | EventFlags::ERR;
        match self {
            Self::Read => {
                let end = end | EventFlags::RDHUP;
                (events.intersects(EventFlags::IN | end), events.intersects(end))
            }
            Self::Write => (events.intersects(EventFlags::OUT | end), events.intersects(end)),
        }
    }
}

/// A waiter's place; `None` while it does not wait.
#[derive(Debug, Default)]
pub(crate) struct Ticket(Option<usize>);

/// Readiness and waiters of one half.
///
/// All fields are the home thread's. `ready` starts true: not knowing, the first call asks the kernel.
/// Wakers are taken out before they are woken or dropped, so a waker may call back into the driver.
pub(crate) struct Readiness {
    half: Half,
    ready: Cell<bool>,
    /// The peer closed or the socket failed: no edge will follow, so a short transfer keeps `ready`.
    ended: Cell<bool>,
    /// The one waiter of the borrowed calls; the latest wins.
    borrowed: Cell<Option<Waker>>,
    /// The waiters of operations.
    queued: RefCell<Slab<Option<Waker>>>,
}

impl Readiness {
    pub(crate) fn new(half: Half) -> Self {
        Self {
            half,
            ready: Cell::new(true),
            ended: Cell::new(false),
            borrowed: Cell::new(None),
            queued: RefCell::new(Slab::new()),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// The kernel said "would block".
    pub(crate) fn clear(&self) {
        self.ready.set(false);
    }

    /// The kernel moved fewer bytes than asked: it has no more, unless the end was already seen.
    pub(crate) fn clear_after_short(&self) {
        self.ready.set(self.ended.get());
    }

    /// Takes over the events that concern this half and wakes its waiters.
    pub(crate) fn apply(&self, events: EventFlags) {
        let (ready, ended) = self.half.of(events);
        if !ready {
            return;
        }
        self.ready.set(true);
        if ended {
            self.ended.set(true);
        }
        self.wake();
    }

    /// Wakes every waiter.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.borrowed.take() {
            waker.wake();
        }
        let mut next = 0;
        while let Some(waker) = self.next_queued(&mut next) {
            waker.wake();
        }
    }

    fn next_queued(&self, next: &mut usize) -> Option<Waker> {
        let mut queued = self.queued.borrow_mut();
        while *next < queued.capacity() {
            let slot = queued.get_mut(*next);
            *next += 1;
            if let Some(waker) = slot.and_then(Option::take) {
                return Some(waker);
            }
        }
        None
    }

    /// Waits on behalf of a borrowed call.
    pub(crate) fn park_borrowed(&self, waker: &Waker) {
        let kept = match self.borrowed.take() {
            Some(kept) if kept.will_wake(waker) => kept,
            _ => waker.clone(),
        };
        self.borrowed.set(Some(kept));
    }

    /// Waits on behalf of an operation.
    pub(crate) fn park(&self, ticket: &mut Ticket, waker: &Waker) {
        let fresh = waker.clone();
        let mut queued = self.queued.borrow_mut();
        let replaced = match ticket.0 {
            Some(key) => queued[key].replace(fresh),
            None => {
                ticket.0 = Some(queued.insert(Some(fresh)));
                None
            }
        };
        drop(queued);
        drop(replaced);
    }

    /// Ends an operation's wait.
    pub(crate) fn unpark(&self, ticket: &mut Ticket) {
        if let Some(key) = ticket.0.take() {
            let waker = self.queued.borrow_mut().remove(key);
            drop(waker);
        }
    }
}
