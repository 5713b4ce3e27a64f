//! TCP connections.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use ipiq_driver::Socket;
use ipiq_driver::buf::{BufResult, IntoInner, IoBuf, IoBufMut};
use ipiq_driver::ops::{Recv, Send};

use super::{Address, ReadHalf, WriteHalf};

/// A TCP connection whose I/O runs on the core that made it.
///
/// Dropping it closes the connection, as soon as the kernel has answered what is still in flight. One reader and one writer
/// at a time; `&TcpStream` implements the I/O traits too, and [`into_split`](Self::into_split) gives each its own half.
#[derive(Debug)]
pub struct TcpStream {
    socket: Socket,
}

impl TcpStream {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Connects to an address.
    ///
    /// # Errors
    ///
    /// What the system says, for example `ConnectionRefused`; `InvalidInput` for a text that is no address.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core, before anything is awaited.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the half-open connection.
    #[track_caller]
    pub fn connect<A: Address>(address: A) -> impl Future<Output = io::Result<Self>> + use<A> {
        let driver = crate::driver::current("TcpStream::connect");
        let address = address.to_address();
        async move { driver.connect(address?).await.map(Self::new) }
    }

    /// Takes over a connection made elsewhere, for example on another core.
    ///
    /// # Errors
    ///
    /// What the system says when the socket is registered; the connection is closed then.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        crate::driver::current("TcpStream::from_std").attach(stream).map(Self::new)
    }

    /// Takes the connection off this core; the result is non-blocking and may be sent to another one.
    ///
    /// # Errors
    ///
    /// Gives the stream back while an operation on it is in flight, also one that was dropped a moment ago, or while it
    /// holds bytes that a dropped receive had taken: receive first.
    pub fn into_std(self) -> Result<std::net::TcpStream, Self> {
        self.socket.into_fd().map(Into::into).map_err(Self::new)
    }

    /// Receives into `buf`, which comes back with the number of bytes; its length is set to it. 0 is the end of the stream.
    ///
    /// The bytes go to the start of the buffer's whole space, for a `Vec` its capacity.
    ///
    /// # Errors
    ///
    /// What the system says, for example `ConnectionReset`, beside the buffer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no bytes: the next reader of this stream gets them. The buffer is dropped once the kernel
    /// has let go of it.
    pub fn recv<B: IoBufMut>(&self, buf: B) -> Recv<B> {
        self.socket.recv(buf)
    }

    /// Sends from `buf`, which comes back with the number of bytes sent, maybe fewer than it holds.
    ///
    /// # Errors
    ///
    /// What the system says, for example `BrokenPipe`, beside the buffer.
    ///
    /// # Cancel safety
    ///
    /// After dropping the future it is unknown whether the bytes were sent; later ones come after them. The buffer is dropped
    /// once the kernel has let go of it.
    pub fn send<B: IoBuf>(&self, buf: B) -> Send<B> {
        self.socket.send(buf)
    }

    /// Sends all of `buf`, which comes back with the result.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); how many bytes were sent before is unknown.
    ///
    /// # Cancel safety
    ///
    /// After dropping the future it is unknown how many bytes were sent.
    pub async fn send_all<B: IoBuf>(&self, buf: B) -> BufResult<(), B> {
        let len = buf.buf_len();
        let BufResult(result, mut buf) = self.socket.send(buf).await;
        let mut sent = match result {
            Ok(count) => count,
            Err(e) => return BufResult(Err(e), buf),
        };
        while sent < len {
            let BufResult(result, rest) = self.socket.send(buf.slice(sent..)).await;
            buf = rest.into_inner();
            match result {
                Ok(0) => return BufResult(Err(io::ErrorKind::WriteZero.into()), buf),
                Ok(count) => sent += count,
                Err(e) => return BufResult(Err(e), buf),
            }
        }
        BufResult(Ok(()), buf)
    }

    /// Divides the stream into a half that reads and one that writes, for two tasks of this core.
    ///
    /// Dropping the writing half ends the stream for the peer.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        super::split::split(self)
    }

    /// Shuts one half or both down, without waiting.
    ///
    /// # Errors
    ///
    /// What the system says, for example `NotConnected`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Drops the stream and resolves when its file descriptor is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: the connection is closed all the same.
    pub async fn close(self) {
        self.socket.close().await;
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`); off by default.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn set_nodelay(&self, yes: bool) -> io::Result<()> {
        self.socket.set_nodelay(yes)
    }

    /// The address of this end.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The address of the peer.
    ///
    /// # Errors
    ///
    /// What the system says, for example `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
