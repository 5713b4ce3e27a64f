//! Why there is no channel.

use std::error::Error;
use std::fmt;

use ipiq_fabric::CoreId;

/// A mesh has no such pair, or its end was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPair {
    pub(super) source: CoreId,
    pub(super) target: CoreId,
}

impl NoPair {
    /// The core that would send.
    #[must_use]
    pub fn sender(&self) -> CoreId {
        self.source
    }

    /// The core that would receive.
    #[must_use]
    pub fn receiver(&self) -> CoreId {
        self.target
    }
}

impl fmt::Display for NoPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mesh has no channel from {} to {}", self.source, self.target)
    }
}

impl Error for NoPair {}

/// A core did not join a mesh: it has left, or shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinMeshError {
    pub(super) core: CoreId,
}

impl JoinMeshError {
    /// Which core.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }
}

impl fmt::Display for JoinMeshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} did not join the mesh: it has left, or shuts down", self.core)
    }
}

impl Error for JoinMeshError {}
