//! How the cores of one runtime talk to each other.
//!
//! A [`Fabric`] connects a fixed set of cores. Each core enters it once, on its own thread, and gets a [`Core`]: the
//! endpoint by which it sends messages to the others and runs those sent to it. The fabric knows no task and no
//! operating system; how a sleeping core is woken comes from a [`Port`](port::Port).
//!
//! | Module | Protocol |
//! |---|---|
//! | [`ring`] | one FIFO per pair of cores, one cache line per message |
//! | [`doorbell`] | a kick only when the target would not look by itself |
//! | [`overflow`] | what happens when a ring is full |
//! | [`call`] | run a closure on another core and get its value back |
//! | [`handlers`] | functions that a core runs when triggered, without a message; a mailbox of functions that several cores run; bells |
//! | [`urgent`] | functions that a core runs in the middle of whatever it does |
//! | [`urgent_call`] | run a function on another core in the middle of whatever it does, and get its value back |
//! | [`synchronize`] | everything that a core has sent has been executed |
//! | [`watch`] | what a core waits for, and what happens when it takes too long |
//! | [`cpusync`] | stop a set of cores, run something, let them go on |
//! | [`preemptible`] | long code in whose middle a core acknowledges updates |
//! | [`shootdown`] | run an operation on every core, any number of cores at a time; copies of a value on every core |
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicUsize, Ordering};
//! use ipiq_fabric::{Config, CoreId, Fabric};
//!
//! # struct Quiet;
//! # unsafe impl ipiq_fabric::port::Port for Quiet {
//! #     fn fence_kind(&self) -> ipiq_fabric::port::FenceKind { ipiq_fabric::port::FenceKind::Symmetric }
//! #     fn heavy_fence(&self) -> bool { true }
//! #     fn kick(&self, _: CoreId) {}
//! #     fn relax(&self, _: u32) { std::thread::yield_now() }
//! #     fn current(&self) -> *const () { std::ptr::null() }
//! #     unsafe fn set_current(&self, _: *const ()) {}
//! # }
//! # let port = Arc::new(Quiet);
//! let (_fabric, mut seats) = Fabric::new(Config { cores: 2, ..Config::default() }, port)?;
//! let sum = Arc::new(AtomicUsize::new(0));
//! let (a, b) = (seats.remove(0), seats.remove(0));
//! let target = std::thread::spawn({
//!     let sum = sum.clone();
//!     move || {
//!         let core = b.enter();
//!         while sum.load(Ordering::Relaxed) < 3 {
//!             core.drain(64);
//!         }
//!     }
//! });
//! let core = a.enter();
//! for n in [1, 2] {
//!     let sum = sum.clone();
//!     core.send(CoreId::new(1), move |_, _| {
//!         sum.fetch_add(n, Ordering::Relaxed);
//!     })?;
//! }
//! target.join().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![warn(unreachable_pub)]

extern crate alloc;
// What tests of both kinds include calls it by its name.
#[cfg(all(test, not(loom)))]
extern crate self as ipiq_fabric;
#[cfg(any(feature = "std", test, loom))]
extern crate std;

pub mod admission;
pub(crate) mod block;
pub mod call;
mod core_set;
mod counters;
pub mod cpusync;
#[doc(hidden)]
pub mod doorbell;
mod endpoint;
mod fabric;
pub mod freeze;
pub mod handlers;
mod message;
#[doc(hidden)]
pub mod model_check;
#[doc(hidden)]
pub mod overflow;
pub mod port;
pub mod preemptible;
#[doc(hidden)]
pub mod ring;
mod send_future;
pub mod shootdown;
pub mod slice;
pub(crate) mod sync;
pub mod synchronize;
pub mod trace;
mod unwind;
pub mod urgent;
pub mod urgent_call;
pub mod watch;

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

pub use core_set::{CoreSet, CoreSetIter};
pub use counters::{CoreCounters, PairCounters};
pub use doorbell::Armed;
pub use endpoint::{Core, Gone, SafePoint, SendError, Sequence, Served};
pub use fabric::{Config, ConfigError, Fabric, Seat};
pub use message::{INLINE_BYTES, Message};
pub use overflow::SpaceWait;
pub use send_future::SendWhenSpace;
pub use unwind::{Panic, PanicPayload, catch, contain};

/// The most cores that one fabric connects.
pub const MAX_CORES: usize = 256;

/// The name of a core: its index in its fabric, from 0. Displayed as `core 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(u16);

impl CoreId {
    /// The core of index `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below 256, the most cores that one fabric connects. Whether a fabric has such a core is checked where
    /// the name is used.
    #[must_use]
    #[track_caller]
    pub const fn new(index: usize) -> Self {
        assert!(index < MAX_CORES, "a core's index must be below 256");
        Self(index as u16)
    }

    /// The index, from 0.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Panics, at the caller's line, unless a runtime of `cores` cores has `core`.
#[track_caller]
#[inline(always)]
pub fn assert_core(core: CoreId, cores: usize) {
    if core.index() >= cores {
        no_such_core(core, cores);
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn no_such_core(core: CoreId, cores: usize) -> ! {
    panic!(
        "there is no {core}: the runtime has {cores} cores, numbered from 0; name one of them, or start it with more"
    )
}

impl core::fmt::Display for CoreId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "core {}", self.0)
    }
}
