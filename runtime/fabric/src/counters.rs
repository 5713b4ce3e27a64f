//! What the cores count. Each figure is written by one core with plain stores and may be read by any thread at any time;
//! figures of different lines need not be from the same instant.

use core::ops::Sub;

/// What one core counts of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoreCounters {
    /// Passes over the inbox.
    pub ticks: u64,
    /// Times it armed its doorbell and found nothing to do, so that it slept.
    pub parked: u64,
    /// Times it wanted to sleep and stayed awake: something had arrived, or the heavy fence was busy.
    pub park_refused: u64,
    /// Messages of threads that are no core.
    pub foreign_received: u64,
    /// The deepest nesting of message functions.
    pub max_nesting: u64,
    /// Runs of registered handlers.
    pub handlers_run: u64,
    /// Runs of registered handlers that panicked.
    pub handler_panics: u64,
    /// Times a sender found this core's mailbox full; each counts once however long it waited.
    pub mailbox_full: u64,
    /// Runs of urgent handlers, and of functions that were called urgently.
    pub urgent_run: u64,
    /// Interrupts that others have sent to this core.
    pub interrupts_sent: u64,
    /// Interrupts of this core that the machine refused, or does not offer: it then finds what was triggered at its next tick.
    pub interrupts_refused: u64,
    /// Reports of the [watch](crate::watch): times that it had waited too long for another core.
    pub waits_reported: u64,
    /// Messages of threads that are no core, on their way to it now.
    pub foreign_queued: u64,
}

/// What was counted in between: `later - earlier`. What is no count, [`max_nesting`](Self::max_nesting) and
/// [`foreign_queued`](Self::foreign_queued), is the later one's.
impl Sub for CoreCounters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            ticks: self.ticks.saturating_sub(earlier.ticks),
            parked: self.parked.saturating_sub(earlier.parked),
            park_refused: self.park_refused.saturating_sub(earlier.park_refused),
            foreign_received: self.foreign_received.saturating_sub(earlier.foreign_received),
            max_nesting: self.max_nesting,
            handlers_run: self.handlers_run.saturating_sub(earlier.handlers_run),
            handler_panics: self.handler_panics.saturating_sub(earlier.handler_panics),
            mailbox_full: self.mailbox_full.saturating_sub(earlier.mailbox_full),
            urgent_run: self.urgent_run.saturating_sub(earlier.urgent_run),
            interrupts_sent: self.interrupts_sent.saturating_sub(earlier.interrupts_sent),
            interrupts_refused: self.interrupts_refused.saturating_sub(earlier.interrupts_refused),
            waits_reported: self.waits_reported.saturating_sub(earlier.waits_reported),
            foreign_queued: self.foreign_queued,
        }
    }
}

/// What is counted of one source and target.
///
/// Every message in a ring was announced in one of three ways: `sent == avoided + kicked + passive` when nothing is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairCounters {
    /// Messages put into the ring.
    pub sent: u64,
    /// Messages that the target took out.
    pub received: u64,
    /// Sends that found no space: each refused or listed one, and each synchronous one that had to wait, once per wait.
    pub full: u64,
    /// Messages whose send needed no kick.
    pub avoided: u64,
    /// Messages whose send kicked the target.
    pub kicked: u64,
    /// Messages sent passively.
    pub passive: u64,
    /// Messages that went to the overflow list first.
    pub overflowed: u64,
    /// Kicks of the target beside those of sends: for passive messages at the flush, again by a sender that waits for space, and again
    /// by the [watch](crate::watch).
    pub repeated: u64,
    /// Messages in the ring now, and those that are being run.
    pub queued: u64,
    /// Messages in the overflow list now.
    pub listed: u64,
}

/// What was counted in between: `later - earlier`. [`queued`](Self::queued) and [`listed`](Self::listed) are the later one's.
impl Sub for PairCounters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(earlier.sent),
            received: self.received.saturating_sub(earlier.received),
            full: self.full.saturating_sub(earlier.full),
            avoided: self.avoided.saturating_sub(earlier.avoided),
            kicked: self.kicked.saturating_sub(earlier.kicked),
            passive: self.passive.saturating_sub(earlier.passive),
            overflowed: self.overflowed.saturating_sub(earlier.overflowed),
            repeated: self.repeated.saturating_sub(earlier.repeated),
            queued: self.queued,
            listed: self.listed,
        }
    }
}
