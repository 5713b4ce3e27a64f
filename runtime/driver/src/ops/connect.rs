//! Connecting.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::backend::Backend;
use crate::readiness::Ticket;
use crate::{Driver, Socket};

/// A connect in progress; see [`Driver::connect`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Connect {
    state: State,
}

#[derive(Debug)]
enum State {
    Unsent(Driver, SocketAddr),
    Connecting(Socket, Ticket),
    Gone,
}

impl Connect {
    pub(crate) fn new(driver: Driver, address: SocketAddr) -> Self {
        Self { state: State::Unsent(driver, address) }
    }
}

/// Makes a socket and starts connecting it; `false` if that is still going on.
fn start(driver: &Driver, address: SocketAddr) -> io::Result<(Socket, bool)> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let connected = match rustix::net::connect(&fd, &address) {
        Ok(()) => true,
        // An interrupted connect goes on by itself.
        Err(Errno::INPROGRESS | Errno::INTR) => false,
        Err(e) => return Err(e.into()),
    };
    // Registered only now: a socket that is not connecting reports "hung up".
    let socket = driver.attach_nonblocking(fd)?;
    Ok((socket, connected))
}

impl Future for Connect {
    type Output = io::Result<Socket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.state, State::Gone) {
                State::Unsent(driver, address) => {
                    let (socket, connected) = start(&driver, address)?;
                    if connected {
                        return Poll::Ready(Ok(socket));
                    }
                    socket.shared().write.clear();
                    self.state = State::Connecting(socket, Ticket::default());
                }
                State::Connecting(socket, mut ticket) => {
                    let write = &socket.shared().write;
                    if !write.is_ready() {
                        socket.arm();
                        write.park(&mut ticket, cx.waker());
                        self.state = State::Connecting(socket, ticket);
                        return Poll::Pending;
                    }
                    write.unpark(&mut ticket);
                    sockopt::socket_error(&socket)?.map_err(io::Error::from)?;
                    // Transfers of owned buffers need no readiness on io_uring.
                    socket.driver().backend().disarm(socket.shared());
                    return Poll::Ready(Ok(socket));
                }
                State::Gone => panic!("an I/O operation was polled after it was ready"),
            }
        }
    }
}
