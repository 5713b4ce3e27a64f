//! Where a thread runs, as the kernel sees it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::affinity;
use crate::cpus::list::Ranges;

/// More than the first 39 fields of a thread's `stat` take.
const STAT_BYTES: usize = 1024;
/// Fields between the thread's name and its place.
const FIELDS_BEFORE_PLACE: usize = 36;

/// A thread's claim to run on one CPU, for [`Membarrier::try_heavy_on`](super::Membarrier::try_heavy_on).
///
/// It is checked at every use, and given up for good when the thread is found elsewhere or has ended. Holds a file open from its first use on.
#[derive(Debug)]
pub struct Pinned {
    thread: libc::pid_t,
    cpu: usize,
    stat: PathBuf,
    opened: OnceLock<Option<File>>,
    holds: AtomicBool,
}

/// Why a thread cannot claim to run on one CPU.
#[derive(Debug)]
pub struct NotPinned(Reason);

#[derive(Debug)]
enum Reason {
    Mask(Vec<usize>),
    Elsewhere { mask: usize, place: usize },
    Unreadable(io::Error),
}

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Mask(cpus) => write!(f, "the thread may run on CPUs {}; pin it to one", Ranges(cpus)),
            Reason::Elsewhere { mask, place } => {
                write!(f, "the thread is pinned to CPU {mask} and runs on CPU {place}; was it moved meanwhile?")
            }
            Reason::Unreadable(error) => write!(f, "where the thread runs cannot be read ({error}); is /proc mounted?"),
        }
    }
}

impl std::error::Error for NotPinned {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Reason::Unreadable(error) => Some(error),
            Reason::Mask(_) | Reason::Elsewhere { .. } => None,
        }
    }
}

impl Pinned {
    /// The calling thread's claim, if its mask has one CPU and it runs there.
    ///
    /// # Errors
    ///
    /// [`NotPinned`]: the thread may run on several CPUs, or a sandbox hides where it runs.
    pub fn current() -> Result<Self, NotPinned> {
        let unreadable = |error| NotPinned(Reason::Unreadable(error));
        // [membarrier P1]
        let mask = affinity::get().map_err(unreadable)?;
        let [cpu] = mask[..] else { return Err(NotPinned(Reason::Mask(mask))) };
        // By the numbers of this `/proc`, whatever namespace it belongs to; and good on any thread.
        let stat = Path::new("/proc").join(fs::read_link("/proc/thread-self").map_err(unreadable)?).join("stat");
        let text = fs::read(&stat).map_err(unreadable)?;
        let place = place_in(&text).ok_or_else(|| unreadable(io::ErrorKind::InvalidData.into()))?;
        if place != cpu {
            return Err(NotPinned(Reason::Elsewhere { mask: cpu, place }));
        }
        // SAFETY: 1. a question without pointers.
        let thread = unsafe { libc::gettid() };
        Ok(Self { thread, cpu, stat, opened: OnceLock::new(), holds: AtomicBool::new(true) })
    }

    /// The claimed CPU.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// The id of the thread that claims it.
    pub(crate) fn thread(&self) -> libc::pid_t {
        self.thread
    }

    /// Whether the claim has been right each time when it mattered.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    /// Asks the kernel; gives the claim up if it is wrong.
    pub(super) fn is_in_place(&self) -> bool {
        let there = self.place() == Some(self.cpu);
        if !there {
            // [membarrier O2] relaxed: who reads the old value asks the kernel too.
            self.holds.store(false, Ordering::Relaxed);
        }
        there
    }

    fn place(&self) -> Option<usize> {
        let stat = self.opened.get_or_init(|| File::open(&self.stat).ok()).as_ref()?;
        let mut text = [0; STAT_BYTES];
        let length = stat.read_at(&mut text, 0).ok()?;
        place_in(&text[..length])
    }
}

/// The CPU in the text of a `stat` file. The thread's name stands in parentheses, and may contain some, and spaces.
fn place_in(stat: &[u8]) -> Option<usize> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    text.split_ascii_whitespace().nth(FIELDS_BEFORE_PLACE)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_found_behind_any_name() {
        let fields: String = (0..36).map(|_| "1 ").collect();
        for name in ["kv", "a) b (c", ") 1 2 3"] {
            assert_eq!(place_in(format!("17 ({name}) {fields}5 0 0\n").as_bytes()), Some(5), "{name}");
        }
        assert_eq!(place_in(b""), None);
        assert_eq!(place_in(b"17 (kv) S 1 2"), None);
    }
}
