//! The ends that a core has.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::Stream;
use ipiq_fabric::CoreId;

use super::Peers;
use super::error::NoPair;
use crate::sync::cross::mpsc;
use crate::sync::{Closed, SendError};

impl<T: Send> Peers<T> {
    pub(super) fn new(
        here: CoreId,
        senders: Vec<(CoreId, mpsc::Sender<T>)>,
        receivers: Vec<(CoreId, mpsc::Receiver<T>)>,
    ) -> Self {
        let sender = |(target, queue)| (target, Sender { queue, stays: PhantomData });
        let source = |(core, receiver)| Source { core, receiver, ended: false };
        Self {
            senders: Senders { here, ends: senders.into_iter().map(sender).collect() },
            receivers: Receivers { here, ends: receivers.into_iter().map(source).collect(), next: 0 },
        }
    }
}

/// What a core of a mesh sends with. Dropped, it ends the channels that were not taken out.
pub struct Senders<T: Send + 'static> {
    here: CoreId,
    /// In ascending order.
    ends: Vec<(CoreId, Sender<T>)>,
}

impl<T: Send> fmt::Debug for Senders<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Senders").field("to", &self.cores().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl<T: Send> Senders<T> {
    fn find(&self, target: CoreId) -> Result<usize, NoPair> {
        let found = self.ends.binary_search_by_key(&target, |(core, _)| *core);
        found.map_err(|_| NoPair { source: self.here, target })
    }

    /// The channel to `target`.
    ///
    /// # Errors
    ///
    /// [`NoPair`] if the mesh has none from this core, or it was [taken](Self::take_to).
    pub fn to(&self, target: CoreId) -> Result<&Sender<T>, NoPair> {
        Ok(&self.ends[self.find(target)?].1)
    }

    /// Takes the channel to `target` out, for another task of this core, or to end it.
    ///
    /// # Errors
    ///
    /// As [`to`](Self::to).
    pub fn take_to(&mut self, target: CoreId) -> Result<Sender<T>, NoPair> {
        let found = self.find(target)?;
        Ok(self.ends.remove(found).1)
    }

    /// The cores that there is a channel to, in ascending order.
    pub fn cores(&self) -> impl Iterator<Item = CoreId> + use<'_, T> {
        self.ends.iter().map(|(core, _)| *core)
    }
}

/// The one sending end of a pair, on its core. Dropped, it ends the channel.
pub struct Sender<T: Send + 'static> {
    queue: mpsc::Sender<T>,
    // On another core it would have space of its own.
    stays: PhantomData<Rc<()>>,
}

impl<T: Send> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("to", &self.queue.receiver()).finish_non_exhaustive()
    }
}

impl<T: Send> Sender<T> {
    /// Sends `value`, when the pair has space and nobody came before. Values arrive in the order in which they were sent.
    ///
    /// # Errors
    ///
    /// The value, if the receiver is known to be gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future drops the value with it: to keep that, [`reserve`](Self::reserve) first.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.queue.send(value).await
    }

    /// Waits for space for one value, and keeps it.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the receiver is gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future gives its place to the next; a task that waits again waits behind all others.
    pub async fn reserve(&self) -> Result<mpsc::Permit<'_, T>, Closed> {
        self.queue.reserve().await
    }

    /// Sends `value` now.
    ///
    /// # Errors
    ///
    /// The value, if the pair has no space, others wait, or the receiver is known to be gone or closed.
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.queue.try_send(value)
    }

    /// Whether the receiver is gone or closed, as far as is known.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until the receiver is gone or closed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// What a core of a mesh receives with: a [`Stream`](https://docs.rs/futures/latest/futures/stream/trait.Stream.html) of the values of all sources, each with its source. Dropped, it drops what was not received.
pub struct Receivers<T: Send + 'static> {
    here: CoreId,
    /// In ascending order.
    ends: Vec<Source<T>>,
    /// Whose turn it is.
    next: usize,
}

struct Source<T: Send + 'static> {
    core: CoreId,
    receiver: mpsc::Receiver<T>,
    ended: bool,
}

impl<T: Send> fmt::Debug for Receivers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receivers").field("from", &self.cores().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl<T: Send> Receivers<T> {
    fn find(&self, source: CoreId) -> Result<usize, NoPair> {
        let found = self.ends.binary_search_by_key(&source, |end| end.core);
        found.map_err(|_| NoPair { source, target: self.here })
    }

    /// The channel from `source`.
    ///
    /// # Errors
    ///
    /// [`NoPair`] if the mesh has none to this core, or it was [taken](Self::take_from).
    pub fn from(&mut self, source: CoreId) -> Result<&mut mpsc::Receiver<T>, NoPair> {
        let found = self.find(source)?;
        Ok(&mut self.ends[found].receiver)
    }

    /// Takes the channel from `source` out, for another task of this core, or to end it.
    ///
    /// # Errors
    ///
    /// As [`from`](Self::from).
    pub fn take_from(&mut self, source: CoreId) -> Result<mpsc::Receiver<T>, NoPair> {
        let found = self.find(source)?;
        Ok(self.ends.remove(found).receiver)
    }

    /// The next value of any source, in turn, with its source; `None` when all channels have ended.
    ///
    /// # Cancel safety
    ///
    /// No value is lost when it is dropped.
    pub async fn recv(&mut self) -> Option<(CoreId, T)> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The cores that there is a channel from, in ascending order.
    pub fn cores(&self) -> impl Iterator<Item = CoreId> + use<'_, T> {
        self.ends.iter().map(|end| end.core)
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<(CoreId, T)>> {
        let (count, mut open) = (self.ends.len(), false);
        for place in (0..count).map(|step| (self.next + step) % count) {
            let end = &mut self.ends[place];
            if end.ended {
                continue;
            }
            match end.receiver.poll_recv(cx) {
                Poll::Ready(Some(value)) => {
                    self.next = place + 1;
                    return Poll::Ready(Some((end.core, value)));
                }
                // [mesh J4]
                Poll::Ready(None) => end.ended = true,
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(None) }
    }
}

impl<T: Send> Stream for Receivers<T> {
    type Item = (CoreId, T);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}
