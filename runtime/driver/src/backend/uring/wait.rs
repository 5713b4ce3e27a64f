//! Submitting, looking and sleeping.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use io_uring::{cqueue, squeue, types};
use rustix::io::Errno;

use super::slot::{Phase, Slot};
use super::{Uring, is};
use crate::backend::bounded;
use crate::readiness::Half;
use crate::socket::Shared;
use crate::table::Key;

impl Uring {
    /// Queues a submission. Never fails: what does not fit waits in the backlog.
    ///
    /// # Safety
    ///
    /// 1. Memory that the entry names stays valid, and unused by others, until its last completion.
    /// 2. The file descriptor that it names stays open until its last completion.
    pub(super) unsafe fn push(&self, entry: squeue::Entry) {
        self.counts.submissions.add(1);
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            let mut ring = self.ring.borrow_mut();
            // SAFETY: passed on to the caller (1, 2).
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: hand over what is there. An error leaves it full and is met again by `wait`.
            self.counts.enters.add(1);
            let _ = ring.submit();
            // SAFETY: passed on to the caller (1, 2).
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        backlog.push_back(entry);
    }

    /// Moves the backlog into the queue, submitting whenever that is full; leaves the rest queued.
    fn drain_backlog(&self) -> io::Result<()> {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            return Ok(());
        }
        let mut ring = self.ring.borrow_mut();
        while let Some(entry) = backlog.front() {
            // SAFETY: the promises of the `push` that put it into the backlog still hold.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                backlog.pop_front();
            } else {
                self.counts.enters.add(1);
                if ring.submit()? == 0 {
                    return Err(Errno::AGAIN.into());
                }
            }
        }
        Ok(())
    }

    /// Submits everything queued and has the kernel post what is due, without sleeping.
    pub(super) fn submit(&self) -> io::Result<()> {
        self.drain_backlog()?;
        self.counts.enters.add(1);
        self.ring.borrow().submit().map(drop)
    }

    /// Whether the kernel must be entered: something is queued, or it has completions it cannot post alone.
    fn needs_enter(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let queue = ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.borrow().is_empty()
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.ring.borrow_mut().submission().is_empty() || !self.backlog.borrow().is_empty()
    }

    pub(super) fn poll_now(&self) -> usize {
        if self.needs_enter() {
            // Errors mean "not now" (completions must be taken first, or memory is short); the queue stays.
            let _ = self.submit();
        }
        self.reap()
    }

    pub(super) fn sleep(&self, timeout: Option<Duration>) -> io::Result<usize> {
        let ready = !self.ring.borrow_mut().completion().is_empty();
        if self.notified.take() || ready {
            let events = self.poll_now();
            self.notified.set(false);
            return Ok(events);
        }
        // What could not be queued might be the very thing to wait for: then only look.
        let timeout = if self.drain_backlog().is_ok() { timeout } else { Some(Duration::ZERO) };
        match self.enter(timeout) {
            Ok(()) => {}
            // EBUSY and EAGAIN: the kernel wants completions taken first, or is short of memory.
            Err(e) if [Errno::INTR, Errno::TIME, Errno::BUSY, Errno::AGAIN].iter().any(|&errno| is(&e, errno)) => {}
            Err(e) => return Err(e),
        }
        let events = self.reap();
        self.notified.set(false);
        Ok(events)
    }

    fn enter(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.counts.enters.add(1);
        let ring = self.ring.borrow();
        let Some(timeout) = timeout.map(bounded) else {
            return ring.submit_and_wait(1).map(drop);
        };
        let timespec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timespec);
        ring.submitter().submit_with_args(1, &args).map(drop)
    }

    /// Dispatches the completions that are posted now.
    fn reap(&self) -> usize {
        let posted = self.ring.borrow_mut().completion().len();
        self.counts.found(posted);
        let mut events = 0;
        for _ in 0..posted {
            let Some(completion) = self.ring.borrow_mut().completion().next() else {
                break;
            };
            events += usize::from(self.completed(&completion));
        }
        events
    }

    /// Takes over one completion; `false` if it concerns no socket.
    pub(super) fn completed(&self, completion: &cqueue::Entry) -> bool {
        let key = Key::from_bits(completion.user_data());
        let more = cqueue::more(completion.flags());
        if key == Key::NOTIFIER {
            self.notified.set(true);
            if !more {
                self.watch_notifier();
            }
            return false;
        }
        let slot = if more { self.flying.borrow().get(key).cloned() } else { self.flying.borrow_mut().remove(key) };
        // The answers to cancels carry no key.
        let Some(slot) = slot else {
            return false;
        };
        match slot.phase.get() {
            Phase::Poll => self.socket_polled(slot, completion.result(), more),
            Phase::Owned(half) => {
                slot.phase.set(Phase::Done(half)); // [op S3]
                slot.result.set(completion.result());
                let shared = slot.shared.take();
                if let (Some(shared), Half::Read) = (&shared, half) {
                    shared.has_more.set(cqueue::sock_nonempty(completion.flags()));
                }
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
            Phase::Orphan(half) => self.orphan_completed(slot, half, completion.result()),
            Phase::Idle | Phase::Done(_) => {
                unreachable!("a completion for a slot that is not flying")
            }
        }
        true
    }

    fn socket_polled(&self, slot: Rc<Slot>, result: i32, more: bool) {
        let Some(shared) = slot.shared.take() else {
            return;
        };
        let key = slot.key.get();
        if more {
            slot.shared.set(Some(Rc::clone(&shared)));
        } else {
            self.put_slot(slot);
        }
        self.polled(&shared, key, result, more);
    }

    pub(super) fn idle_slot(&self) -> Rc<Slot> {
        let idle = self.idle.borrow_mut().pop();
        idle.unwrap_or_else(|| Rc::new(Slot::new()))
    }

    /// Enters a slot into the table of what is flying; the caller submits it next.
    pub(super) fn fly(&self, slot: &Rc<Slot>, phase: Phase, shared: &Rc<Shared>) {
        slot.phase.set(phase);
        slot.shared.set(Some(Rc::clone(shared)));
        let key = self.flying.borrow_mut().insert(Rc::clone(slot));
        slot.key.set(key);
    }

    /// Makes a slot available again; its payload is empty and the kernel does not know it.
    pub(super) fn put_slot(&self, slot: Rc<Slot>) {
        slot.phase.set(Phase::Idle);
        self.idle.borrow_mut().push(slot);
    }
}
