//! The protocols under the model checker: every interleaving and every stale value that the memory model allows, on few
//! cores, with small rings, up to a bound of preemptions.
//!
//! Run with `--cfg loom`. `IPIQ_MUTANT=name` leaves a step out; [`mutants`] tells which model must fail then.

mod admission;
mod call;
mod cpusync;
mod doorbell;
mod freeze;
mod handlers;
mod mutants;
mod overflow;
mod preemptible;
mod ring;
mod shootdown;
mod synchronize;
mod urgent;
mod urgent_call;

use alloc::sync::Arc;
use alloc::task::Wake;
use std::vec::Vec;

use crate::model_check::explore;
use crate::port::{FenceKind, Port};
use crate::sync::checker::{Notify, thread};
use crate::sync::{Counter, UnsafeCell};
use crate::{Config, Core, CoreId, Fabric, Seat};

/// The machine as the fabric sees it: a sleep blocks the thread until a kick, so that a lost wake-up is a deadlock.
struct Machine {
    fence: FenceKind,
    /// Heavy fences still to be refused.
    refusals: Counter,
    cores: Vec<Bed>,
}

#[derive(Default)]
struct Bed {
    kick: Notify,
    kicks: Counter,
}

impl Machine {
    fn new(fence: FenceKind, cores: usize) -> Arc<Self> {
        Self::refusing(fence, cores, 0)
    }

    /// A machine whose first `refusals` heavy fences are refused.
    fn refusing(fence: FenceKind, cores: usize, refusals: u64) -> Arc<Self> {
        let machine = Self { fence, refusals: Counter::default(), cores: (0..cores).map(|_| Bed::default()).collect() };
        machine.refusals.add(refusals);
        Arc::new(machine)
    }

    /// A fabric on this machine with rings of two slots, whose indices wrap soon.
    fn fabric(self: &Arc<Self>) -> (Fabric, Vec<Seat>) {
        let config = Config { cores: self.cores.len(), ring_capacity: 2, first_index: u32::MAX };
        Fabric::new(config, self.clone()).expect("a valid configuration")
    }

    /// A machine of two cores, and a fabric on it.
    fn pair(fence: FenceKind) -> (Arc<Self>, Fabric, (Seat, Seat)) {
        let machine = Self::new(fence, 2);
        let (fabric, seats) = machine.fabric();
        (machine, fabric, pair(seats))
    }

    fn sleep(&self, core: CoreId) {
        self.cores[core.index()].kick.wait();
    }

    fn kicks(&self, core: CoreId) -> u64 {
        self.cores[core.index()].kicks.get()
    }

    /// One core's loop until `done`: drains, flushes, and sleeps when there is nothing to do.
    fn serve(&self, core: &Core, done: impl Fn() -> bool) {
        while !done() {
            if core.drain(8) + core.drain_foreign(8) + core.flush() > 0 || done() {
                continue;
            }
            if let Some(_armed) = core.arm(|| true) {
                self.sleep(core.id());
            }
        }
    }
}

// SAFETY: 1. the slot is always null, and nobody sets it. 2. under the model checker the light fence of the asymmetric pair is a
// full one, so that a full fence of the calling thread does what the contract asks for.
unsafe impl Port for Machine {
    fn fence_kind(&self) -> FenceKind {
        self.fence
    }

    fn heavy_fence(&self) -> bool {
        if self.refusals.get() > 0 {
            self.refusals.add(u64::MAX);
            return false;
        }
        crate::sync::fence(crate::sync::Ordering::SeqCst);
        true
    }

    fn kick(&self, target: CoreId) {
        self.cores[target.index()].kicks.add(1);
        self.cores[target.index()].kick.notify();
    }

    fn relax(&self, _turn: u32) {
        thread::yield_now();
    }

    fn current(&self) -> *const () {
        core::ptr::null()
    }

    unsafe fn set_current(&self, _slot: *const ()) {}
}

/// A core that goes home with its thread's end: while the model runs it has not left the fabric, so that a departure's kick
/// covers up no lost one.
struct Ended(Core);

// SAFETY: 1. the thread that used the core has ended when its value is joined, and nothing in a core is bound to a thread.
unsafe impl Send for Ended {}

/// A core that drains once, and leaves.
fn leaver(seat: Seat) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let core = seat.enter();
        core.drain_all(8);
        drop(core);
    })
}

/// Counts how often a waker was used.
#[derive(Default)]
struct Woken(Counter);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.add(1);
    }
}

/// A plain word that a message's function writes: the checker fails if another thread touches it unordered.
struct Plain(UnsafeCell<u32>);

// SAFETY: 1. the model checker stops at the first access that races.
unsafe impl Sync for Plain {}

impl Plain {
    fn new() -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(0)))
    }

    fn write(&self, value: u32) {
        // SAFETY: 1. the checker has found no access that races.
        self.0.with_mut(|place| unsafe { *place = value });
    }

    /// Read by several at once.
    fn read_shared(&self) -> u32 {
        // SAFETY: 1. as in `write`.
        self.0.with(|place| unsafe { *place })
    }

    fn read(&self) -> u32 {
        // SAFETY: 1. as in `write`.
        self.0.with_mut(|place| unsafe { *place })
    }
}

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

fn pair(seats: Vec<Seat>) -> (Seat, Seat) {
    let mut seats = seats.into_iter();
    let mut next = || seats.next().expect("two cores");
    (next(), next())
}
