//! Notes that parts of something are not true any more.

use alloc::boxed::Box;

use crate::CoreId;
use crate::sync::{AtomicBool, Ordering, compiler_fence};

/// For each core, whether its part of something has to be forgotten: see [preemptible](super).
///
/// A core's note is set by what interrupts the core, in a section, and cleared by its thread outside.
pub struct Notes(Box<[AtomicBool]>);

impl core::fmt::Debug for Notes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Notes").field("cores", &self.0.len()).finish_non_exhaustive()
    }
}

impl Notes {
    /// None set, for `cores` cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self((0..cores).map(|_| AtomicBool::new(false)).collect())
    }

    /// [preemptible Q4]
    pub(crate) fn set(&self, core: CoreId) {
        if let Some(note) = self.0.get(core.index()) {
            // Relaxed: the same thread reads it.
            note.store(true, Ordering::Relaxed);
        }
    }

    /// Clears the note of `core`, on its thread, outside of sections. Returns whether it was set.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    pub fn take(&self, core: CoreId) -> bool {
        let note = &self.0[core.index()];
        // [preemptible P5] no exchange: outside of sections nobody else writes it.
        compiler_fence(Ordering::SeqCst);
        let set = note.load(Ordering::Relaxed);
        if set {
            note.store(false, Ordering::Relaxed);
        }
        set
    }
}
