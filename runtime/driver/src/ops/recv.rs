//! Receiving into an owned buffer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use compio_buf::{BufResult, IoBufMut};

use super::{Receiving, Stage};
use crate::backend::Backend;
use crate::readiness::Half;
use crate::socket::Socket;

/// A receive in progress; see [`Socket::recv`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Recv<B: IoBufMut> {
    socket: Socket,
    stage: Stage<B>,
}

// The buffer is moved into the slot before the kernel sees its address.
impl<B: IoBufMut> Unpin for Recv<B> {}

impl<B: IoBufMut> Recv<B> {
    pub(crate) fn new(socket: Socket, stage: Stage<B>) -> Self {
        Self { socket, stage }
    }
}

impl<B: IoBufMut> Future for Recv<B> {
    type Output = BufResult<usize, B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { socket, stage } = &mut *self;
        if socket.driver().must_yield(cx) {
            return Poll::Pending;
        }
        socket.driver().backend().poll_transfer::<Receiving, B>(socket, stage, cx)
    }
}

impl<B: IoBufMut> Drop for Recv<B> {
    fn drop(&mut self) {
        self.stage.give_up(&self.socket, Half::Read);
    }
}
