//! A registered socket, and its borrowed-buffer calls.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use compio_buf::{IoBuf, IoBufMut};
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;

use crate::Driver;
use crate::backend::Backend;
use crate::counters::Counts;
use crate::ops::{Accept, Close, Recv, Send, Stage};
use crate::readiness::{Half, Readiness};
use crate::table::Key;

/// A socket registered with a [`Driver`]; clones are the same socket.
///
/// The file descriptor is closed when the last clone is dropped and no operation on it is in flight.
///
/// One reader and one writer at a time is the intended use. Several operations on the same half are allowed;
/// in which order they are served is not defined, and of several borrowed calls only the latest is woken.
#[derive(Clone)]
pub struct Socket {
    handle: Rc<Handle>,
}

struct Handle {
    driver: Driver,
    shared: Rc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.driver.backend().deregister(&self.shared);
    }
}

/// What the user's handles, the driver's tables and the operations in flight share.
///
/// Holds no reference to the driver, so an operation in flight keeps the file descriptor but not the driver.
/// All fields are the home thread's.
pub(crate) struct Shared {
    fd: OwnedFd,
    /// After `fd`: fields are dropped in order, so the closer is woken when the descriptor is closed.
    closer: WakeOnDrop,
    pub(crate) read: Readiness,
    pub(crate) write: Readiness,
    /// The backend's registration; [`Key::NONE`] if there is none.
    pub(crate) registration: Cell<Key>,
    /// Operations dropped by their owner that the kernel has not answered yet. A later call of the same half
    /// waits for them, so that bytes keep their order.
    pub(crate) orphan_recvs: Cell<usize>,
    pub(crate) orphan_sends: Cell<usize>,
    /// Bytes that dropped receives took out of the socket, for the next reader.
    recovered: RefCell<Vec<u8>>,
    has_recovered: Cell<bool>,
    /// Receives submitted so far, up to where the backend stops counting.
    pub(crate) recvs: Cell<u8>,
    /// The last completed receive left bytes behind.
    pub(crate) has_more: Cell<bool>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct WakeOnDrop(Cell<Option<Waker>>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

impl Shared {
    fn new(fd: OwnedFd, counts: Arc<Counts>) -> Self {
        Self {
            fd,
            closer: WakeOnDrop::default(),
            read: Readiness::new(Half::Read),
            write: Readiness::new(Half::Write),
            registration: Cell::new(Key::NONE),
            orphan_recvs: Cell::new(0),
            orphan_sends: Cell::new(0),
            recovered: RefCell::new(Vec::new()),
            has_recovered: Cell::new(false),
            recvs: Cell::new(0),
            has_more: Cell::new(false),
            counts,
        }
    }

    pub(crate) fn readiness(&self, half: Half) -> &Readiness {
        match half {
            Half::Read => &self.read,
            Half::Write => &self.write,
        }
    }

    /// Whether calls of this half must wait for a dropped operation.
    pub(crate) fn is_held(&self, half: Half) -> bool {
        match half {
            Half::Read => self.orphan_recvs.get() > 0,
            Half::Write => self.orphan_sends.get() > 0,
        }
    }

    /// Keeps bytes that a dropped receive took. [op S7]
    pub(crate) fn recover(&self, bytes: &[u8]) {
        self.recovered.borrow_mut().extend_from_slice(bytes);
        self.has_recovered.set(true);
    }

    /// Hands recovered bytes out, if there are any.
    pub(crate) fn take_recovered(&self, buf: &mut [MaybeUninit<u8>]) -> Option<usize> {
        if !self.has_recovered.get() {
            return None;
        }
        let mut recovered = self.recovered.borrow_mut();
        let count = recovered.len().min(buf.len());
        buf[..count].write_copy_of_slice(&recovered[..count]);
        recovered.drain(..count);
        self.has_recovered.set(!recovered.is_empty());
        Some(count)
    }

    /// Wakes the future that waits for the descriptor to close.
    pub(crate) fn set_closer(&self, waker: &Waker) {
        self.closer.0.set(Some(waker.clone()));
    }

    /// Receives without sleeping; keeps `read` up to date.
    pub(crate) fn try_recv(&self, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        let asked = buf.len();
        if asked == 0 {
            return Ok(0);
        }
        self.counts.transfers.add(1);
        let mut recv =
            || rustix::net::recv(&self.fd, &mut *buf, RecvFlags::DONTWAIT).map(|((filled, _), _)| filled.len());
        retry(&mut recv)
            .inspect(|&n| self.after_transfer(Half::Read, n, asked))
            .map_err(|e| self.after_error(Half::Read, e))
    }

    /// Sends without sleeping; keeps `write` up to date.
    pub(crate) fn try_send(&self, buf: &[u8]) -> io::Result<usize> {
        self.counts.transfers.add(1);
        retry(|| rustix::net::send(&self.fd, buf, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
            .inspect(|&n| self.after_transfer(Half::Write, n, buf.len()))
            .map_err(|e| self.after_error(Half::Write, e))
    }

    fn try_send_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let asked = bufs.iter().map(|b| b.len()).sum();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.counts.transfers.add(1);
        retry(|| rustix::net::sendmsg(&self.fd, bufs, &mut Default::default(), flags))
            .inspect(|&n| self.after_transfer(Half::Write, n, asked))
            .map_err(|e| self.after_error(Half::Write, e))
    }

    fn after_transfer(&self, half: Half, moved: usize, asked: usize) {
        // Zero bytes are the end of the stream, which stays ready.
        if 0 < moved && moved < asked {
            self.readiness(half).clear_after_short();
        }
    }

    fn after_error(&self, half: Half, error: rustix::io::Errno) -> io::Error {
        if error == rustix::io::Errno::AGAIN {
            self.readiness(half).clear();
        }
        error.into()
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

impl Socket {
    pub(crate) fn register(driver: Driver, fd: OwnedFd) -> io::Result<Self> {
        let shared = Rc::new(Shared::new(fd, driver.counts().clone()));
        driver.backend().register(&shared)?;
        Ok(Self { handle: Rc::new(Handle { driver, shared }) })
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.handle.shared
    }

    /// The driver this socket is registered with.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.handle.driver
    }

    /// Receives into a buffer that the operation owns.
    ///
    /// The bytes go to the start of the buffer's whole space, and its length becomes their number. 0 bytes are
    /// the end of the stream (or a buffer without space).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no bytes: what the kernel had already moved goes to the next reader of this
    /// socket. The buffer is dropped once the kernel has let go of it.
    pub fn recv<B: IoBufMut>(&self, buf: B) -> Recv<B> {
        Recv::new(self.clone(), Stage::Unsent(buf))
    }

    /// Sends from a buffer that the operation owns; may send fewer bytes than it holds.
    ///
    /// # Cancel safety
    ///
    /// After dropping the future it is unknown whether the bytes were sent; later sends come after them. The
    /// buffer is dropped once the kernel has let go of it.
    pub fn send<B: IoBuf>(&self, buf: B) -> Send<B> {
        Send::new(self.clone(), Stage::Unsent(buf))
    }

    /// Accepts a connection on a listening socket.
    ///
    /// Errors of one connection (`ECONNABORTED`) and of the process (`EMFILE`, `ENFILE`) are returned and leave
    /// the listener as it was; after the latter wait a while before the next call, which would fail as well.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no connection.
    pub fn accept(&self) -> Accept {
        Accept::new(self.clone())
    }

    /// Reads into a borrowed buffer, as `AsyncRead::poll_read` does.
    ///
    /// # Errors
    ///
    /// What `recv` says.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        // SAFETY: a `u8` is a valid `MaybeUninit<u8>`, and `try_recv` and `take_recovered` write only
        // initialised bytes.
        let buf = unsafe { &mut *(std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) };
        self.poll_read_uninit(cx, buf)
    }

    /// Reads into a borrowed buffer that need not be initialised; its first `n` bytes are afterwards.
    ///
    /// # Errors
    ///
    /// What `recv` says.
    pub fn poll_read_uninit(&self, cx: &mut Context<'_>, buf: &mut [MaybeUninit<u8>]) -> Poll<io::Result<usize>> {
        let shared = self.shared();
        if let Some(count) = shared.take_recovered(buf) {
            return Poll::Ready(Ok(count));
        }
        self.poll_io(cx, Half::Read, || shared.try_recv(buf))
    }

    /// Writes from a borrowed buffer, as `AsyncWrite::poll_write` does.
    ///
    /// # Errors
    ///
    /// What `send` says.
    pub fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Half::Write, || self.shared().try_send(buf))
    }

    /// Writes from several borrowed buffers, as `AsyncWrite::poll_write_vectored` does.
    ///
    /// # Errors
    ///
    /// What `sendmsg` says.
    pub fn poll_write_vectored(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // The kernel takes at most 1024 (`UIO_MAXIOV`) and refuses more.
        let bufs = &bufs[..bufs.len().min(1024)];
        self.poll_io(cx, Half::Write, || self.shared().try_send_vectored(bufs))
    }

    /// Runs a non-blocking call whenever this half may be ready, until it does not say "would block".
    fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        half: Half,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let shared = self.shared();
        let readiness = shared.readiness(half);
        if self.driver().must_yield(cx) {
            return Poll::Pending;
        }
        if !shared.is_held(half) {
            while readiness.is_ready() {
                match call() {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => readiness.clear(),
                    other => return Poll::Ready(other),
                }
            }
            self.arm();
        }
        readiness.park_borrowed(cx.waker());
        Poll::Pending
    }

    /// Has the backend report when the socket becomes ready.
    pub(crate) fn arm(&self) {
        self.driver().backend().arm(self.shared());
    }

    /// Shuts one half or both down; does not wait for anything.
    ///
    /// # Errors
    ///
    /// What `shutdown` says, for example `NotConnected`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(rustix::net::shutdown(self, how)?)
    }

    /// Ends the stream for the peer; fine too if the peer was faster and the connection is gone.
    ///
    /// # Errors
    ///
    /// What `shutdown` says but for `NotConnected`.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self.shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Drops this handle and resolves when the file descriptor is closed, that is when every clone is gone and
    /// the kernel has answered every operation.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: the descriptor is closed all the same.
    pub fn close(self) -> Close {
        Close::new(Rc::downgrade(self.shared()))
    }

    /// Takes the file descriptor out of the driver, to hand it to another one.
    ///
    /// # Errors
    ///
    /// Gives the socket back while a clone or an operation uses it, or while it holds bytes for the next reader.
    pub fn into_fd(self) -> Result<OwnedFd, Self> {
        let shared = self.shared();
        if Rc::strong_count(&self.handle) > 1
            || shared.is_held(Half::Read)
            || shared.is_held(Half::Write)
            || shared.has_recovered.get()
        {
            return Err(self);
        }
        // A new number for the same socket: the kernel may still watch the old one.
        shared.fd.try_clone().map_err(|_| self)
    }

    /// The address of this end.
    ///
    /// # Errors
    ///
    /// What `getsockname` says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address(SockRef::from(self).local_addr()?)
    }

    /// The address of the other end.
    ///
    /// # Errors
    ///
    /// What `getpeername` says, for example `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        address(SockRef::from(self).peer_addr()?)
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`).
    ///
    /// # Errors
    ///
    /// What `setsockopt` says.
    pub fn set_nodelay(&self, yes: bool) -> io::Result<()> {
        SockRef::from(self).set_tcp_nodelay(yes)
    }
}

fn address(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "not an IPv4 or IPv6 address"))
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared().as_fd()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.shared().fd).finish()
    }
}
