//! Accepting connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use crate::readiness::Ticket;
use crate::socket::Socket;

/// An accept in progress; see [`Socket::accept`].
///
/// Waits for readiness and then calls `accept4` on both backends: a dropped accept has taken no connection, and
/// connections that nobody asks for stay in the kernel's bounded queue.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Accept {
    listener: Socket,
    ticket: Ticket,
}

impl Accept {
    pub(crate) fn new(listener: Socket) -> Self {
        Self { listener, ticket: Ticket::default() }
    }

    fn accept(&self) -> Result<io::Result<(Socket, SocketAddr)>, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, peer) = acceptfrom_with(&self.listener, flags)?;
        let peer = peer
            .and_then(|peer| SocketAddr::try_from(peer).ok())
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        let driver = self.listener.driver();
        Ok(driver.attach_nonblocking(fd).map(|socket| (socket, peer)))
    }
}

impl Future for Accept {
    type Output = io::Result<(Socket, SocketAddr)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.listener.driver().must_yield(cx) {
            return Poll::Pending;
        }
        let read = &this.listener.shared().read;
        while read.is_ready() {
            match this.accept() {
                Err(Errno::AGAIN) => read.clear(),
                Err(Errno::INTR) => {}
                // Of errors the listener stays ready: a connection may wait behind the one that failed.
                Err(e) => {
                    read.unpark(&mut this.ticket);
                    return Poll::Ready(Err(e.into()));
                }
                Ok(accepted) => {
                    read.unpark(&mut this.ticket);
                    return Poll::Ready(accepted);
                }
            }
        }
        this.listener.arm();
        read.park(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for Accept {
    fn drop(&mut self) {
        self.listener.shared().read.unpark(&mut self.ticket);
    }
}
