//! Owned-buffer operations: a call when the socket may be ready, else a wait for readiness.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use compio_buf::BufResult;

use super::Epoll;
use crate::backend::Backend;
use crate::ops::{Direction, Stage};
use crate::socket::{Shared, Socket};

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

    /// Calls until done or "would block"; then waits for the next edge. [op S1]
    fn poll_transfer<D: Direction<B>, B: 'static>(
        &self,
        socket: &Socket,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>> {
        let shared = socket.shared();
        let readiness = shared.readiness(D::HALF);
        let (mut buf, mut ticket) = stage.take_buf();
        while readiness.is_ready() {
            match D::try_now(shared, &mut buf) {
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

    fn abandon<B: 'static>(&self, _socket: &Socket, _stage: &mut Stage<B>) {}
}
