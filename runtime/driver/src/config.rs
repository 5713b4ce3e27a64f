//! What a driver is asked for.

/// Which kernel interface a driver uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring; an error where the kernel refuses it.
    Uring,
    /// epoll.
    Epoll,
}

/// How a driver is set up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The kernel interface.
    pub kind: DriverKind,
    /// Submission queue entries of an io_uring, and events taken per `epoll_wait`; rounded up to a power of
    /// two, between 1 and 32768. A bound on one batch, not on the operations in flight.
    pub entries: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { kind: DriverKind::Auto, entries: 1024 }
    }
}

impl Config {
    /// The default configuration with the given kernel interface.
    #[must_use]
    pub fn with_kind(kind: DriverKind) -> Self {
        Self { kind, ..Self::default() }
    }

    pub(crate) fn batch(&self) -> u32 {
        self.entries.clamp(1, 32768).next_power_of_two()
    }
}
