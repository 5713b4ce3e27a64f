//! The word of a target.

use crate::sync::{AtomicU64, Ordering, edge, mutant, relaxed_if};

/// Where an attempt is with a core.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Stage {
    Free = 0,
    Wanted = 1,
    Frozen = 2,
    Held = 3,
}

/// A snapshot: the attempt's number above two bits of its stage.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn stage(self) -> Stage {
        match self.0 & 3 {
            0 => Stage::Free,
            1 => Stage::Wanted,
            2 => Stage::Frozen,
            _ => Stage::Held,
        }
    }

    fn at(self, stage: Stage) -> Self {
        Self(self.0 & !3 | stage as u64)
    }

    fn next(self) -> Self {
        Self(self.0.wrapping_add(4))
    }
}

/// By a target: the attempt in which it is frozen.
#[derive(Clone, Copy)]
#[must_use]
pub(super) struct Frozen(Word);

/// A core's word: see its [transitions](super#state-and-who-writes-it).
pub(crate) struct Frost(AtomicU64);

impl Frost {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// By the lead.
    pub(crate) fn want(&self) {
        // Relaxed: only the lead's own stores, and the target's that gave up, which kept the number.
        let last = Word(self.0.load(Ordering::Relaxed));
        // [freeze L2] release: a target that finds it in place of the last attempt's end sees what the body of that one wrote. That it is there when the bit is, is T2's affair.
        // Relaxed would lean on the fence of M1.
        self.0.store(last.next().at(Stage::Wanted).0, Ordering::Release);
    }

    /// By the lead.
    pub(super) fn is_frozen(&self) -> bool {
        // [freeze L3] relaxed: L4 acquires.
        Word(self.0.load(Ordering::Relaxed)).stage() == Stage::Frozen
    }

    /// By the lead. `false`: the target has given up.
    #[must_use]
    pub(super) fn hold(&self) -> bool {
        let word = Word(self.0.load(Ordering::Relaxed));
        if mutant!("freeze-unheld") {
            return true;
        }
        // [freeze L4] acquire pairs with F2: the body sees what the section wrote.
        let acquire = relaxed_if(mutant!("freeze-hold-relaxed"), Ordering::Acquire);
        let held = |word: Word| self.0.compare_exchange(word.0, word.at(Stage::Held).0, acquire, Ordering::Relaxed);
        word.stage() == Stage::Frozen && held(word).is_ok()
    }

    /// By the lead.
    pub(crate) fn let_go(&self) {
        let word = Word(self.0.load(Ordering::Relaxed));
        // [freeze L5] release pairs with F3. A store: whatever the target makes of `Wanted` or `Frozen` meanwhile ends with it.
        let release = relaxed_if(mutant!("freeze-let-go-relaxed"), Ordering::Release);
        self.0.store(word.at(Stage::Free).0, release);
    }

    /// By the target. `None`: nobody wants it.
    pub(super) fn freeze(&self) -> Option<Frozen> {
        // [freeze F1] relaxed: only whether.
        let word = Word(self.0.load(Ordering::Relaxed));
        if word.stage() != Stage::Wanted {
            return None;
        }
        edge();
        let frozen = word.at(Stage::Frozen);
        // [freeze F2] release pairs with L4.
        let release = relaxed_if(mutant!("freeze-frozen-relaxed"), Ordering::Release);
        self.0.compare_exchange(word.0, frozen.0, release, Ordering::Relaxed).ok().map(|_| Frozen(frozen))
    }

    /// By the target: whether it is to stand still.
    pub(super) fn stands(&self, frozen: Frozen) -> bool {
        // [freeze F3] acquire pairs with L5, and with the L2 that may follow it.
        let acquire = relaxed_if(mutant!("freeze-wait-relaxed"), Ordering::Acquire);
        let word = self.0.load(acquire);
        word == frozen.0.0 || word == frozen.0.at(Stage::Held).0 && !mutant!("freeze-leaves")
    }

    /// By the target, which has had enough. `false`: it is held.
    #[must_use]
    pub(super) fn thaw(&self, frozen: Frozen) -> bool {
        let free = frozen.0.at(Stage::Free);
        if mutant!("freeze-thaw-stored") {
            self.0.store(free.0, Ordering::Relaxed);
            return true;
        }
        // [freeze F3] relaxed: it has done nothing in there.
        self.0.compare_exchange(frozen.0.0, free.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
