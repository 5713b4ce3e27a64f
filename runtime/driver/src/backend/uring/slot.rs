//! What the driver remembers of one submission until its last completion.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Waker;

use super::payload::Payload;
use crate::readiness::Half;
use crate::socket::Shared;
use crate::table::Key;

/// Who gets the completions of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not submitted.
    Idle,
    /// The kernel has a transfer, and its future is alive.
    Owned(Half),
    /// The kernel has a transfer, and its future is gone.
    Orphan(Half),
    /// The kernel has answered; the future has not looked yet.
    Done(Half),
    /// A multishot poll of a socket.
    Poll,
}

/// One submission: its state, its buffer, and the socket it keeps open.
///
/// All fields are the home thread's. The buffer in `payload` is the kernel's while the phase is `Owned` or
/// `Orphan`, the future's in `Done`; no code touches it otherwise.
pub(crate) struct Slot {
    pub(super) phase: Cell<Phase>,
    pub(super) key: Cell<Key>,
    pub(super) waker: Cell<Option<Waker>>,
    /// The kernel's answer; valid in `Done`.
    pub(super) result: Cell<i32>,
    /// The bytes named in the submission.
    pub(super) bytes: Cell<(*mut u8, u32)>,
    pub(super) payload: Payload,
    /// Keeps the file descriptor open while the kernel uses it.
    pub(super) shared: Cell<Option<Rc<Shared>>>,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            phase: Cell::new(Phase::Idle),
            key: Cell::new(Key::NONE),
            waker: Cell::new(None),
            result: Cell::new(0),
            bytes: Cell::new((std::ptr::null_mut(), 0)),
            payload: Payload::new(),
            shared: Cell::new(None),
        }
    }

    pub(super) fn set_waker(&self, waker: &Waker) {
        let kept = match self.waker.take() {
            Some(kept) if kept.will_wake(waker) => kept,
            _ => waker.clone(),
        };
        self.waker.set(Some(kept));
    }
}
