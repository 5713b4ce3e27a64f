//! Stopping cores, from tasks and from other threads.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use ipiq_fabric::cpusync::{CpuSync, CpuSyncError, Held, Lead};
use ipiq_fabric::port::Clock;
use ipiq_fabric::urgent::InterruptSafe;
use ipiq_fabric::{Core, CoreId, CoreSet, Message, PanicPayload, assert_core};

use super::pausing::{Outcome, Pausing, RemotePausing};
use crate::executor::with_current;
use crate::{Executor, Remote};

type Function = Arc<dyn Fn() + Send + Sync>;

/// Which cores to stop, and how.
///
/// A core stops between two polls; while it is stopped it runs no task, and, once all have stopped, no closure of a call or
/// message either. Timers and I/O of stopped cores wait.
#[derive(Clone, Default)]
#[must_use = "a plan does nothing until it is handed to `pause`"]
pub struct Pause {
    /// `None`: all.
    cores: Option<CoreSet>,
    each: Option<Function>,
    drain: bool,
    timeout: Option<Duration>,
}

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Pause");
        shown.field("cores", &self.cores.map(|set| ids(&set))).field("each", &self.each.is_some());
        shown.field("drain", &self.drain).field("timeout", &self.timeout).finish()
    }
}

impl Pause {
    /// Stops every core of the runtime.
    pub fn all() -> Self {
        Self::default()
    }

    /// Stops `cores`; none is fine. The core that runs the body runs nothing else meanwhile, whether it is among them or not.
    pub fn cores(cores: impl IntoIterator<Item = CoreId>) -> Self {
        Self { cores: Some(cores.into_iter().collect()), ..Self::default() }
    }

    /// Each stopped core runs `f` after the body, all at once, before it goes on: nothing else has run there since the body. It must not
    /// wait for another core.
    pub fn each(self, f: impl Fn() + Send + Sync + 'static) -> Self {
        Self { each: Some(Arc::new(f)), ..self }
    }

    /// First runs what the stopped cores had sent to each other, and what that causes, until all is quiet: then the body sees
    /// every call either not begun or carried out, and what one poll sent to several cores carried out everywhere or nowhere.
    ///
    /// Tasks stand still where they are: what a task does over several polls may be divided by the stop. A call that has to await
    /// space for its request in a full ring is sent by a later poll. Cores that are not stopped and other threads go on; of theirs, what
    /// other threads had sent before is run, and what they send meanwhile keeps the stop from becoming quiet. What is called by the
    /// runtime's handle, on a core too, counts as sent by another thread.
    pub fn drain(self) -> Self {
        Self { drain: true, ..self }
    }

    /// Gives up, and releases everyone, if the cores do not stand still within `limit` of the request. The wait for one's turn counts, and that of
    /// another thread's request for the core that runs the body; neither is cut short.
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: Some(limit), ..self }
    }

    /// Whether it is for some cores, and not for all.
    #[doc(hidden)]
    #[must_use]
    pub fn names_cores(&self) -> bool {
        self.cores.is_some()
    }

    /// Panics, at the caller's line, unless a runtime of `cores` cores has all that are to stop.
    #[doc(hidden)]
    #[track_caller]
    pub fn assert_cores(&self, cores: usize) {
        for core in self.cores.iter().flat_map(CoreSet::iter) {
            assert_core(core, cores);
        }
    }

    /// Panics, at the caller's line, if it has the cores run something: those that a prompt pause stops in the middle of a section cannot.
    #[doc(hidden)]
    #[track_caller]
    pub fn assert_prompt(&self) {
        assert!(self.each.is_none() && !self.drain, "a prompt pause has neither `each` nor `drain`");
    }

    #[track_caller]
    fn set(&self, cores: usize) -> CoreSet {
        self.assert_cores(cores);
        self.cores.unwrap_or_else(|| CoreSet::first(cores))
    }

    /// Carries it out within `here`, the lead or the stop around it.
    fn carry_out<R>(
        &self,
        core: &Core,
        clock: &dyn Clock,
        deadline_ns: Option<u64>,
        here: impl FnOnce(&CpuSync<'_>) -> Result<(R, ipiq_fabric::cpusync::Pause), CpuSyncError>,
    ) -> Result<(R, PauseTimes), PauseError> {
        let each = self.each.as_ref().map(|f| move |_: &Core| f());
        let plan = CpuSync {
            set: self.set(core.cores()),
            each: each.as_ref().map(|f| f as &(dyn Fn(&Core) + Sync)),
            drain: self.drain,
            deadline_ns,
            clock,
        };
        match here(&plan) {
            Ok((value, pause)) => Ok((value, PauseTimes::new(pause))),
            Err(error) => Err(PauseError { cause: Cause::Stop(error) }),
        }
    }

    fn deadline_ns(&self, clock: &dyn Clock) -> Option<u64> {
        let limit = u64::try_from(self.timeout?.as_nanos()).unwrap_or(u64::MAX);
        Some(clock.now_ns().saturating_add(limit))
    }
}

/// How long a pause took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PauseTimes {
    /// From the first request to stop until every core stood still; nothing, if no other core was to stop and nothing to drain.
    pub stopping: Duration,
    /// From the first request until every core was let go: no core stood still for longer.
    pub total: Duration,
    /// How many cores were stopped in the middle of a [preemptible section](Executor::preemptible): none, but by a prompt pause.
    pub in_sections: usize,
}

impl PauseTimes {
    fn new(pause: ipiq_fabric::cpusync::Pause) -> Self {
        Self {
            stopping: Duration::from_nanos(pause.stopping_ns),
            total: Duration::from_nanos(pause.total_ns),
            in_sections: pause.frozen,
        }
    }
}

/// The stopped cores, as the body of a pause sees them.
pub struct Paused<'a> {
    held: &'a Held<'a>,
    clock: &'a dyn Clock,
}

impl fmt::Debug for Paused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Paused").field(&self.cores()).finish()
    }
}

impl Paused<'_> {
    pub(crate) fn held(&self) -> &Held<'_> {
        self.held
    }

    /// The cores that stand still, in ascending order, the body's own included if it was asked for. Cores that have left are not
    /// among them.
    #[must_use]
    pub fn cores(&self) -> Vec<CoreId> {
        ids(&self.held.cores())
    }

    /// Runs `f` on every stopped core, all at once, and waits; they stand still again afterwards. `f` sees what the body wrote before,
    /// and the body what `f` wrote. It must not wait for another core.
    ///
    /// # Errors
    ///
    /// The panic of the lowest core whose `f` panicked; the others have run.
    pub fn on_each(&self, f: impl Fn() + Sync) -> Result<(), PauseError> {
        self.held.on_each(&|_: &Core| f()).map_err(PauseError::panicked)
    }

    /// A pause within the pause: cores of `plan` that run on are stopped too until `body` and the plan's function have ended. While those
    /// are waited for, and with *drain*, the others run messages. Its functions run before this returns.
    ///
    /// # Errors
    ///
    /// [`PauseError`]; the outer pause goes on.
    ///
    /// # Panics
    ///
    /// If the plan names a core that the runtime does not have.
    #[track_caller]
    pub fn pause<R>(&self, plan: &Pause, body: impl FnOnce(&Paused<'_>) -> R) -> Result<(R, PauseTimes), PauseError> {
        plan.assert_cores(self.held.core().cores());
        let clock = self.clock;
        plan.carry_out(self.held.core(), clock, plan.deadline_ns(clock), |stop| {
            self.held.cpusync(stop, |held| body(&Paused { held, clock }))
        })
    }
}

/// Why a pause has no value. Every core has been released.
pub struct PauseError {
    cause: Cause,
}

enum Cause {
    Stop(CpuSyncError),
    Gone,
}

impl PauseError {
    pub(super) fn gone() -> Self {
        Self { cause: Cause::Gone }
    }

    pub(super) fn panicked(payload: PanicPayload) -> Self {
        Self { cause: Cause::Stop(CpuSyncError::panicked(payload)) }
    }

    fn stop(&self) -> Option<&CpuSyncError> {
        match &self.cause {
            Cause::Stop(error) => Some(error),
            Cause::Gone => None,
        }
    }

    /// Whether the limit of [`Pause::timeout`] was reached; nothing has run.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.stop().is_some_and(CpuSyncError::is_timeout)
    }

    /// The cores that did not stop in time, if that is why; nothing has run. None of them: they stopped, but with
    /// [`Pause::drain`] did not become quiet in time.
    #[must_use]
    pub fn not_stopped(&self) -> Vec<CoreId> {
        self.stop().and_then(CpuSyncError::not_stopped).map(|set| ids(&set)).unwrap_or_default()
    }

    /// Whether [`Pause::drain`] found no end, because messages went on causing messages, or cores that were not to stop went on sending them;
    /// nothing has run.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        self.stop().is_some_and(CpuSyncError::is_restless)
    }

    /// Whether the core that was to run the body left first; nothing has run.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.cause, Cause::Gone)
    }

    /// Whether the body or a function of it panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.stop().is_some_and(CpuSyncError::is_panic)
    }

    /// What the body, or the function of the lowest core, panicked with.
    ///
    /// # Errors
    ///
    /// The error itself, if it is no panic.
    pub fn try_into_panic(self) -> Result<PanicPayload, Self> {
        match self.cause {
            Cause::Stop(error) => error.try_into_panic().map_err(|error| Self { cause: Cause::Stop(error) }),
            Cause::Gone => Err(self),
        }
    }
}

impl fmt::Debug for PauseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Stop(error) => f.debug_tuple("PauseError").field(error).finish(),
            Cause::Gone => f.write_str("PauseError(Gone)"),
        }
    }
}

impl fmt::Display for PauseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Stop(error) => error.fmt(f),
            Cause::Gone => f.write_str("the core that was to run the pause has left; nothing was stopped"),
        }
    }
}

impl core::error::Error for PauseError {}

impl Executor {
    /// Stops cores by `plan`, and runs `body` on this one while they stand still. It begins at a safe point of this core, when it is its
    /// turn: pauses of a runtime never overlap.
    ///
    /// # Panics
    ///
    /// If the plan names a core that the runtime does not have.
    #[track_caller]
    pub fn pause<R: 'static>(&self, plan: Pause, body: impl FnOnce(&Paused<'_>) -> R + 'static) -> Pausing<R> {
        plan.assert_cores(self.core().cores());
        let deadline_ns = plan.deadline_ns(&**self.clock());
        Pausing::of(self.core(), move |lead| plan.lead(lead, deadline_ns, body))
    }

    /// As [`pause`](Self::pause), and does not wait for the end of [preemptible sections](Self::preemptible): see [`Lead::prompt`].
    ///
    /// # Panics
    ///
    /// As there, and if the plan has a function for each core, or drains.
    #[track_caller]
    pub fn pause_prompt<F, R>(&self, plan: Pause, body: InterruptSafe<F>) -> Pausing<R>
    where
        F: Fn(CoreId) -> R + 'static,
        R: 'static,
    {
        plan.assert_cores(self.core().cores());
        plan.assert_prompt();
        let deadline_ns = plan.deadline_ns(&**self.clock());
        Pausing::of(self.core(), move |lead| plan.lead_prompt(lead, deadline_ns, &body))
    }

    /// Runs `f` on `cores` (all of them, if `None`), on each between two of its polls, without stopping them together. The body of a
    /// pause without the pause: the quick form.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[track_caller]
    pub fn pause_each(&self, cores: Option<CoreSet>, f: impl Fn() + Send + Sync + 'static) -> Pausing<()> {
        let set = Pause { cores, ..Pause::default() }.set(self.core().cores());
        Pausing::of(self.core(), move |lead| {
            with_clock(lead, |clock| {
                let started_ns = clock.now_ns();
                lead.quick(&set, &|_: &Core| f()).map_err(PauseError::panicked)?;
                let took = Duration::from_nanos(clock.now_ns() - started_ns);
                Ok(((), PauseTimes { stopping: took, total: took, in_sections: 0 }))
            })
        })
    }
}

impl Pause {
    /// Carries it out, as the lead.
    fn lead<R>(self, lead: &Lead<'_>, deadline_ns: Option<u64>, body: impl FnOnce(&Paused<'_>) -> R) -> Outcome<R> {
        with_clock(lead, |clock| {
            self.carry_out(lead.core(), clock, deadline_ns, |stop| {
                lead.cpusync(stop, |held| body(&Paused { held, clock }))
            })
        })
    }

    /// Carries it out promptly, as the lead.
    fn lead_prompt<F, R>(self, lead: &Lead<'_>, deadline_ns: Option<u64>, body: &InterruptSafe<F>) -> Outcome<R>
    where
        F: Fn(CoreId) -> R,
    {
        with_clock(lead, |clock| self.carry_out(lead.core(), clock, deadline_ns, |stop| lead.prompt(stop, body)))
    }
}

/// Runs `f` with the clock of the lead's executor, whose loop this is inside.
fn with_clock<R>(lead: &Lead<'_>, f: impl FnOnce(&dyn Clock) -> R) -> R {
    let done = with_current(lead.core().port(), |executor| f(&**executor.clock()));
    done.expect("a core leads inside its loop")
}

impl Remote {
    /// As [`Executor::pause`], from any thread; `body` runs on `core`. On a runtime that has been told to stop, nothing is stopped for a thread
    /// that runs none of its cores.
    ///
    /// # Panics
    ///
    /// If there is no such core, or the plan names one.
    #[track_caller]
    pub fn pause<R: Send + 'static>(
        &self,
        core: CoreId,
        plan: Pause,
        body: impl FnOnce(&Paused<'_>) -> R + Send + 'static,
    ) -> RemotePausing<R> {
        plan.assert_cores(self.cores());
        self.ask_to_pause(core, plan, move |plan, lead, deadline_ns| plan.lead(lead, deadline_ns, body))
    }

    /// As [`Executor::pause_prompt`], from any thread; `body` runs on `core`, as [`pause`](Self::pause) has it.
    ///
    /// # Panics
    ///
    /// As there, and if there is no such core.
    #[track_caller]
    pub fn pause_prompt<F, R>(&self, core: CoreId, plan: Pause, body: InterruptSafe<F>) -> RemotePausing<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        plan.assert_cores(self.cores());
        plan.assert_prompt();
        self.ask_to_pause(core, plan, move |plan, lead, deadline_ns| plan.lead_prompt(lead, deadline_ns, &body))
    }

    #[track_caller]
    fn ask_to_pause<R: Send + 'static>(
        &self,
        core: CoreId,
        plan: Pause,
        work: impl FnOnce(Pause, &Lead<'_>, Option<u64>) -> Outcome<R> + Send + 'static,
    ) -> RemotePausing<R> {
        let (sender, pausing) = RemotePausing::new();
        let home = self.home(core);
        if self.refuses_caller() {
            return pausing;
        }
        let asked_ns = home.port.now_ns();
        let message = Message::foreign(move |core, _| {
            with_current(core.port(), |executor| {
                // Messages of a core whose loop does not run may be run inside another one's.
                if core::ptr::eq(executor.core(), core) {
                    let waited_ns = core.port().now_ns().saturating_sub(asked_ns);
                    let deadline_ns = plan.deadline_ns(&**executor.clock());
                    let deadline_ns = deadline_ns.map(|deadline_ns| deadline_ns.saturating_sub(waited_ns));
                    sender.ask(core, move |lead| work(plan, lead, deadline_ns));
                }
            });
        });
        // A core that has left gives the message back; dropping it ends the channel.
        drop(home.fabric.post(core, message));
        pausing
    }
}

fn ids(set: &CoreSet) -> Vec<CoreId> {
    set.iter().collect()
}
