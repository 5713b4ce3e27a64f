//! The fabric's port.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use ipiq_fabric::CoreId;
use ipiq_fabric::port::{Clock, FenceKind, Port};

use crate::apic::{ApicId, LocalApic};
use crate::clock::TscClock;

/// Bare cores that kick each other through their APICs.
pub struct BareMetalPort<A> {
    apic: A,
    vector: u8,
    cores: Box<[Place]>,
    clock: Option<TscClock>,
}

/// One core's place: its address, and what runs on it.
struct Place {
    id: ApicId,
    current: AtomicPtr<()>,
}

impl<A> fmt::Debug for BareMetalPort<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BareMetalPort")
            .field("cores", &self.cores.len())
            .field("vector", &self.vector)
            .finish_non_exhaustive()
    }
}

impl<A: LocalApic> BareMetalPort<A> {
    /// A port whose core `i` has the address `ids[i]` and is kicked by `vector`. A CPU that is not among them can run no core.
    #[must_use]
    pub fn new(apic: A, vector: u8, ids: &[ApicId]) -> Self {
        let cores: Vec<_> = ids.iter().map(|&id| Place { id, current: AtomicPtr::new(ptr::null_mut()) }).collect();
        Self { apic, vector, cores: cores.into(), clock: None }
    }

    /// The port with a clock, by which the fabric watches waits that take too long; all cores' counters must run together.
    #[must_use]
    pub fn with_clock(self, clock: TscClock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    fn own_place(&self) -> Option<&Place> {
        let own = self.apic.own_id();
        self.cores.iter().find(|place| place.id == own)
    }
}

// SAFETY: 1. a core writes and reads its own place only, found by its own address, which no other has (`LocalApic`); a core without
// a place has never stored anything. 2. the heavy
// fence is never granted.
unsafe impl<A: LocalApic + 'static> Port for BareMetalPort<A> {
    fn fence_kind(&self) -> FenceKind {
        FenceKind::Symmetric
    }

    fn heavy_fence(&self) -> bool {
        false
    }

    fn kick(&self, target: CoreId) {
        self.apic.send(self.cores[target.index()].id, self.vector);
    }

    fn relax(&self, _turn: u32) {
        core::hint::spin_loop();
    }

    fn now_ns(&self) -> u64 {
        self.clock.map_or(0, |clock| clock.now_ns())
    }

    fn current(&self) -> *const () {
        self.own_place().map_or(ptr::null(), |place| place.current.load(Ordering::Relaxed).cast_const())
    }

    unsafe fn set_current(&self, slot: *const ()) {
        let place = self.own_place().expect("cores run on CPUs whose addresses the port was given");
        place.current.store(slot.cast_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::sync::Arc;
    use std::sync::Mutex;
    use std::vec;

    use ipiq_fabric::{Config, Fabric};

    use super::*;

    /// Records what would be sent.
    struct Recorder(Arc<Mutex<Vec<(ApicId, u8)>>>);

    // SAFETY: 1. the tests run on one core.
    unsafe impl LocalApic for Recorder {
        fn own_id(&self) -> ApicId {
            ApicId(7)
        }

        fn send(&self, target: ApicId, vector: u8) {
            self.0.lock().expect("not poisoned").push((target, vector));
        }
    }

    #[test]
    fn a_message_to_a_parked_core_sends_one_interrupt_to_its_address() {
        let sent = Arc::default();
        let port = BareMetalPort::new(Recorder(Arc::clone(&sent)), 0xf0, &[ApicId(7), ApicId(9)]);
        let config = Config { cores: 2, ..Config::default() };
        let (_fabric, mut seats) = Fabric::new(config, Arc::new(port)).expect("two cores");
        let (target, source) = (seats.remove(1).enter(), seats.remove(0).enter());
        let armed = target.arm(|| true).expect("nothing waits");
        for _ in 0..2 {
            source.try_send(target.id(), |_, _| ()).expect("space");
        }
        assert_eq!(*sent.lock().expect("not poisoned"), vec![(ApicId(9), 0xf0)]);
        drop(armed);
        assert_eq!(target.drain(64), 2);
    }

    #[test]
    fn time_passes_only_for_a_port_with_a_clock() {
        let port = BareMetalPort::new(Recorder(Arc::default()), 0xf0, &[ApicId(7)]);
        assert_eq!(port.now_ns(), 0);
        let port = port.with_clock(TscClock::new(1_000_000_000));
        let start = port.now_ns();
        while port.now_ns() == start {}
    }

    #[test]
    fn the_slot_belongs_to_the_address_of_the_calling_core() {
        let port = BareMetalPort::new(Recorder(Arc::default()), 0xf0, &[ApicId(9), ApicId(7)]);
        assert!(port.current().is_null());
        let slot = ptr::from_ref(&port).cast::<()>();
        // SAFETY: 1. nothing follows the slot in this test.
        unsafe { port.set_current(slot) };
        assert_eq!(port.current(), slot);
    }
}
