//! The two halves of a stream.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use ipiq_driver::Socket;
use ipiq_driver::buf::{BufResult, IoBuf, IoBufMut};
use ipiq_driver::ops::{Recv, Send};

use super::TcpStream;

/// The half of a [`TcpStream`] that reads.
#[derive(Debug)]
pub struct ReadHalf {
    stream: Rc<TcpStream>,
}

/// The half of a [`TcpStream`] that writes; dropping it ends the stream for the peer.
#[derive(Debug)]
pub struct WriteHalf {
    stream: Rc<TcpStream>,
}

pub(super) fn split(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let stream = Rc::new(stream);
    let reader = ReadHalf { stream: Rc::clone(&stream) };
    (reader, WriteHalf { stream })
}

impl ReadHalf {
    pub(super) fn socket(&self) -> &Socket {
        self.stream.socket()
    }

    /// As [`TcpStream::recv`].
    pub fn recv<B: IoBufMut>(&self, buf: B) -> Recv<B> {
        self.stream.recv(buf)
    }

    /// The whole stream, for its addresses and options.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl WriteHalf {
    pub(super) fn socket(&self) -> &Socket {
        self.stream.socket()
    }

    /// As [`TcpStream::send`].
    pub fn send<B: IoBuf>(&self, buf: B) -> Send<B> {
        self.stream.send(buf)
    }

    /// As [`TcpStream::send_all`].
    ///
    /// # Errors
    ///
    /// As [`TcpStream::send_all`].
    ///
    /// # Cancel safety
    ///
    /// As [`TcpStream::send_all`].
    pub async fn send_all<B: IoBuf>(&self, buf: B) -> BufResult<(), B> {
        self.stream.send_all(buf).await
    }

    /// The whole stream, for its addresses and options.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsFd for ReadHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsFd for WriteHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // Nobody is left to be told of an error.
        let _ = self.socket().shutdown_write();
    }
}
