//! Whose turn it is to stop others.

use crate::core_set::bits;
use crate::port::Port;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, mutant, relaxed_if};
use crate::{CoreId, MAX_CORES};

const FREE: u32 = 0;

/// The lead of a fabric, and who waits for it.
pub(crate) struct Turn {
    /// 0, or a core's index + 1.
    lead: AtomicU32,
    waiting: [AtomicU64; MAX_CORES / 64],
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self { lead: AtomicU32::new(FREE), waiting: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Whether the lead is `core`'s.
    pub(super) fn is_of(&self, core: CoreId) -> bool {
        // [cpusync T1] acquire pairs with T3's release: what earlier leads wrote is visible.
        self.lead.load(Ordering::Acquire) == name(core)
    }

    /// T1 and T2. `false`: `core` will be asked to stop when its turn comes. `waits`: so it was told before, and has not led since.
    pub(crate) fn take_or_wait(&self, core: CoreId, waits: bool) -> bool {
        // Whom nobody told to wait is passed nothing.
        if waits && self.is_of(core) {
            return true;
        }
        let mut announced = waits;
        if !self.take(core) {
            // [cpusync T2] its bit is set, or was cleared by who is about to pass the lead on to it: set again, it would bring the lead once more, to
            // a core that wants nothing.
            if waits && !mutant!("cpusync-waits-twice") {
                return false;
            }
            // [cpusync T2] relaxed: the fence orders it before the second try.
            self.word(core).fetch_or(bit(core), Ordering::Relaxed);
            announced = true;
            if !mutant!("cpusync-no-turn-fence") {
                fence(Ordering::SeqCst);
            }
            if !self.take(core) {
                return false;
            }
        }
        // [cpusync T1] also of an earlier T2: who passes on by it finds a core that wants nothing any more.
        if announced {
            self.clear(core);
        }
        true
    }

    fn take(&self, core: CoreId) -> bool {
        // [cpusync T1] acquire: what the last lead wrote is visible to this one.
        let order = relaxed_if(mutant!("cpusync-turn-relaxed"), Ordering::Acquire);
        self.lead.compare_exchange(FREE, name(core), order, Ordering::Relaxed).is_ok()
    }

    /// T3 and T4: ends the turn of `core`. Returns whose turn it is now: that core must be asked to stop.
    #[must_use]
    pub(crate) fn pass_on(&self, core: CoreId) -> Option<CoreId> {
        loop {
            if self.is_awaited()
                && let Some(next) = self.next_after(core)
            {
                // [cpusync T3] release: pairs with `is_of`.
                self.lead.store(name(next), Ordering::Release);
                return Some(next);
            }
            // [cpusync T4] release: pairs with T1's acquire.
            let order = relaxed_if(mutant!("cpusync-free-relaxed"), Ordering::Release);
            self.lead.store(FREE, order);
            if !mutant!("cpusync-no-turn-fence") {
                fence(Ordering::SeqCst);
            }
            if !self.is_awaited() || !self.take(core) {
                return None;
            }
        }
    }

    fn is_awaited(&self) -> bool {
        self.waiting.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// The first waiting core after `core`, around; it waits no more.
    fn next_after(&self, core: CoreId) -> Option<CoreId> {
        let words: [u64; MAX_CORES / 64] = core::array::from_fn(|word| self.waiting[word].load(Ordering::Relaxed));
        let waiting = || words.iter().enumerate().flat_map(|(word, &set)| bits(set).map(move |bit| word * 64 + bit));
        let after = waiting().filter(|&index| index > core.index());
        let around = waiting().filter(|&index| index <= core.index());
        // One that has cleared its bit meanwhile leaves.
        after.chain(around).map(CoreId::new).find(|&next| self.clear(next))
    }

    /// Whether the bit was set.
    fn clear(&self, core: CoreId) -> bool {
        self.word(core).fetch_and(!bit(core), Ordering::Relaxed) & bit(core) != 0
    }

    /// T5, by a core that leaves and may have been waiting. Returns as [`pass_on`](Self::pass_on) does.
    #[must_use]
    pub(super) fn leave(&self, core: CoreId, port: &dyn Port) -> Option<CoreId> {
        if mutant!("cpusync-leave-with-lead") || self.clear(core) {
            return None;
        }
        // [cpusync T5] the bit was cleared by who passes the lead on, between two of its own instructions.
        let mut turn = 0;
        while !self.is_of(core) {
            port.relax(turn);
            turn += 1;
        }
        self.pass_on(core)
    }

    fn word(&self, core: CoreId) -> &AtomicU64 {
        &self.waiting[core.index() / 64]
    }
}

fn name(core: CoreId) -> u32 {
    core.index() as u32 + 1
}

fn bit(core: CoreId) -> u64 {
    1 << (core.index() % 64)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const A: CoreId = CoreId::new(0);
    const B: CoreId = CoreId::new(1);

    #[test]
    fn a_core_that_finds_the_lead_free_while_it_waits_waits_no_more() {
        let turn = Turn::new();
        assert!(turn.take_or_wait(B, false));
        assert!(!turn.take_or_wait(A, false));
        // B is in the middle of T4: it has looked before A waited, and has not looked again.
        turn.lead.store(FREE, Ordering::Release);
        assert!(turn.take_or_wait(A, true));
        assert_eq!(turn.pass_on(A), None, "nobody waits");
        assert!(turn.take_or_wait(B, false), "the lead is free");
    }

    #[test]
    fn a_core_that_looks_again_while_the_lead_is_on_its_way_gets_it_once() {
        let turn = Turn::new();
        assert!(turn.take_or_wait(B, false));
        assert!(!turn.take_or_wait(A, false));
        // B is in the middle of T3.
        assert_eq!(turn.next_after(B), Some(A));
        assert!(!turn.take_or_wait(A, true));
        turn.lead.store(name(A), Ordering::Release);
        assert!(turn.take_or_wait(A, true));
        assert_eq!(turn.pass_on(A), None, "nobody waits");
    }
}
