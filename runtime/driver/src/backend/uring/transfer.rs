//! Owned-buffer operations.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use compio_buf::BufResult;
use io_uring::{opcode, squeue, types};
use rustix::io::Errno;

use super::Uring;
use super::slot::{Phase, Slot};
use crate::backend::Backend;
use crate::ops::{Direction, Stage};
use crate::readiness::{Half, Ticket};
use crate::socket::{Shared, Socket};
use crate::table::Key;

/// `IORING_RECVSEND_POLL_FIRST`: the caller knows that a try would block.
const POLL_FIRST: u16 = 1;

/// After so many receives a socket is worth a multishot poll: it costs a submission to start and one to end,
/// and then less per receive than a submission each (measured: 10 % of an echo's CPU time on 8 connections).
const WATCH_AFTER: u8 = 3;

impl Uring {
    /// Gives the buffer to the kernel. [op S2]
    fn start<D: Direction<B>, B: 'static>(&self, shared: &Rc<Shared>, buf: B, cx: &mut Context<'_>) -> Rc<Slot> {
        let slot = self.idle_slot();
        let place = slot.payload.put(buf);
        // SAFETY: the buffer was put there just now; the kernel has not seen it, so it is ours alone.
        let (start, len) = D::bytes(unsafe { &mut *place });
        slot.bytes.set((start, len.min(i32::MAX as usize) as u32));
        self.fly(&slot, Phase::Owned(D::HALF), shared);
        slot.set_waker(cx.waker());
        self.submit_transfer(&slot, shared, D::HALF);
        slot
    }

    fn submit_transfer(&self, slot: &Slot, shared: &Shared, half: Half) {
        let fd = types::Fd(shared.as_fd().as_raw_fd());
        let (start, len) = slot.bytes.get();
        let entry: squeue::Entry = match half {
            Half::Read if shared.recvs.get() == 1 => opcode::Recv::new(fd, start, len).build(),
            Half::Read => opcode::Recv::new(fd, start, len).ioprio(POLL_FIRST).build(),
            Half::Write => opcode::Send::new(fd, start, len).flags(msg_nosignal()).ioprio(POLL_FIRST).build(),
        };
        let entry = entry.user_data(slot.key.get().to_bits());
        // SAFETY: 1. the bytes are those of the buffer in the slot, which stays there, untouched, until the
        // completion (phase `Owned` or `Orphan`). 2. the slot keeps the socket.
        unsafe { self.push(entry) };
    }

    /// Continues an operation in flight.
    fn poll_flying<D: Direction<B>, B: 'static>(
        &self,
        shared: &Rc<Shared>,
        slot: Rc<Slot>,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>> {
        let Phase::Done(half) = slot.phase.get() else {
            slot.set_waker(cx.waker());
            *stage = Stage::InFlight(slot);
            return Poll::Pending;
        };
        let result = slot.result.get();
        if result == -Errno::INTR.raw_os_error() || result == -Errno::AGAIN.raw_os_error() {
            // Not an answer: ask again, with the buffer where it is.
            self.fly(&slot, Phase::Owned(half), shared);
            slot.set_waker(cx.waker());
            self.submit_transfer(&slot, shared, half);
            *stage = Stage::InFlight(slot);
            return Poll::Pending;
        }
        // SAFETY: 1. `start` put a `B` there for this stage. 2. `Done`: the kernel has answered. [op S4]
        let mut buf = unsafe { slot.payload.take::<B>() };
        self.put_slot(slot);
        let result = match usize::try_from(result) {
            Ok(count) => {
                // SAFETY: 1. it has answered so.
                unsafe { D::moved(&mut buf, count) };
                Ok(count)
            }
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        Poll::Ready(BufResult(result, buf))
    }

    /// Waits until the half is ready, or the operations dropped before this one are answered.
    fn wait_turn<B>(
        shared: &Shared,
        half: Half,
        (buf, mut ticket): (B, Ticket),
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>> {
        shared.readiness(half).park(&mut ticket, cx.waker());
        *stage = Stage::Waiting(buf, ticket);
        Poll::Pending
    }

    /// The kernel answered an operation whose future is gone. [op S7]
    pub(super) fn orphan_completed(&self, slot: Rc<Slot>, half: Half, result: i32) {
        let shared = slot.shared.take();
        if let Some(shared) = &shared {
            if half == Half::Read {
                recover(&slot, shared, result);
            }
            let orphans = match half {
                Half::Read => &shared.orphan_recvs,
                Half::Write => &shared.orphan_sends,
            };
            orphans.set(orphans.get() - 1);
        }
        if let Some(shared) = shared {
            shared.readiness(half).wake();
        }
        // SAFETY: 1. this was the last completion.
        unsafe { slot.payload.discard() };
        self.put_slot(slot);
    }
}

/// Keeps the bytes of a receive that nobody waits for.
fn recover(slot: &Slot, shared: &Shared, result: i32) {
    let count = usize::try_from(result).unwrap_or(0);
    if count > 0 {
        let (start, _) = slot.bytes.get();
        // SAFETY: the kernel has answered, and wrote `count` bytes to the start of the buffer in the slot.
        shared.recover(unsafe { std::slice::from_raw_parts(start, count) });
    }
}

impl Shared {
    /// Whether receives go by readiness rather than by submissions.
    fn is_watched(&self) -> bool {
        self.recvs.get() >= WATCH_AFTER || self.registration.get() != Key::NONE
    }
}

/// Moves bytes without a submission, where some are known to be there or likely to move. [op S1]
fn try_first<D: Direction<B>, B>(shared: &Shared, buf: &mut B) -> Option<io::Result<usize>> {
    if let Some(count) = D::take_recovered(shared, buf) {
        return Some(Ok(count));
    }
    let likely = match D::HALF {
        Half::Read if shared.is_watched() => shared.read.is_ready(),
        Half::Read => shared.has_more.replace(false),
        Half::Write => true,
    };
    if !likely && D::bytes(buf).1 > 0 {
        return None;
    }
    match D::try_now(shared, buf) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}

const fn msg_nosignal() -> i32 {
    rustix::net::SendFlags::NOSIGNAL.bits() as i32
}

impl Backend for Uring {
    fn poll(&self) -> usize {
        self.poll_now()
    }

    fn flush(&self) {
        if self.has_queued() {
            // As in `poll`: the queue stays.
            let _ = self.submit();
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<usize> {
        self.sleep(timeout)
    }

    fn register(&self, _shared: &Rc<Shared>) -> io::Result<()> {
        Ok(())
    }

    fn arm(&self, shared: &Rc<Shared>) {
        self.watch(shared);
    }

    fn disarm(&self, shared: &Rc<Shared>) {
        self.unwatch(shared);
    }

    fn deregister(&self, shared: &Rc<Shared>) {
        self.unwatch(shared);
    }

    fn poll_transfer<D: Direction<B>, B: 'static>(
        &self,
        socket: &Socket,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>> {
        let shared = socket.shared();
        if let Stage::InFlight(_) = stage {
            let Stage::InFlight(slot) = std::mem::replace(stage, Stage::Gone) else { unreachable!() };
            return self.poll_flying::<D, B>(shared, slot, stage, cx);
        }
        let (mut buf, mut ticket) = stage.take_buf();
        if shared.is_held(D::HALF) {
            return Self::wait_turn(shared, D::HALF, (buf, ticket), stage, cx);
        }
        if let Some(result) = try_first::<D, B>(shared, &mut buf) {
            shared.readiness(D::HALF).unpark(&mut ticket);
            return Poll::Ready(BufResult(result, buf));
        }
        if D::HALF == Half::Read {
            if shared.is_watched() {
                self.watch(shared);
                return Self::wait_turn(shared, D::HALF, (buf, ticket), stage, cx);
            }
            shared.recvs.set(shared.recvs.get() + 1);
        }
        shared.readiness(D::HALF).unpark(&mut ticket);
        *stage = Stage::InFlight(self.start::<D, B>(shared, buf, cx));
        Poll::Pending
    }

    fn abandon<B: 'static>(&self, socket: &Socket, stage: &mut Stage<B>) {
        let Stage::InFlight(slot) = std::mem::replace(stage, Stage::Gone) else {
            return;
        };
        let shared = socket.shared();
        drop(slot.waker.take());
        match slot.phase.get() {
            Phase::Done(half) => {
                // [op S5] The kernel has answered: what it moved must not be lost.
                if half == Half::Read {
                    recover(&slot, shared, slot.result.get());
                    shared.read.wake();
                }
                // SAFETY: 1. `Done`: the kernel has answered.
                unsafe { slot.payload.discard() };
                self.put_slot(slot);
            }
            Phase::Owned(half) => {
                slot.phase.set(Phase::Orphan(half)); // [op S5]
                let orphans = match half {
                    Half::Read => &shared.orphan_recvs,
                    Half::Write => &shared.orphan_sends,
                };
                orphans.set(orphans.get() + 1);
                self.push_cancel(slot.key.get());
            }
            Phase::Idle | Phase::Orphan(_) | Phase::Poll => {
                unreachable!("a future holds slots in flight or done")
            }
        }
    }
}
