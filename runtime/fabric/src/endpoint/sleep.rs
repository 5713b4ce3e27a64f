//! Sleep.

use super::Core;
use crate::core_set::bits;
use crate::sync::{Ordering, mutant};
use crate::{Armed, CoreId, CoreSet};

impl Core {
    /// Arms the doorbell if nothing waits: no message, no overflow that could move, and `nothing_else` agrees. From the moment it is armed
    /// until the proof is dropped, every sender kicks.
    ///
    /// `None`: stay awake and look again. `nothing_else` runs after the fence, so that what it looks at may be written by other
    /// threads before they kick; it must not run messages.
    pub fn arm(&self, nothing_else: impl FnOnce() -> bool) -> Option<Armed<'_>> {
        let wanting = self.wanting();
        for target in wanting.iter() {
            // [overflow O4]
            self.out(target).announce_want();
        }
        let own = self.own();
        let armed = own.doorbell.arm(self.port(), self.shared.fence, || {
            // [doorbell K3] [overflow O5]
            self.inbox_is_empty()
                && !own.doorbell.is_asked(u64::MAX)
                && own.injector.is_empty()
                && self.shared.departures.load(Ordering::Acquire) == self.departures.get()
                && !wanting.iter().any(|target| self.out(target).could_flush())
                && nothing_else()
        });
        let counter = if armed.is_some() { &own.counts.parked } else { &own.counts.park_refused };
        counter.add(1);
        armed
    }

    /// Whether messages wait in an overflow list.
    #[must_use]
    pub fn has_overflow(&self) -> bool {
        self.outgoing.iter().any(|out| out.listed() > 0)
    }

    /// Targets in whose rings this core waits for space.
    fn wanting(&self) -> CoreSet {
        let mut set = CoreSet::empty();
        for word in 0..self.attention.len() {
            for bit in bits(self.attention[word].get()) {
                let target = CoreId::new(word * 64 + bit);
                if self.out(target).wants_space() {
                    set.insert(target);
                }
            }
        }
        set
    }

    fn inbox_is_empty(&self) -> bool {
        let only_pending = mutant!("doorbell-recheck-pending-only");
        (0..self.cores()).map(CoreId::new).all(|source| {
            let skip =
                only_pending && self.own().doorbell.pending(source.index() / 64) & 1 << (source.index() % 64) == 0;
            skip || self.incoming(source).is_none_or(|(consumer, _)| consumer.is_empty())
        })
    }
}
