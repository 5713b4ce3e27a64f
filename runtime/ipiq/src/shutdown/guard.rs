//! What holds phases open, and tells of their begin.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ipiq_executor::with_current;
use ipiq_fabric::CoreId;
use ipiq_linux::port::LinuxPort;

use super::board::{Begun, Board, Place};

/// Holds a phase of the runtime's end open until it is dropped, also on another thread: from [`guard`](super::guard()) or [`phase`](super::phase()).
///
/// The ideas are Seastar's `gate` and tokio's `TaskTracker`.
#[must_use = "a guard that is dropped holds nothing open"]
pub struct Guard {
    board: Arc<Board>,
    phase: usize,
    /// `None`: the phase was over when it was made.
    place: Option<Place>,
}

impl Guard {
    pub(super) fn new(
        board: Arc<Board>,
        phase: usize,
        name: Cow<'static, str>,
        location: &'static Location<'static>,
    ) -> Self {
        let place = board.hold(board.row(here(&board)), phase, name, location);
        Self { board, phase, place }
    }

    /// Whether the phase is over: nobody waits for the guard any more, or ever did.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.board.is_over(self.phase)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("late", &self.is_late()).finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.board.let_go(place);
        }
    }
}

/// The begin of a phase: from [`phase`](super::phase()). Its value is a [`Guard`] that holds the phase open.
///
/// # Cancel safety
///
/// Dropped after the phase has begun, it lets go of the phase.
#[must_use = "futures do nothing unless polled"]
pub struct PhaseBegin {
    board: Arc<Board>,
    phase: usize,
    name: Cow<'static, str>,
    location: &'static Location<'static>,
    place: Option<Place>,
}

impl PhaseBegin {
    pub(crate) fn new(
        board: Arc<Board>,
        phase: usize,
        name: Cow<'static, str>,
        location: &'static Location<'static>,
    ) -> Self {
        Self { board, phase, name, location, place: None }
    }
}

impl fmt::Debug for PhaseBegin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PhaseBegin").field("begun", &self.board.has_begun(self.phase)).finish_non_exhaustive()
    }
}

impl Future for PhaseBegin {
    type Output = Guard;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Guard> {
        let this = &mut *self;
        let row = this.board.row(here(&this.board));
        // Polled elsewhere than before, it stands in both places for a moment, so that no phase misses it.
        let before = this.place.take_if(|place| !place.is_in(row));
        let _before = before.map(|place| Guard { board: this.board.clone(), phase: this.phase, place: Some(place) });
        let asks = (this.phase, &this.name, this.location);
        match this.board.await_begin(&mut this.place, row, asks, cx.waker()) {
            Begun::NotYet => Poll::Pending,
            Begun::Held | Begun::Over => {
                Poll::Ready(Guard { board: this.board.clone(), phase: this.phase, place: this.place.take() })
            }
        }
    }
}

impl Drop for PhaseBegin {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.board.let_go(place);
        }
    }
}

/// The core of the board's runtime that the calling thread runs.
fn here(board: &Board) -> Option<CoreId> {
    let here = with_current(LinuxPort::thread(), |executor| {
        let core = executor.core();
        executor.remote().fabric().is_same(board.remote.fabric()).then(|| core.id())
    });
    here.flatten()
}
