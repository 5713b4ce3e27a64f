#![doc = include_str!("README.md")]

mod error;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::sync::Arc as StdArc;
use core::cell::Cell;

use crate::cpusync::Held;
use crate::doorbell::State;
use crate::fabric::{Seat, Shared};
use crate::shootdown::Lane;
use crate::sync::{AtomicU32, Ordering, fence, mutant};
use crate::{Core, CoreId, CoreSet, contain};

pub use error::AdmitError;

/// One core's part that others write.
pub(crate) struct Trustees(AtomicU32);

impl Trustees {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// A4's wait.
    fn is_none(&self) -> bool {
        // [admission A4] acquire pairs with T3: what the trustee took is taken.
        self.0.load(Ordering::Acquire) == 0
    }
}

/// Somebody acts in a core's place.
struct Trustee<'a>(&'a Trustees);

impl Drop for Trustee<'_> {
    fn drop(&mut self) {
        if !mutant!("trustee-uncounted") {
            // [admission T3] release pairs with A4.
            self.0.0.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Shared {
    /// [admission T1] to [admission T3]: runs `act` in the place of `core`, which has left. `None`: it has come back.
    ///
    /// `act` runs and drops nothing of anybody's: whoever admits the core waits for it, in a stop.
    #[cold]
    pub(crate) fn in_place_of<R>(&self, core: CoreId, act: impl FnOnce() -> R) -> Option<R> {
        let shared = self.core(core);
        if !mutant!("trustee-uncounted") {
            // [admission T1] relaxed: the fence orders it before the look.
            shared.trustees.0.0.fetch_add(1, Ordering::Relaxed);
        }
        let trustee = Trustee(&shared.trustees.0);
        // [admission T1] with A4's: one of the two sees the other.
        if !mutant!("trustee-no-fence") {
            fence(Ordering::SeqCst);
        }
        // [admission T1] acquire, in `state`.
        let done = (shared.doorbell.state().is_gone() || mutant!("trustee-no-look")).then(act);
        drop(trustee);
        done
    }
}

/// Dropped as the last of a core.
pub(crate) struct Vacancy {
    shared: StdArc<Shared>,
    core: CoreId,
    /// Calls are under way: their blocks lie in what is left of this life.
    kept: Cell<bool>,
}

impl Vacancy {
    pub(crate) fn new(shared: StdArc<Shared>, core: CoreId) -> Self {
        Self { shared, core, kept: Cell::new(false) }
    }

    pub(crate) fn keep_if(&self, kept: bool) {
        self.kept.set(kept);
    }
}

impl Drop for Vacancy {
    fn drop(&mut self) {
        // [admission V2]
        self.shared.core(self.core).doorbell.let_go(self.kept.get());
    }
}

impl Held<'_> {
    /// Gives the seat of `core`, which has left, to whoever enters it next, on any thread: from now on it is one that nobody has entered yet.
    ///
    /// Every other core must stand still in this stop, or have left. They settle what they have with the former life: what they had sent to it and it has not run goes
    /// back to them, as ever. The thread of the former life may run on, without its core.
    ///
    /// # Errors
    ///
    /// [`AdmitError`]: the core has not left, or left with calls under way; a core runs that this stop does not hold; or one panicked as it settled.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `core`.
    pub fn admit(&self, core: CoreId) -> Result<Seat, AdmitError> {
        let shared = self.core().shared();
        crate::assert_core(core, self.core().cores());
        match shared.core(core).doorbell.state() {
            state if !state.is_gone() => return Err(AdmitError::present()),
            _ => {}
        }
        let held = self.cores().with(self.core().id());
        let others = || (0..shared.cores.len()).map(CoreId::new).filter(|other| !held.contains(*other));
        if others().any(|other| !shared.is_gone(other)) {
            return Err(AdmitError::unheld());
        }
        // [admission A1]
        others().for_each(|other| shared.wait_until_out(other));
        if shared.core(core).doorbell.state() != State::Vacant {
            return Err(AdmitError::kept());
        }
        // [admission A2]
        let settled = if mutant!("admission-no-settle") { Ok(()) } else { self.on_each(&Core::settle) };
        if !self.cores().contains(self.core().id()) {
            self.core().settle();
        }
        if let Err(payload) = settled {
            contain(|| drop(payload));
            return Err(AdmitError::unsettled());
        }
        let vacant: CoreSet = others().collect();
        // [admission A3]
        shared.boards.iter().for_each(|board| board.vacate(core, &vacant));
        shared.open(core);
        Ok(Seat::of(shared.clone(), core))
    }
}

impl Core {
    /// A2, at a safe point.
    fn settle(&self) {
        self.flush();
        Lane::ALL.into_iter().for_each(|lane| self.serve_shootdowns(lane));
    }
}

impl Shared {
    /// A1: `other` has left.
    fn wait_until_out(&self, other: CoreId) {
        let doorbell = &self.core(other).doorbell;
        let mut turn = 0;
        while matches!(doorbell.state(), State::Gone | State::Drained) {
            self.port.relax(turn);
            turn += 1;
        }
    }

    /// A4.
    fn open(&self, core: CoreId) {
        let shared = self.core(core);
        // [admission A4] relaxed: the exchange orders it for who sees the core awake, and for who enters.
        shared.lives.add(1);
        // [admission A4] acquire pairs with V2: the former life is over. Release: who sees the core awake sees its seat as it is now.
        shared.doorbell.admit();
        if !mutant!("admission-no-fence") {
            fence(Ordering::SeqCst);
        }
        let mut turn = 0;
        while !shared.trustees.0.is_none() && !mutant!("admission-no-trustee-wait") {
            self.port.relax(turn);
            turn += 1;
        }
    }
}
