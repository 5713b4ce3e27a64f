#![doc = include_str!("README.md")]

pub(crate) mod board;
mod error;
mod lead;
mod target;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod turn;
mod weak;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
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

type Request = Box<dyn FnOnce(&Lead<'_>)>;

/// One core's own part.
#[derive(Default)]
pub(crate) struct Own {
    /// What this core wants to lead, in order.
    requests: RefCell<VecDeque<Request>>,
    /// It has asked for the lead and not got it yet.
    waits: Cell<bool>,
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
        self.cpusync.requests.borrow_mut().push_back(Box::new(f));
        self.ask_to_stop(self.id());
    }

    /// What [`Ask::Stop`] asks for, at a safe point: stand still for others, then lead if it is the own turn.
    pub(crate) fn stop_or_lead(&self, here: &SafePoint<'_>) {
        self.obey();
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
            contain(|| request(&Lead::new(here)));
        }
        self.tell_next(self.shared().cpusync.turn.pass_on(self.id()));
        if !self.cpusync.requests.borrow().is_empty() {
            self.ask_to_stop(self.id());
        }
    }

    /// [cpusync T5], and drops what this core wanted to lead.
    pub(crate) fn give_up_leading(&self) {
        let requests = self.cpusync.requests.take();
        requests.into_iter().for_each(|request| contain(|| drop(request)));
        if self.cpusync.waits.take() {
            self.tell_next(self.shared().cpusync.turn.leave(self.id(), self.port()));
        }
    }

    fn tell_next(&self, next: Option<CoreId>) {
        if let Some(next) = next {
            self.ask_to_stop(next);
        }
    }

    /// [doorbell A1]
    fn ask_to_stop(&self, core: CoreId) {
        if self.shared().core(core).doorbell.ask(Ask::Stop) == Rung::Kick {
            self.kick(core);
        }
    }
}
