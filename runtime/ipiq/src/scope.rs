//! Futures that run side by side and borrow.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{FuturesUnordered, Stream};
use ipiq_executor::with_current;
use ipiq_fabric::{PanicPayload, catch, contain};
use ipiq_linux::port::LinuxPort;

type Child<'env> = Pin<Box<dyn Future<Output = ()> + 'env>>;

/// How often a poll of a scope looks at what was spawned before it gives way.
const LOOKS: usize = 64;

/// Runs `body` and what it [spawns](Scope::spawn) side by side inside the calling task, and ends when all have. What is spawned may borrow whatever outlives the scope.
///
/// All of it is one task for the core: it is polled in turn, and nothing of it goes on when the scope's future is dropped. Only what was woken is polled, and one that spawns for ever
/// does not keep the core from others.
///
/// ```
/// use ipiq::{CoreId, scope};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let words = vec![String::from("much"), String::from("more")];
///     let letters = scope(async |scope| {
///         let first = scope.spawn(async { words[0].len() }); // Borrows `words`.
///         let second = scope.spawn(async {
///             ipiq::yield_now().await;
///             words[1].len()
///         });
///         first.await + second.await
///     });
///     assert_eq!(letters.await, 8);
///     drop(words);
/// }
/// ```
///
/// The idea is that of [`std::thread::scope`], for futures.
///
/// # Cancel safety
///
/// Dropping the future drops `body` and everything that it has spawned; panics of the destructors of what was spawned reach nobody.
///
/// # Panics
///
/// When `body` panics, which drops everything that it has spawned; and, when all have ended, with the panic of something spawned whose handle was not awaited.
pub async fn scope<'env, R>(body: impl AsyncFnOnce(Scope<'env>) -> R) -> R {
    let scope = Scope { shared: Rc::default() };
    // What is spawned may hold the scope that holds it.
    let _end = End { scope: &scope };
    let mut body = pin!(body(scope.clone()));
    let mut children = Children(FuturesUnordered::new());
    let mut value = None;
    let value = poll_fn(|cx| {
        if value.is_none()
            && let Poll::Ready(ready) = body.as_mut().poll(cx)
        {
            value = Some(ready);
        }
        for _ in 0..LOOKS {
            children.0.extend(scope.shared.spawned.borrow_mut().drain(..));
            match Pin::new(&mut children.0).poll_next(cx) {
                Poll::Ready(None) if scope.shared.spawned.borrow().is_empty() => {
                    return value.take().map_or(Poll::Pending, Poll::Ready);
                }
                Poll::Pending if scope.shared.spawned.borrow().is_empty() => return Poll::Pending,
                Poll::Ready(_) | Poll::Pending => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    if let Some(payload) = scope.shared.panic.take() {
        std::panic::resume_unwind(payload);
    }
    value
}

/// What a [`scope`] spawns with. Clones are the same scope; what it spawns may use one to spawn more.
#[derive(Clone)]
pub struct Scope<'env> {
    shared: Rc<Shared<'env>>,
}

#[derive(Default)]
struct Shared<'env> {
    /// Not polled yet.
    spawned: RefCell<Vec<Child<'env>>>,
    /// The first that nobody awaited.
    panic: Cell<Option<PanicPayload>>,
    ended: Cell<bool>,
}

impl Shared<'_> {
    fn keep_first(&self, panic: PanicPayload) {
        if let Some(first) = self.panic.replace(Some(panic))
            && let Some(later) = self.panic.replace(Some(first))
        {
            // It may panic itself, and who comes here may be unwinding.
            contain(|| drop(later));
        }
    }
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

impl<'env> Scope<'env> {
    /// Runs `future` beside the scope's body. Dropping the handle detaches it: the scope waits for it all the same.
    ///
    /// On a scope that has ended it is dropped and never polled.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> ScopedHandle<'env, F::Output>
    where
        F: Future + 'env,
        F::Output: 'env,
    {
        let spawned_at = Location::caller();
        let result = Rc::new(Outcome { value: Cell::new(None), waker: Cell::new(None) });
        let (told, shared) = (result.clone(), Rc::downgrade(&self.shared));
        let child = Box::pin(async move {
            let outcome = caught(future, spawned_at).await;
            if Rc::strong_count(&told) > 1 {
                return told.tell(outcome);
            }
            // Nobody awaits it.
            if let Err(panic) = outcome.and_then(|value| catch(|| drop(value)))
                && let Some(shared) = shared.upgrade()
            {
                shared.keep_first(panic);
            }
        });
        if !self.shared.ended.get() {
            self.shared.spawned.borrow_mut().push(child);
        }
        ScopedHandle { outcome: result, shared: self.shared.clone() }
    }
}

/// The future's value, or what it, or its destructor, panicked with.
async fn caught<F: Future>(future: F, spawned_at: &'static Location<'static>) -> Result<F::Output, PanicPayload> {
    let mut future = pin!(Some(future));
    let outcome = poll_fn(|cx| {
        let Some(running) = future.as_mut().as_pin_mut() else { return Poll::Pending };
        match catch(|| poll_part(running, cx, spawned_at)) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await;
    match (outcome, catch(|| future.set(None))) {
        (outcome, Ok(())) => outcome,
        (Err(first), Err(later)) => {
            contain(|| drop(later));
            Err(first)
        }
        (Ok(unwanted), Err(panic)) => {
            contain(|| drop(unwanted));
            Err(panic)
        }
    }
}

/// Whoever asks what the core does is told where it was spawned.
fn poll_part<F: Future>(
    mut future: Pin<&mut F>,
    cx: &mut Context<'_>,
    spawned_at: &'static Location<'static>,
) -> Poll<F::Output> {
    let part = || future.as_mut().poll(cx);
    with_current(LinuxPort::thread(), |executor| executor.during_part(spawned_at, part))
        .unwrap_or_else(|| future.as_mut().poll(cx))
}

/// What is spawned and was polled.
struct Children<'env>(FuturesUnordered<Child<'env>>);

impl Drop for Children<'_> {
    fn drop(&mut self) {
        // A set that is dropped leaks what comes after one that panics.
        for child in std::mem::take(&mut self.0) {
            contain(|| drop(child));
        }
    }
}

struct Outcome<T> {
    value: Cell<Option<Result<T, PanicPayload>>>,
    waker: Cell<Option<Waker>>,
}

impl<T> Outcome<T> {
    fn tell(&self, outcome: Result<T, PanicPayload>) {
        self.value.set(Some(outcome));
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// Awaits the value of a future that a [`Scope`] has spawned.
///
/// # Cancel safety
///
/// Awaiting `&mut handle` is cancel safe.
///
/// # Panics
///
/// When awaited, with the panic of the future.
pub struct ScopedHandle<'env, T> {
    outcome: Rc<Outcome<T>>,
    shared: Rc<Shared<'env>>,
}

impl<T> fmt::Debug for ScopedHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedHandle").finish_non_exhaustive()
    }
}

impl<T> Future for ScopedHandle<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.outcome.value.take() {
            Some(Ok(value)) => Poll::Ready(value),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => {
                self.outcome.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for ScopedHandle<'_, T> {
    fn drop(&mut self) {
        if let Some(Err(panic)) = self.outcome.value.take() {
            self.shared.keep_first(panic);
        }
    }
}

/// Drops what was spawned and never polled.
struct End<'a, 'env> {
    scope: &'a Scope<'env>,
}

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        self.scope.shared.ended.set(true);
        // Outside the borrow: their destructors may spawn, in vain.
        for child in self.scope.shared.spawned.take() {
            contain(|| drop(child));
        }
    }
}
