//! The lead's side.

use core::cell::Cell;
use core::fmt;

use super::CpuSyncError;
use super::board::{Board, Job, Kind, Order};
use super::error::Cause;
use crate::doorbell::Rung;
use crate::port::Clock;
use crate::sync::{mutant, unwinds_in_a_model};
use crate::unwind::PutOff;
use crate::watch::{WaitKind, Waiting};
use crate::{Core, CoreId, CoreSet, PanicPayload, SafePoint, catch, contain};

/// Turns of the wait for `HOLD` after which the lead lets the others serve ([cpusync M5](crate::cpusync#steps)).
pub(super) const STUCK_TURNS: u32 = if cfg!(loom) { 2 } else { 256 };
/// Rounds after which *drain* gives up ([cpusync M6](crate::cpusync#steps)).
const MAX_ROUNDS: u32 = 1000;
/// Turns of a wait between two looks whether its targets have left: their doorbells are lines that they write.
const LEFT_TURNS: u32 = if cfg!(loom) { 1 } else { 32 };

/// What to stop, and how.
#[derive(Clone, Copy)]
pub struct CpuSync<'a> {
    /// The cores to stop. The lead is at a safe point whether it is in the set or not; its own function runs only if it is.
    pub set: CoreSet,
    /// Run by each core of the set, by all at once, after the body and before the core goes on.
    pub each: Option<&'a (dyn Fn(&Core) + Sync)>,
    /// Whether what was sent before the stop runs before the body.
    pub drain: bool,
    /// When to give up waiting for cores to stop, by `clock`.
    pub deadline_ns: Option<u64>,
    /// Measures the stop.
    pub clock: &'a dyn Clock,
}

impl fmt::Debug for CpuSync<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuSync").field("cores", &self.set.len()).field("drain", &self.drain).finish_non_exhaustive()
    }
}

/// How long a stop took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// From the first request to another core until every core stood still; 0 if there was nothing to wait for.
    pub stopping_ns: u64,
    /// From the first request until every core was let go: no core stood still for longer. Without another core: from the start.
    pub total_ns: u64,
    /// How many cores were [frozen](crate::freeze) in a section.
    pub frozen: usize,
}

/// The right to stop other cores, at a safe point of the own one. Lent by [`Core::lead`].
pub struct Lead<'a> {
    here: &'a SafePoint<'a>,
    /// Who is stopped now, the lead not counted.
    pub(super) held: Cell<CoreSet>,
}

impl fmt::Debug for Lead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").field("core", &self.core().id()).finish_non_exhaustive()
    }
}

/// Proof that the cores of a set stand still, to the body of a stop.
pub struct Held<'a> {
    lead: &'a Lead<'a>,
    set: CoreSet,
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("cores", &self.set.len()).finish_non_exhaustive()
    }
}

impl Held<'_> {
    /// The core that runs the body.
    #[must_use]
    pub fn core(&self) -> &Core {
        self.lead.core()
    }

    /// The cores of the set that stand still: those that have left are not among them.
    #[must_use]
    pub fn cores(&self) -> CoreSet {
        self.set
    }

    /// Runs `f` on every core of the stop, the own one included if it is in the set, all at once; they stand still again when
    /// this returns. What the body wrote before is visible to `f`, and what `f` wrote to the body.
    ///
    /// # Errors
    ///
    /// The panic of the lowest core whose `f` panicked; the others have run.
    pub fn on_each(&self, f: &(dyn Fn(&Core) + Sync)) -> Result<(), PanicPayload> {
        self.lead.run(Kind::Run, &self.set, f)
    }

    /// A stop within the stop: stops cores of its set that do not stand still yet, and lets those go on when it ends. Otherwise as
    /// [`Lead::cpusync`].
    ///
    /// # Errors
    ///
    /// As [`Lead::cpusync`]. The cores of the outer stop go on standing still.
    ///
    /// # Panics
    ///
    /// As [`Lead::cpusync`].
    pub fn cpusync<R>(
        &self,
        plan: &CpuSync<'_>,
        body: impl FnOnce(&Held<'_>) -> R,
    ) -> Result<(R, Pause), CpuSyncError> {
        self.lead.cpusync(plan, body)
    }
}

impl Lead<'_> {
    pub(super) fn new<'a>(here: &'a SafePoint<'a>) -> Lead<'a> {
        Lead { here, held: Cell::new(CoreSet::empty()) }
    }

    /// The core that leads.
    #[must_use]
    pub fn core(&self) -> &Core {
        self.here.core()
    }

    /// Stops the cores of the plan's set at their safe points, runs `body` on this core while they stand still, then the plan's function on each
    /// of them and on the own core, all at once, and lets them go on. Cores that have left are skipped.
    ///
    /// Waits, on this thread: for the longest poll or message function that runs in the set, then for the functions. While some core is
    /// late it *runs messages*. Neither `body` nor the function may wait for another core, or for a task. An empty set, or the own core alone, waits
    /// for nobody.
    ///
    /// # Errors
    ///
    /// [`CpuSyncError`]: the deadline passed first, or *drain* found no end, and nothing has run; or `body` or a function panicked,
    /// and no core was kept. No function runs if `body` panicked.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn cpusync<R>(
        &self,
        plan: &CpuSync<'_>,
        body: impl FnOnce(&Held<'_>) -> R,
    ) -> Result<(R, Pause), CpuSyncError> {
        let outer = self.held.get();
        let targets = self.targets(&plan.set);
        let release = Release { lead: self, outer };
        let started_ns = self.interlock(plan, &targets)?;
        // Without those that left instead of stopping.
        let set = plan.set.intersection(&self.held.get().with(self.core().id()));
        let others = set.without(self.core().id()).len();
        crate::trace::sync_start(self.core().id(), others);
        let waited = plan.drain || !targets.is_empty();
        let stopping_ns = if waited { plan.clock.now_ns() - started_ns } else { 0 };
        // [cpusync M7]
        let mut outcome = catch(|| body(&Held { lead: self, set }));
        if let Some(f) = plan.each.filter(|_| outcome.is_ok()) {
            // [cpusync M8]
            let kind = if outer.is_empty() { Kind::Go } else { Kind::Run };
            let ran = self.run(kind, &set, f);
            outcome = outcome.and_then(|value| ran.map(|()| value));
        }
        drop(release);
        crate::trace::sync_end(self.core().id(), others);
        // While the release is on its way to those who wait for it.
        let pause = Pause { stopping_ns, total_ns: plan.clock.now_ns() - started_ns, frozen: 0 };
        outcome.map(|value| (value, pause)).map_err(CpuSyncError::panicked)
    }

    /// Runs `f` on every core of `set` at its next safe point, without a common stop, and then on the own core if it is in the set. Waits for all of them;
    /// *runs messages* meanwhile. After the newer source's `lwkt_cpusync_quick`.
    ///
    /// # Errors
    ///
    /// The panic of the lowest core whose `f` panicked; the others have run.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have, and inside the body of a stop: use [`Held::on_each`] there. A message that panics meanwhile
    /// unwinds this once all have run `f`; what `f` panicked with is dropped then.
    pub fn quick(&self, set: &CoreSet, f: &(dyn Fn(&Core) + Sync)) -> Result<(), PanicPayload> {
        assert!(self.held.get().is_empty(), "`quick` inside the body of a stop: use `Held::on_each`");
        let targets = self.targets(set);
        let release = Release { lead: self, outer: CoreSet::empty() };
        let mut panics = Panics::default();
        if !targets.is_empty() {
            self.held.set(targets);
            self.board().write_set(self.core().id(), &targets);
            let running = Running::start(self, Kind::Go, f, &mut panics);
            self.ask(&targets);
            crate::trace::sync_quick(self.core().id(), targets.len());
            running.serve_until_done();
        }
        drop(release);
        panics.run_own(self.core(), set, f);
        panics.into_result()
    }

    /// M1 to M6. Returns when it began: before the first order.
    fn interlock(&self, plan: &CpuSync<'_>, targets: &CoreSet) -> Result<u64, CpuSyncError> {
        let held = self.held.get();
        let new = targets.difference(&held);
        let kind = if plan.drain { Kind::Drain } else { Kind::Hold };
        if !new.is_empty() {
            self.change_set(&held.union(&new));
        }
        // While the board's line is on its way.
        let started_ns = plan.clock.now_ns();
        if !new.is_empty() {
            self.order(kind, None);
            self.ask(&new);
        } else if plan.drain && !held.is_empty() {
            self.order(kind, None);
        }
        let first = self.board().last();
        let posted = plan.drain && self.core().drain_posted();
        // Who has left meanwhile has been counted: what it had sent to this core must run.
        if new.is_empty() && held.is_empty() {
            return Ok(started_ns);
        }
        let stands = self.stand_still(plan.drain, posted, plan.deadline());
        stands.map(|()| started_ns).map_err(|error| self.blame(error, &new, first, plan.drain))
    }

    /// Names those of `new` that were late, when `first` was the first order for them.
    pub(super) fn blame(&self, error: CpuSyncError, new: &CoreSet, first: Order, drain: bool) -> CpuSyncError {
        // Those that stopped, and were let to serve again, were not late.
        let never = |core: &CoreId| new.contains(*core) && !self.shared().core(*core).answer.is_since(first);
        error.map_not_stopped(|late| {
            let named: CoreSet = late.iter().filter(never).collect();
            // Without a drain somebody was late, if only for the last order.
            if named.is_empty() && !drain { late } else { named }
        })
    }

    pub(super) fn ask(&self, new: &CoreSet) {
        let order = self.board().last();
        for target in new.iter() {
            // [cpusync M3]
            let rung = self.core().ask_to_stop(target);
            // [cpusync M4] asked for nothing: no turn is waited for it. It may have answered before, by a bit that an earlier stop left it.
            if rung == Rung::Gone && self.has_left(target) {
                let answered = self.shared().core(target).answer.to(order).is_some();
                if !answered || mutant!("cpusync-asked-unheard") {
                    self.forget(target);
                }
            }
        }
    }

    /// M4 to M6, when the first order is given: until every target holds.
    fn stand_still(&self, drain: bool, posted: bool, deadline: Deadline<'_>) -> Result<(), CpuSyncError> {
        if drain {
            self.become_quiet(posted, deadline)?;
            self.order(Kind::Hold, None);
        }
        let mut limit = STUCK_TURNS;
        while !self.wait(Some(limit), deadline)?.late.is_empty() {
            // Perhaps nobody was stuck, only without a CPU for so long: they all need another turn of it now.
            limit = limit.saturating_mul(2);
            // [cpusync M5]
            self.order(Kind::Serve, None);
            if drain {
                self.become_quiet(false, deadline)?;
            } else {
                self.wait(None, deadline)?;
            }
            self.order(Kind::Hold, None);
        }
        Ok(())
    }

    /// M6, when `DRAIN` or `SERVE` is ordered.
    fn become_quiet(&self, posted: bool, deadline: Deadline<'_>) -> Result<(), CpuSyncError> {
        let mut any = self.wait(None, deadline)?.any || posted;
        for round in 0..MAX_ROUNDS {
            // In the first round some answered while others still ran: it proves nothing.
            if !any && (round > 0 || mutant!("cpusync-one-round")) {
                return Ok(());
            }
            // [cpusync M6]
            self.order(Kind::Serve, None);
            any = self.wait(None, deadline)?.any;
        }
        Err(CpuSyncError::new(Cause::Restless))
    }

    pub(super) fn wait(&self, limit: Option<u32>, deadline: Deadline<'_>) -> Result<Waited, CpuSyncError> {
        self.wait_unless(limit, deadline, |_| false)
    }

    /// M4, for the order that was given last. Serves if that was not to hold. With a limit of turns it may end before all is done, and when those that are late are `enough`.
    pub(super) fn wait_unless(
        &self,
        limit: Option<u32>,
        deadline: Deadline<'_>,
        enough: impl Fn(&CoreSet) -> bool,
    ) -> Result<Waited, CpuSyncError> {
        let order = self.board().last();
        let serves = !matches!(order.kind(), Kind::Hold | Kind::Run);
        let mut left = self.held.get();
        let mut any = serves && (self.core().serve_while_stopped() || self.has_listed());
        let mut turns: u32 = 0;
        let mut waiting: Option<(CoreId, Waiting<'_>)> = None;
        loop {
            let over = deadline.has_passed();
            let look = over || looks_for_leavers(turns);
            for target in left.iter() {
                let answer = &self.shared().core(target).answer;
                let mut answered = answer.to(order);
                let gone = look && answered.is_none() && self.has_left(target);
                if gone && !mutant!("cpusync-left-unheard") {
                    // [cpusync M4] it may have answered after the first look; what it says now is its last word.
                    answered = answer.to(order);
                }
                match answered {
                    Some(did) => any |= did,
                    None if gone => self.forget(target),
                    None => continue,
                }
                left.remove(target);
            }
            let Some(late) = left.lowest() else {
                return Ok(Waited { late: left, any });
            };
            if limit == Some(turns) || enough(&left) {
                return Ok(Waited { late: left, any });
            }
            if over {
                return Err(CpuSyncError::new(Cause::TimedOut(left)));
            }
            if waiting.as_ref().is_none_or(|(target, _)| *target != late) {
                // The old one is over before the new one begins.
                drop(waiting.take());
                waiting = Some((late, self.core().wait_for(late, WaitKind::Cpusync)));
            }
            let served = if serves { self.core().serve_while_stopped() } else { self.core().serve_shootdowns_alone() };
            any |= serves && served;
            if let Some((_, waiting)) = &mut waiting {
                waiting.turn(served);
            }
            turns = turns.saturating_add(1);
        }
    }

    /// Whether messages of the own core for its targets are not in their rings yet.
    fn has_listed(&self) -> bool {
        let held = self.held.get();
        self.core().has_overflow_to(|target| held.contains(target))
    }

    fn has_left(&self, target: CoreId) -> bool {
        // [cpusync M4] acquire, in `state`: what its messages wrote is visible.
        self.core().is_gone(target) && !mutant!("cpusync-wait-for-gone")
    }

    fn forget(&self, target: CoreId) {
        self.held.set(self.held.get().without(target));
    }

    /// Runs `f` on the cores of `set`, which are held, or the own one.
    fn run(&self, kind: Kind, set: &CoreSet, f: &(dyn Fn(&Core) + Sync)) -> Result<(), PanicPayload> {
        let mut panics = Panics::default();
        if self.held.get().is_empty() {
            panics.run_own(self.core(), set, f);
            return panics.into_result();
        }
        let only = |core: &Core| {
            if set.contains(core.id()) {
                f(core);
            }
        };
        let running = Running::start(self, kind, &only, &mut panics);
        running.panics.run_own(self.core(), set, f);
        drop(running);
        if kind == Kind::Go {
            self.held.set(CoreSet::empty());
        }
        panics.into_result()
    }

    /// M1. Nobody is asked yet.
    pub(super) fn change_set(&self, set: &CoreSet) {
        let board = self.board();
        if board.last().kind() != Kind::Idle {
            // [cpusync M1]
            self.order(Kind::Change, None);
        }
        board.write_set(self.core().id(), set);
        self.held.set(*set);
    }

    pub(super) fn order(&self, kind: Kind, job: Option<Job>) {
        self.board().order(self.board().last().then(kind), job);
    }

    /// The others of `set`. Those that have left are found by the wait: a look here would take the lines of those that have not.
    pub(super) fn targets(&self, set: &CoreSet) -> CoreSet {
        let cores = self.core().cores();
        let strangers = set.difference(&CoreSet::first(cores));
        assert!(strangers.is_empty(), "a stop's set has a core that the fabric of {cores} cores lacks");
        set.without(self.core().id())
    }

    pub(super) fn shared(&self) -> &crate::fabric::Shared {
        self.core().shared()
    }

    pub(super) fn board(&self) -> &Board {
        &self.shared().cpusync.board
    }
}

/// [cpusync M4]: whether to look this turn whether a late target has left.
fn looks_for_leavers(turn: u32) -> bool {
    turn % LEFT_TURNS == LEFT_TURNS - 1
}

pub(super) struct Waited {
    /// Who has not answered yet.
    pub(super) late: CoreSet,
    /// Somebody did something.
    any: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Deadline<'a> {
    at_ns: Option<u64>,
    clock: Option<&'a dyn Clock>,
}

impl Deadline<'_> {
    const NEVER: Self = Deadline { at_ns: None, clock: None };

    fn has_passed(self) -> bool {
        self.remaining_ns() == 0
    }

    pub(super) fn remaining_ns(self) -> u64 {
        match (self.at_ns, self.clock) {
            (Some(at), Some(clock)) => at.saturating_sub(clock.now_ns()),
            _ => u64::MAX,
        }
    }
}

impl CpuSync<'_> {
    pub(super) fn deadline(&self) -> Deadline<'_> {
        Deadline { at_ns: self.deadline_ns, clock: Some(self.clock) }
    }
}

/// Lets go of everyone but the cores of the outer stop, also when the body, or a message, unwinds.
pub(super) struct Release<'a> {
    pub(super) lead: &'a Lead<'a>,
    pub(super) outer: CoreSet,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let lead = self.lead;
        if self.outer.is_empty() {
            // [cpusync M8]
            lead.order(Kind::Idle, None);
            return lead.held.set(CoreSet::empty());
        }
        if lead.held.get() != self.outer {
            lead.change_set(&self.outer);
        }
        // [cpusync M7] a message that runs meanwhile may panic; the outer body goes on when they stand still, not before.
        let mut panics = PutOff::default();
        let mut stands = None;
        while stands.is_none() {
            lead.order(Kind::Hold, None);
            stands = panics.catch(|| lead.stand_still(false, false, Deadline::NEVER));
        }
        debug_assert!(stands.is_some_and(|held| held.is_ok()), "without a deadline it does not give up");
        panics.go_on();
    }
}

/// A job under way: ends only when everyone has answered, also by unwinding, so that the function outlives its users. Then it takes the panics: left
/// where they are, they would be the next stop's.
struct Running<'a> {
    lead: &'a Lead<'a>,
    panics: &'a mut Panics,
}

impl<'a> Running<'a> {
    fn start(lead: &'a Lead<'a>, kind: Kind, f: &'a (dyn Fn(&Core) + Sync), panics: &'a mut Panics) -> Self {
        lead.order(kind, Some(Job::new(f)));
        Self { lead, panics }
    }

    fn serve_until_done(self) {
        let done = self.lead.wait(None, Deadline::NEVER);
        debug_assert!(done.is_ok(), "without a deadline it does not give up");
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if unwinds_in_a_model() {
            return;
        }
        let order = self.lead.board().last();
        for target in self.lead.held.get().iter() {
            let mut waiting = self.lead.core().wait_for(target, WaitKind::Cpusync);
            let mut turns: u32 = 0;
            while self.lead.shared().core(target).answer.to(order).is_none()
                && !(looks_for_leavers(turns) && self.lead.has_left(target))
            {
                waiting.turn(self.lead.core().serve_shootdowns_alone());
                turns = turns.wrapping_add(1);
            }
        }
        // [cpusync M8]
        self.panics.take_from(self.lead);
    }
}

/// The panic of the lowest core.
#[derive(Default)]
struct Panics {
    first: Option<(CoreId, PanicPayload)>,
}

impl Panics {
    fn add(&mut self, core: CoreId, payload: PanicPayload) {
        let dropped = match &self.first {
            Some((first, _)) if *first < core => Some(payload),
            _ => self.first.replace((core, payload)).map(|(_, payload)| payload),
        };
        contain(|| drop(dropped));
    }

    fn run_own(&mut self, core: &Core, set: &CoreSet, f: &(dyn Fn(&Core) + Sync)) {
        if set.contains(core.id())
            && let Err(payload) = catch(|| f(core))
        {
            self.add(core.id(), payload);
        }
    }

    fn take_from(&mut self, lead: &Lead<'_>) {
        for target in lead.held.get().iter() {
            // SAFETY: 1. this is the lead, and `Running` has waited for every answer.
            if let Some(payload) = unsafe { lead.shared().core(target).answer.take_panic() } {
                self.add(target, payload);
            }
        }
    }

    fn into_result(mut self) -> Result<(), PanicPayload> {
        self.first.take().map_or(Ok(()), |(_, payload)| Err(payload))
    }
}

impl Drop for Panics {
    /// What nobody gets, because a message has unwound the lead's wait.
    fn drop(&mut self) {
        contain(|| drop(self.first.take()));
    }
}
