//! Why a send was refused.

use core::fmt;

/// The target has left the fabric; what was sent comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Gone<T>(pub T);

impl<T> fmt::Debug for Gone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gone(..)")
    }
}

impl<T> fmt::Display for Gone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the target core has left: send to a core that runs, or stop sending")
    }
}

impl<T> core::error::Error for Gone<T> {}

/// A refused send; what was sent comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<T> {
    /// The ring is full, or messages wait that came first.
    Full(T),
    /// The target has left the fabric.
    Gone(T),
}

impl<T> SendError<T> {
    /// What was to be sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Gone(value) => value,
        }
    }

    /// Whether a later try may succeed.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() { "Full(..)" } else { "Gone(..)" })
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the ring to the target core is full: await space and send again"),
            Self::Gone(_) => Gone(()).fmt(f),
        }
    }
}

impl<T> core::error::Error for SendError<T> {}
