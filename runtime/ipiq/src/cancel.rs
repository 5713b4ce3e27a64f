//! Telling tasks to end.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use ipiq_fabric::contain;
use slab::Slab;

/// Tells any number of tasks, on any cores and threads, that they are to end: each looks, or waits for it, and ends when and as it sees fit.
///
/// Clones are the same token. A [child](Self::child_token) is cancelled with its parent, and by itself alone.
///
/// ```
/// use ipiq::{CancellationToken, CoreId};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let end = CancellationToken::new();
///     let theirs = end.child_token();
///     let worker = ipiq::spawn_on(CoreId::new(1), async move || {
///         let mut rounds = 0;
///         while !theirs.is_cancelled() {
///             rounds += 1;
///             ipiq::yield_now().await;
///         }
///         rounds
///     });
///     // Ends with the token, in the middle of whatever it awaits.
///     let ours = end.clone();
///     let waits = ipiq::spawn_local(async move { ours.run_until_cancelled(std::future::pending::<()>()).await });
///     ipiq::yield_now().await;
///     end.cancel();
///     assert!(worker.await.unwrap() < u64::MAX);
///     assert_eq!(waits.await.unwrap(), None);
/// }
/// ```
///
/// A look is one load. A wait takes a lock, which the token's tasks share; who cancels wakes each of them, and the wake-ups of one core travel as messages, of which the first ends its sleep.
///
/// The interface is that of `tokio_util`'s token. That one works here, too; this one has the same cost with less to depend on.
#[derive(Clone)]
pub struct CancellationToken {
    node: Arc<Node>,
}

struct Node {
    /// Set under the lock.
    cancelled: AtomicBool,
    state: Mutex<State>,
    /// And the place among its children.
    parent: Option<(Arc<Node>, usize)>,
}

/// Empty for good once the node is cancelled.
#[derive(Default)]
struct State {
    children: Slab<Weak<Node>>,
    waiting: Slab<Waker>,
}

impl Node {
    fn new(is_cancelled: bool, parent: Option<(Arc<Self>, usize)>) -> Self {
        Self { cancelled: AtomicBool::new(is_cancelled), state: Mutex::default(), parent }
    }

    /// No foreign code runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cancelled(&self) -> bool {
        // Acquire: what was done before the cancel is seen.
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether it is cancelled; if not, who waits at `place` is woken when it is.
    fn poll(&self, place: &mut Option<usize>, waker: &Waker) -> Poll<()> {
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        if place.is_some_and(|place| self.lock().waiting.get(place).is_some_and(|known| known.will_wake(waker))) {
            return Poll::Pending;
        }
        let waker = waker.clone();
        let mut state = self.lock();
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        match *place {
            Some(place) => {
                let before = std::mem::replace(&mut state.waiting[place], waker);
                drop(state);
                drop(before);
            }
            None => *place = Some(state.waiting.insert(waker)),
        }
        Poll::Pending
    }

    fn leave(&self, place: Option<usize>) {
        let left = place.and_then(|place| self.lock().waiting.try_remove(place));
        drop(left);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        // A long line of parents would be a deep recursion.
        while let Some((node, place)) = parent {
            node.lock().children.try_remove(place);
            parent = Arc::into_inner(node).and_then(|mut node| node.parent.take());
        }
    }
}

impl Default for CancellationToken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CancellationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancellationToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

impl CancellationToken {
    /// One that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self { node: Arc::new(Node::new(false, None)) }
    }

    /// A token that is cancelled when this one is, and that can be cancelled alone.
    #[must_use]
    pub fn child_token(&self) -> Self {
        let mut state = self.node.lock();
        if self.is_cancelled() {
            return Self { node: Arc::new(Node::new(true, None)) };
        }
        let place = state.children.vacant_entry();
        let node = Arc::new(Node::new(false, Some((self.node.clone(), place.key()))));
        place.insert(Arc::downgrade(&node));
        Self { node }
    }

    /// Cancels it, its clones and everything below, for good, and wakes who waits. From any thread.
    pub fn cancel(&self) {
        let mut next = vec![self.node.clone()];
        while let Some(node) = next.pop() {
            let mut state = node.lock();
            // Release: pairs with `is_cancelled`.
            node.cancelled.store(true, Ordering::Release);
            let State { children, waiting } = std::mem::take(&mut *state);
            drop(state);
            next.extend(children.into_iter().filter_map(|(_, child)| child.upgrade()));
            waiting.into_iter().for_each(|(_, waker)| contain(|| waker.wake()));
        }
    }

    /// Whether it is cancelled: one load, for loops that do not await.
    #[must_use]
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.node.is_cancelled()
    }

    /// Waits until it is cancelled. Any number of tasks may wait.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub fn cancelled(&self) -> Cancelled<'_> {
        Cancelled { node: &self.node, place: None }
    }

    /// As [`cancelled`](Self::cancelled), with the token in the future.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub fn cancelled_owned(self) -> CancelledOwned {
        CancelledOwned { node: self.node, place: None }
    }

    /// Runs `future` until it is ready, or the token is cancelled, which drops it: `None`. If it was cancelled before, `future` is not polled.
    ///
    /// # Cancel safety
    ///
    /// That of `future`.
    pub async fn run_until_cancelled<F: Future>(&self, future: F) -> Option<F::Output> {
        if self.is_cancelled() {
            return None;
        }
        let (mut future, mut cancelled) = (pin!(future), self.cancelled());
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => Pin::new(&mut cancelled).poll(cx).map(|()| None),
        })
        .await
    }

    /// A guard whose drop cancels the token, unless it is [disarmed](DropGuard::disarm).
    pub fn drop_guard(self) -> DropGuard {
        DropGuard { token: Some(self) }
    }
}

/// Waits until a token is cancelled, from [`CancellationToken::cancelled`].
#[must_use = "futures do nothing unless polled"]
pub struct Cancelled<'a> {
    node: &'a Node,
    place: Option<usize>,
}

impl fmt::Debug for Cancelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancelled").finish_non_exhaustive()
    }
}

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.node.poll(&mut self.place, cx.waker())
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        self.node.leave(self.place);
    }
}

/// Waits until a token is cancelled, from [`CancellationToken::cancelled_owned`].
#[must_use = "futures do nothing unless polled"]
pub struct CancelledOwned {
    node: Arc<Node>,
    place: Option<usize>,
}

impl fmt::Debug for CancelledOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelledOwned").finish_non_exhaustive()
    }
}

impl Future for CancelledOwned {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.node.poll(&mut this.place, cx.waker())
    }
}

impl Drop for CancelledOwned {
    fn drop(&mut self) {
        self.node.leave(self.place);
    }
}

/// Cancels its token when it is dropped, from [`CancellationToken::drop_guard`].
#[must_use = "a guard that is dropped cancels its token"]
#[derive(Debug)]
pub struct DropGuard {
    /// Until it is disarmed.
    token: Option<CancellationToken>,
}

impl DropGuard {
    /// Gives the token back, not cancelled.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn disarm(mut self) -> CancellationToken {
        self.token.take().expect("a guard is disarmed once")
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.token.iter().for_each(CancellationToken::cancel);
    }
}
