//! Owned-buffer operations: a call when the socket may be ready, else a wait for readiness.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use compio_buf::{BufResult, IoBuf, IoBufMut};

use super::Epoll;
use crate::backend::Backend;
use crate::ops::{Stage, received};
use crate::readiness::Half;
use crate::socket::{Shared, Socket};

impl Epoll {
    /// Calls until done or "would block"; then waits for the next edge. [op S1]
    fn poll_transfer<B>(
        &self,
        shared: &Shared,
        half: Half,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&mut B) -> io::Result<usize>,
    ) -> Poll<BufResult<usize, B>> {
        let readiness = shared.readiness(half);
        let (mut buf, mut ticket) = stage.take_buf();
        while readiness.is_ready() {
            match call(&mut buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    readiness.unpark(&mut ticket);
                    return Poll::Ready(BufResult(result, buf));
                }
            }
        }
        readiness.park(&mut ticket, cx.waker());
        *stage = Stage::Waiting(buf, ticket);
        Poll::Pending
    }
}

impl Backend for Epoll {
    fn poll(&self) -> usize {
        self.poll_now()
    }

    fn flush(&self) {}

    fn wait(&self, timeout: Option<Duration>) -> io::Result<usize> {
        self.sleep(timeout)
    }

    fn register(&self, shared: &Rc<Shared>) -> io::Result<()> {
        self.add(shared)
    }

    fn arm(&self, _shared: &Rc<Shared>) {}

    fn disarm(&self, _shared: &Rc<Shared>) {}

    fn deregister(&self, shared: &Rc<Shared>) {
        self.remove(shared);
    }

    fn poll_recv<B: IoBufMut>(
        &self,
        socket: &Socket,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>> {
        let shared = socket.shared();
        self.poll_transfer(shared, Half::Read, stage, cx, |buf| {
            let count = shared.try_recv(buf.as_uninit())?;
            // SAFETY: 1. the kernel wrote `count` bytes to the start of the space.
            unsafe { received(buf, count) };
            Ok(count)
        })
    }

    fn poll_send<B: IoBuf>(
        &self,
        socket: &Socket,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>> {
        let shared = socket.shared();
        self.poll_transfer(shared, Half::Write, stage, cx, |buf| shared.try_send(B::as_init(buf)))
    }

    fn abandon<B: 'static>(&self, _socket: &Socket, _stage: &mut Stage<B>) {}
}
