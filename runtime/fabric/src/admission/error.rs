//! Why a seat is not given again.

use core::fmt;

/// Why a core cannot come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitError {
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Present,
    Kept,
    Unheld,
    Unsettled,
}

impl AdmitError {
    pub(super) fn present() -> Self {
        Self { cause: Cause::Present }
    }

    pub(super) fn kept() -> Self {
        Self { cause: Cause::Kept }
    }

    pub(super) fn unheld() -> Self {
        Self { cause: Cause::Unheld }
    }

    pub(super) fn unsettled() -> Self {
        Self { cause: Cause::Unsettled }
    }

    /// Whether the core has not left.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.cause == Cause::Present
    }

    /// Whether the core left with calls under way: it cannot come back ever.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.cause == Cause::Kept
    }
}

impl fmt::Display for AdmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.cause {
            Cause::Present => "the core has not left",
            Cause::Kept => "the core left with calls under way: its seat is not given again",
            Cause::Unheld => "a core runs that the stop does not hold: stop all of them",
            Cause::Unsettled => "a core panicked while it settled with the one that has left: try again",
        })
    }
}

impl core::error::Error for AdmitError {}
