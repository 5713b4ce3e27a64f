//! What the cores count. Each figure is written by one core with plain stores and may be read by any thread at any time;
//! figures of different lines need not be from the same instant.

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
}
