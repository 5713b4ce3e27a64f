#![doc = include_str!("README.md")]

mod pinned;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

pub use pinned::{NotPinned, Pinned};

/// The system call that makes other threads of the process execute a full fence.
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

/// One fence of this process at a time.
static BUSY: AtomicBool = AtomicBool::new(false);
static REACHES_ONE: AtomicBool = AtomicBool::new(false);
static ISSUED: AtomicU64 = AtomicU64::new(0);
static TARGETED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static STRAYED: AtomicU64 = AtomicU64::new(0);

/// `MEMBARRIER_CMD_FLAG_CPU`, which `libc` does not have.
const FLAG_CPU: libc::c_uint = 1;

fn membarrier(command: libc::c_int, flags: libc::c_uint, cpu: libc::c_int) -> io::Result<libc::c_long> {
    // SAFETY: 1. the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn fence_everyone() -> io::Result<()> {
    // [membarrier E2]
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0).map(drop)
}

fn fence_one(cpu: libc::c_int) -> io::Result<()> {
    // [membarrier O3]
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, FLAG_CPU, cpu).map(drop)
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
        let refused = |error: io::Error| unavailable(&error.to_string());
        // [membarrier R1]
        let commands = membarrier(libc::MEMBARRIER_CMD_QUERY, 0, 0).map_err(refused)?;
        let wanted = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED | libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
        if commands & libc::c_long::from(wanted) != libc::c_long::from(wanted) {
            return Err(unavailable("this kernel has no private expedited fence"));
        }
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0).map_err(refused)?;
        fence_everyone().map_err(refused)?;
        // [membarrier R2] relaxed: who reads it wants to know whether to try, and may be refused.
        REACHES_ONE.store(Self::probe_one(commands), Ordering::Relaxed);
        Ok(Self(()))
    }

    fn probe_one(commands: libc::c_long) -> bool {
        let wanted = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ | libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;
        commands & libc::c_long::from(wanted) == libc::c_long::from(wanted)
            && fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| is_recent(&release))
            && membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0).is_ok()
            && fence_one(0).is_ok()
    }

    /// Makes every other running thread of the process execute a full fence; `false`, at once, if another thread of it is in the
    /// middle of one or the kernel refuses.
    #[must_use]
    pub fn try_heavy(self) -> bool {
        // [membarrier E1]
        Turn::take().is_some_and(|turn| turn.everyone())
    }

    /// Makes one other thread, if it is running, execute a full fence, and the caller too; `false` as for [`try_heavy`](Self::try_heavy).
    ///
    /// Interrupts no other CPU where the kernel has such a fence and `target` is where it claims to be; does what
    /// [`try_heavy`](Self::try_heavy) does otherwise. Makes two system calls, and opens a file the first time.
    ///
    /// ```
    /// use ipiq_linux::membarrier::{Membarrier, Pinned};
    ///
    /// # let cpu = ipiq_linux::cpus::allowed().cpus[0];
    /// # let Ok(membarrier) = Membarrier::register() else { return };
    /// let (say, claims) = std::sync::mpsc::channel();
    /// let target = std::thread::spawn(move || {
    ///     ipiq_linux::pin::pin_current(cpu).unwrap();
    ///     say.send(Pinned::current().unwrap()).unwrap();
    /// });
    /// let pinned = claims.recv().unwrap();
    /// while !membarrier.try_heavy_on(&pinned) {}
    /// # target.join().unwrap();
    /// ```
    #[must_use]
    pub fn try_heavy_on(self, target: &Pinned) -> bool {
        // [membarrier O1] pairs with the scheduler's fence before the target runs in a new place; the look at the place is a system
        // call, and entering the kernel orders nothing.
        fence(Ordering::SeqCst);
        Turn::take().is_some_and(|turn| turn.one(target) || turn.everyone())
    }

    /// Whether a fence of one thread is to be had: not on an old kernel, nor where a sandbox refuses it.
    #[must_use]
    pub fn reaches_one(self) -> bool {
        REACHES_ONE.load(Ordering::Relaxed)
    }

    /// Fences that this process has issued, of either kind.
    #[must_use]
    pub fn issued() -> u64 {
        ISSUED.load(Ordering::Relaxed)
    }

    /// Those of them that went to one CPU.
    #[must_use]
    pub fn targeted() -> u64 {
        TARGETED.load(Ordering::Relaxed)
    }

    /// Tries that found another thread in the middle of a fence, or that the kernel refused.
    #[must_use]
    pub fn refused() -> u64 {
        REFUSED.load(Ordering::Relaxed)
    }

    /// Targets that were not where they had claimed to be, so that everyone was fenced instead.
    #[must_use]
    pub fn strayed() -> u64 {
        STRAYED.load(Ordering::Relaxed)
    }
}

/// The right to fence; one thread has it at a time.
struct Turn(());

impl Turn {
    fn take() -> Option<Self> {
        if BUSY.swap(true, Ordering::Acquire) {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(()))
    }

    fn everyone(&self) -> bool {
        let granted = fence_everyone().is_ok();
        // Short of memory, or a sandbox that closed after the start: the core that asked stays awake.
        let counter = if granted { &ISSUED } else { &REFUSED };
        counter.fetch_add(1, Ordering::Relaxed);
        granted
    }

    /// `false`: not to be had for this target.
    fn one(&self, target: &Pinned) -> bool {
        if !REACHES_ONE.load(Ordering::Relaxed) || !target.holds() {
            return false;
        }
        // [membarrier O2]
        if !target.is_in_place() {
            STRAYED.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if fence_one(target.cpu() as libc::c_int).is_err() {
            REACHES_ONE.store(false, Ordering::Relaxed);
            return false;
        }
        ISSUED.fetch_add(1, Ordering::Relaxed);
        TARGETED.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

/// Whether a kernel of this release executes a full fence in the interrupt of the fence of one.
fn is_recent(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 11)
}
