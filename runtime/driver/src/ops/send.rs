//! Sending from an owned buffer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use compio_buf::{BufResult, IoBuf};

use super::{Sending, Stage};
use crate::backend::Backend;
use crate::readiness::Half;
use crate::socket::Socket;

/// A send in progress; see [`Socket::send`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Send<B: IoBuf> {
    socket: Socket,
    stage: Stage<B>,
}

// The buffer is moved into the slot before the kernel sees its address.
impl<B: IoBuf> Unpin for Send<B> {}

impl<B: IoBuf> Send<B> {
    pub(crate) fn new(socket: Socket, stage: Stage<B>) -> Self {
        Self { socket, stage }
    }
}

impl<B: IoBuf> Future for Send<B> {
    type Output = BufResult<usize, B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { socket, stage } = &mut *self;
        if socket.driver().must_yield(cx) {
            return Poll::Pending;
        }
        socket.driver().backend().poll_transfer::<Sending, B>(socket, stage, cx)
    }
}

impl<B: IoBuf> Drop for Send<B> {
    fn drop(&mut self) {
        self.stage.give_up(&self.socket, Half::Write);
    }
}
