//! The I/O traits of `tokio`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::write_methods::write_methods;
use super::{ReadHalf, TcpStream, WriteHalf};

macro_rules! reads {
    ($($reader:ty),*) => {$(
        impl AsyncRead for $reader {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.socket()).poll_read(cx, buf)
            }
        }
    )*};
}

macro_rules! writes {
    ($($writer:ty),*) => {$(
        impl AsyncWrite for $writer {
            write_methods!();

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.socket()).poll_shutdown(cx)
            }
        }
    )*};
}

reads!(TcpStream, &TcpStream, ReadHalf);
writes!(TcpStream, &TcpStream, WriteHalf);
