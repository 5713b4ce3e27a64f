//! What goes with calls and spawns.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::mem::swap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Polling, Poll};

use ipiq_executor::Executor;
use pin_project_lite::pin_project;

use super::chain::Link;
use crate::current::on_core;

/// No deadline: a point that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// A deadline, of the runtime's clock, and a chain.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) deadline_ns: u64,
    pub(crate) chain: Option<Arc<Link>>,
}

impl Context {
    pub(crate) const EMPTY: Self = Self { deadline_ns: NEVER, chain: None };

    fn is_empty(&self) -> bool {
        self.deadline_ns == NEVER && self.chain.is_none()
    }

    pub(crate) fn has_deadline(&self) -> bool {
        self.deadline_ns != NEVER
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_late(&self) -> bool {
        // [calls D3]
        self.has_deadline() && on_core("deadline", Executor::now_ns) >= self.deadline_ns
    }
}

thread_local! {
    static CURRENT: RefCell<Context> = const { RefCell::new(Context::EMPTY) };
    /// Whether `CURRENT` is anything: all that is looked at where nothing is.
    static IS_SET: Cell<bool> = const { Cell::new(false) };
}

/// Whether there is a context.
#[inline(always)]
pub(crate) fn is_set() -> bool {
    // [calls D2]
    IS_SET.get()
}

/// The current context.
pub(crate) fn current() -> Context {
    if is_set() { CURRENT.with_borrow(Clone::clone) } else { Context::EMPTY }
}

/// Looks at the current context.
pub(crate) fn look<R>(f: impl FnOnce(&Context) -> R) -> R {
    CURRENT.with_borrow(f)
}

/// Until the guard is dropped `context` is the current one, and what was current is in its place.
fn enter(context: &mut Context) -> Entered<'_> {
    exchange(context);
    Entered { context }
}

fn exchange(context: &mut Context) {
    // A thread that ends may have none any more.
    let is_set = CURRENT.try_with(|current| {
        let mut current = current.borrow_mut();
        swap(&mut *current, context);
        !current.is_empty()
    });
    IS_SET.set(is_set.unwrap_or(false));
}

struct Entered<'a> {
    context: &'a mut Context,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // [calls D1]
        exchange(self.context);
    }
}

/// Runs `f` in `context`.
pub(crate) fn within<R>(mut context: Context, f: impl FnOnce() -> R) -> R {
    let _entered = enter(&mut context);
    f()
}

/// Runs `f` in the current context, with the earlier one of `deadline_ns` and its own.
pub(crate) fn until<R>(deadline_ns: u64, f: impl FnOnce() -> R) -> R {
    let _until = Until { before: set_deadline(|current| current.min(deadline_ns)) };
    f()
}

/// Returns the one before.
fn set_deadline(set: impl FnOnce(u64) -> u64) -> u64 {
    let changed = CURRENT.try_with(|current| {
        let mut current = current.borrow_mut();
        let before = current.deadline_ns;
        current.deadline_ns = set(before);
        IS_SET.set(!current.is_empty());
        before
    });
    changed.unwrap_or(NEVER)
}

struct Until {
    before: u64,
}

impl Drop for Until {
    fn drop(&mut self) {
        // [calls D1]
        set_deadline(|_| self.before);
    }
}

pin_project! {
    /// A future that is polled and dropped in a context.
    pub(crate) struct Covered<F> {
        context: Context,
        // Taken out in the context.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Covered<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = enter(this.context);
            // [calls D1]
            this.future.set(None);
        }
    }
}

impl<F> Covered<F> {
    pub(crate) fn new(context: Context, future: F) -> Self {
        Self { context, future: Some(future) }
    }
}

impl<F: Future> Future for Covered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        // [calls D1]
        let _entered = enter(this.context);
        let polled = this.future.as_mut().as_pin_mut().expect("a future is not polled after it was ready").poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled
    }
}
