#![doc = include_str!("README.md")]

pub(crate) mod board;
mod error;
mod lead;
mod prompt;
mod target;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod turn;
mod weak;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use crate::doorbell::{Ask, Rung};
use crate::sync::Padded;
use crate::{Core, CoreId, SafePoint, contain};

pub(crate) use board::{Answer, Slot};
pub use error::CpuSyncError;
pub use lead::{CpuSync, Held, Lead, Pause};

/// What all cores share of it.
pub(crate) struct Shared {
    turn: Padded<turn::Turn>,
    board: Padded<board::Board>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self { turn: Padded(turn::Turn::new()), board: Padded(board::Board::new()) }
    }
}

/// What a core wants to lead, shared with who awaits its end: see [`Core::lead_for`].
pub trait Request {
    /// It is the core's turn; at a safe point. A panic reaches nobody.
    fn lead(self: Rc<Self>, lead: &Lead<'_>);

    /// The core leaves: it leads no more. A panic reaches nobody.
    fn give_up(self: Rc<Self>);
}

/// A request that nobody awaits.
struct Unawaited<F>(Cell<Option<F>>);

impl<F: FnOnce(&Lead<'_>)> Request for Unawaited<F> {
    fn lead(self: Rc<Self>, lead: &Lead<'_>) {
        if let Some(f) = self.0.take() {
            f(lead);
        }
    }

    fn give_up(self: Rc<Self>) {}
}

/// See [`Core::serve_too`].
type ServeToo = fn(&Core) -> bool;

/// One core's own part.
#[derive(Default)]
pub(crate) struct Own {
    /// What this core wants to lead, in order.
    requests: RefCell<VecDeque<Rc<dyn Request>>>,
    /// It has asked for the lead and not got it yet.
    waits: Cell<bool>,
    /// See [`Core::serve_too`].
    too: Cell<Option<ServeToo>>,
    weak: weak::Own,
}

impl Core {
    /// Runs `f` at a safe point of this core, as soon as it is this core's turn to stop others: `f` may, by its
    /// [`Lead`]. Returns at once; from anywhere on the core's thread.
    ///
    /// One core leads at a time, the others wait for their turn as what they are, going on with their work; turns go round. Requests of one core
    /// run in order, one a turn. A panic of `f` reaches nobody. If the core leaves first, `f` is dropped, not run.
    ///
    /// Source of the idea: the locks that callers of DragonFly's `lwkt_cpusync` hold, because it does not exclude itself.
    pub fn lead(&self, f: impl FnOnce(&Lead<'_>) + 'static) {
        self.lead_for(Rc::new(Unawaited(Cell::new(Some(f)))));
    }

    /// As [`lead`](Self::lead), for a request that its maker keeps, too: one allocation for what is to be done and what came of it.
    pub fn lead_for(&self, request: Rc<dyn Request>) {
        self.cpusync.requests.borrow_mut().push_back(request);
        // [doorbell A1]
        self.own().doorbell.ask_awake(Ask::Stop);
    }

    /// What a stop that lets messages run has this core run with them: for an executor that runs something between its polls beside messages and
    /// tasks. Its part of what was begun before the stop would be missing in it otherwise. `serve` returns whether there was anything; it is called at
    /// safe points only.
    pub fn serve_too(&self, serve: fn(&Self) -> bool) {
        self.cpusync.too.set(Some(serve));
    }

    /// The second half of what [`Ask::Stop`] asks for, after [`obey`](Self::obey): leads, if it wants to and it is the own turn.
    pub(crate) fn lead_if_wanted(&self, here: &SafePoint<'_>) {
        if self.cpusync.requests.borrow().is_empty() {
            return;
        }
        let taken = self.shared().cpusync.turn.take_or_wait(self.id(), self.cpusync.waits.get());
        self.cpusync.waits.set(!taken);
        if !taken {
            return;
        }
        let request = self.cpusync.requests.borrow_mut().pop_front();
        if let Some(request) = request {
            contain(|| request.lead(&Lead::new(here)));
        }
        self.tell_next(self.shared().cpusync.turn.pass_on(self.id()));
        if !self.cpusync.requests.borrow().is_empty() {
            // [doorbell A1]
            self.own().doorbell.ask_awake(Ask::Stop);
        }
    }

    /// [cpusync T5], and drops what this core wanted to lead.
    pub(crate) fn give_up_leading(&self) {
        let requests = self.cpusync.requests.take();
        requests.into_iter().for_each(|request| contain(|| request.give_up()));
        if self.cpusync.waits.take() {
            self.tell_next(self.shared().cpusync.turn.leave(self.id(), self.port()));
        }
    }

    fn tell_next(&self, next: Option<CoreId>) {
        if let Some(next) = next {
            // One that leaves waits for the lead itself (T5).
            let _ = self.ask_to_stop(next);
        }
    }

    /// [doorbell A1]
    fn ask_to_stop(&self, core: CoreId) -> Rung {
        let rung = self.shared().core(core).doorbell.ask(Ask::Stop);
        if rung == Rung::Kick {
            self.kick(core);
        }
        rung
    }
}
