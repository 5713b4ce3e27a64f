//! The contract of a backend, and the choice between the two.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use compio_buf::BufResult;

use crate::counters::Counts;
use crate::ops::{Direction, Stage};
use crate::socket::{Shared, Socket};
use crate::{Config, DriverError, DriverKind, Notifier};

pub(crate) mod epoll;
pub(crate) mod uring;

use epoll::Epoll;
use uring::Uring;

/// What a driver asks of a kernel interface. All calls come from the home thread; any of them may come from
/// inside a waker that the backend itself is waking.
pub(crate) trait Backend {
    /// Dispatches what is ready; never sleeps. A notification found here is kept for the next `wait`.
    fn poll(&self) -> usize;

    /// Hands queued submissions to the kernel.
    fn flush(&self);

    /// Sleeps until an event, a notification, a signal or the timeout; then dispatches.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<usize>;

    /// Called once per socket, before anything else. The socket may be in any state.
    fn register(&self, shared: &Rc<Shared>) -> io::Result<()>;

    /// Called before someone waits for a half of which the kernel just said "would block". After it, the next
    /// edge of either half reaches `Readiness::apply`, also one that came before this call.
    fn arm(&self, shared: &Rc<Shared>);

    /// The opposite of `arm`, where that costs something to keep.
    fn disarm(&self, shared: &Rc<Shared>);

    /// Called once, when the last user handle goes. Afterwards no event reaches this socket, and the backend
    /// gives up its references as soon as the kernel has answered.
    fn deregister(&self, shared: &Rc<Shared>);

    /// Starts or continues a receive or a send. `Stage` is the operation's; see the protocol in `ops`.
    fn poll_transfer<D: Direction<B>, B: 'static>(
        &self,
        socket: &Socket,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>>;

    /// Gives up an operation whose future is dropped.
    fn abandon<B: 'static>(&self, socket: &Socket, stage: &mut Stage<B>);
}

/// The backend in use; there is one per core, so its size does not matter.
#[expect(clippy::large_enum_variant)]
pub(crate) enum Chosen {
    Epoll(Epoll),
    Uring(Uring),
}

/// Makes the backend that the configuration asks for, and says why it is not io_uring if that was tried.
pub(crate) fn choose(
    config: &Config,
    notifier: &Notifier,
    counts: &Arc<Counts>,
) -> Result<(Chosen, Option<String>), DriverError> {
    let epoll = || Epoll::new(config, notifier, counts).map(Chosen::Epoll);
    let uring = || Uring::new(config, notifier, counts).map(Chosen::Uring);
    match config.kind {
        DriverKind::Epoll => Ok((epoll()?, None)),
        DriverKind::Uring => Ok((uring()?, None)),
        DriverKind::Auto => match uring() {
            Ok(uring) => Ok((uring, None)),
            Err(refused) => Ok((epoll()?, Some(refused.to_string()))),
        },
    }
}

macro_rules! on {
    ($chosen:expr, $backend:ident => $call:expr) => {
        match $chosen {
            Chosen::Epoll($backend) => $call,
            Chosen::Uring($backend) => $call,
        }
    };
}

impl Backend for Chosen {
    fn poll(&self) -> usize {
        on!(self, b => b.poll())
    }

    fn flush(&self) {
        on!(self, b => b.flush())
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<usize> {
        on!(self, b => b.wait(timeout))
    }

    fn register(&self, shared: &Rc<Shared>) -> io::Result<()> {
        on!(self, b => b.register(shared))
    }

    fn arm(&self, shared: &Rc<Shared>) {
        on!(self, b => b.arm(shared))
    }

    fn disarm(&self, shared: &Rc<Shared>) {
        on!(self, b => b.disarm(shared))
    }

    fn deregister(&self, shared: &Rc<Shared>) {
        on!(self, b => b.deregister(shared))
    }

    fn poll_transfer<D: Direction<B>, B: 'static>(
        &self,
        socket: &Socket,
        stage: &mut Stage<B>,
        cx: &mut Context<'_>,
    ) -> Poll<BufResult<usize, B>> {
        on!(self, b => b.poll_transfer::<D, B>(socket, stage, cx))
    }

    fn abandon<B: 'static>(&self, socket: &Socket, stage: &mut Stage<B>) {
        on!(self, b => b.abandon(socket, stage))
    }
}

/// Sleeps of more than ten years are cut to ten years, far inside what the kernel's clocks can add.
fn bounded(timeout: Duration) -> Duration {
    timeout.min(Duration::from_secs(10 * 365 * 24 * 3600))
}
