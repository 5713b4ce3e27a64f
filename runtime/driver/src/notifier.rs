//! Ending a driver's sleep from any thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Makes a driver's current or next [`wait`](crate::Driver::wait) return.
///
/// Cloning is cheap. A notifier may outlive its driver; it then does nothing.
#[derive(Clone, Debug)]
pub struct Notifier {
    eventfd: Arc<OwnedFd>,
}

impl Notifier {
    pub(crate) fn new() -> Result<Self, Errno> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { eventfd: Arc::new(eventfd) })
    }

    /// Makes the driver's current `wait` return, or its next one if none is running.
    ///
    /// Several calls before one `wait` may count as one. A [`poll`](crate::Driver::poll) in between does not
    /// use the notification up. May be called on any thread and in a signal handler; one system call, no
    /// allocation, never blocks.
    pub fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        // The driver watches for edges, so nobody reads the counter; a full one (2^64 - 2 notifications) is
        // emptied here, for a write that fails would make no edge.
        while rustix::io::write(&self.eventfd, &one) == Err(Errno::AGAIN) {
            let mut counter = [0; 8];
            let _ = rustix::io::read(&self.eventfd, &mut counter);
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
