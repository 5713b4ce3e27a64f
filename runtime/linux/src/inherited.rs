//! What a thread has from the one that starts it: the CPUs that it may run on, and the signals that it blocks.
//!
//! A core's thread is pinned, and may block what its program likes. What it starts in the middle of a task, such as the thread that goes through the phases of the end,
//! serves the whole process and must have neither.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use crate::affinity;

struct Inherited {
    /// `None`: a sandbox does not tell.
    cpus: Option<Vec<usize>>,
    blocked: libc::sigset_t,
}

static REMEMBERED: OnceLock<Inherited> = OnceLock::new();

/// Remembers what the calling thread would pass on, which runs no core. The first call of the process counts.
pub fn remember() {
    REMEMBERED.get_or_init(|| Inherited { cpus: affinity::get().ok(), blocked: blocked() });
}

/// Gives the calling thread what was remembered; nothing if nothing was.
///
/// # Errors
///
/// The kernel's: none of the CPUs is allowed any more, or a sandbox refuses the call. The signals are restored all the same.
///
/// ```
/// ipiq_linux::inherited::remember();
/// let cpus = ipiq_linux::cpus::allowed().cpus;
/// let pinned = std::thread::spawn(move || {
///     ipiq_linux::pin::pin_current(cpus[0])?;
///     let free = std::thread::spawn(|| ipiq_linux::inherited::restore().map(|()| ipiq_linux::cpus::allowed().cpus));
///     assert_eq!(free.join().unwrap().unwrap(), cpus);
///     Ok::<(), ipiq_linux::pin::PinError>(())
/// });
/// pinned.join().unwrap()?;
/// # Ok::<(), ipiq_linux::pin::PinError>(())
/// ```
pub fn restore() -> io::Result<()> {
    let Some(Inherited { cpus, blocked }) = REMEMBERED.get() else { return Ok(()) };
    // SAFETY: 1. a whole set. It cannot fail: the request is one that there is.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, blocked, ptr::null_mut()) };
    cpus.as_ref().map_or(Ok(()), |cpus| affinity::set(cpus))
}

/// The signals that the calling thread blocks.
fn blocked() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: 1. `set` is valid for a write.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: 1. `set` is valid for a write; without a new set nothing changes. Where it failed the set would be empty.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr()) };
    // SAFETY: 1. the first call has filled it.
    unsafe { set.assume_init() }
}
