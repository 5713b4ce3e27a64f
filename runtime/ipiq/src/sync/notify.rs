//! Notifications and meeting points of one core.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::waiters::{Left, Line, call, discard};

/// Wakes tasks of one core: one, which if nobody waits is the next that will, or all that wait.
///
/// ```
/// use std::rc::Rc;
///
/// use ipiq::sync::Notify;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let filled = Rc::new(Notify::new());
///     let waits = filled.clone();
///     let waiting = ipiq::spawn_local(async move { waits.notified().await });
///     filled.notify_one();
///     waiting.await.unwrap();
/// }
/// ```
///
/// The interface is that of tokio's `Notify`. For tasks of other cores, see [`ipi::Doorbell`](crate::ipi::Doorbell).
#[derive(Default)]
pub struct Notify {
    state: RefCell<NotifyState>,
}

struct NotifyState {
    /// For the next that waits.
    stored: bool,
    /// How often all were notified.
    rounds: u64,
    line: Line<By>,
}

impl Default for NotifyState {
    fn default() -> Self {
        Self { stored: false, rounds: 0, line: Line::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    One,
    All,
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").field("stored", &self.state.borrow().stored).finish_non_exhaustive()
    }
}

impl Notify {
    /// Nobody is notified.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notifies the task that has waited longest; if none waits, the next that will. Kept once, however often it is given.
    pub fn notify_one(&self) {
        let waker = {
            let state = &mut *self.state.borrow_mut();
            let waker = state.line.call_first(By::One);
            state.stored |= waker.is_none();
            waker
        };
        // [sync W2]
        waker.into_iter().for_each(call);
    }

    /// Notifies all whose [`notified`](Self::notified) was called before, polled or not. Nothing is kept for others.
    pub fn notify_waiters(&self) {
        let wakers = {
            let state = &mut *self.state.borrow_mut();
            state.rounds += 1;
            state.line.call_all(By::All)
        };
        // [sync W2]
        wakers.into_iter().for_each(call);
    }

    /// Waits for a notification.
    ///
    /// # Cancel safety
    ///
    /// A notification for one that was given to a future that is dropped goes to the next.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, round: self.state.borrow().rounds, key: None, ended: false }
    }
}

/// A task's wait for a notification: see [`Notify::notified`].
#[must_use = "futures do nothing unless polled"]
pub struct Notified<'a> {
    notify: &'a Notify,
    round: u64,
    key: Option<usize>,
    ended: bool,
}

impl fmt::Debug for Notified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notified").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Notified<'_> {
    /// Whether it is over; and a waker to be dropped.
    fn look(&mut self, state: &mut NotifyState) -> (bool, Option<Waker>) {
        let mut old = None;
        self.ended |= match self.key {
            Some(key) if state.line.is_called(key) || self.round != state.rounds => {
                self.key = None;
                if let Left::InLine(waker) = state.line.leave(key) {
                    old = Some(waker);
                }
                true
            }
            Some(_) => false,
            None => self.round != state.rounds || std::mem::take(&mut state.stored),
        };
        (self.ended, old)
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(());
        }
        let (mut ended, mut old) = {
            let state = &mut *this.notify.state.borrow_mut();
            let (ended, old) = this.look(state);
            if !ended && this.key.is_some_and(|key| state.line.knows(key, cx.waker())) {
                return Poll::Pending;
            }
            (ended, old)
        };
        if !ended {
            // [sync W2] outside of the borrow.
            let mut waker = Some(cx.waker().clone());
            {
                let state = &mut *this.notify.state.borrow_mut();
                (ended, old) = this.look(state);
                match (ended, this.key) {
                    (true, _) => {}
                    (false, Some(key)) => old = waker.take().and_then(|waker| state.line.keep(key, waker)),
                    (false, None) => this.key = waker.take().map(|waker| state.line.join(1, waker)),
                }
            }
            waker.into_iter().for_each(discard);
        }
        old.into_iter().for_each(discard);
        if ended { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let left = self.notify.state.borrow_mut().line.leave(key);
        match left {
            // [sync W3]
            Left::Called(By::One) => self.notify.notify_one(),
            Left::Called(By::All) => {}
            Left::InLine(waker) => discard(waker),
        }
    }
}

/// Where a number of tasks of one core meet, again and again.
///
/// ```
/// use std::rc::Rc;
///
/// use ipiq::sync::Barrier;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let barrier = Rc::new(Barrier::new(2));
///     let other = barrier.clone();
///     let other = ipiq::spawn_local(async move { other.wait().await });
///     let led = barrier.wait().await;
///     assert!(led != other.await.unwrap()); // One of them.
/// }
/// ```
///
/// For cores instead of tasks, see [`xcall::barrier`](crate::xcall::barrier).
pub struct Barrier {
    tasks: usize,
    line: RefCell<Line<()>>,
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrived = self.line.borrow().waiting();
        f.debug_struct("Barrier").field("tasks", &self.tasks).field("arrived", &arrived).finish_non_exhaustive()
    }
}

impl Barrier {
    /// Of `tasks` tasks; of none is of one.
    #[must_use]
    pub const fn new(tasks: usize) -> Self {
        Self { tasks, line: RefCell::new(Line::new()) }
    }

    /// Waits until so many wait as the barrier is of. `true` for the one that came last.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before the last one came has not come.
    pub fn wait(&self) -> BarrierWait<'_> {
        BarrierWait { barrier: self, key: None }
    }
}

/// A task's wait at a barrier: see [`Barrier::wait`].
#[must_use = "futures do nothing unless polled"]
pub struct BarrierWait<'a> {
    barrier: &'a Barrier,
    key: Option<usize>,
}

impl fmt::Debug for BarrierWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarrierWait").field("has_come", &self.key.is_some()).finish_non_exhaustive()
    }
}

impl Future for BarrierWait<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        // [sync W2] outside of the borrow.
        let waker = cx.waker().clone();
        let (outcome, wakers, old) = {
            let line = &mut *self.barrier.line.borrow_mut();
            match self.key {
                Some(key) if line.is_called(key) => {
                    line.leave(key);
                    (Poll::Ready(false), Vec::new(), Some(waker))
                }
                Some(key) => (Poll::Pending, Vec::new(), line.keep(key, waker)),
                None if line.waiting() + 1 >= self.barrier.tasks => (Poll::Ready(true), line.call_all(()), Some(waker)),
                None => {
                    self.key = Some(line.join(1, waker));
                    (Poll::Pending, Vec::new(), None)
                }
            }
        };
        if outcome.is_ready() {
            self.key = None;
        }
        old.into_iter().for_each(discard);
        wakers.into_iter().for_each(call);
        outcome
    }
}

impl Drop for BarrierWait<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        // [sync W3]
        let left = self.barrier.line.borrow_mut().leave(key);
        if let Left::InLine(waker) = left {
            discard(waker);
        }
    }
}
