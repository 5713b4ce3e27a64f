//! The parts of a call to every core, awaited together.

use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use futures_channel::oneshot;
use ipiq_fabric::CoreId;
use ipiq_fabric::urgent_call::{ForeignUrgentCall, UrgentCall};

use crate::{JoinHandle, RemoteCall};

/// One core's part of a call.
pub trait Part: Future + Unpin {
    /// Whether it must be polled to be sent.
    fn is_unsent(&self) -> bool {
        false
    }
}

impl<R> Part for JoinHandle<R> {}
impl<R> Part for RemoteCall<R> {}
impl Part for oneshot::Receiver<()> {}
impl<R> Part for UrgentCall<R> {}
impl<R> Part for ForeignUrgentCall<R> {}

enum Slot<P: Part> {
    UnderWay(P),
    Done(P::Output),
}

impl<P: Part> Slot<P> {
    /// Whether it is done.
    #[inline(always)]
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if let Self::UnderWay(part) = self {
            match Pin::new(part).poll(cx) {
                Poll::Ready(output) => *self = Self::Done(output),
                Poll::Pending => return false,
            }
        }
        true
    }

    fn is_unsent(&self) -> bool {
        matches!(self, Self::UnderWay(part) if part.is_unsent())
    }
}

/// What every core answers: a pair per core, in ascending order.
#[must_use = "futures do nothing unless polled"]
pub struct Everywhere<P: Part> {
    /// In the order in which they are awaited.
    slots: Vec<Slot<P>>,
    /// The core of the first slot; the others follow in ascending order, and wrap.
    first: usize,
    /// Slots before this one are done.
    next: usize,
    /// Some part found no space at first.
    short_of_space: bool,
}

// Nothing in it is pinned.
impl<P: Part> Unpin for Everywhere<P> {}

impl<P: Part> fmt::Debug for Everywhere<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Everywhere").field("cores", &self.slots.len()).finish_non_exhaustive()
    }
}

impl<P: Part> Everywhere<P> {
    /// One part per core, made and awaited in ascending order from core `first`, with a wrap.
    pub(crate) fn new(cores: usize, first: usize, part: impl FnMut(CoreId) -> P) -> Self {
        let slots: Vec<_> = in_turn(cores, first).map(part).map(Slot::UnderWay).collect();
        let short_of_space = slots.iter().any(Slot::is_unsent);
        Self { slots, first, next: 0, short_of_space }
    }
}

/// The cores from `first` on, with a wrap.
fn in_turn(cores: usize, first: usize) -> impl Iterator<Item = CoreId> {
    (first..cores).chain(0..first).map(CoreId::new)
}

impl<P: Part> Future for Everywhere<P> {
    type Output = Vec<(CoreId, P::Output)>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.slots.is_empty(), "a call was polled after it was ready");
        // [xcall C2] one at a time: who awaits all needs to be woken by the last alone.
        while let Some(slot) = this.slots.get_mut(this.next) {
            if !slot.poll(cx) {
                break;
            }
            this.next += 1;
        }
        if this.next < this.slots.len() {
            if this.short_of_space {
                // [xcall C2]
                let unsent = this.slots[this.next + 1..].iter_mut().filter(|slot| slot.is_unsent());
                unsent.for_each(|slot| {
                    slot.poll(cx);
                });
            }
            return Poll::Pending;
        }
        // [xcall C3]
        let cores = this.slots.len();
        this.slots.rotate_right(this.first);
        let outputs = core::mem::take(&mut this.slots).into_iter().map(|slot| match slot {
            Slot::Done(output) => output,
            Slot::UnderWay(_) => unreachable!("every part is done"),
        });
        Poll::Ready((0..cores).map(CoreId::new).zip(outputs).collect())
    }
}
