//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::{Driver, Socket};

/// How a TCP listener is bound.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    backlog: i32,
    reuse_address: bool,
    reuse_port: bool,
    only_v6: Option<bool>,
}

impl Default for ListenOptions {
    /// Backlog 4096, `SO_REUSEADDR` on, `SO_REUSEPORT` off.
    fn default() -> Self {
        Self { backlog: 4096, reuse_address: true, reuse_port: false, only_v6: None }
    }
}

impl ListenOptions {
    /// Connections the kernel keeps ready for `accept`; it caps the number at `net.core.somaxconn`.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = i32::try_from(connections).unwrap_or(i32::MAX);
        self
    }

    /// Whether an address whose old connections still linger may be bound again (`SO_REUSEADDR`).
    #[must_use]
    pub fn reuse_address(mut self, yes: bool) -> Self {
        self.reuse_address = yes;
        self
    }

    /// Whether several listeners share the address, each with its own queue (`SO_REUSEPORT`).
    #[must_use]
    pub fn reuse_port(mut self, yes: bool) -> Self {
        self.reuse_port = yes;
        self
    }

    /// Whether an IPv6 listener refuses IPv4 peers (`IPV6_V6ONLY`); the system's default if not called.
    #[must_use]
    pub fn only_v6(mut self, yes: bool) -> Self {
        self.only_v6 = Some(yes);
        self
    }

    /// Binds and listens, without a driver: the result is non-blocking and closed on exec.
    ///
    /// # Errors
    ///
    /// What `socket`, `setsockopt`, `bind` and `listen` say, for example `AddrInUse`.
    pub fn bind(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(self.reuse_address)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let (Some(only_v6), SocketAddr::V6(_)) = (self.only_v6, address) {
            socket.set_only_v6(only_v6)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.listen(self.backlog)?;
        Ok(socket.into())
    }

    /// Binds, listens and hands the socket to a driver.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind), and what registering the socket says.
    pub fn listen(&self, driver: &Driver, address: SocketAddr) -> io::Result<Socket> {
        driver.attach_nonblocking(self.bind(address)?)
    }
}
