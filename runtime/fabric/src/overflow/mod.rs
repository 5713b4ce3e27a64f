#![doc = include_str!("README.md")]

use core::cell::{Cell, OnceCell, RefCell};
use core::task::Waker;

use alloc::collections::VecDeque;

use crate::ring::{Producer, Ring};
use crate::sync::{Arc, AtomicBool, Counter, Ordering, Padded, mutant};
use crate::{CoreId, Message};

/// What two cores share of one direction: the ring, the word of O4 and the counts.
pub(crate) struct Link {
    pub(crate) ring: Arc<Ring<Message>>,
    wanted: Padded<AtomicBool>,
    pub(crate) sent: Padded<SentCounters>,
    pub(crate) received: Padded<Counter>,
    /// The sequence of the last message that the source's lives so far have pushed.
    left_at: Counter,
}

/// Counted by the source.
#[derive(Default)]
pub(crate) struct SentCounters {
    pub(crate) sent: Counter,
    pub(crate) full: Counter,
    pub(crate) avoided: Counter,
    pub(crate) kicked: Counter,
    pub(crate) passive: Counter,
    pub(crate) overflowed: Counter,
    /// Length of the list.
    pub(crate) listed: Counter,
    pub(crate) repeated: Counter,
    /// See [watch](crate::watch).
    pub(crate) awaited_since: Counter,
}

impl Link {
    pub(crate) fn new(capacity: u32, first: u32) -> Self {
        let left_at = Counter::default();
        left_at.set(u64::from(first));
        Self {
            ring: Arc::new(Ring::new(capacity, first)),
            wanted: Padded(AtomicBool::new(false)),
            sent: Padded::default(),
            received: Padded::default(),
            left_at,
        }
    }

    /// O4: the source is about to sleep and waits for space.
    fn want(&self) {
        if !mutant!("overflow-no-wanted") {
            // [overflow O4] relaxed: the doorbell's K2 orders it before O5's look at `read`.
            self.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// W1 after its fence: whether the source must be kicked.
    #[inline(always)]
    pub(crate) fn take_wanted(&self) -> bool {
        // [overflow W1] relaxed: the light fence before it orders it after C3; the line moves only when it was set.
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
    }
}

/// A source's end of one direction.
#[derive(Default)]
pub(crate) struct Outgoing {
    end: OnceCell<(Producer<Message>, Arc<Link>)>,
    list: RefCell<VecDeque<Message>>,
    /// Length of `list`, readable while it is borrowed.
    listed: Cell<usize>,
    waiters: RefCell<VecDeque<(Ticket, Waker)>>,
    next_ticket: Cell<Ticket>,
    /// A passive message was published and the target has not been rung since.
    pub(crate) owes_ring: Cell<bool>,
}

/// A waiter's place in the order of arrival.
pub(crate) type Ticket = u64;

impl Outgoing {
    /// The ring and what belongs to it, made on first use.
    #[inline(always)]
    pub(crate) fn end(&self, make: impl FnOnce() -> Arc<Link>) -> &(Producer<Message>, Arc<Link>) {
        match self.end.get() {
            Some(end) => end,
            None => self.make_end(make()),
        }
    }

    #[cold]
    fn make_end(&self, link: Arc<Link>) -> &(Producer<Message>, Arc<Link>) {
        // [admission E2]
        let left_at = link.left_at.get();
        // SAFETY: 1. each life of a source has one `Outgoing` per target, and the one before has ended (`admission` A4). 2. V1 wrote it, or the link is new.
        let producer = unsafe { Producer::new(link.ring.clone(), left_at) };
        let is_first = self.end.set((producer, link)).is_ok();
        // Not `get_or_init`: what that returns comes of an exclusive reference, which the next `get` would end while the first caller still uses
        // the cells in it.
        self.end.get().filter(|_| is_first).expect("each end is made once")
    }

    /// [admission V1]
    pub(crate) fn leave(&self) {
        if let Some((producer, link)) = self.used() {
            // [admission V1] relaxed: V2 and A4 order it.
            link.left_at.set(producer.sequence());
            link.sent.awaited_since.set(0);
        }
    }

    /// The ring, if this life has used it.
    #[inline(always)]
    pub(crate) fn used(&self) -> Option<&(Producer<Message>, Arc<Link>)> {
        self.end.get()
    }

    /// Whether messages wait in the list: then every other send must wait too.
    #[inline(always)]
    pub(crate) fn has_listed(&self) -> bool {
        // [overflow O2]
        self.listed.get() > 0 && !mutant!("overflow-no-order")
    }

    /// How many messages wait in the list.
    pub(crate) fn listed(&self) -> u32 {
        self.listed.get() as u32
    }

    /// O1.
    pub(crate) fn list(&self, message: Message) {
        // [overflow O1]
        self.list.borrow_mut().push_back(message);
        self.set_listed(self.listed.get() + 1);
    }

    fn set_listed(&self, listed: usize) {
        self.listed.set(listed);
        if let Some((_, link)) = self.end.get() {
            link.sent.listed.set(listed as u64);
        }
    }

    /// O3's first half. Returns how many messages went to the ring.
    pub(crate) fn flush_list(&self) -> usize {
        let Some((producer, _)) = self.used() else {
            return 0;
        };
        let mut list = self.list.borrow_mut();
        let mut moved = 0;
        // [overflow O3]
        while !list.is_empty() && producer.has_space() {
            if let Some(message) = list.pop_front()
                && let Err(message) = producer.push(message)
            {
                list.push_front(message);
                break;
            }
            moved += 1;
        }
        if moved > 0 {
            self.set_listed(list.len());
        }
        moved
    }

    /// O3's second half: the waiters that may try now, oldest first.
    pub(crate) fn next_waiter(&self, woken: u32) -> Option<Waker> {
        let (producer, link) = self.used()?;
        let free = link.ring.capacity() - producer.depth();
        // [overflow O3]
        if self.has_listed() || woken >= free {
            return None;
        }
        self.waiters.borrow_mut().pop_front().map(|(_, waker)| waker)
    }

    /// Whether a list or waiters remain.
    pub(crate) fn wants_space(&self) -> bool {
        self.listed.get() > 0 || !self.waiters.borrow().is_empty()
    }

    /// O4.
    pub(crate) fn announce_want(&self) {
        if let Some((_, link)) = self.used() {
            link.want();
        }
    }

    /// O5.
    pub(crate) fn could_flush(&self) -> bool {
        // [overflow O5]
        !mutant!("overflow-no-recheck") && self.used().is_some_and(|(producer, _)| producer.has_space())
    }

    /// Whether a send may go straight to the ring: nothing is listed, and nobody waited before it.
    pub(crate) fn may_try(&self, ticket: Option<Ticket>) -> bool {
        if self.has_listed() {
            return false;
        }
        match (self.waiters.borrow().front(), ticket) {
            (None, _) => true,
            (Some((first, _)), Some(own)) => own <= *first,
            (Some(_), None) => false,
        }
    }

    /// Registers or refreshes a waiter. A waiter that was woken and found no space keeps its place.
    pub(crate) fn wait(&self, ticket: &mut Option<Ticket>, waker: &Waker) {
        let own = *ticket.get_or_insert_with(|| {
            let next = self.next_ticket.get();
            self.next_ticket.set(next + 1);
            next
        });
        if let (_, Some(true)) = self.place_of(own, waker) {
            return;
        }
        // A waker's clone and drop may run foreign code, which may end here again: not under the borrow.
        let fresh = waker.clone();
        let (place, found) = self.place_of(own, waker);
        let mut waiters = self.waiters.borrow_mut();
        let old = if found.is_some() {
            Some(core::mem::replace(&mut waiters[place].1, fresh))
        } else {
            waiters.insert(place, (own, fresh));
            None
        };
        drop(waiters);
        drop(old);
    }

    /// Where a ticket's waiter is, or belongs; and if it is there, whether it would wake the same as `waker`.
    fn place_of(&self, ticket: Ticket, waker: &Waker) -> (usize, Option<bool>) {
        let waiters = self.waiters.borrow();
        let place = waiters.partition_point(|(other, _)| *other < ticket);
        let found = waiters.get(place).filter(|(other, _)| *other == ticket);
        (place, found.map(|(_, known)| known.will_wake(waker)))
    }

    /// A waiter gives up or has sent. Returns the waiter to wake in its stead if it had been woken already.
    pub(crate) fn forget(&self, ticket: Ticket) -> Option<Waker> {
        let mut waiters = self.waiters.borrow_mut();
        let place = waiters.partition_point(|(other, _)| *other < ticket);
        match waiters.get(place) {
            Some((other, _)) if *other == ticket => {
                let own = waiters.remove(place);
                drop(waiters);
                drop(own);
                None
            }
            _ => waiters.pop_front().map(|(_, waker)| waker),
        }
    }

    /// Takes everything that waits, to discard it when the target has gone.
    pub(crate) fn take_all(&self) -> (VecDeque<Message>, VecDeque<(Ticket, Waker)>) {
        self.set_listed(0);
        (self.list.take(), self.waiters.take())
    }
}

/// A wait for space in the ring to one target: its place in the queue, if it has one.
#[derive(Debug, Default)]
pub struct SpaceWait {
    pub(crate) ticket: Option<(CoreId, Ticket)>,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::rc::Rc;
    use core::cell::Cell;
    use core::task::{Context, RawWaker, RawWakerVTable};
    use std::thread_local;

    use super::*;
    use crate::Core;

    const B: CoreId = CoreId::new(1);

    thread_local! {
        static CORE: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
        static REENTERED: Cell<u32> = const { Cell::new(0) };
    }

    /// What a waker of somebody else's may do when it is cloned or dropped: flush, wait for space, give up.
    fn reenter() {
        if let Some(core) = CORE.with_borrow(Clone::clone) {
            REENTERED.set(REENTERED.get() + 1);
            let mut wait = SpaceWait::default();
            core.flush();
            let _ = core.poll_space(B, &mut wait, &Context::from_waker(Waker::noop()));
            core.end_wait(&mut wait);
        }
    }

    const REENTERING: RawWakerVTable = RawWakerVTable::new(
        |data| {
            reenter();
            RawWaker::new(data, &REENTERING)
        },
        |_| reenter(),
        |_| reenter(),
        |_| reenter(),
    );

    fn reentering(name: &u32) -> Waker {
        // SAFETY: 1. the table's functions follow no pointer: any data will do.
        unsafe { Waker::from_raw(RawWaker::new(core::ptr::from_ref(name).cast(), &REENTERING)) }
    }

    #[test]
    fn wakers_may_reenter_the_core_when_they_are_cloned_woken_and_dropped() {
        let (_fabric, mut cores) = crate::tests::cores(2, 2);
        let target = cores.pop().expect("two cores");
        let core = Rc::new(cores.pop().expect("two cores"));
        (0..2).for_each(|_| core.send_or_list(B, |_, _| ()));
        CORE.set(Some(core.clone()));
        let (first, second) = (reentering(&1), reentering(&2));
        let mut wait = SpaceWait::default();
        // Registered, replaced by another one, refreshed, and woken by a flush.
        for waker in [&first, &second, &second] {
            assert!(core.poll_space(B, &mut wait, &Context::from_waker(waker)).is_pending());
        }
        let before = REENTERED.get();
        assert!(before >= 3, "two clones and a drop: {before}");
        while core.poll_space(B, &mut wait, &Context::from_waker(&second)).is_pending() {
            CORE.take();
            target.drain(64);
            CORE.set(Some(core.clone()));
            core.flush();
        }
        core.end_wait(&mut wait);
        CORE.take();
        assert!(REENTERED.get() > before);
    }
}
