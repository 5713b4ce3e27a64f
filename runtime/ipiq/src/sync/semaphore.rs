//! Permits of one core.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::error::Closed;
use super::waiters::{Left, Line, call, discard};

/// Permits that tasks of one core take and give back, in the order in which they came.
///
/// ```
/// use std::rc::Rc;
///
/// use ipiq::sync::Semaphore;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let connections = Rc::new(Semaphore::new(2));
///     for _ in 0..5 {
///         let permit = connections.clone().acquire_owned().await.unwrap();
///         ipiq::spawn_local(async move {
///             ipiq::yield_now().await;
///             drop(permit);
///         });
///     }
/// }
/// ```
pub struct Semaphore {
    state: RefCell<State>,
}

struct State {
    available: usize,
    closed: bool,
    line: Line<Called>,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Called {
    Granted(usize),
    Closed,
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("available", &self.available_permits()).finish_non_exhaustive()
    }
}

impl Semaphore {
    /// A semaphore with `permits` permits.
    #[must_use]
    pub const fn new(permits: usize) -> Self {
        Self { state: RefCell::new(State { available: permits, closed: false, line: Line::new() }) }
    }

    /// How many permits could be taken now, if nobody waited.
    #[must_use]
    pub fn available_permits(&self) -> usize {
        self.state.borrow().available
    }

    /// How many tasks wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.borrow().line.waiting()
    }

    /// Takes a permit, when one is free and nobody came before.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the semaphore is closed, also meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future has taken nothing, and its place goes to the next; a task that waits again waits behind all others.
    pub fn acquire(&self) -> Acquire<'_> {
        self.acquire_many(1)
    }

    /// Takes `permits` permits at once, when so many are free and nobody came before. For more than there will ever be it waits for ever, and all others behind it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_many(&self, permits: usize) -> Acquire<'_> {
        Acquire { turn: Turn { semaphore: self, permits, key: None } }
    }

    /// Takes a permit that owns its semaphore, to be moved into a task.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_owned(self: Rc<Self>) -> Result<OwnedPermit, Closed> {
        let permit = self.acquire().await?;
        permit.forget();
        Ok(OwnedPermit { semaphore: self })
    }

    /// Takes a permit now, unless none is free, others wait, or the semaphore is closed.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.try_acquire_many(1)
    }

    /// Takes `permits` permits now, as [`try_acquire`](Self::try_acquire) does.
    pub fn try_acquire_many(&self, permits: usize) -> Option<Permit<'_>> {
        let taken = self.state.borrow_mut().try_take(permits);
        (taken == Some(Ok(()))).then(|| Permit { semaphore: self, permits })
    }

    /// Adds permits.
    ///
    /// # Panics
    ///
    /// If there were more than [`usize::MAX`].
    pub fn add_permits(&self, permits: usize) {
        {
            let mut state = self.state.borrow_mut();
            state.available = state.available.checked_add(permits).expect("a semaphore counts up to `usize::MAX`");
        }
        self.grant();
    }

    /// Takes up to `permits` of the free permits away for good; returns how many.
    pub fn forget_permits(&self, permits: usize) -> usize {
        let mut state = self.state.borrow_mut();
        let forgotten = permits.min(state.available);
        state.available -= forgotten;
        forgotten
    }

    /// Ends every wait, and lets none begin.
    pub fn close(&self) {
        self.state.borrow_mut().closed = true;
        loop {
            let waker = self.state.borrow_mut().line.call_first(Called::Closed);
            match waker {
                Some(waker) => call(waker),
                None => return,
            }
        }
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// [sync W1]
    fn grant(&self) {
        loop {
            // [sync W1] one at a time: whoever is called may come back here.
            let waker = self.state.borrow_mut().grant_first();
            match waker {
                Some(waker) => call(waker),
                None => return,
            }
        }
    }
}

impl State {
    /// `None`: wait.
    fn try_take(&mut self, permits: usize) -> Option<Result<(), Closed>> {
        if self.closed {
            return Some(Err(Closed));
        }
        // [sync W1] not past those in line.
        if self.line.waiting() > 0 || self.available < permits {
            return None;
        }
        self.available -= permits;
        Some(Ok(()))
    }

    fn grant_first(&mut self) -> Option<Waker> {
        if self.closed {
            // Those in line are about to be told.
            return None;
        }
        let need = self.line.first_need()?;
        self.available = self.available.checked_sub(need)?;
        self.line.call_first(Called::Granted(need))
    }
}

/// A place in line, or the wish for one.
struct Turn<'a> {
    semaphore: &'a Semaphore,
    permits: usize,
    key: Option<usize>,
}

impl Turn<'_> {
    /// The outcome, if it is there.
    fn look(&mut self, state: &mut State) -> Option<Result<(), Closed>> {
        let Some(key) = self.key else { return state.try_take(self.permits) };
        if !state.line.is_called(key) {
            return None;
        }
        self.key = None;
        match state.line.leave(key) {
            Left::Called(Called::Granted(_)) => Some(Ok(())),
            Left::Called(Called::Closed) => Some(Err(Closed)),
            Left::InLine(_) => unreachable!("it was called"),
        }
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Result<(), Closed>> {
        {
            let state = &mut *self.semaphore.state.borrow_mut();
            if let Some(outcome) = self.look(state) {
                return Poll::Ready(outcome);
            }
            if self.key.is_some_and(|key| state.line.knows(key, waker)) {
                return Poll::Pending;
            }
        }
        // [sync W2] outside of the borrow; what it runs may change everything.
        let waker = waker.clone();
        let (outcome, old) = {
            let state = &mut *self.semaphore.state.borrow_mut();
            match (self.look(state), self.key) {
                (Some(outcome), _) => (Poll::Ready(outcome), Some(waker)),
                (None, Some(key)) => (Poll::Pending, state.line.keep(key, waker)),
                (None, None) => {
                    self.key = Some(state.line.join(self.permits, waker));
                    (Poll::Pending, None)
                }
            }
        };
        old.into_iter().for_each(discard);
        outcome
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let left = self.semaphore.state.borrow_mut().line.leave(key);
        match left {
            // [sync W3]
            Left::Called(Called::Granted(permits)) => self.semaphore.add_permits(permits),
            Left::Called(Called::Closed) => {}
            Left::InLine(waker) => {
                // [sync W3] those behind may need less.
                self.semaphore.grant();
                discard(waker);
            }
        }
    }
}

/// A task's wait for permits: see [`Semaphore::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'a> {
    turn: Turn<'a>,
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("permits", &self.turn.permits).finish_non_exhaustive()
    }
}

impl<'a> Future for Acquire<'a> {
    type Output = Result<Permit<'a>, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Turn { semaphore, permits, .. } = self.turn;
        self.turn.poll(cx.waker()).map(|outcome| outcome.map(|()| Permit { semaphore, permits }))
    }
}

/// Permits of a [`Semaphore`], given back when this is dropped.
#[must_use = "it is given back at once"]
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    permits: usize,
}

impl Permit<'_> {
    /// How many.
    #[must_use]
    pub fn permits(&self) -> usize {
        self.permits
    }

    /// Lets go of it without giving it back.
    pub fn forget(mut self) {
        self.permits = 0;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.semaphore.add_permits(self.permits);
        }
    }
}

/// A permit that owns its [`Semaphore`], given back when this is dropped.
#[must_use = "it is given back at once"]
#[derive(Debug)]
pub struct OwnedPermit {
    semaphore: Rc<Semaphore>,
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        self.semaphore.add_permits(1);
    }
}
