//! Names of tasks, for people who look for the one that stalls.

use alloc::borrow::Cow;
use core::fmt;
use core::future::Future;
use core::panic::Location;
use core::pin::Pin;
use core::task::{Context, Poll};

use ipiq_fabric::port::Port;

use crate::Executor;
use crate::executor::with_current;

/// What a task is called, and where it was given the name. Displayed as `indexer, src/main.rs:12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskName {
    text: Cow<'static, str>,
    location: &'static Location<'static>,
}

impl TaskName {
    pub(crate) fn new(text: impl Into<Cow<'static, str>>, location: &'static Location<'static>) -> Self {
        Self { text: text.into(), location }
    }

    /// The name.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the name was given.
    #[must_use]
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}:{}", self.text, self.location.file(), self.location.line())
    }
}

/// A future under a name.
pub struct Named<F> {
    name: TaskName,
    port: &'static dyn Port,
    future: F,
}

impl<F> fmt::Debug for Named<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Named").field(&self.name).finish()
    }
}

impl<F> Named<F> {
    /// `future` under `name`, on threads whose executor is in the slot of `port`.
    #[track_caller]
    pub fn new(name: impl Into<Cow<'static, str>>, port: &'static dyn Port, future: F) -> Self {
        Self { name: TaskName::new(name, Location::caller()), port, future }
    }
}

impl<F> Drop for Named<F> {
    fn drop(&mut self) {
        with_current(self.port, |executor| executor.drops_named(&self.name));
    }
}

impl<F: Future> Future for Named<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: 1. no field is moved out of the pinned struct.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: 1. `future` is pinned with the struct and has no other access path.
        let mut future = unsafe { Pin::new_unchecked(&mut this.future) };
        let name = &this.name;
        let named = with_current(this.port, |executor| executor.activity().during(name, || future.as_mut().poll(cx)));
        named.unwrap_or_else(|| future.poll(cx))
    }
}

impl Executor {
    /// The innermost name under which the calling code is polled.
    #[must_use]
    pub fn task_name(&self) -> Option<TaskName> {
        self.activity().name().cloned()
    }
}
