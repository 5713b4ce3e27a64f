//! The handle of one core's driver.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use crate::backend::{self, Backend, Chosen};
use crate::counters::{CountersReader, Counts};
use crate::ops::Connect;
use crate::{Config, DriverError, DriverKind, Notifier, Socket};

/// I/O for one core: starts operations, finds out which are done, and sleeps until one is.
///
/// A driver belongs to the thread that made it (it is neither `Send` nor `Sync`); clones are the same driver.
/// Sockets and operations keep it alive. When the last of them goes, everything still in flight is cancelled
/// and waited for before its memory is freed.
///
/// Wakers are woken with no lock or borrow of the driver held: a waker may call into the driver again.
#[derive(Clone)]
pub struct Driver {
    inner: Rc<Inner>,
}

struct Inner {
    backend: Chosen,
    fallback_reason: Option<String>,
    notifier: Notifier,
    /// Calls since the driver last looked; see [`Driver::must_yield`].
    streak: Cell<u32>,
    counts: Arc<Counts>,
}

/// Calls that may succeed at once before one of them gives the others a turn.
const MAX_STREAK: u32 = 128;

impl Driver {
    /// Makes a driver for the calling thread.
    ///
    /// [`DriverKind::Auto`] asks for io_uring, with a smaller ring if memory is short, and falls back to epoll;
    /// [`fallback_reason`](Self::fallback_reason) then says why.
    ///
    /// # Errors
    ///
    /// When the kernel refuses what [`Config::kind`] insists on, or file descriptors or memory ran out.
    pub fn new(config: &Config) -> Result<Self, DriverError> {
        let notifier = Notifier::new().map_err(|e| DriverError::new("creating an eventfd failed", e))?;
        Self::counting(config, notifier, Arc::default())
    }

    /// As [`new`](Self::new), in the place of an earlier driver, which must be gone: ended in its sleeps by that one's `notifier`, so that who has it need not be told of
    /// the new one, and counting on in that one's `counters`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn in_place_of(config: &Config, notifier: Notifier, counters: &CountersReader) -> Result<Self, DriverError> {
        Self::counting(config, notifier, counters.counts().clone())
    }

    fn counting(config: &Config, notifier: Notifier, counts: Arc<Counts>) -> Result<Self, DriverError> {
        let (backend, fallback_reason) = backend::choose(config, &notifier, &counts)?;
        Ok(Self { inner: Rc::new(Inner { backend, fallback_reason, notifier, streak: Cell::new(0), counts }) })
    }

    /// The kernel interface in use; never [`DriverKind::Auto`].
    #[must_use]
    pub fn kind(&self) -> DriverKind {
        match self.inner.backend {
            Chosen::Epoll(_) => DriverKind::Epoll,
            Chosen::Uring(_) => DriverKind::Uring,
        }
    }

    /// Why [`DriverKind::Auto`] did not take io_uring; `None` if it did or was not asked to.
    #[must_use]
    pub fn fallback_reason(&self) -> Option<&str> {
        self.inner.fallback_reason.as_deref()
    }

    /// A handle by which any thread ends this driver's sleep.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.inner.notifier.clone()
    }

    /// What reads this driver's counters on any thread.
    #[must_use]
    pub fn counters(&self) -> CountersReader {
        CountersReader::new(self.inner.counts.clone())
    }

    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.inner.counts
    }

    /// Wakes whoever's I/O is done, without sleeping; returns the number of events.
    ///
    /// Makes no system call while nothing is registered (epoll), or while nothing was queued and the kernel
    /// has posted nothing (io_uring, which looks at memory only).
    pub fn poll(&self) -> usize {
        self.inner.streak.set(0);
        self.backend().poll()
    }

    /// Hands queued submissions to the kernel; nothing to do on epoll.
    pub fn flush(&self) {
        self.backend().flush();
    }

    /// Sleeps until an event, a notification or the timeout, then wakes whoever's I/O is done; returns the
    /// number of events, notifications not counted.
    ///
    /// `None` waits without limit. Timeouts are exact to the kernel's timer slack (tens of microseconds) and
    /// never early by more than their rounding; one longer than ten years counts as ten years. A signal ends
    /// the sleep with 0, and so may other causes: the caller looks at its own state and waits again.
    ///
    /// # Errors
    ///
    /// When the kernel's wait fails in a way that waiting again will not mend.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<usize> {
        self.inner.streak.set(0);
        self.backend().wait(timeout)
    }

    /// Registers a socket made elsewhere; makes it non-blocking and closed on exec.
    ///
    /// # Errors
    ///
    /// What `fcntl` and the registration say; the socket is closed then.
    pub fn attach(&self, socket: impl Into<OwnedFd>) -> io::Result<Socket> {
        let fd = socket.into();
        rustix::io::ioctl_fionbio(&fd, true)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        self.attach_nonblocking(fd)
    }

    /// Connects to a TCP address.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the half-open socket.
    pub fn connect(&self, address: SocketAddr) -> Connect {
        Connect::new(self.clone(), address)
    }

    /// Registers a socket that is already non-blocking and closed on exec.
    pub(crate) fn attach_nonblocking(&self, fd: OwnedFd) -> io::Result<Socket> {
        Socket::register(self.clone(), fd)
    }

    /// Counts a call; after [`MAX_STREAK`] of them without a look at the driver, has the caller return pending
    /// once, so that a socket which is always ready starves neither other tasks nor other sockets.
    pub(crate) fn must_yield(&self, cx: &Context<'_>) -> bool {
        let streak = self.inner.streak.get() + 1;
        if streak < MAX_STREAK {
            self.inner.streak.set(streak);
            return false;
        }
        self.inner.streak.set(0);
        cx.waker().wake_by_ref();
        true
    }

    pub(crate) fn backend(&self) -> &Chosen {
        &self.inner.backend
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("kind", &self.kind()).field("fallback_reason", &self.fallback_reason()).finish()
    }
}
