//! Why there was nothing to be had.

use std::error::Error;
use std::fmt;

/// It was closed, or its other end is gone: what was waited for will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed: what was waited for will not come")
    }
}

impl Error for Closed {}

/// A value that was not sent: it comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T> {
    value: T,
    full: bool,
}

impl<T> SendError<T> {
    pub(super) fn full(value: T) -> Self {
        Self { value, full: true }
    }

    pub(super) fn closed(value: T) -> Self {
        Self { value, full: false }
    }

    /// Whether there was no space, or others wait for it: try later, or await it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether the receiving end is closed or gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.full
    }

    /// The value.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("full", &self.full).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.full { "the channel is full" } else { "the receiving end is closed or gone" })
    }
}

impl<T> Error for SendError<T> {}

/// Why a look found no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TryRecvError {
    pub(super) ended: bool,
}

impl TryRecvError {
    /// Whether a value may still come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.ended
    }

    /// Whether none will come.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ended
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ended { "the channel has ended" } else { "the channel is empty" })
    }
}

impl Error for TryRecvError {}
