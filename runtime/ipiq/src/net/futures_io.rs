//! The I/O traits of `futures`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};

use super::write_methods::write_methods;
use super::{ReadHalf, TcpStream, WriteHalf};

macro_rules! reads {
    ($($reader:ty),*) => {$(
        impl AsyncRead for $reader {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
                self.socket().poll_read(cx, buf)
            }
        }
    )*};
}

macro_rules! writes {
    ($($writer:ty),*) => {$(
        impl AsyncWrite for $writer {
            write_methods!();

            fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.socket().shutdown_write())
            }
        }
    )*};
}

reads!(TcpStream, &TcpStream, ReadHalf);
writes!(TcpStream, &TcpStream, WriteHalf);
