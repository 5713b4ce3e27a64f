//! The initiator's side: requests of one core, in order.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use super::board::{Body, Code};
use super::operation::{Early, Shared};
use super::pending::State;
use super::prompt::{InSection, Interrupting, Noting};
use super::{Board, EarlyAck, Lane, Operation, ShootdownError};
use crate::doorbell::Rung;
use crate::preemptible::Notes;
use crate::sync::mutant;
use crate::unwind::{catch, contain};
use crate::urgent::InterruptSafe;
use crate::watch::WaitKind;
use crate::{Core, CoreId, CoreSet, urgent};

/// On how many cores it was executed, those not counted that left first.
pub(crate) type Outcome = Result<usize, ShootdownError>;

/// What runs with the outcome, on the initiator.
pub(super) type Callback = Box<dyn FnOnce(&Core, Outcome)>;

/// Who wants to know the outcome.
pub(super) enum Done {
    /// A spinning frame, by its ticket.
    Spinning(u64),
    Call(Callback),
    /// A future.
    Pending(Rc<State>),
}

/// What a request executes, and who frees it.
enum Action {
    Borrowed(Shared),
    Owned(Shared),
    Early(Early),
}

impl Action {
    fn code(&self) -> Code {
        match self {
            Self::Borrowed(op) | Self::Owned(op) => Code::Late(*op),
            Self::Early(op) => Code::Early(*op),
        }
    }
}

struct Entry {
    targets: CoreSet,
    action: Action,
    done: Done,
    /// Others that joined while it waited ([shootdown Q3]), and for which source.
    joined: Vec<Done>,
    source: Option<usize>,
    /// In the operation.
    in_section: Option<NonNull<dyn InSection>>,
}

struct Flight {
    entry: Entry,
    body: Body,
    /// Targets that have not acknowledged, as far as this core has looked.
    waiting: CoreSet,
    executed: usize,
    own_failure: Option<ShootdownError>,
}

/// One core's requests on one lane.
#[derive(Default)]
pub(super) struct Initiator {
    queue: RefCell<VecDeque<Entry>>,
    flight: RefCell<Option<Flight>>,
    /// A frame further down the stack is starting a flight.
    starting: Cell<bool>,
    generation: Cell<Option<u32>>,
    tickets: Cell<u64>,
    /// Outcomes for spinning frames.
    outcomes: RefCell<Vec<(u64, Outcome)>>,
    /// The core is leaving.
    closed: Cell<bool>,
    /// [shootdown T4], of the target's side.
    pub(super) taken: Cell<CoreSet>,
}

impl Initiator {
    fn ticket(&self) -> u64 {
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        ticket
    }

    /// A target that has not acknowledged, as far as this core has looked.
    fn late(&self) -> Option<CoreId> {
        self.flight.borrow().as_ref().and_then(|flight| flight.waiting.lowest())
    }

    fn outcome(&self, ticket: u64) -> Option<Outcome> {
        let mut outcomes = self.outcomes.borrow_mut();
        let position = outcomes.iter().position(|(of, _)| *of == ticket)?;
        Some(outcomes.swap_remove(position).1)
    }

    /// [shootdown I2]: the next generation.
    fn next_generation(&self, first: u32) -> u32 {
        let mut generation = self.generation.get().map_or(first, |last| last.wrapping_add(1));
        // [shootdown I2] 0 means "pending".
        if generation == 0 && !mutant!("shootdown-generation-zero") {
            generation = 1;
        }
        self.generation.set(Some(generation));
        generation
    }
}

/// Shootdowns: an operation on every core of a set.
impl Core {
    /// Executes `op` on every core of `targets` that has not left, this one included if it is in the set, and returns on how many, when
    /// all have acknowledged. What the operation wrote is visible to the caller then.
    ///
    /// Meanwhile it *runs messages* sent to this core, and what other initiators want executed. Any number of cores may do so at a time.
    /// Requests of one core, [`start_shootdown`](Self::start_shootdown) included, are carried out in order, but prompt ones, which have an order of their own. A core that leaves
    /// meanwhile is not waited for, nor counted. A seat that nobody has entered yet is.
    ///
    /// For plain threads and message functions. Never call it inside a future or a waker.
    ///
    /// # Errors
    ///
    /// [`ShootdownError`] if the operation panicked somewhere.
    ///
    /// # Panics
    ///
    /// If the fabric lacks a core of the set; inside an [`Operation`], which must not wait.
    pub fn shootdown<O: Operation>(&self, targets: &CoreSet, mut op: O) -> Result<usize, ShootdownError> {
        // SAFETY: 1. `spin` returns, or unwinds, only when the request has landed; `op` stays here until then.
        let op = unsafe { Shared::borrow(&mut op) };
        self.spin(targets, Action::Borrowed(op))
    }

    /// As [`shootdown`](Self::shootdown), for an operation that targets may acknowledge before they execute it.
    ///
    /// # Errors
    ///
    /// Never on its own account; see [`shootdown`](Self::shootdown).
    ///
    /// # Panics
    ///
    /// As [`shootdown`](Self::shootdown).
    pub fn shootdown_early<O: EarlyAck>(&self, targets: &CoreSet, op: O) -> Result<usize, ShootdownError> {
        self.spin(targets, Action::Early(Early::new(op)))
    }

    /// Asks for a [`shootdown`](Self::shootdown) and returns; `done` runs on this core with its outcome, inside a drain, or at once.
    ///
    /// The operation is carried out whatever becomes of the caller. May be called anywhere on this core, also inside operations. The
    /// queue has no bound of its own: callers bound what they have outstanding, as [`PendingShootdown`](super::PendingShootdown) does.
    ///
    /// # Panics
    ///
    /// If the fabric lacks a core of the set.
    pub fn start_shootdown<O: Operation + 'static>(
        &self,
        targets: &CoreSet,
        op: O,
        done: impl FnOnce(&Self, Result<usize, ShootdownError>) + 'static,
    ) {
        self.start(targets, op, Done::Call(Box::new(done)));
    }

    #[track_caller]
    pub(super) fn start<O: Operation + 'static>(&self, targets: &CoreSet, op: O, done: Done) {
        self.assert_has(targets);
        self.enqueue(Lane::InDrains, targets, Action::Owned(Shared::own(Box::new(op))), done, None);
    }

    /// As [`start_shootdown`](Self::start_shootdown), for an operation that makes a core forget its part of something. A core in the middle of a
    /// [preemptible section](Self::preemptible) acknowledges it at once, by setting its note in `notes`, instead of executing it.
    ///
    /// # Panics
    ///
    /// As [`start_shootdown`](Self::start_shootdown).
    pub fn start_shootdown_noting<O: Operation + 'static>(
        &self,
        targets: &CoreSet,
        op: O,
        notes: &StdArc<Notes>,
        done: impl FnOnce(&Self, Result<usize, ShootdownError>) + 'static,
    ) {
        self.start_in_sections(targets, Noting { op, notes: notes.clone() }, Done::Call(Box::new(done)));
    }

    /// As [`start_shootdown`](Self::start_shootdown), for an operation that may interrupt what it likes: a core in the middle of a
    /// [preemptible section](Self::preemptible) executes it at once. `f` is given the core that it runs on; a panic in it ends the process.
    ///
    /// # Panics
    ///
    /// As [`start_shootdown`](Self::start_shootdown).
    pub fn start_shootdown_prompt<F: Fn(CoreId) + Send + Sync + 'static>(
        &self,
        targets: &CoreSet,
        f: InterruptSafe<F>,
        done: impl FnOnce(&Self, Result<usize, ShootdownError>) + 'static,
    ) {
        self.start_prompt(targets, f, Done::Call(Box::new(done)));
    }

    #[track_caller]
    pub(super) fn start_prompt<F: Fn(CoreId) + Send + Sync + 'static>(
        &self,
        targets: &CoreSet,
        f: InterruptSafe<F>,
        done: Done,
    ) {
        self.start_in_sections(targets, Interrupting(f), done);
    }

    #[track_caller]
    fn start_in_sections<O: Operation + InSection + 'static>(&self, targets: &CoreSet, op: O, done: Done) {
        self.assert_has(targets);
        let (op, in_section) = Shared::own_prompt(Box::new(op));
        let action = Action::Owned(op);
        let entry =
            Entry { targets: *targets, action, done, joined: Vec::new(), source: None, in_section: Some(in_section) };
        let lane = if mutant!("preemptible-one-queue") { Lane::InDrains } else { Lane::Prompt };
        self.enqueue_entry(lane, entry);
    }

    /// As [`start_shootdown`](Self::start_shootdown), for an operation that targets may acknowledge before they execute it.
    ///
    /// # Panics
    ///
    /// As [`start_shootdown`](Self::start_shootdown).
    pub fn start_shootdown_early<O: EarlyAck>(
        &self,
        targets: &CoreSet,
        op: O,
        done: impl FnOnce(&Self, Result<usize, ShootdownError>) + 'static,
    ) {
        self.start_early(targets, op, Done::Call(Box::new(done)));
    }

    #[track_caller]
    pub(super) fn start_early<O: EarlyAck>(&self, targets: &CoreSet, op: O, done: Done) {
        self.assert_has(targets);
        self.enqueue(Lane::InDrains, targets, Action::Early(Early::new(op)), done, None);
    }

    /// [shootdown Q3]: a round to every core, at safe points; or joins the one of the same source that waits.
    pub(super) fn start_round(&self, source: usize, round: impl FnOnce() -> Box<dyn Operation>, done: Done) {
        // [shootdown Q3]
        let mut done = Some(done);
        if let Some(entry) =
            self.lane(Lane::AtSafePoints).queue.borrow_mut().iter_mut().find(|entry| entry.source == Some(source))
        {
            entry.joined.extend(done.take());
        }
        if let Some(done) = done {
            let all = CoreSet::first(self.cores());
            self.enqueue(Lane::AtSafePoints, &all, Action::Owned(Shared::own(round())), done, Some(source));
        }
    }

    #[track_caller]
    fn assert_has(&self, targets: &CoreSet) {
        let cores = self.cores();
        assert!(
            targets.difference(&CoreSet::first(cores)).is_empty(),
            "a shootdown's set has a core that the fabric of {cores} cores lacks"
        );
    }

    fn lane(&self, lane: Lane) -> &Initiator {
        self.shootdowns.lane(lane)
    }

    fn board(&self, lane: Lane) -> &Board {
        &self.shared.boards[lane as usize]
    }

    fn enqueue(&self, lane: Lane, targets: &CoreSet, action: Action, done: Done, source: Option<usize>) {
        let entry = Entry { targets: *targets, action, done, joined: Vec::new(), source, in_section: None };
        self.enqueue_entry(lane, entry);
    }

    fn enqueue_entry(&self, lane: Lane, entry: Entry) {
        if self.lane(lane).closed.get() {
            return self.refuse(lane, entry);
        }
        self.lane(lane).queue.borrow_mut().push_back(entry);
        self.pump_shootdowns(lane);
    }

    fn spin(&self, targets: &CoreSet, action: Action) -> Outcome {
        assert!(!self.shootdowns.is_operating(), "an operation of a shootdown must not wait for a shootdown");
        self.assert_has(targets);
        let ticket = self.lane(Lane::InDrains).ticket();
        let wait = Landing { core: self, ticket: Some(ticket) };
        self.enqueue(Lane::InDrains, targets, action, Done::Spinning(ticket), None);
        wait.land(Self::serve_one_turn)
    }

    /// Starts and ends flights of this core as far as that goes now; *runs* what callers gave to be run then.
    pub(crate) fn pump_shootdowns(&self, lane: Lane) {
        let mine = self.lane(lane);
        while !mine.starting.get() {
            let mut flight = mine.flight.borrow_mut();
            if flight.as_mut().is_some_and(|flight| !self.has_landed(lane, flight)) {
                return;
            }
            let landed = flight.take();
            drop(flight);
            if let Some(flight) = landed {
                self.end_flight(lane, flight);
                continue;
            }
            let Some(entry) = mine.queue.borrow_mut().pop_front() else { return };
            mine.starting.set(true);
            self.start_flight(lane, entry);
        }
    }

    fn start_flight(&self, lane: Lane, entry: Entry) {
        let (mine, board) = (self.lane(lane), self.board(lane));
        let code = entry.action.code();
        if let Code::Late(op) = code
            && !mutant!("shootdown-prepare-late")
        {
            // [shootdown I1]
            // SAFETY: 1. no slot has been made pending for it.
            let prepared = self.operate(|| unsafe { op.prepare(self) });
            if let Err(payload) = prepared {
                mine.starting.set(false);
                return self.conclude(lane, entry, Err(ShootdownError::panicked(self.id(), payload)));
            }
        }
        let own_part = lane != Lane::AtSafePoints && entry.targets.contains(self.id());
        // Those that have gone are found by I7: a look here would take the lines of those that have not.
        let waiting = if own_part { entry.targets.without(self.id()) } else { entry.targets };
        // [shootdown I2]
        let generation = mine.next_generation(self.shared.first_generation());
        let wakes = !matches!(entry.done, Done::Spinning(_));
        let body = Body { generation, wakes, code, in_section: entry.in_section };
        let preempts = lane == Lane::AtSafePoints || body.in_section.is_some();
        board.write(self.id(), body, waiting.len() as u32);
        let executed = waiting.len() + usize::from(own_part);
        *mine.flight.borrow_mut() = Some(Flight { entry, body, waiting, executed, own_failure: None });
        for target in waiting.iter() {
            // [shootdown I3] the slot first: a target that takes the bit in between would find nothing, and the bit gone.
            if mutant!("shootdown-ask-first") {
                self.ask(lane, target);
                board.make_pending(target, self.id());
            } else {
                board.make_pending(target, self.id());
                self.ask(lane, target);
            }
            // [preemptible Q1] relaxed: the fence of `doorbell` A1 is between this and the slot.
            if preempts
                && self.shared.core(target).doorbell.section.is_preemptible()
                && !mutant!("preemptible-no-interrupt")
            {
                urgent::trigger_section(&self.shared, target);
            }
        }
        if mutant!("shootdown-prepare-late")
            && let Code::Late(op) = code
        {
            // SAFETY: 1. not held: the model checker must see what comes of it.
            drop(self.operate(|| unsafe { op.prepare(self) }));
        }
        if own_part {
            // [shootdown I4]
            let ran = self.operate(|| match code {
                // SAFETY: 1. `starting` keeps the flight from landing until this has returned.
                Code::Late(op) => unsafe { op.execute(self) },
                Code::Early(op) => op.execute(self),
            });
            if let Err(payload) = ran
                && let Some(flight) = &mut *mine.flight.borrow_mut()
            {
                flight.own_failure = Some(ShootdownError::panicked(self.id(), payload));
            }
        }
        mine.starting.set(false);
    }

    /// [doorbell A1]
    pub(super) fn ask(&self, lane: Lane, target: CoreId) {
        // [doorbell A1] one that has gone is found in I7.
        if self.shared.core(target).doorbell.ask(lane.ask()) == Rung::Kick {
            self.kick(target);
        }
    }

    /// [shootdown I5] to [shootdown I7].
    fn has_landed(&self, lane: Lane, flight: &mut Flight) -> bool {
        let board = self.board(lane);
        let counts = flight.body.wakes && !mutant!("shootdown-land-by-slots");
        if counts && board.is_counted_down(self.id()) {
            return true;
        }
        for target in flight.waiting.iter() {
            // [shootdown I7] whether it has gone is read before the slot, whose last word it then is.
            let gone = self.is_gone(target) && !mutant!("shootdown-wait-for-gone");
            if board.is_acknowledged(target, self.id(), flight.body.generation) {
                flight.waiting.remove(target);
            } else if gone || mutant!("shootdown-gone-read-late") && self.is_gone(target) {
                // [admission T2] one that is back executes it itself.
                let acknowledge = || board.acknowledge_for_gone(target, self.id(), &flight.body);
                if self.shared.in_place_of(target, acknowledge).is_some() {
                    flight.waiting.remove(target);
                    flight.executed -= 1;
                }
            }
        }
        if counts {
            board.is_counted_down(self.id())
        } else {
            flight.waiting.is_empty() || mutant!("shootdown-wait-alone")
        }
    }

    fn end_flight(&self, lane: Lane, flight: Flight) {
        let failure = self.board(lane).failure(self.id());
        let outcome = match failure.or(flight.own_failure) {
            None => Ok(flight.executed),
            Some(error) => Err(error),
        };
        self.conclude(lane, flight.entry, outcome);
    }

    /// Frees the operation, and tells whoever waits.
    fn conclude(&self, lane: Lane, entry: Entry, outcome: Outcome) {
        if let Action::Owned(op) = entry.action {
            // SAFETY: 1. it has landed, or was never started: no target comes back to it.
            unsafe { op.free() };
        }
        for done in entry.joined {
            let copy = outcome.as_ref().map(|&cores| cores).map_err(ShootdownError::again);
            self.tell(lane, done, copy);
        }
        self.tell(lane, entry.done, outcome);
    }

    fn tell(&self, lane: Lane, done: Done, outcome: Outcome) {
        match done {
            Done::Spinning(ticket) => self.lane(lane).outcomes.borrow_mut().push((ticket, outcome)),
            Done::Call(done) => contain(|| done(self, outcome)),
            // Nobody may want the outcome any more: then it is dropped here.
            Done::Pending(state) => contain(move || state.end(outcome)),
        }
    }

    fn refuse(&self, lane: Lane, entry: Entry) {
        self.conclude(lane, entry, Err(ShootdownError::gone()));
    }

    /// [shootdown E1]
    pub(crate) fn leave_shootdowns(&self) {
        for lane in Lane::ALL {
            let mine = self.lane(lane);
            mine.closed.set(true);
            let queue = core::mem::take(&mut *mine.queue.borrow_mut());
            queue.into_iter().for_each(|entry| self.refuse(lane, entry));
            let flight = mine.flight.borrow_mut().take();
            if let Some(mut flight) = flight {
                if let Action::Owned(op) = flight.entry.action {
                    // [shootdown E1] a target may be about to execute it, or in the middle of it.
                    if mutant!("shootdown-leftover-dropped") {
                        // SAFETY: none; the model must fail.
                        unsafe { op.clear() };
                    } else {
                        self.board(lane).keep(self.id(), op);
                    }
                    flight.entry.action = Action::Borrowed(op);
                }
                self.refuse(lane, flight.entry);
            }
        }
    }

    /// Runs `f`, which is an operation's: it must not wait.
    pub(super) fn operate(&self, f: impl FnOnce()) -> Result<(), crate::PanicPayload> {
        let operating = &self.shootdowns.operating;
        operating.set(operating.get() + 1);
        let ran = catch(f);
        operating.set(operating.get() - 1);
        ran
    }
}

/// A spinning frame. However it ends, its request has landed then.
struct Landing<'a> {
    core: &'a Core,
    ticket: Option<u64>,
}

impl Landing<'_> {
    fn land(mut self, serve: impl Fn(&Core) -> usize) -> Outcome {
        let outcome = self.wait(serve);
        self.ticket = None;
        outcome
    }

    fn wait(&self, serve: impl Fn(&Core) -> usize) -> Outcome {
        let ticket = self.ticket.expect("a frame lands once");
        let lane = self.core.lane(Lane::InDrains);
        let mut waiting = None;
        loop {
            self.core.pump_shootdowns(Lane::InDrains);
            if let Some(outcome) = lane.outcome(ticket) {
                return outcome;
            }
            let first = || self.core.wait_for(lane.late().unwrap_or(self.core.id()), WaitKind::Shootdown);
            waiting.get_or_insert_with(first).turn_for_one_of(serve(self.core) > 0, || lane.late());
        }
    }
}

impl Drop for Landing<'_> {
    /// A message's function has panicked through the wait: the operation lies in the frame that goes.
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let outcome = self.wait(|core| {
                core.serve_asked();
                0
            });
            contain(|| drop(outcome));
        }
    }
}
