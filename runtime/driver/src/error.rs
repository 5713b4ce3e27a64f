//! Why a driver could not be made.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A driver could not be made; says which step the kernel refused and what to do next.
#[derive(Debug)]
pub struct DriverError {
    step: &'static str,
    source: io::Error,
}

impl DriverError {
    pub(crate) fn new(step: &'static str, source: impl Into<io::Error>) -> Self {
        Self { step, source: source.into() }
    }

    fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }

    /// Whether a policy forbids it: a seccomp filter, or the `kernel.io_uring_disabled` sysctl.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        self.is(Errno::PERM) || self.is(Errno::ACCESS)
    }

    /// Whether the kernel is too old or built without it.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.is(Errno::NOSYS) || self.is(Errno::INVAL) || self.source.kind() == io::ErrorKind::Unsupported
    }

    /// Whether memory, the locked-memory limit or the file descriptors of the process ran out.
    #[must_use]
    pub fn is_out_of_resources(&self) -> bool {
        self.is(Errno::NOMEM) || self.is(Errno::MFILE) || self.is(Errno::NFILE)
    }

    fn advice(&self) -> &'static str {
        if self.is_permission_denied() {
            "a seccomp filter or kernel.io_uring_disabled forbids it: allow it, or choose DriverKind::Auto or Epoll"
        } else if self.is_unsupported() {
            "the kernel lacks it (io_uring needs Linux 5.19): choose DriverKind::Auto or Epoll"
        } else if self.is(Errno::NOMEM) {
            "raise RLIMIT_MEMLOCK, ask for fewer entries, or choose DriverKind::Auto or Epoll"
        } else if self.is_out_of_resources() {
            "raise RLIMIT_NOFILE or use fewer cores"
        } else {
            "see the source error"
        }
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.step, self.source, self.advice())
    }
}

impl std::error::Error for DriverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<DriverError> for io::Error {
    fn from(error: DriverError) -> Self {
        Self::new(error.source.kind(), error)
    }
}
