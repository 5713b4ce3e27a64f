#![doc = include_str!("README.md")]

use std::fmt;
use std::rc::Rc;

use crate::backend::Backend;
use crate::backend::uring::Slot;
use crate::readiness::{Half, Ticket};
use crate::socket::Socket;

mod accept;
mod close;
mod connect;
mod direction;
mod recv;
mod send;

pub use accept::Accept;
pub use close::Close;
pub use connect::Connect;
pub(crate) use direction::{Direction, Receiving, Sending};
pub use recv::Recv;
pub use send::Send;

/// Where the buffer of an operation is.
pub(crate) enum Stage<B> {
    /// With the future; nothing was asked of the kernel.
    Unsent(B),
    /// With the future, which waits for readiness or for a dropped operation before it.
    Waiting(B, Ticket),
    /// In the slot, with the kernel until the slot says done.
    InFlight(Rc<Slot>),
    /// Handed back, or given up.
    Gone,
}

impl<B> Stage<B> {
    /// Takes the buffer out of a stage that has it with the future.
    ///
    /// # Panics
    ///
    /// If the future was polled after it was ready.
    pub(crate) fn take_buf(&mut self) -> (B, Ticket) {
        match std::mem::replace(self, Self::Gone) {
            Self::Unsent(buf) => (buf, Ticket::default()),
            Self::Waiting(buf, ticket) => (buf, ticket),
            Self::InFlight(_) | Self::Gone => {
                panic!("an I/O operation was polled after it was ready")
            }
        }
    }

    /// What the drop of an operation does. [op S5]
    fn give_up(&mut self, socket: &Socket, half: Half)
    where
        B: 'static,
    {
        match self {
            Self::Unsent(_) | Self::Gone => {}
            Self::Waiting(_, ticket) => socket.shared().readiness(half).unpark(ticket),
            Self::InFlight(_) => socket.driver().backend().abandon(socket, self),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Unsent(_) => "unsent",
            Self::Waiting(..) => "waiting",
            Self::InFlight(_) => "in flight",
            Self::Gone => "done",
        }
    }
}

impl<B> fmt::Debug for Stage<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
