//! Installing and restoring the actions of signals.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::InterruptError;
use super::{handler, thread};

/// A signal that has our handler.
struct Entry {
    users: usize,
    before: libc::sigaction,
    /// A thread has one of ours pending and blocks it: it is to meet our handler whenever it comes.
    kept: bool,
}

static INSTALLED: Mutex<BTreeMap<c_int, Entry>> = Mutex::new(BTreeMap::new());

fn installed() -> MutexGuard<'static, BTreeMap<c_int, Entry>> {
    // Nothing panics while it is held.
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [interrupt P2], [interrupt P3] and [interrupt P6], for one more user of `signal`, which the calling thread does not block.
pub(super) fn acquire(signal: c_int) -> Result<(), InterruptError> {
    let mut installed = installed();
    let refused = |error| InterruptError::refused(signal, error);
    let mut current = change(signal, None).map_err(refused)?;
    if let Some(entry) = installed.get_mut(&signal) {
        if is_function(&current) && (is_ours(&current) || calls_ours(signal)) {
            entry.users += 1;
            return Ok(());
        }
        // What was asked may have taken itself away.
        current = change(signal, None).map_err(refused)?;
    }
    if current.sa_sigaction == libc::SIG_IGN {
        // [interrupt P2]
        return Err(InterruptError::ignored(signal));
    }
    let before = install(signal, current).map_err(refused)?;
    let entry = installed.entry(signal).or_insert(Entry { users: 0, before, kept: false });
    entry.users += 1;
    entry.before = before;
    Ok(())
}

/// [interrupt P4], for one user less.
pub(super) fn release(signal: c_int) {
    let mut installed = installed();
    let Some(entry) = installed.get_mut(&signal) else { return };
    entry.users -= 1;
    if entry.users > 0 || entry.kept {
        return;
    }
    let before = entry.before;
    // [interrupt P4] errors are impossible: both calls have succeeded for this signal.
    if change(signal, None).is_ok_and(|current| is_ours(&current)) {
        let _ = change(signal, Some(&before));
        installed.remove(&signal);
    }
}

/// [interrupt C2]: our handler stays for good, for a signal that nobody can take back. It has a user.
pub(super) fn keep(signal: c_int) {
    if let Some(entry) = installed().get_mut(&signal) {
        entry.kept = true;
    }
}

fn is_function(action: &libc::sigaction) -> bool {
    action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == handler::address()
}

/// [interrupt P6]: whether what handles `signal`, a function, calls ours. Ours over that would have them call each other.
fn calls_ours(signal: c_int) -> bool {
    handler::is_reached_by(|this_thread| thread::tgkill(this_thread, signal))
}

/// Installs our handler over `current`; returns what it has replaced.
fn install(signal: c_int, mut current: libc::sigaction) -> io::Result<libc::sigaction> {
    loop {
        // [interrupt P3]
        handler::set_previous(signal, &current);
        let mut ours = current;
        ours.sa_sigaction = handler::address();
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        // [interrupt P3]
        let replaced = change(signal, Some(&ours))?;
        if replaced.sa_sigaction == current.sa_sigaction {
            return Ok(replaced);
        }
        if is_ours(&replaced) {
            // Ours, of the round before: nobody came in between this time.
            return Ok(current);
        }
        // Somebody else has installed one in between: that is the previous one.
        current = replaced;
    }
}

/// Whether what a signal does is its default now: no handler is installed, and it is not ignored.
#[must_use]
pub fn is_default(signal: c_int) -> bool {
    change(signal, None).is_ok_and(|action| action.sa_sigaction == libc::SIG_DFL)
}

/// `sigaction`: sets the action of `signal`, if there is a new one, and returns the old one.
fn change(signal: c_int, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let mut old = MaybeUninit::uninit();
    // SAFETY: 1. `new` is null or a whole action, whose handler is one that was installed before, or ours: `extern "C"`, with the arguments that its flags
    // promise. 2. `old` is valid for a write.
    let result = unsafe { libc::sigaction(signal, new, old.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: 1. the call has succeeded, and filled it.
    Ok(unsafe { old.assume_init() })
}
