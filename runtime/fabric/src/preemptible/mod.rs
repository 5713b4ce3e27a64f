#![doc = include_str!("README.md")]

mod notes;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::fabric::Shared;
use crate::shootdown::Lane;
use crate::sync::{AtomicU32, Ordering, compiler_fence, edge, fence, mutant};
use crate::unwind::contain;
use crate::{Core, CoreId, freeze};

pub use notes::Notes;

/// Where a core is, as far as acknowledgements in interrupts go.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Place {
    Outside = 0,
    Inside = 1,
    /// Inside, and its replicas are to be refreshed.
    Owing = 2,
}

/// A core's [`Place`].
pub(crate) struct Section(AtomicU32);

impl Section {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(Place::Outside as u32))
    }

    fn set(&self, place: Place) {
        self.0.store(place as u32, Ordering::Relaxed);
    }

    fn is(&self, place: Place) -> bool {
        self.0.load(Ordering::Relaxed) == place as u32
    }

    /// [preemptible Q1]
    #[inline(always)]
    pub(crate) fn is_preemptible(&self) -> bool {
        !self.is(Place::Outside)
    }

    /// [preemptible Q3], by the core's thread.
    pub(crate) fn owe(&self) {
        self.set(Place::Owing);
    }
}

impl Core {
    /// Runs `f` in a preemptible section: meanwhile interrupts acknowledge updates of replicas, and prompt operations, on this core's behalf. When it has ended, or
    /// panicked, `forget` looks at the core's notes, and then the core's replicas are brought up to date. `forget` runs no foreign code: what was acknowledged is not carried out yet.
    ///
    /// # Panics
    ///
    /// Inside another section.
    ///
    /// # Safety
    ///
    /// 1. As [`safe_point`](Core::safe_point) 1. and 2.
    /// 2. `f` does not use this endpoint, nor what was made by it.
    pub unsafe fn preemptible<R>(&self, f: impl FnOnce() -> R, forget: impl FnOnce(&Self)) -> R {
        let section = &self.own().doorbell.section;
        assert!(section.is(Place::Outside), "a preemptible section inside another");
        // [preemptible P1]
        section.set(Place::Inside);
        if !mutant!("preemptible-no-fence") {
            fence(Ordering::SeqCst);
        }
        let inside = Inside { core: self, forget: Some(forget) };
        edge();
        if !mutant!("preemptible-no-look") {
            // [preemptible P2]
            let look = || {
                serve(self.shared(), self.id());
                // [freeze F1]
                freeze::stand(self.shared(), self.id());
            };
            self.gate().map_or_else(look, |gate| gate.critical(look));
        }
        // [preemptible P3]
        let value = f();
        drop(inside);
        value
    }
}

/// [preemptible P4] to [preemptible P6], also if the section unwinds.
struct Inside<'a, F: FnOnce(&Core)> {
    core: &'a Core,
    forget: Option<F>,
}

impl<F: FnOnce(&Core)> Drop for Inside<'_, F> {
    fn drop(&mut self) {
        let section = &self.core.own().doorbell.section;
        compiler_fence(Ordering::SeqCst);
        edge();
        // [preemptible P4] one instruction, or one that an interrupt makes start anew: a debt that is made in between would be lost. Relaxed: of one thread.
        let owes = section.0.swap(Place::Outside as u32, Ordering::Relaxed) == Place::Owing as u32;
        compiler_fence(Ordering::SeqCst);
        edge();
        if let Some(forget) = self.forget.take() {
            // [preemptible P5]
            contain(|| forget(self.core));
        }
        if owes && !mutant!("preemptible-no-settle") {
            // [preemptible P6]
            // SAFETY: 1. as at the section's begin, and its function has ended.
            unsafe { self.core.refresh_replicas() };
        }
    }
}

/// [preemptible Q2] to [preemptible Q4], on `core`'s thread, with its gate closed.
pub(crate) fn serve(shared: &Shared, core: CoreId) {
    let section = &shared.core(core).doorbell.section;
    // [preemptible Q2]
    if !section.is_preemptible() && !mutant!("preemptible-late") {
        return;
    }
    for initiator in (0..shared.cores.len()).map(CoreId::new) {
        Lane::IN_SECTIONS.into_iter().for_each(|lane| shared.acknowledge_in_section(lane, core, initiator));
    }
}
