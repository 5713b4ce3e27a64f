//! The end of a tick.

use super::Core;
use crate::CoreId;
use crate::core_set::bits;
use crate::doorbell::Rung;
use crate::sync::Ordering;

impl Core {
    /// The end of a tick: overflow lists into the rings, woken waiters, owed rings of passive messages, emptied blocks on their
    /// way home. Costs nothing when there is none of it. Returns how much it moved.
    #[inline(always)]
    pub fn flush(&self) -> usize {
        let mut moved = 0;
        let departures = self.shared.departures.load(Ordering::Acquire);
        if departures != self.departures.get() {
            moved += self.notice_departures(departures);
        }
        for word in 0..self.shared.cores.len().div_ceil(64) {
            let attention = self.attention[word].get();
            if attention != 0 {
                self.attention[word].set(0);
                for bit in bits(attention) {
                    moved += self.flush_to(CoreId::new(word * 64 + bit));
                }
            }
        }
        moved
    }

    #[cold]
    fn flush_to(&self, target: CoreId) -> usize {
        if target == self.id {
            return self.answer_owed();
        }
        if let Some(list) = self.homeward[target.index()].take() {
            self.send_or_list(target, move |core, _| list.give_to(core.blocks()));
        }
        let out = self.out(target);
        if out.used().is_none() {
            return 0;
        }
        let moved = self.move_listed(target);
        if out.owes_ring.take() {
            match self.shared.core(target).doorbell.claim_kick() {
                Rung::Avoided => {}
                Rung::Kick => self.kick_again(target),
                Rung::Gone => self.take_back(target),
            }
        }
        let mut woken = 0;
        while let Some(waker) = out.next_waiter(woken) {
            woken += 1;
            waker.wake();
        }
        if out.wants_space() {
            self.attend(target);
        }
        moved + woken as usize
    }
}
