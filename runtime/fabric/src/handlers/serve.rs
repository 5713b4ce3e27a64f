//! A core's inbox of triggers, and its passes over it.

use core::cell::{Cell, RefCell};
use core::task::Waker;

use super::bell::{Waiters, Words};
use super::mailbox::Mailbox;
use super::table::SLOTS;
use crate::core_set::bits;
use crate::doorbell::{Ask, Rung};
use crate::fabric::Shared;
use crate::sync::{AtomicU64, Counter, Injector, Ordering, Padded, fence, mutant, relaxed_if};
use crate::{Core, CoreId};

/// What a pending word may hold beside the handlers' bits, each at its slot.
pub(super) const MAILBOX: u64 = 1;
pub(super) const BELLS: u64 = 1 << 32;
const HANDLERS: u64 = (1 << SLOTS) - 2;

/// One core's part, written by everyone.
pub(crate) struct Inbox {
    pending: Padded<AtomicU64>,
    pub(super) mailbox: Mailbox,
    pub(super) bells: Padded<Words>,
    pub(super) rounds: Padded<Rounds>,
}

/// Passes asked for and made.
pub(super) struct Rounds {
    pub(super) wanted: AtomicU64,
    pub(super) passed: AtomicU64,
    pub(super) waiting: Injector<Waker>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        let rounds = Rounds { wanted: AtomicU64::new(0), passed: AtomicU64::new(0), waiting: Injector::new() };
        Self {
            pending: Padded(AtomicU64::new(0)),
            mailbox: Mailbox::new(),
            bells: Padded(Words::new()),
            rounds: Padded(rounds),
        }
    }
}

/// One core's part, its own.
#[derive(Default)]
pub(crate) struct Local {
    /// In an outer pass's handlers.
    in_handlers: Cell<bool>,
    pub(super) waiters: RefCell<Waiters>,
}

/// What handlers count, one line per core.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) run: Counter,
    pub(crate) panics: Counter,
    /// Written by senders.
    pub(crate) mailbox_full: Counter,
}

/// T2 and T3: what `bit` stands for will be looked at by `target`.
#[inline]
pub(super) fn set_and_ask(shared: &Shared, target: CoreId, bit: u64) -> Rung {
    if !set_pending(shared, target, bit) || mutant!("handlers-no-ask") {
        return Rung::Avoided;
    }
    // [handlers T3]
    ask(shared, target)
}

/// T2. Returns whether the bit was clear: then the caller asks.
#[inline]
pub(super) fn set_pending(shared: &Shared, target: CoreId, bit: u64) -> bool {
    let pending = &shared.core(target).handlers.pending;
    if mutant!("handlers-look-first") && pending.load(Ordering::Relaxed) & bit != 0 {
        return false;
    }
    // [handlers T2] always an RMW. Release: S2 sees what came before it, also if the bit was set already, for the words between are RMWs'.
    // A fence before a plain look would do too, and cost no less.
    let release = relaxed_if(mutant!("handlers-trigger-relaxed"), Ordering::Release);
    pending.fetch_or(bit, release) & bit == 0
}

/// [admission E3]
pub(super) fn keep_live(shared: &Shared, core: CoreId) {
    let pending = &shared.core(core).handlers.pending;
    // [admission E3] acquire, with T2's release.
    let stale = pending.fetch_and(!HANDLERS, Ordering::Acquire) & HANDLERS;
    let live = bits(stale).filter(|&slot| shared.handlers.is_live_slot(slot)).fold(0, |live, slot| live | 1 << slot);
    // [handlers T2] for those who have set them before.
    pending.fetch_or(live, Ordering::Release);
}

/// Makes `target` pass, awake or asleep.
#[cold]
pub(super) fn ask(shared: &Shared, target: CoreId) -> Rung {
    let rung = shared.core(target).doorbell.ask(Ask::Handlers);
    if rung == Rung::Kick {
        shared.port.kick(target);
    }
    rung
}

impl Core {
    fn inbox(&self) -> &Inbox {
        &self.shared().core(self.id()).handlers
    }

    /// Whether a handler is on this thread's stack.
    #[must_use]
    pub fn is_in_handler(&self) -> bool {
        self.handlers.in_handlers.get()
    }

    /// A pass: [handlers S1] to [handlers S7]. *Runs handlers* and functions of the mailbox.
    #[cold]
    pub(crate) fn serve_handlers(&self) {
        let inbox = self.inbox();
        let outer = !self.is_in_handler() || mutant!("handlers-nested-pass");
        // [handlers S1] acquire: what triggers were made before the round are pending below. Before S2, or it would promise bits that it
        // has not taken.
        let wanted = inbox.rounds.wanted.load(Ordering::Acquire);
        let mask = if outer { u64::MAX } else { MAILBOX };
        // [handlers S2] acquire, with T2's release.
        let acquire = relaxed_if(mutant!("handlers-take-relaxed"), Ordering::Acquire);
        let taken = inbox.pending.fetch_and(!mask, acquire) & mask;
        if mutant!("handlers-pass-early") {
            self.pass(wanted);
        }
        self.run_handlers(taken & HANDLERS);
        if taken & BELLS != 0 {
            // [handlers S4]
            self.serve_bells();
        }
        if taken & MAILBOX != 0 {
            // [handlers S5] last: a message that is answered says that what was pending before it has run.
            self.serve_mailbox();
        }
        if outer {
            self.pass(wanted);
            // [handlers S7] relaxed: who has set a bit or moved `wanted` since asks; what a pass below took is this thread's own past.
            let left = inbox.pending.load(Ordering::Relaxed) != 0
                || inbox.rounds.wanted.load(Ordering::Relaxed) != inbox.rounds.passed.load(Ordering::Relaxed);
            if left && !mutant!("handlers-no-reask") {
                // Awake: nobody to kick.
                let _ = ask(self.shared(), self.id());
            }
            super::unregister::advance_orphans(self.shared());
        }
    }

    fn run_handlers(&self, slots: u64) {
        let counts = &self.shared().core(self.id()).handler_counts;
        let before = self.handlers.in_handlers.replace(slots != 0 || self.is_in_handler());
        for slot in bits(slots) {
            let _nested = self.nest();
            // [handlers S3]
            // SAFETY: 1. the bit was taken by this pass, an outer one, which has not ended.
            let panicked = unsafe { self.shared().handlers.run(slot, self) };
            counts.run.add(1);
            counts.panics.add(u64::from(panicked));
        }
        self.handlers.in_handlers.set(before);
    }

    /// S6.
    fn pass(&self, wanted: u64) {
        let rounds = &self.inbox().rounds;
        // A pass below this one, in a function of the mailbox, may have come further.
        if rounds.passed.load(Ordering::Relaxed) >= wanted {
            return;
        }
        // [handlers S6] release: who sees it sees what the handlers wrote, and the bits that this core has set before.
        let release = relaxed_if(mutant!("handlers-pass-relaxed"), Ordering::Release);
        rounds.passed.store(wanted, release);
        // [handlers S6] who leaves a waker fences and looks again: it sees the store, or this sees the waker.
        if !mutant!("handlers-pass-no-fence") {
            fence(Ordering::SeqCst);
        }
        while let Some(waker) = rounds.waiting.pop() {
            if !mutant!("handlers-pass-no-wake") {
                crate::contain(|| waker.wake());
            }
        }
    }
}
