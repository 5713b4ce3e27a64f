//! Looking and sleeping.

use std::io;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::io::Errno;

use super::{Epoll, pwait2};
use crate::backend::bounded;
use crate::table::Key;

const NO_SLEEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Epoll {
    pub(super) fn poll_now(&self) -> usize {
        if self.sources.borrow().len() == 0 && self.batch.borrow().is_empty() {
            return 0;
        }
        // An error here would be one of `wait` as well, which reports it.
        let _ = self.harvest(Some(NO_SLEEP));
        self.dispatch()
    }

    pub(super) fn sleep(&self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = if self.notified.take() { Some(NO_SLEEP) } else { timeout.map(|t| self.timespec(t)) };
        match self.harvest(timeout) {
            Ok(()) => {}
            Err(Errno::INTR) => return Ok(0),
            Err(Errno::NOSYS) if !self.coarse.get() => {
                self.coarse.set(true);
                return Ok(0);
            }
            Err(e) => return Err(e.into()),
        }
        let events = self.dispatch();
        self.notified.set(false);
        Ok(events)
    }

    fn timespec(&self, timeout: Duration) -> Timespec {
        let mut timeout = bounded(timeout);
        if self.coarse.get() {
            // What plain `epoll_wait` can express: whole milliseconds, an `int` of them.
            let millis = timeout.as_nanos().div_ceil(1_000_000);
            timeout = Duration::from_millis(millis.min(i32::MAX as u128) as u64);
        }
        Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() }
    }

    /// Takes events from the kernel, unless some of the last batch are still to be dispatched.
    fn harvest(&self, timeout: Option<Timespec>) -> Result<(), Errno> {
        let mut batch = self.batch.borrow_mut();
        if !batch.is_empty() {
            return Ok(());
        }
        batch.next = 0;
        batch.events.clear();
        self.counts.enters.add(1);
        match timeout {
            Some(timeout) if timeout != NO_SLEEP && !self.coarse.get() => {
                pwait2::wait(&self.fd, &mut batch.events, timeout)
            }
            _ => epoll::wait(&self.fd, spare_capacity(&mut batch.events), timeout.as_ref()).map(drop),
        }?;
        self.counts.found(batch.events.len());
        Ok(())
    }

    fn dispatch(&self) -> usize {
        let mut sockets = 0;
        while let Some(event) = self.next_event() {
            let key = Key::from_bits(event.data.u64());
            if key == Key::NOTIFIER {
                self.notified.set(true);
                continue;
            }
            // A key of a socket that is gone finds nothing, also when its number is in use again.
            let Some(shared) = self.sources.borrow().get(key).cloned() else {
                continue;
            };
            let flags = event.flags;
            shared.read.apply(flags);
            shared.write.apply(flags);
            sockets += 1;
        }
        sockets
    }

    fn next_event(&self) -> Option<epoll::Event> {
        let mut batch = self.batch.borrow_mut();
        let event = batch.events.get(batch.next).copied()?;
        batch.next += 1;
        Some(event)
    }
}

impl super::Batch {
    fn is_empty(&self) -> bool {
        self.next >= self.events.len()
    }
}
