//! Watching sockets and the notifier by multishot poll.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;

use io_uring::{opcode, types};
use rustix::event::epoll::EventFlags;

use super::Uring;
use super::slot::Phase;
use crate::socket::Shared;
use crate::table::Key;

impl Uring {
    /// Starts reporting edges, unless that is going on.
    pub(super) fn watch(&self, shared: &Rc<Shared>) {
        if shared.registration.get() != Key::NONE {
            return;
        }
        let slot = self.idle_slot();
        self.fly(&slot, Phase::Poll, shared);
        let key = slot.key.get();
        shared.registration.set(key);
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        self.push_poll(shared.as_fd(), events, key);
    }

    /// Stops reporting edges; the slot keeps the descriptor until the kernel agrees. [op S6]
    pub(super) fn unwatch(&self, shared: &Shared) {
        let key = shared.registration.replace(Key::NONE);
        if key != Key::NONE {
            self.push_cancel(key);
        }
    }

    pub(super) fn watch_notifier(&self) {
        self.push_poll(self.notifier.as_fd(), EventFlags::IN, Key::NOTIFIER);
    }

    /// A multishot poll reports edges, as `EPOLLET` does, and what is ready already when it starts.
    fn push_poll(&self, fd: BorrowedFd<'_>, events: EventFlags, key: Key) {
        let entry =
            opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events.bits()).multi(true).build().user_data(key.to_bits());
        // SAFETY: 1. a poll names no memory. 2. the slot (or the driver, for the notifier) keeps `fd` open.
        unsafe { self.push(entry) };
    }

    /// Asks the kernel to end a submission early; its own completion still comes.
    pub(super) fn push_cancel(&self, key: Key) {
        let entry = opcode::AsyncCancel::new(key.to_bits()).build().user_data(Key::NONE.to_bits());
        // SAFETY: 1. and 2. a cancel names neither memory nor a descriptor.
        unsafe { self.push(entry) };
    }

    /// Takes over a completion of a socket's multishot poll.
    pub(super) fn polled(&self, shared: &Shared, key: Key, result: i32, more: bool) {
        if shared.registration.get() != key {
            return;
        }
        if !more {
            // Ended by the kernel: whoever waits is woken below, looks, and starts a new one.
            shared.registration.set(Key::NONE);
        }
        let everything = EventFlags::IN | EventFlags::OUT;
        let events = match u32::try_from(result) {
            Ok(bits) if more => EventFlags::from_bits_retain(bits),
            Ok(bits) => EventFlags::from_bits_retain(bits) | everything,
            Err(_) => everything,
        };
        shared.read.apply(events);
        shared.write.apply(events);
    }
}
