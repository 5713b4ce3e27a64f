//! The futures of pauses: one for the core that asked, one for any thread.

use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use futures_channel::oneshot;
use ipiq_fabric::cpusync::{Lead, Request};
use ipiq_fabric::{Core, catch, contain};

use super::{PauseError, PauseTimes};

pub(super) type Outcome<R> = Result<(R, PauseTimes), PauseError>;

/// A pause that this core asked for, and what its body returns. It stays on the core; [`RemotePausing`] does not.
///
/// # Cancel safety
///
/// Dropped before its turn has come, it is not carried out. Once it has begun it is carried out whole, and its value dropped.
#[must_use = "a pause that is dropped before its turn is not carried out"]
pub struct Pausing<R> {
    asked: Rc<dyn Asked<R>>,
}

impl<R> fmt::Debug for Pausing<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pausing").finish_non_exhaustive()
    }
}

impl<R: 'static> Pausing<R> {
    /// Asks for `work` to be done when it is the turn of `core`, the calling one.
    pub(super) fn of(core: &Core, work: impl FnOnce(&Lead<'_>) -> Outcome<R> + 'static) -> Self {
        let asked = Rc::new(Shared { work: Cell::new(Some(work)), outcome: Cell::new(None), waker: Cell::new(None) });
        core.lead_for(asked.clone());
        Self { asked }
    }
}

impl<R> Future for Pausing<R> {
    type Output = Outcome<R>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.asked.take() {
            return Poll::Ready(outcome);
        }
        if Rc::strong_count(&self.asked) == 1 {
            // It is over, and its outcome was taken.
            return Poll::Ready(Err(PauseError::gone()));
        }
        self.asked.wake_at_end(cx.waker());
        // The clone or the drop of a waker may run foreign code, in which the end may come: hence the second look.
        self.asked.take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What a pause and its future share, as the future sees it.
trait Asked<R> {
    fn take(&self) -> Option<Outcome<R>>;
    fn wake_at_end(&self, waker: &Waker);
}

/// One allocation for what is to be done, what came of it, and who waits for that; on one core.
struct Shared<W, R> {
    work: Cell<Option<W>>,
    outcome: Cell<Option<Outcome<R>>>,
    waker: Cell<Option<Waker>>,
}

impl<W, R> Shared<W, R> {
    fn end(&self, outcome: Outcome<R>) {
        self.outcome.set(Some(outcome));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<W, R> Asked<R> for Shared<W, R> {
    fn take(&self) -> Option<Outcome<R>> {
        self.outcome.take()
    }

    fn wake_at_end(&self, waker: &Waker) {
        let old = self.waker.take();
        let same = old.filter(|old| old.will_wake(waker));
        self.waker.set(Some(same.unwrap_or_else(|| waker.clone())));
    }
}

impl<W: FnOnce(&Lead<'_>) -> Outcome<R>, R> Request for Shared<W, R> {
    fn lead(self: Rc<Self>, lead: &Lead<'_>) {
        // The future was dropped before.
        let unwanted = Rc::strong_count(&self) == 1;
        if let Some(work) = self.work.take().filter(|_| !unwanted) {
            self.end(catch(|| work(lead)).unwrap_or_else(|payload| Err(PauseError::panicked(payload))));
        }
    }

    fn give_up(self: Rc<Self>) {
        contain(|| drop(self.work.take()));
        self.end(Err(PauseError::gone()));
    }
}

/// A pause that some thread has asked a core for, and what its body returns. It may be awaited anywhere.
///
/// # Cancel safety
///
/// As [`Pausing`].
#[must_use = "a pause that is dropped before its turn is not carried out"]
#[derive(Debug)]
pub struct RemotePausing<R> {
    outcome: oneshot::Receiver<Outcome<R>>,
}

impl<R> Future for RemotePausing<R> {
    type Output = Outcome<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(cx).map(|sent| sent.unwrap_or(Err(PauseError::gone())))
    }
}

impl<R: 'static> RemotePausing<R> {
    /// Dropping the sender ends it.
    pub(super) fn new() -> (Sender<R>, Self) {
        let (sender, outcome) = oneshot::channel();
        (Sender(sender), Self { outcome })
    }
}

/// Where the outcome goes, once the core that is to lead has been reached.
pub(super) struct Sender<R>(oneshot::Sender<Outcome<R>>);

impl<R: 'static> Sender<R> {
    /// As [`Pausing::of`].
    pub(super) fn ask(self, core: &Core, work: impl FnOnce(&Lead<'_>) -> Outcome<R> + 'static) {
        core.lead(move |lead| {
            if self.0.is_canceled() {
                return contain(|| drop(work));
            }
            let outcome = catch(|| work(lead)).unwrap_or_else(|payload| Err(PauseError::panicked(payload)));
            // Nobody may want it any more: then it is dropped here.
            contain(|| drop(self.0.send(outcome)));
        });
    }
}
