//! Who holds which phase open.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle as ThreadHandle;

use futures_channel::oneshot;
use ipiq_executor::{CutTask, Cuts, Remote};
use ipiq_fabric::{CoreId, contain};
use ipiq_linux::fork;
use slab::Slab;

use super::plan::{Plan, Step};
use super::report::{PhaseHolder, PhaseReport, ShutdownReport};
use crate::blocking::Pool;
use crate::sharded::StopError;

/// The stage when nothing is held any more.
const OVER: usize = usize::MAX;

/// Where tasks are from that users know nothing of.
const OWN_TASKS: [&str; 3] = ["ipiq::home::", "ipiq::sharded::stop::", "ipiq::shutdown::"];

/// How a service is stopped.
pub(crate) type StopService = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), StopError>>>> + Send + Sync>;

/// A runtime's.
pub(crate) struct Board {
    pub(super) remote: Remote,
    pub(super) pool: Arc<Pool>,
    plan: Plan,
    /// Whether the cores' clock stands still while they are busy.
    pub(super) paused: bool,
    /// Of the process that has the cores' threads.
    generation: u32,
    /// How many phases have begun.
    stage: AtomicUsize,
    /// One per core, and one for all other threads.
    rows: Box<[Mutex<Row>]>,
    state: Mutex<State>,
    bell: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct State {
    conductor: Conductor,
    services: BTreeMap<u64, Service>,
    next_service: u64,
    emptied: Vec<CoreId>,
    ended: Vec<CoreId>,
    report: ShutdownReport,
}

#[derive(Default)]
enum Conductor {
    #[default]
    Asleep,
    UnderWay(Option<ThreadHandle<()>>, Vec<oneshot::Sender<ShutdownReport>>),
    Done(Option<ThreadHandle<()>>),
}

/// A service that is stopped with the runtime.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) started_at: &'static Location<'static>,
    pub(super) stop: StopService,
}

impl Service {
    pub(super) fn holder(&self) -> PhaseHolder {
        PhaseHolder { name: format!("service {}", self.name).into(), location: self.started_at, core: None }
    }
}

/// The holders of one core.
struct Row {
    holders: Slab<Holder>,
    /// How many hold each phase.
    held: Vec<usize>,
}

struct Holder {
    phase: usize,
    name: Cow<'static, str>,
    location: &'static Location<'static>,
    /// Of who awaits the phase; `None`: it is held.
    waiting: Option<Waker>,
}

/// The place of a holder.
#[derive(Clone, Copy)]
pub(super) struct Place {
    row: usize,
    key: usize,
}

impl Place {
    pub(super) fn is_in(self, row: usize) -> bool {
        self.row == row
    }
}

/// What somebody who awaits a phase finds.
pub(super) enum Begun {
    /// It is left in the place.
    NotYet,
    /// The place holds the phase open.
    Held,
    /// The place is gone.
    Over,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// Locks what no code of a user's runs under.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(crate) fn new(remote: Remote, pool: Arc<Pool>, plan: Plan, paused: bool) -> Self {
        Self {
            stage: AtomicUsize::new(0),
            rows: (0..=remote.cores()).map(|_| Mutex::new(Row::new(plan.held().len()))).collect(),
            state: Mutex::default(),
            bell: Mutex::default(),
            remote,
            pool,
            plan,
            paused,
            generation: fork::generation(),
        }
    }

    /// Whether this process is a forked child of the one that has the cores' threads. Other threads' locks may be taken here for ever.
    pub(crate) fn is_orphaned(&self) -> bool {
        fork::generation() != self.generation
    }

    /// In a forked child: nothing is held, and nothing waits.
    pub(crate) fn abandon(&self) {
        // [shutdown B9] the child has one thread: there is nobody to tell.
        self.stage.store(OVER, Ordering::Relaxed);
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The row of a core, or of all other threads.
    pub(super) fn row(&self, core: Option<CoreId>) -> usize {
        core.map_or(self.rows.len() - 1, CoreId::index)
    }

    /// Whether a phase has begun.
    pub(crate) fn has_begun(&self, phase: usize) -> bool {
        self.stage.load(Ordering::Acquire) > phase
    }

    /// Whether a phase is over.
    pub(crate) fn is_over(&self, phase: usize) -> bool {
        self.stage.load(Ordering::Acquire) > phase + 1
    }

    /// Holds a phase open; `None`: it is over.
    pub(super) fn hold(
        &self,
        row: usize,
        phase: usize,
        name: Cow<'static, str>,
        location: &'static Location<'static>,
    ) -> Option<Place> {
        if self.is_over(phase) {
            return None;
        }
        let mut holders = lock(&self.rows[row]);
        // [shutdown G1]
        let open = !self.is_over(phase);
        open.then(|| Place { row, key: holders.insert(Holder { phase, name, location, waiting: None }) })
    }

    /// Leaves a waker for the begin of a phase, unless it has begun: in `place`, which is in `row`, or in a new one.
    pub(super) fn await_begin(
        &self,
        place: &mut Option<Place>,
        row: usize,
        (phase, name, location): (usize, &Cow<'static, str>, &'static Location<'static>),
        waker: &Waker,
    ) -> Begun {
        if place.is_none() && self.is_over(phase) {
            return Begun::Over;
        }
        // Foreign code, as the drop of the one before.
        let waker = waker.clone();
        let mut holders = lock(&self.rows[row]);
        // [shutdown G1]
        if self.is_over(phase) {
            let left = place.take().and_then(|place| holders.remove(place.key));
            drop(holders);
            drop(left);
            return Begun::Over;
        }
        let begun = self.has_begun(phase);
        let waiting = (!begun).then_some(waker);
        let before = match place {
            Some(place) => std::mem::replace(&mut holders.holders[place.key].waiting, waiting),
            None => {
                let key = holders.insert(Holder { phase, name: name.clone(), location, waiting });
                *place = Some(Place { row, key });
                None
            }
        };
        drop(holders);
        drop(before);
        if begun { Begun::Held } else { Begun::NotYet }
    }

    /// Takes a holder away.
    pub(super) fn let_go(&self, place: Place) {
        let mut holders = lock(&self.rows[place.row]);
        // [shutdown G2]
        let Some(holder) = holders.remove(place.key) else { return };
        let under_way = self.has_begun(holder.phase) && !self.is_over(holder.phase);
        drop(holders);
        drop(holder);
        if under_way {
            self.ring();
        }
    }

    fn lock_rows(&self) -> Vec<MutexGuard<'_, Row>> {
        self.rows.iter().map(lock).collect()
    }

    pub(super) fn begin(&self, phase: usize) {
        let mut rows = self.lock_rows();
        // [shutdown B2] with every row locked nobody else changes it; what is over stays so.
        if self.stage.load(Ordering::Relaxed) == OVER {
            return;
        }
        // [shutdown B2] who locks a row sees it; the others read it for what may be seen late.
        self.stage.store(phase + 1, Ordering::Release);
        let woken: Vec<Waker> = rows.iter_mut().flat_map(|row| row.begin(phase)).collect();
        drop(rows);
        woken.into_iter().for_each(|waker| contain(|| waker.wake()));
    }

    /// Nothing is held any more.
    pub(crate) fn over(&self) {
        let mut rows = self.lock_rows();
        // [shutdown B5]
        self.stage.store(OVER, Ordering::Release);
        // The cores are about to drop whatever waits on them.
        let others = rows.last_mut().into_iter().flat_map(|row| row.holders.iter_mut());
        // They wait on, in vain, until they are polled.
        let waiting = others.filter_map(|(_, holder)| holder.waiting.as_mut());
        let woken: Vec<Waker> = waiting.map(|waker| std::mem::replace(waker, Waker::noop().clone())).collect();
        drop(rows);
        woken.into_iter().for_each(|waker| contain(|| waker.wake()));
        let services = std::mem::take(&mut lock(&self.state).services);
        drop(services);
    }

    /// Whether nobody holds the phase open.
    pub(super) fn is_quiet(&self, phase: usize) -> bool {
        // [shutdown B3]
        self.lock_rows().iter().all(|row| row.held[phase] == 0)
    }

    /// Who holds the phase open.
    pub(super) fn holders(&self, phase: usize) -> Vec<PhaseHolder> {
        let rows = self.lock_rows();
        let all =
            rows.iter().enumerate().flat_map(|(row, holders)| holders.holders.iter().map(move |(_, each)| (row, each)));
        let of_phase = all.filter(|(_, holder)| holder.holds(phase));
        let others = self.rows.len() - 1;
        of_phase
            .map(|(row, holder)| PhaseHolder {
                name: holder.name.clone(),
                location: holder.location,
                core: (row != others).then(|| CoreId::new(row)),
            })
            .collect()
    }

    /// Has the conductor look again.
    pub(crate) fn ring(&self) {
        let waker = lock(&self.bell).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn listen(&self, waker: &Waker) {
        let before = lock(&self.bell).replace(waker.clone());
        drop(before);
    }

    /// Has `stop` be called at the end of the drain. Returns the name under which it is forgotten.
    pub(crate) fn add_service(
        &self,
        name: &'static str,
        started_at: &'static Location<'static>,
        stop: StopService,
    ) -> u64 {
        let mut state = lock(&self.state);
        let number = state.next_service;
        state.next_service += 1;
        // The stage is raised before the services are taken.
        let refused = if self.stage.load(Ordering::Acquire) == OVER {
            Some(stop)
        } else {
            state.services.insert(number, Service { name, started_at, stop });
            None
        };
        drop(state);
        drop(refused);
        number
    }

    /// The service stops by itself.
    pub(crate) fn forget_service(&self, number: u64) {
        let service = lock(&self.state).services.remove(&number);
        drop(service);
    }

    /// The services whose number is `from` at least, the last one started first; and the number of the next one that starts.
    pub(super) fn services(&self, from: u64) -> (Vec<Service>, u64) {
        let state = lock(&self.state);
        (state.services.range(from..).rev().map(|(_, service)| service.clone()).collect(), state.next_service)
    }

    /// A core that has left is about to come back, or it stays out: then [`stays_out`](Self::stays_out).
    pub(crate) fn began(&self, core: CoreId) {
        let mut state = lock(&self.state);
        let State { emptied, ended, .. } = &mut *state;
        [emptied, ended].into_iter().for_each(|cores| cores.retain(|each| *each != core));
    }

    /// It does not come back.
    pub(crate) fn stays_out(&self, core: CoreId) {
        let mut state = lock(&self.state);
        state.emptied.push(core);
        state.ended.push(core);
        drop(state);
        self.ring();
    }

    /// A core has no tasks any more.
    pub(crate) fn emptied(&self, core: CoreId, cuts: Cuts) {
        let mut state = lock(&self.state);
        state.emptied.push(core);
        state.report.more_tasks_cut += cuts.others;
        let of_users = |task: &CutTask| !OWN_TASKS.iter().any(|path| task.future.starts_with(path));
        state.report.tasks_cut.extend(cuts.first.into_iter().filter(of_users).map(|task| (core, task)));
        drop(state);
        self.ring();
    }

    /// A core's thread is at its end.
    pub(crate) fn ended(&self, core: CoreId) {
        lock(&self.state).ended.push(core);
        self.ring();
    }

    pub(super) fn not_emptied(&self) -> Vec<CoreId> {
        self.not_among(|state| &state.emptied)
    }

    pub(super) fn not_ended(&self) -> Vec<CoreId> {
        self.not_among(|state| &state.ended)
    }

    fn not_among(&self, cores: impl Fn(&State) -> &Vec<CoreId>) -> Vec<CoreId> {
        let state = lock(&self.state);
        let all = (0..self.remote.cores()).map(CoreId::new);
        all.filter(|core| !cores(&state).contains(core)).collect()
    }

    /// Whether every core's thread is at its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_orphaned() || self.not_ended().is_empty()
    }

    pub(super) fn add_phase(&self, phase: PhaseReport) {
        lock(&self.state).report.phases.push(phase);
    }

    /// Adds to the report of a phase that has begun.
    pub(super) fn change_phase(&self, phase: usize, change: impl FnOnce(&mut PhaseReport)) {
        if let Some(report) = lock(&self.state).report.phases.get_mut(phase) {
            change(report);
        }
    }

    /// The phase that was under way last when the runtime was stopped, without whoever goes through them: who holds it is put into its report.
    pub(super) fn cut_short(&self) {
        let Some(phase) = lock(&self.state).report.phases.len().checked_sub(1) else { return };
        let held_by = self.holders(phase);
        self.change_phase(phase, |report| report.cut_by_stop(held_by));
    }

    /// The phases that the report does not have yet, before [`CANCEL`](super::CANCEL).
    pub(super) fn not_begun(&self) -> Vec<Step> {
        let told = lock(&self.state).report.phases.len();
        self.plan.held().get(told..).unwrap_or_default().to_vec()
    }

    /// Asks for the report, and starts the conductor by `start` if nobody has asked before.
    pub(super) fn ask(
        &self,
        start: impl FnOnce() -> std::io::Result<ThreadHandle<()>>,
    ) -> (oneshot::Receiver<ShutdownReport>, Option<std::io::Error>) {
        let (tell, told) = oneshot::channel();
        let mut state = lock(&self.state);
        let mut refused = None;
        match &mut state.conductor {
            // [shutdown B1]
            Conductor::Asleep => match start() {
                Ok(thread) => state.conductor = Conductor::UnderWay(Some(thread), vec![tell]),
                Err(error) => {
                    state.conductor = Conductor::UnderWay(None, vec![tell]);
                    refused = Some(error);
                }
            },
            Conductor::UnderWay(_, waiting) => waiting.push(tell),
            Conductor::Done(_) => drop(tell.send(state.report.clone())),
        }
        (told, refused)
    }

    /// The report is complete.
    pub(super) fn tell(&self, refused: Option<String>) {
        let mut state = lock(&self.state);
        state.report.refused = refused;
        let report = state.report.clone();
        let Conductor::UnderWay(thread, waiting) = std::mem::take(&mut state.conductor) else { return };
        state.conductor = Conductor::Done(thread);
        drop(state);
        for tell in waiting {
            contain(|| drop(tell.send(report.clone())));
        }
    }

    /// Whether the phases have begun and are not all over.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(lock(&self.state).conductor, Conductor::UnderWay(..))
    }

    /// Waits for the conductor, if there is one, and the caller is not it.
    pub(crate) fn join(&self) {
        let thread = match &mut lock(&self.state).conductor {
            Conductor::UnderWay(thread, _) | Conductor::Done(thread) => thread.take(),
            Conductor::Asleep => None,
        };
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // It contains the panics of what it wakes.
            let _ = thread.join();
        }
    }
}

impl Row {
    fn new(phases: usize) -> Self {
        Self { holders: Slab::new(), held: vec![0; phases] }
    }

    fn insert(&mut self, holder: Holder) -> usize {
        self.held[holder.phase] += usize::from(holder.waiting.is_none());
        self.holders.insert(holder)
    }

    fn remove(&mut self, key: usize) -> Option<Holder> {
        let holder = self.holders.try_remove(key)?;
        self.held[holder.phase] -= usize::from(holder.waiting.is_none());
        Some(holder)
    }

    /// Who awaits the phase holds it from now on. Returns what wakes them.
    fn begin(&mut self, phase: usize) -> Vec<Waker> {
        let of_phase = self.holders.iter_mut().filter(|(_, holder)| holder.phase == phase);
        let woken: Vec<Waker> = of_phase.filter_map(|(_, holder)| holder.waiting.take()).collect();
        self.held[phase] += woken.len();
        woken
    }
}

impl Holder {
    fn holds(&self, phase: usize) -> bool {
        self.phase == phase && self.waiting.is_none()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_phase_that_begins_too_late_does_not_take_the_end_back() {
        let runtime = crate::Runtime::builder().cores(1).build().expect("a runtime");
        let handle = runtime.handle();
        let board = handle.board();
        board.begin(0);
        assert!(board.has_begun(0) && !board.is_over(0));
        board.over();
        board.begin(1);
        assert!(board.is_over(0) && board.is_over(1) && board.has_begun(100));
    }
}
