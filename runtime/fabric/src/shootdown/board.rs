//! The scoreboard of one lane: slots and request areas, and nothing of who waits how.

use alloc::boxed::Box;
use core::ptr::NonNull;

use super::ShootdownError;
use super::operation::{Early, Shared};
use super::prompt::InSection;
use crate::sync::{AtomicPtr, AtomicU32, Ordering, Padded, UnsafeCell, mutant, relaxed_if};
use crate::{CoreId, CoreSet};

/// A slot that asks.
const PENDING: u32 = 0;
/// Slots of a row per pair of cache lines; the model checker gets no more of them than there are cores.
const LINE: usize = if cfg!(loom) { 1 } else { 32 };

/// What a target has to do.
#[derive(Clone, Copy)]
pub(crate) enum Code {
    Late(Shared),
    Early(Early),
}

/// A request as its targets copy it.
#[derive(Clone, Copy)]
pub(crate) struct Body {
    pub(crate) generation: u32,
    /// The initiator does not spin: the last acknowledgement asks it.
    pub(crate) wakes: bool,
    pub(crate) code: Code,
    /// Of a prompt operation; it lives as long as it.
    pub(crate) in_section: Option<NonNull<dyn InSection>>,
}

/// One initiator's request area; see the table of [fields](super#state-and-who-writes-it).
struct Request {
    body: UnsafeCell<Body>,
    failed: AtomicPtr<ShootdownError>,
    leftover: AtomicPtr<Shared>,
    outstanding: Padded<AtomicU32>,
}

/// The scoreboard.
pub(crate) struct Board {
    cores: usize,
    slots: Box<[Padded<[AtomicU32; LINE]>]>,
    requests: Box<[Padded<Request>]>,
}

// SAFETY: 1. a body is written by its initiator while no slot of its column is pending, and read by targets while theirs is (Races
// excluded); what it refers to is `Send` and `Sync`. 2. the rest are atomics; what their pointers own is `Send`.
unsafe impl Send for Board {}
// SAFETY: as for `Send`.
unsafe impl Sync for Board {}

impl Board {
    pub(crate) fn new(cores: usize) -> Self {
        let request = |_| {
            let body = Body { generation: 1, wakes: false, code: Code::Early(Early::nothing()), in_section: None };
            Padded(Request {
                body: UnsafeCell::new(body),
                failed: AtomicPtr::new(core::ptr::null_mut()),
                leftover: AtomicPtr::new(core::ptr::null_mut()),
                outstanding: Padded(AtomicU32::new(0)),
            })
        };
        let line = |_| Padded(core::array::from_fn(|_| AtomicU32::new(1)));
        Self {
            cores,
            slots: (0..cores * cores.div_ceil(LINE)).map(line).collect(),
            requests: (0..cores).map(request).collect(),
        }
    }

    fn slot(&self, target: CoreId, initiator: CoreId) -> &AtomicU32 {
        let (line, column) = (initiator.index() / LINE, initiator.index() % LINE);
        &self.slots[target.index() * self.cores.div_ceil(LINE) + line].0[column]
    }

    fn request(&self, initiator: CoreId) -> &Request {
        &self.requests[initiator.index()]
    }

    /// [shootdown I2]
    pub(crate) fn write(&self, initiator: CoreId, body: Body, outstanding: u32) {
        let request = self.request(initiator);
        // [shootdown I2] relaxed: I3's release publishes it with the body.
        request.outstanding.store(outstanding, Ordering::Relaxed);
        // SAFETY: 1. only the initiator comes here, without a flight: no slot of its column is pending, and every target that
        // had copied a body has acknowledged, which the initiator has acquired, or has gone.
        request.body.with_mut(|place| unsafe { place.write(body) });
    }

    /// [shootdown I3], the slot.
    pub(crate) fn make_pending(&self, target: CoreId, initiator: CoreId) {
        // [shootdown I3] release: who finds it pending finds the body. Relaxed would leave that to A1's release on another word, which a target
        // that took an earlier bit has not acquired.
        let order = relaxed_if(mutant!("shootdown-request-relaxed"), Ordering::Release);
        self.slot(target, initiator).store(PENDING, order);
    }

    /// [shootdown I5], of one target.
    pub(crate) fn is_acknowledged(&self, target: CoreId, initiator: CoreId, generation: u32) -> bool {
        // [shootdown I5] acquire pairs with T5's release: the initiator sees what the operation wrote.
        let order = relaxed_if(mutant!("shootdown-slot-relaxed"), Ordering::Acquire);
        self.slot(target, initiator).load(order) == generation
    }

    /// [shootdown I7]: for a target that has gone with its slot pending.
    pub(crate) fn acknowledge_for_gone(&self, target: CoreId, initiator: CoreId, body: &Body) {
        // [shootdown I7] relaxed: nobody but this core touches the slot any more.
        self.slot(target, initiator).store(body.generation, Ordering::Relaxed);
        if body.wakes && !mutant!("shootdown-gone-not-counted") {
            self.request(initiator).outstanding.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// [shootdown I6]
    pub(crate) fn is_counted_down(&self, initiator: CoreId) -> bool {
        // [shootdown I6] acquire pairs with every T5: each is part of the release sequence that this reads from.
        let order = relaxed_if(mutant!("shootdown-count-relaxed"), Ordering::Acquire);
        self.request(initiator).outstanding.load(order) == 0
    }

    /// [shootdown T2]: the body, if the slot is pending.
    pub(crate) fn take(&self, target: CoreId, initiator: CoreId) -> Option<Body> {
        // [shootdown T2] acquire pairs with I3.
        let order = relaxed_if(mutant!("shootdown-take-relaxed"), Ordering::Acquire);
        if self.slot(target, initiator).load(order) != PENDING {
            return None;
        }
        // SAFETY: 1. the slot is pending: the initiator does not write until this target has acknowledged.
        Some(self.request(initiator).body.with(|place| unsafe { *place }))
    }

    /// [shootdown T5]. `true`: the initiator is to be asked.
    #[must_use]
    pub(crate) fn acknowledge(&self, target: CoreId, initiator: CoreId, body: &Body) -> bool {
        // [shootdown T5] release: the initiator sees what the operation wrote, and may write the body again.
        let release = relaxed_if(mutant!("shootdown-acknowledge-relaxed"), Ordering::Release);
        let store = || self.slot(target, initiator).store(body.generation, release);
        let early_count = mutant!("shootdown-count-first");
        if !early_count {
            store();
        }
        // [shootdown T5] acquire and release: the last has seen what all the others wrote.
        let order = relaxed_if(mutant!("shootdown-counted-relaxed"), Ordering::AcqRel);
        let is_last = body.wakes && self.request(initiator).outstanding.fetch_sub(1, order) == 1;
        if early_count {
            store();
        }
        is_last
    }

    /// [shootdown T4]: notes a panic before the acknowledgement; the first one stays.
    pub(crate) fn fail(&self, initiator: CoreId, error: ShootdownError) {
        let failed = &self.request(initiator).failed;
        let error = Box::into_raw(Box::new(error));
        // Release: the initiator that finds it finds it whole.
        if failed.compare_exchange(core::ptr::null_mut(), error, Ordering::Release, Ordering::Relaxed).is_err() {
            // SAFETY: 1. the box of above, which nobody else has seen.
            let error = unsafe { Box::from_raw(error) };
            crate::contain(|| drop(error));
        }
    }

    /// The panic of the flight that has landed.
    pub(crate) fn failure(&self, initiator: CoreId) -> Option<ShootdownError> {
        let failed = &self.request(initiator).failed;
        // Relaxed: who noted it acknowledged afterwards (T5), which the initiator has acquired.
        if failed.load(Ordering::Relaxed).is_null() {
            return None;
        }
        let failed = failed.swap(core::ptr::null_mut(), Ordering::Acquire);
        // SAFETY: 1. what is not null came from a box, and the swap took it out.
        (!failed.is_null()).then(|| *unsafe { Box::from_raw(failed) })
    }

    /// [shootdown E1]: keeps `op`, which is the initiator's own, until every core has left.
    pub(crate) fn keep(&self, initiator: CoreId, op: Shared) {
        // [shootdown E1] release: another core may free it.
        self.request(initiator).leftover.store(Box::into_raw(Box::new(op)), Ordering::Release);
    }

    /// [admission A3]: nobody serves the column of `core` but those of `vacant` that would, and none of these does.
    pub(crate) fn vacate(&self, core: CoreId, vacant: &CoreSet) {
        let acknowledged = |target: CoreId, initiator: CoreId| {
            let slot = self.slot(target, initiator);
            if slot.load(Ordering::Acquire) == PENDING {
                // [admission A3] whatever but pending; the next request stores that first (I3).
                slot.store(1, Ordering::Relaxed);
            }
        };
        vacant.iter().for_each(|other| {
            acknowledged(other, core);
            acknowledged(core, other);
        });
        if let Some(error) = self.failure(core) {
            crate::contain(|| drop(error));
        }
        self.free_leftover(core);
    }

    /// [shootdown E2]: every core has left, or the board goes.
    pub(crate) fn free_leftovers(&self) {
        (0..self.cores).map(CoreId::new).for_each(|initiator| self.free_leftover(initiator));
    }

    /// No target executes it any more.
    fn free_leftover(&self, initiator: CoreId) {
        // [shootdown E2] two cores may leave as the last: an exchange.
        let place = &self.request(initiator).leftover;
        let leftover = if mutant!("shootdown-leftover-twice") {
            place.load(Ordering::Acquire)
        } else {
            place.swap(core::ptr::null_mut(), Ordering::Acquire)
        };
        if !leftover.is_null() {
            // SAFETY: 1. `keep` boxed it, once per life of the initiator, and the swap took it out.
            let op = unsafe { Box::from_raw(leftover) };
            // SAFETY: 1. `keep` was given an own operation; targets that have gone execute nothing, and the others have executed it.
            unsafe { op.free() };
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.free_leftovers();
        for initiator in (0..self.cores).map(CoreId::new) {
            if let Some(error) = self.failure(initiator) {
                crate::contain(|| drop(error));
            }
        }
    }
}

/// The bytes of the rows and of the request areas, for `cores` cores.
#[cfg(all(test, not(loom)))]
pub(super) fn sizes(cores: usize) -> (usize, usize) {
    let board = Board::new(cores);
    (size_of_val(&*board.slots), size_of_val(&*board.requests))
}
