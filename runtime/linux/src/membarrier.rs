//! The heavy half of the asymmetric fence: `membarrier(PRIVATE_EXPEDITED)`.

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The system call that makes every running thread of the process execute a full fence.
#[derive(Clone, Copy, Debug)]
pub struct Membarrier(());

/// Why this process has no `membarrier`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    reason: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "membarrier is unavailable: {}", self.reason)
    }
}

impl std::error::Error for Unavailable {}

/// Since 2024 kernels serialise expedited fences of all processes on one mutex: a core that found it taken would sleep in the
/// kernel where nobody can wake it. So one at a time of this process tries.
static BUSY: AtomicBool = AtomicBool::new(false);
static ISSUED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

fn membarrier(command: libc::c_int) -> io::Result<libc::c_long> {
    // SAFETY: 1. the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Membarrier {
    /// Registers the process, once; later calls return the first one's answer.
    ///
    /// Call it before the process has threads: with several, the kernel waits tens of milliseconds for all of them.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] with the reason: an old kernel, or a sandbox that refuses the call.
    pub fn register() -> Result<Self, Unavailable> {
        static ANSWER: OnceLock<Result<Membarrier, Unavailable>> = OnceLock::new();
        ANSWER.get_or_init(Self::probe).clone()
    }

    fn probe() -> Result<Self, Unavailable> {
        let unavailable = |what: &str| Unavailable { reason: what.to_owned() };
        let commands = membarrier(libc::MEMBARRIER_CMD_QUERY).map_err(|error| unavailable(&error.to_string()))?;
        let wanted = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED | libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
        if commands & libc::c_long::from(wanted) != libc::c_long::from(wanted) {
            return Err(unavailable("this kernel has no private expedited fence"));
        }
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED).map_err(|error| unavailable(&error.to_string()))?;
        // A sandbox may let the registration through and refuse the fence.
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED).map_err(|error| unavailable(&error.to_string()))?;
        Ok(Self(()))
    }

    /// Makes every other running thread of the process execute a full fence; `false`, at once, if another thread of it is in the
    /// middle of one or the kernel refuses.
    #[must_use]
    pub fn try_heavy(self) -> bool {
        if BUSY.swap(true, Ordering::Acquire) {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let result = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        BUSY.store(false, Ordering::Release);
        // Short of memory, or a sandbox that closed after the start: the core that asked stays awake.
        let counter = if result.is_ok() { &ISSUED } else { &REFUSED };
        counter.fetch_add(1, Ordering::Relaxed);
        result.is_ok()
    }

    /// Fences that this process has issued.
    #[must_use]
    pub fn issued() -> u64 {
        ISSUED.load(Ordering::Relaxed)
    }

    /// Tries that found another thread in the middle of a fence, or that the kernel refused.
    #[must_use]
    pub fn refused() -> u64 {
        REFUSED.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registration_gives_the_same_answer_twice_and_a_fence_is_counted() {
        let Ok(membarrier) = Membarrier::register() else {
            assert!(Membarrier::register().is_err());
            return;
        };
        let before = Membarrier::issued();
        while !membarrier.try_heavy() {}
        assert!(Membarrier::issued() > before);
    }
}
