//! Unregistering: two rounds of all cores, awaited, waited for, or left to the cores.

use alloc::boxed::Box;
use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::serve::ask;
use super::table::HandlerId;
use crate::CoreId;
use crate::fabric::Shared;
use crate::sync::{Ordering, fence, mutant};

/// How far an unregistration is.
enum Stage {
    /// U2.
    Foreign,
    /// U3 or U4: how many rounds have ended, and what `passed` must come to, core by core.
    Round(u32, Box<[u64]>),
    Ended,
}

/// An unregistration that has been begun: the owner of a dying slot.
pub(crate) struct Retired {
    id: HandlerId,
    stage: Stage,
}

const ROUNDS: u32 = 2;

impl Retired {
    /// The slot is `Dying` by the caller's exchange.
    pub(super) fn new(id: HandlerId) -> Self {
        Self { id, stage: Stage::Foreign }
    }

    /// Goes as far as it can without waiting. Returns whether it has ended.
    fn advance(&mut self, shared: &Shared) -> bool {
        loop {
            match &self.stage {
                Stage::Foreign if shared.handlers.has_foreign(self.id) => return false,
                Stage::Foreign => {
                    if mutant!("handlers-clear-first") {
                        // SAFETY: 1. not held: the model checker must see what comes of it.
                        unsafe { shared.handlers.free(self.id) };
                        self.stage = Stage::Ended;
                        return true;
                    }
                    // [handlers U3]
                    self.stage = Stage::Round(0, begin_round(shared));
                }
                Stage::Round(_, wants) if !has_ended(shared, wants) => return false,
                Stage::Round(ended, _) if ended + 1 < ROUNDS && !mutant!("handlers-one-round") => {
                    // [handlers U4]
                    self.stage = Stage::Round(ended + 1, begin_round(shared));
                }
                Stage::Round(..) => {
                    // SAFETY: 1. `new`'s caller made the slot `Dying`; U2, U3 and U4 have ended.
                    unsafe { shared.handlers.free(self.id) };
                    self.stage = Stage::Ended;
                    return true;
                }
                Stage::Ended => return true,
            }
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }
}

/// Asks every core for a pass. Returns what each core's `passed` must come to.
fn begin_round(shared: &Shared) -> Box<[u64]> {
    let core = |index| {
        let target = CoreId::new(index);
        // Release: who reads it in S1 sees `Dying`, and every bit that is set by now.
        let wanted = shared.core(target).handlers.rounds.wanted.fetch_add(1, Ordering::Release) + 1;
        // A core that has left is not waited for.
        let _ = ask(shared, target);
        wanted
    };
    (0..shared.cores.len()).map(core).collect()
}

fn has_passed(shared: &Shared, core: CoreId, wanted: u64) -> bool {
    // Acquire, both: after it, no trigger by the core is still to be seen, and no handler runs there that was pending.
    shared.core(core).handlers.rounds.passed.load(Ordering::Acquire) >= wanted || shared.is_gone(core)
}

fn has_ended(shared: &Shared, wants: &[u64]) -> bool {
    wants.iter().enumerate().all(|(index, &wanted)| has_passed(shared, CoreId::new(index), wanted))
}

/// [handlers L1], the rounds: who waits for a pass of the core waits for none any more.
pub(super) fn leave(shared: &Shared, core: CoreId) {
    if mutant!("handlers-leave-no-wake") {
        return;
    }
    // [handlers L1] who leaves a waker fences and looks again: it sees the core gone, or this sees the waker.
    while let Some(waker) = shared.core(core).handlers.rounds.waiting.pop() {
        crate::contain(|| waker.wake());
    }
}

/// Takes the unregistrations that nobody waits for as far as they go.
pub(super) fn advance_orphans(shared: &Shared) {
    if shared.orphans.is_empty() {
        return;
    }
    let mut unfinished = Vec::new();
    while let Some(mut retired) = shared.orphans.pop() {
        if !retired.advance(shared) {
            unfinished.push(retired);
        }
    }
    unfinished.into_iter().for_each(|retired| leave_to_cores(shared, retired));
}

/// Leaves an unregistration to whoever comes to [`advance_orphans`] next.
fn leave_to_cores(shared: &Shared, mut retired: Retired) {
    let mut turn = 0;
    // [handlers L2] nobody comes any more. All that it can wait for is a foreign trigger between two instructions.
    while shared.is_deserted() {
        if retired.advance(shared) {
            return;
        }
        shared.port.relax(turn);
        turn += 1;
    }
    shared.orphans.push(retired);
    // [handlers L2] a core that leaves fences and looks at the orphans: it finds this one, or this finds it gone.
    if !mutant!("handlers-orphan-no-fence") {
        fence(Ordering::SeqCst);
    }
    if shared.is_deserted() && !mutant!("handlers-orphan-no-recheck") {
        advance_orphans(shared);
    }
}

/// An unregistration under way; ready when the handler does not run and will not run any more, on any core.
///
/// It has begun, whether it is polled or not: triggers are errors already.
///
/// # Cancel safety
///
/// Dropping it leaves the rest to the cores: the function is dropped and the slot free some time later, at the latest when a registration finds
/// no other.
#[must_use = "only its end says that the handler no longer runs"]
pub struct Unregister {
    shared: StdArc<Shared>,
    /// Taken when it is dropped unfinished.
    retired: Option<Retired>,
}

impl fmt::Debug for Unregister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unregister").field("ended", &self.has_ended()).finish_non_exhaustive()
    }
}

impl Unregister {
    pub(super) fn new(shared: &StdArc<Shared>, retired: Retired) -> Self {
        let mut this = Self { shared: shared.clone(), retired: Some(retired) };
        this.advance();
        this
    }

    fn has_ended(&self) -> bool {
        self.retired.as_ref().is_none_or(Retired::has_ended)
    }

    /// A core that has not passed.
    pub(super) fn late(&self) -> Option<CoreId> {
        match &self.retired.as_ref()?.stage {
            Stage::Round(_, wants) => {
                (0..wants.len()).map(CoreId::new).find(|&core| !has_passed(&self.shared, core, wants[core.index()]))
            }
            _ => None,
        }
    }

    /// Goes as far as it can without waiting. Returns whether it has ended.
    pub(super) fn advance(&mut self) -> bool {
        self.retired.as_mut().is_none_or(|retired| retired.advance(&self.shared))
    }
}

impl Future for Unregister {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.advance() {
                return Poll::Ready(());
            }
            let Some(Retired { stage: Stage::Round(round, wants), .. }) = &self.retired else {
                // A foreign trigger is between two instructions: nobody tells when it is not.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            let round = *round;
            let late = |&(index, &wanted): &(usize, &u64)| !has_passed(&self.shared, CoreId::new(index), wanted);
            for (index, _) in wants.iter().enumerate().filter(late) {
                let rounds = &self.shared.core(CoreId::new(index)).handlers.rounds;
                rounds.waiting.push(cx.waker().clone());
            }
            // [handlers S6] its other half, and that of [handlers L1].
            fence(Ordering::SeqCst);
            if !self.advance() && self.retired.as_ref().is_some_and(|retired| retired.is_in_round(round)) {
                return Poll::Pending;
            }
        }
    }
}

impl Retired {
    fn is_in_round(&self, round: u32) -> bool {
        matches!(&self.stage, Stage::Round(this, _) if *this == round)
    }
}

impl Drop for Unregister {
    fn drop(&mut self) {
        if !self.advance()
            && let Some(retired) = self.retired.take()
        {
            leave_to_cores(&self.shared, retired);
        }
    }
}
