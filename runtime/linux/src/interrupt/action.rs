//! Installing and restoring the actions of signals.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::InterruptError;
use super::handler;

/// A signal that has our handler.
struct Entry {
    users: usize,
    before: libc::sigaction,
}

static INSTALLED: Mutex<BTreeMap<c_int, Entry>> = Mutex::new(BTreeMap::new());

fn installed() -> MutexGuard<'static, BTreeMap<c_int, Entry>> {
    // Nothing panics while it is held.
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [interrupt P2] and [interrupt P3], for one more user of `signal`.
pub(super) fn acquire(signal: c_int) -> Result<(), InterruptError> {
    let mut installed = installed();
    let refused = |error| InterruptError::refused(signal, error);
    let current = change(signal, None).map_err(refused)?;
    if current.sa_sigaction == libc::SIG_IGN {
        // [interrupt P2]
        return Err(InterruptError::ignored(signal));
    }
    if let Some(entry) = installed.get_mut(&signal).filter(|_| current.sa_sigaction != libc::SIG_DFL) {
        // Ours, or one that was installed over ours and calls it: ours over that one would call each other.
        entry.users += 1;
        return Ok(());
    }
    let users = installed.get(&signal).map_or(0, |entry| entry.users) + 1;
    let before = install(signal, current).map_err(refused)?;
    installed.insert(signal, Entry { users, before });
    Ok(())
}

/// [interrupt P4], for one user less.
pub(super) fn release(signal: c_int) {
    let mut installed = installed();
    let Some(entry) = installed.get_mut(&signal) else { return };
    entry.users -= 1;
    if entry.users > 0 {
        return;
    }
    let before = entry.before;
    // [interrupt P4] errors are impossible: both calls have succeeded for this signal.
    if change(signal, None).is_ok_and(|current| current.sa_sigaction == handler::address()) {
        let _ = change(signal, Some(&before));
        installed.remove(&signal);
    }
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
        if replaced.sa_sigaction == handler::address() {
            // Ours, of the round before: nobody came in between this time.
            return Ok(current);
        }
        // Somebody else has installed one in between: that is the previous one.
        current = replaced;
    }
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
