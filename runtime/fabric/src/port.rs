//! The contract between the fabric and the machine it runs on.
//!
//! A machine implements [`Port`] (how to reach another core), [`Idle`] (how a core sleeps) and [`Clock`].
//! The protocols live above this module; an implementation encodes and sends, and decides nothing.
//!
//! | Method | Called by | When | What the caller already handles |
//! |---|---|---|---|
//! | [`Port::kick`] | any thread | after winning a target's parked → kicked transition | repeated and late kicks |
//! | [`Port::interrupt`] | any thread | after a trigger of an urgent handler on a core that is awake | refusal, and interrupts that are repeated, merged, lost or for nothing: the core finds its triggers at its next tick |
//! | [`Port::entered`] | a core | once, before anything else | machines that do not care |
//! | [`Port::gate`] | a core | when it enters its loop, and in a drain after an urgent trigger | machines without interrupts |
//! | [`Port::heavy_fence`] | a core about to park | between announcing "parked" and the last look at its rings | refusal: it goes back to polling |
//! | [`Port::heavy_fence_on`] | any thread | it must know that one other core sees its stores, or has executed a full fence | refusal: it tries again or asks for everyone's |
//! | [`Port::relax`] | a core in a wait loop | once per turn | spurious returns |
//! | [`Port::now_ns`] | a core in a wait loop, or about to park | every few hundred turns | a machine without a clock |
//! | [`Port::current`] | any thread | on every wake of a task | threads that are no core |
//! | [`Idle::park`] | the core itself | with the proof that its doorbell is armed | spurious returns |

use core::ptr;

pub use crate::urgent::{Gate, InterruptSafe};
use crate::{Armed, CoreId};

/// How store→load order between a sender and a parking receiver is kept. Decided once, at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FenceKind {
    /// Senders pay a compiler fence; a parking core asks the machine to fence every other core.
    Asymmetric,
    /// Both sides execute a `SeqCst` fence.
    Symmetric,
}

/// What a machine offers to the fabric.
///
/// Every method may be called from any thread, must not block for longer than a system call takes, and must not
/// call back into the fabric.
///
/// # Safety
///
/// 1. [`current`](Self::current) returns exactly what [`set_current`](Self::set_current) last stored on the same
///    thread, and null where nothing was stored.
/// 2. [`heavy_fence`](Self::heavy_fence) returns `true` only after every other running thread of the process has executed a
///    full fence.
/// 3. [`heavy_fence_on`](Self::heavy_fence_on) returns `true` only after the calling thread has executed a full fence, and after
///    that the thread that runs the target core has executed one, or was not running. Who keeps the default has it by 2.
/// 4. [`gate`](Self::gate) returns null, or, each time it is called on a thread, the same gate, which lives as long as the thread and which
///    nothing else uses than the thread itself and interrupts of it. Who keeps the default has it.
pub unsafe trait Port: Send + Sync + 'static {
    /// Which pair of fences this machine supports. Must return the same value for the whole life of the port.
    fn fence_kind(&self) -> FenceKind;

    /// Makes every other core of this process execute a full fence before this returns `true`.
    ///
    /// Returns `false`, having done nothing, when that is busy right now (another core is in the middle of one):
    /// the caller then stays awake and tries again later. Never called when [`fence_kind`](Self::fence_kind) is
    /// [`FenceKind::Symmetric`].
    fn heavy_fence(&self) -> bool;

    /// Makes one other core execute a full fence, and the calling thread too, before this returns `true`; disturbs no further
    /// core where the machine can do that.
    ///
    /// What the caller stored before is seen by whatever the target loads after its fence; what the target stored before its fence is seen by
    /// what the caller loads after this. So the target needs only a compiler fence between its own store and load. Returns `false` as
    /// [`heavy_fence`](Self::heavy_fence) does, and is never called where that is not. It may cost the caller more than everyone's:
    /// what it saves is the others' interrupts.
    fn heavy_fence_on(&self, target: CoreId) -> bool {
        let _ = target;
        crate::sync::fence(crate::sync::Ordering::SeqCst);
        self.heavy_fence()
    }

    /// The calling thread runs `core` from here on. Called by the fabric itself, before the core does anything: what the machine is told elsewhere about a core's thread
    /// it can check by this.
    fn entered(&self, core: CoreId) {
        let _ = core;
    }

    /// Makes a current or the next [`Idle::park`] of `target` return.
    ///
    /// A kick is never lost: if `target` is between arming its doorbell and sleeping, the sleep must return at
    /// once. Kicks may coalesce. Must not touch the heap, and must be callable inside a `Waker` and inside urgent handlers: it may take no lock that
    /// is held outside of [critical sections](Gate::critical).
    fn kick(&self, target: CoreId);

    /// Interrupts `target`, whatever it is in the middle of: has its thread call [`Gate::arrive`] of its gate soon. `false`: not now, or never.
    ///
    /// Must not touch the heap or take a lock: urgent handlers call it. May come for a core that has not begun or has ended.
    fn interrupt(&self, target: CoreId) -> bool {
        let _ = target;
        false
    }

    /// The calling thread's gate; null on a machine that interrupts nobody.
    fn gate(&self) -> *const Gate {
        ptr::null()
    }

    /// One turn of a wait loop; `turn` counts from zero. Pauses the CPU at first; gives the CPU away when the turns
    /// grow, so that a waited-for core that shares it can run.
    fn relax(&self, turn: u32);

    /// Nanoseconds of a monotonic clock, for the [watch](crate::watch) over waits that take too long. A machine that has none says 0: there
    /// nothing is watched.
    fn now_ns(&self) -> u64 {
        0
    }

    /// The calling thread's slot, as last set by [`set_current`](Self::set_current); null on a thread that is no
    /// core.
    fn current(&self) -> *const ();

    /// Stores a pointer in the calling thread's slot.
    ///
    /// # Safety
    ///
    /// 1. Only the layer that dereferences the slot may call this, and the pointer is null or valid until it stores the
    ///    next one.
    unsafe fn set_current(&self, slot: *const ());
}

/// How a core sleeps.
pub trait Idle {
    /// Hands what was queued to the outside world and looks for events (I/O completions), without sleeping. Returns how many there
    /// were.
    fn poll(&mut self) -> usize;

    /// Sleeps until kicked, an outside event, or `timeout_ns` nanoseconds have passed, whichever is first.
    ///
    /// `_armed` proves that the doorbell is armed: from here on every sender kicks. Spurious returns are fine;
    /// missing a kick is not.
    fn park(&mut self, armed: &Armed<'_>, timeout_ns: Option<u64>);
}

/// A monotonic clock.
pub trait Clock {
    /// Nanoseconds since an arbitrary, fixed point. Never goes back.
    fn now_ns(&self) -> u64;

    /// A sleeping core wakes for timers at multiples of so many nanoseconds, above zero, so that near ones share one wake-up. A clock that waits for
    /// those who sleep says 1.
    fn grid_ns(&self) -> u64 {
        1_000_000
    }
}
