//! Where a question and its answer meet.

use crate::sync::{AtomicU32, Ordering, UnsafeCell, mutant, relaxed_if};

const IDLE: u32 = 0;
const CLAIMED: u32 = 1;
const ASKED: u32 = 2;
const ANSWERING: u32 = 3;
const ANSWERED: u32 = 4;
const ABANDONED: u32 = 5;

/// One core's; see the [state](super#state-and-who-writes-it).
pub(crate) struct Cell<T> {
    state: AtomicU32,
    note: UnsafeCell<T>,
}

// SAFETY: 1. the note is accessed by who moved `state` to `ANSWERING`, and by who claimed the cell and sees `ANSWERED`; the proof says that they never meet.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T> Cell<T> {
    pub(crate) fn new(note: T) -> Self {
        Self { state: AtomicU32::new(IDLE), note: UnsafeCell::new(note) }
    }

    /// A1. `false`: it is not free.
    pub(crate) fn claim(&self) -> bool {
        // [probe A1] acquire: pairs with the release of who let go.
        let acquire = relaxed_if(mutant!("probe-claim-relaxed"), Ordering::Acquire);
        self.state.compare_exchange(IDLE, CLAIMED, acquire, Ordering::Relaxed).is_ok()
    }

    /// A2, by who has claimed the cell. An answer that is there is void.
    pub(crate) fn ask(&self) {
        // [probe A2] release: who answers comes after the last answer was read.
        let release = relaxed_if(mutant!("probe-ask-relaxed"), Ordering::Release);
        let asked = |state| (state != ANSWERING).then_some(ASKED);
        // An error: the answer is on its way.
        let _ = self.state.fetch_update(release, Ordering::Relaxed, asked);
    }

    /// A3, by who has asked: `read`s the answer, if it is there.
    pub(crate) fn take<R>(&self, read: impl FnOnce(&T) -> R) -> Option<R> {
        // [probe A3] acquire: pairs with H3's release.
        let acquire = relaxed_if(mutant!("probe-take-relaxed"), Ordering::Acquire);
        let answered = self.state.load(acquire) == ANSWERED;
        answered.then(|| {
            self.note.with(|note| {
                // SAFETY: 1. nobody writes it until the asker, which is the caller, asks again or lets go.
                read(unsafe { &*note })
            })
        })
    }

    /// A4, by who has claimed the cell.
    pub(crate) fn let_go(&self) {
        let abandoned = if mutant!("probe-abandon-idle") { IDLE } else { ABANDONED };
        let after = |state| if state == ANSWERING { abandoned } else { IDLE };
        // [probe A4] release: what was read was read. One RMW, for the handler may come in between.
        let release = relaxed_if(mutant!("probe-release-relaxed"), Ordering::Release);
        let _ = self.state.fetch_update(release, Ordering::Relaxed, |state| Some(after(state)));
    }

    /// H1 to H3, in a handler on the core: async-signal-safe if `write` is.
    pub(crate) fn answer(&self, write: impl FnOnce(&mut T)) {
        // [probe H1] acquire: pairs with A2's release.
        let acquire = relaxed_if(mutant!("probe-answer-relaxed"), Ordering::Acquire);
        if self.state.compare_exchange(ASKED, ANSWERING, acquire, Ordering::Relaxed).is_err() {
            return;
        }
        self.note.with_mut(|note| {
            // SAFETY: 1. `ANSWERING` is this handler's alone.
            write(unsafe { &mut *note });
        });
        if mutant!("probe-done-store") {
            return self.state.store(ANSWERED, Ordering::Release);
        }
        // [probe H3] release: who sees the answer sees all of it.
        let release = relaxed_if(mutant!("probe-done-relaxed"), Ordering::Release);
        if self.state.compare_exchange(ANSWERING, ANSWERED, release, Ordering::Relaxed).is_err() {
            // [probe H3] nobody wants it any more. Release: who claims the cell next comes after this.
            self.state.store(IDLE, relaxed_if(mutant!("probe-abandoned-relaxed"), Ordering::Release));
        }
    }
}
