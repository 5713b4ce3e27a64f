//! A core's line of urgent triggers, and the rounds over it.

use core::task::Waker;

use super::Gate;
use crate::core_set::bits;
use crate::doorbell::{Ask, Rung, State};
use crate::fabric::Shared;
use crate::sync::{AtomicU32, AtomicU64, Counter, Ordering, edge, mutant, relaxed_if};
use crate::{Core, CoreId, freeze, preemptible, urgent_call};

/// The bit of [calls](crate::urgent_call), above those of slots.
const CALLS: u64 = 1 << 63;
/// The bit of [sections](crate::preemptible).
const SECTION: u64 = 1 << 62;
/// The bit of [freezes](crate::freeze).
const FREEZE: u64 = 1 << 61;
/// The bits of handlers.
const SLOTS: u64 = !(CALLS | SECTION | FREEZE);

/// Looks at the line of a core that is resting before it is interrupted: as long as a few lines take to move.
const WATCH_TURNS: u32 = 256;

/// Rounds that follow each other in one arrival.
const ROUNDS: u32 = if cfg!(loom) { 1 } else { 16 };

/// One core's part: see the [fields](self#state-and-who-writes-it).
pub(crate) struct Line {
    pending: AtomicU64,
    in_flight: AtomicU32,
    round: AtomicU32,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self { pending: AtomicU64::new(0), in_flight: AtomicU32::new(0), round: AtomicU32::new(0) }
    }
}

/// What urgent triggers count.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) run: Counter,
    /// Written by triggers, as the next.
    pub(crate) sent: Counter,
    pub(crate) refused: Counter,
}

/// What is left to do for a trigger whose bit is set.
#[must_use]
pub(super) enum Marked {
    /// Nothing.
    Done,
    /// Interrupt the target.
    Interrupt,
    /// Interrupt the target if it does not look by itself in a moment.
    Watch,
    /// The target has left.
    Gone,
}

/// T2 to T4. `false`: the target has left.
pub(super) fn trigger(shared: &Shared, bit: u64, target: CoreId) -> bool {
    match mark(shared, bit, target) {
        Marked::Gone => return false,
        Marked::Done => {}
        Marked::Watch if watch(shared, bit, target) => {}
        Marked::Watch | Marked::Interrupt => _ = interrupt(shared, target),
    }
    true
}

/// [urgent_call H3]. `false`: the target has left, and may not look at what was pushed.
pub(crate) fn trigger_calls(shared: &Shared, target: CoreId) -> bool {
    trigger(shared, CALLS, target)
}

/// [preemptible Q1]
pub(crate) fn trigger_section(shared: &Shared, target: CoreId) {
    // [preemptible Q1] one that has left is found by who waits for it (`shootdown` I7).
    let _ = trigger(shared, SECTION, target);
}

/// [freeze L2]. `false`: the target has left, or the machine refuses.
pub(crate) fn trigger_freeze(shared: &Shared, target: CoreId) -> bool {
    match mark(shared, FREEZE, target) {
        Marked::Gone => false,
        Marked::Done => true,
        // It is in a section, whatever it says.
        Marked::Watch | Marked::Interrupt => interrupt(shared, target),
    }
}

/// T2 and T3.
pub(super) fn mark(shared: &Shared, bit: u64, target: CoreId) -> Marked {
    let core = shared.core(target);
    let pending = &core.urgent.pending;
    let looks_first = mutant!("urgent-set-look-first") && pending.load(Ordering::Relaxed) & bit != 0;
    // [urgent T2] always an RMW. Release: S3 sees what came before it, also if the bit was set already.
    let release = relaxed_if(mutant!("urgent-set-relaxed"), Ordering::Release);
    let was_clear = !looks_first && pending.fetch_or(bit, release) & bit == 0;
    // [urgent_call H3] for calls in any case: the fence and the look at the state are theirs.
    let asks = was_clear || bit == CALLS && !mutant!("urgent-call-no-ask");
    if asks && !mutant!("urgent-no-ask") {
        // [urgent T3]
        match core.doorbell.ask(Ask::Urgent) {
            Rung::Kick => {
                shared.port.kick(target);
                return Marked::Done;
            }
            Rung::Gone => return Marked::Gone,
            Rung::Avoided => {}
        }
    }
    match core.doorbell.state() {
        State::Awake if core.counts.resting.get() != 0 => Marked::Watch,
        State::Awake => Marked::Interrupt,
        // Who kicks it, or has asked it, is about to.
        State::Parked | State::Kicked => Marked::Done,
        _ => Marked::Gone,
    }
}

/// T4's look. Returns whether the target has taken the bit.
pub(super) fn watch(shared: &Shared, bit: u64, target: CoreId) -> bool {
    let pending = &shared.core(target).urgent.pending;
    // [urgent T4] no `spin_loop`: on some machines one lasts as long as the whole look may.
    (0..WATCH_TURNS).any(|_| pending.load(Ordering::Relaxed) & bit == 0)
}

/// T4. `false`: the machine refuses.
pub(super) fn interrupt(shared: &Shared, target: CoreId) -> bool {
    let core = shared.core(target);
    let in_flight = &core.urgent.in_flight;
    // [urgent T4] relaxed, and a look before the exchange: who has set the bit has fenced in T3, and who found it set leaves it to that one.
    in_flight.load(Ordering::Relaxed) != 0 || in_flight.swap(1, Ordering::Relaxed) != 0 || send(shared, target)
}

/// The end of T4, and of I2, with `in_flight` set. `false`: the machine refuses.
fn send(shared: &Shared, target: CoreId) -> bool {
    let core = shared.core(target);
    if shared.port.interrupt(target) {
        core.urgent_counts.sent.add_shared(1);
        return true;
    }
    core.urgent_counts.refused.add_shared(1);
    // [urgent T4] relaxed: who finds 0 tries for itself. It may wipe out another's 1, whose interrupt then is not the only one.
    if !mutant!("urgent-refusal-kept") {
        core.urgent.in_flight.store(0, Ordering::Relaxed);
    }
    false
}

/// An arrival on `core`'s thread.
pub(super) fn arrive(shared: &Shared, core: CoreId, gate: Option<&Gate>) -> bool {
    if let Some(gate) = gate.filter(|gate| gate.is_closed() && !mutant!("urgent-closed-ignored")) {
        // [urgent I1]
        gate.miss();
        return false;
    }
    for _ in 0..ROUNDS {
        let Some(gate) = gate.filter(|_| !mutant!("urgent-round-open")) else {
            round(shared, core);
            return true;
        };
        gate.raise();
        round(shared, core);
        if !gate.open() {
            return true;
        }
    }
    if !mutant!("urgent-rest-forgotten") {
        leave_rest(shared, core);
    }
    true
}

/// I2: the last round of this arrival was interrupted, and no other follows it here.
#[cold]
fn leave_rest(shared: &Shared, core: CoreId) {
    let own = shared.core(core);
    // [urgent I2] for a machine that loses the interrupt.
    own.doorbell.ask_awake(Ask::Urgent);
    // [urgent I2] relaxed: on the core itself, whose next round clears it.
    own.urgent.in_flight.store(1, Ordering::Relaxed);
    let _ = send(shared, core);
}

/// S1 to S5. The gate is closed.
fn round(shared: &Shared, core: CoreId) {
    let line = &shared.core(core).urgent;
    let round = line.round.load(Ordering::Relaxed);
    // [urgent S1] relaxed: S3's release hands it on to who sees a bit taken.
    let begin = || line.round.store(round | 1, Ordering::Relaxed);
    if !mutant!("urgent-round-late") {
        begin();
    }
    edge();
    if !mutant!("urgent-clear-late") {
        clear_in_flight(line);
    }
    edge();
    // [urgent S3] acquire, with T2's release; release, with U3's acquire.
    let both = match (mutant!("urgent-take-no-acquire"), mutant!("urgent-take-no-release")) {
        (true, _) => Ordering::Release,
        (_, true) => Ordering::Acquire,
        _ => Ordering::AcqRel,
    };
    let taken = line.pending.swap(0, both);
    if mutant!("urgent-round-late") {
        begin();
    }
    edge();
    if mutant!("urgent-clear-late") {
        clear_in_flight(line);
    }
    for slot in bits(taken & SLOTS) {
        // [urgent S4]
        // SAFETY: 1. the bit was taken by this round, which has not ended.
        unsafe { shared.urgent.run(slot, core) };
        shared.core(core).urgent_counts.run.add(1);
        edge();
    }
    if taken & SECTION != 0 {
        // [urgent S4]
        preemptible::serve(shared, core);
    }
    if taken & CALLS != 0 {
        // [urgent S4]
        urgent_call::serve(shared, core);
    }
    if taken & FREEZE != 0 {
        // [urgent S4] the last of all: nothing that this round has taken waits for its end.
        freeze::stand(shared, core);
    }
    // [urgent S5] release: who sees the round over sees what its handlers wrote.
    let release = relaxed_if(mutant!("urgent-round-relaxed"), Ordering::Release);
    line.round.store((round | 1).wrapping_add(1), release);
}

fn clear_in_flight(line: &Line) {
    // [urgent S2] to triggers S3's release hands it on, when they find their bit taken; release, for who awaits an unregistration (U5): if it reads this 0 it sees the round.
    // A store: if it wipes out a 1 that it has not seen, that one's interrupt comes all the same.
    line.in_flight.store(0, relaxed_if(mutant!("urgent-clear-relaxed"), Ordering::Release));
}

/// U3: whether `bit`, which nobody sets any more, is neither pending nor being served on any core.
pub(super) fn is_over(shared: &Shared, bit: u64) -> bool {
    (0..shared.cores.len()).map(CoreId::new).all(|core| {
        let line = &shared.core(core).urgent;
        // [urgent U3] acquire: with S3's release, or that of the RMWs after it. Pending first: an even round before says nothing.
        let is_clear = line.pending.load(Ordering::Acquire) & bit == 0 || mutant!("urgent-free-pending");
        // [urgent U3] acquire: with S5's release.
        let is_even = || line.round.load(Ordering::Acquire).is_multiple_of(2) || mutant!("urgent-free-running");
        is_clear && is_even() || shared.is_gone(core)
    })
}

/// What an unregistration waits for on a core.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// The end of an interrupt, or of a round.
    Interrupt,
    /// That the core looks by itself.
    Look,
}

/// U5's look at one core.
fn owed(shared: &Shared, core: CoreId, bit: u64) -> Owed {
    let line = &shared.core(core).urgent;
    // [urgent U5] acquire: with S2's release. Before the bit: if a round has cleared it, that round is seen, or the bit taken.
    let interrupted = line.in_flight.load(Ordering::Acquire) != 0;
    let in_round = !line.round.load(Ordering::Acquire).is_multiple_of(2);
    let is_pending = line.pending.load(Ordering::Acquire) & bit != 0;
    match (is_pending, in_round || interrupted) {
        _ if shared.is_gone(core) => Owed::Nothing,
        (true, false) => Owed::Look,
        (true, true) if mutant!("urgent-wait-for-look") => Owed::Look,
        (true, true) => Owed::Interrupt,
        (false, _) if in_round => Owed::Interrupt,
        (false, _) => Owed::Nothing,
    }
}

/// U5: leaves `waker` with the cores that will look by themselves. `false`: some core is about to be interrupted, or is in a round, of which nobody tells.
pub(super) fn leave_waker(shared: &Shared, bit: u64, waker: &Waker) -> bool {
    let cores = || (0..shared.cores.len()).map(CoreId::new);
    if cores().any(|core| owed(shared, core, bit) == Owed::Interrupt) {
        return false;
    }
    cores()
        .filter(|&core| owed(shared, core, bit) != Owed::Nothing)
        .for_each(|core| leave_waker_with(shared, core, waker));
    cores().all(|core| owed(shared, core, bit) != Owed::Interrupt)
}

fn leave_waker_with(shared: &Shared, core: CoreId, waker: &Waker) {
    let late = shared.core(core);
    late.urgent_waiting.push(waker.clone());
    // [urgent U5] the look that takes this request sees the waker. A core that has left is not waited for.
    if !mutant!("urgent-wait-unasked") && late.doorbell.ask(Ask::Urgent) == Rung::Kick {
        shared.port.kick(core);
    }
}

/// [urgent_call E3]: as U5, for calls of `core`. `false`: nobody tells; look again soon.
pub(crate) fn await_calls(shared: &Shared, core: CoreId, waker: &Waker) -> bool {
    if owed(shared, core, CALLS) != Owed::Look && !mutant!("urgent-foreign-wait-for-look") {
        return false;
    }
    leave_waker_with(shared, core, waker);
    owed(shared, core, CALLS) != Owed::Interrupt || mutant!("urgent-foreign-wait-for-look")
}

/// [admission E3], on the core's thread, before it makes a round.
pub(crate) fn arrive_anew(shared: &Shared, core: CoreId) {
    let pending = &shared.core(core).urgent.pending;
    // [admission E3] acquire, with T2's release.
    let stale = pending.fetch_and(!SLOTS, Ordering::Acquire) & SLOTS;
    let live = bits(stale).filter(|&slot| shared.urgent.is_live_slot(slot)).fold(0, |live, slot| live | 1 << slot);
    // [urgent T2] for those who have set them before.
    pending.fetch_or(live, Ordering::Release);
}

/// [urgent A3]: who waits for the core to look waits no more.
pub(crate) fn leave(shared: &Shared, core: CoreId) {
    // [urgent A3] who leaves a waker asks, by a full fence, and looks again: it sees the core gone, or this sees the waker.
    if !mutant!("urgent-leave-no-wake") {
        wake_waiting(shared, core);
    }
}

fn wake_waiting(shared: &Shared, core: CoreId) {
    while let Some(waker) = shared.core(core).urgent_waiting.pop() {
        crate::contain(|| waker.wake());
    }
}

impl Core {
    /// [urgent I1], by a look.
    pub(crate) fn look_for_urgent(&self) {
        let gate = self.gate();
        if arrive(self.shared(), self.id(), gate) {
            // [urgent I3]
            if !mutant!("urgent-look-no-wake") {
                wake_waiting(self.shared(), self.id());
            }
        } else if !mutant!("urgent-look-no-reask") {
            // [urgent I1] the end of the critical section serves it, if interrupts are accepted; if not, a later look.
            let _ = self.own().doorbell.ask(Ask::Urgent);
        }
    }

    /// The thread's gate, where the machine has interrupts.
    pub(crate) fn gate(&self) -> Option<&Gate> {
        let gate = self.port().gate();
        // SAFETY: 1. a port's gate lives as long as its thread, on which this endpoint stays. 2. nothing else uses it but interrupts of the thread.
        unsafe { gate.as_ref() }
    }
}
