//! What asks cores what they are in the middle of.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipiq_executor::probe::{Claim, Probe};
use ipiq_executor::{Remote, with_current};
use ipiq_fabric::slice::Progress;
use ipiq_fabric::{CoreId, Fabric};
use ipiq_linux::port::LinuxPort;
use ipiq_linux::stack::{Captures, Trace};

use super::turns::Seen;
use super::{Backtrace, CoreBacktrace, CoreBacktraces, CoreState, NoBacktrace, PolledTask};
use crate::metrics::Instruments;
use crate::of_thread::{self, Installed, Slot};

/// How long all cores may take to answer.
const PATIENCE: Duration = Duration::from_millis(100);
/// Bytes of a stack that are copied.
const COPIED: usize = 16 << 10;
/// Between two looks for answers.
const PAUSE: Duration = Duration::from_micros(100);

thread_local! {
    static CURRENT: Slot<Arc<Inspect>> = const { RefCell::new(None) };
}

/// Makes `inspect` that of the calling core's runtime until the guard is dropped.
pub(crate) fn install(inspect: Arc<Inspect>) -> Installed<Arc<Inspect>> {
    of_thread::install(&CURRENT, inspect)
}

/// That of the calling core's runtime.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[track_caller]
pub(crate) fn current(what: &str) -> Arc<Inspect> {
    of_thread::get(&CURRENT, what)
}

/// What a core has told, and whether it is of the turn in question.
pub(super) type Answered = (Option<PolledTask>, Result<Trace, NoBacktrace>);

/// One runtime's.
pub(crate) struct Inspect {
    remote: Remote,
    instruments: Instruments,
    interrupted: bool,
    turns: Mutex<Vec<Option<Seen>>>,
    /// Made when it is first needed.
    asking: Mutex<Option<(Probe, Captures)>>,
    /// B1: one at a time.
    all: Mutex<()>,
}

impl fmt::Debug for Inspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspect").field("interrupted", &self.interrupted).finish_non_exhaustive()
    }
}

impl Inspect {
    /// `interrupted`: whether cores can be.
    pub(crate) fn new(remote: Remote, instruments: Instruments, interrupted: bool) -> Self {
        let turns = Mutex::new(vec![None; remote.cores()]);
        Self { remote, instruments, interrupted, turns, asking: Mutex::default(), all: Mutex::default() }
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(crate) fn fabric(&self) -> &Fabric {
        self.remote.fabric()
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// Each core's turn, as the watcher has last seen it.
    pub(crate) fn turns(&self) -> MutexGuard<'_, Vec<Option<Seen>>> {
        lock(&self.turns)
    }

    /// What `core` polls in `turn`, as far as one can see without asking it.
    pub(super) fn polled_in(&self, core: CoreId, turn: u64) -> Option<PolledTask> {
        let polled = self.remote.polled_task(core)?;
        self.is_in(core, turn).then(|| PolledTask::new(polled, None))
    }

    pub(super) fn is_in(&self, core: CoreId, turn: u64) -> bool {
        self.fabric().progress(core) == Progress::Turn(turn)
    }

    /// The means of asking cores.
    pub(super) fn asking(&self) -> Result<(Probe, Captures), NoBacktrace> {
        if !self.interrupted {
            return Err(NoBacktrace::Off);
        }
        let mut asking = lock(&self.asking);
        if asking.is_none() {
            let captures = Captures::new(self.remote.cores(), COPIED);
            let probe = self.remote.probe(captures.handler()).map_err(|_| NoBacktrace::NoHandler)?;
            *asking = Some((probe, captures));
        }
        asking.clone().ok_or(NoBacktrace::NoHandler)
    }

    /// What all cores are in the middle of.
    pub(crate) fn all_cores(&self) -> CoreBacktraces {
        let _one = lock(&self.all);
        let own = with_current(LinuxPort::thread(), |executor| {
            let core = executor.core();
            self.fabric().has(core).then(|| core.id())
        });
        let seen = self.turns().clone();
        let deadline = Instant::now() + PATIENCE;
        // [stall B1]
        let mut asked: Vec<_> = (0..self.remote.cores())
            .map(|index| {
                let core = CoreId::new(index);
                let asked = match self.fabric().progress(core) {
                    Progress::Turn(turn) if own.flatten() == Some(core) => {
                        Outcome::Answered(turn, (self.polled_in(core, turn), Err(NoBacktrace::Asks)))
                    }
                    Progress::Turn(turn) => Outcome::Asked(turn, Ask::begin(self, core, turn, true)),
                    Progress::Asleep => Outcome::Still(CoreState::Asleep),
                    _ => Outcome::Still(CoreState::Gone),
                };
                (core, asked)
            })
            .collect();
        // [stall B2] each of them, at each look.
        let awaited = |(core, outcome): &mut (CoreId, Outcome)| usize::from(outcome.is_awaited(self, *core));
        while asked.iter_mut().map(awaited).sum::<usize>() > 0 && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        let now = Instant::now();
        let cores = asked.into_iter().map(|(core, outcome)| {
            let (turn, (task, trace)) = match outcome {
                Outcome::Still(state) => return CoreBacktrace { core, state, task: None, backtrace: None },
                Outcome::Answered(turn, answered) => (turn, answered),
                Outcome::Asked(turn, ask) => (turn, (ask.task, Err(NoBacktrace::NoAnswer))),
            };
            let of_turn = seen[core.index()].filter(|seen| seen.turn == turn && self.is_in(core, turn));
            let state = CoreState::Awake { turn_lasted: of_turn.map(|seen| seen.age(now)) };
            let backtrace = trace.map(|trace| Backtrace::new(trace.symbolise()));
            CoreBacktrace { core, state, task, backtrace: Some(backtrace) }
        });
        CoreBacktraces { cores: cores.collect() }
    }
}

/// How far one is with a core.
enum Outcome {
    Still(CoreState),
    Asked(u64, Ask),
    Answered(u64, Answered),
}

impl Outcome {
    /// Whether there is no answer yet.
    fn is_awaited(&mut self, inspect: &Inspect, core: CoreId) -> bool {
        let Self::Asked(turn, ask) = self else { return false };
        *self = match (ask.poll(inspect, core), inspect.fabric().progress(core)) {
            (Some(answered), _) => Self::Answered(*turn, answered),
            // [stall B2] it sleeps or has left by now.
            (None, Progress::Asleep) => Self::Still(CoreState::Asleep),
            (None, Progress::Gone) => Self::Still(CoreState::Gone),
            (None, _) => return true,
        };
        false
    }
}

/// A core that is being asked about one turn of its.
pub(super) struct Ask {
    turn: u64,
    /// Whether an answer out of a later turn will do.
    any_turn: bool,
    /// What is known without it.
    task: Option<PolledTask>,
    means: Result<(Probe, Captures), NoBacktrace>,
    claim: Option<Claim>,
}

impl Ask {
    /// D4.
    pub(super) fn begin(inspect: &Inspect, core: CoreId, turn: u64, any_turn: bool) -> Self {
        let task = inspect.polled_in(core, turn);
        let mut ask = Self { turn, any_turn, task, means: inspect.asking(), claim: None };
        ask.claim(core);
        ask
    }

    /// [stall D4]
    fn claim(&mut self, core: CoreId) {
        let Ok((probe, captures)) = &self.means else { return };
        let Some(claim) = probe.claim(core) else { return };
        // What an answer that was abandoned has left.
        drop(captures.take(core));
        // An error: it leaves; its turn says so too.
        let _ = claim.ask();
        self.claim = Some(claim);
    }

    /// What the core has told, once that is known.
    pub(super) fn poll(&mut self, inspect: &Inspect, core: CoreId) -> Option<Answered> {
        let captures = match &self.means {
            Ok((_, captures)) => captures.clone(),
            Err(reason) => return Some((self.task.take(), Err(*reason))),
        };
        let answer = self.claim.as_ref().and_then(Claim::answer);
        let trace = answer.is_some().then(|| captures.take(core)).flatten();
        // [stall P1] after both.
        let same = inspect.is_in(core, self.turn);
        match (answer, trace) {
            (Some(answer), Some(trace)) if same || self.any_turn => {
                return Some((PolledTask::answered(answer), Ok(trace)));
            }
            (answer, _) if !same && (answer.is_some() || !self.any_turn) => {
                return Some((self.task.take(), Err(NoBacktrace::Ended)));
            }
            (answer, _) => self.ask_again(core, answer.is_some()),
        }
        None
    }

    /// Asks a core that could not be asked before, or has answered at the end of a critical section.
    fn ask_again(&mut self, core: CoreId, has_answered: bool) {
        match &self.claim {
            None => self.claim(core),
            // [stall P2] an error: it leaves.
            Some(claim) if has_answered => _ = claim.ask(),
            Some(_) => {}
        }
    }

    /// [stall P3]
    pub(super) fn give_up(self, reason: NoBacktrace) -> Answered {
        (self.task, Err(self.means.err().unwrap_or(reason)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
