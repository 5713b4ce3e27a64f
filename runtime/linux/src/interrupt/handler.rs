//! The signal handler.

use std::ffi::{c_int, c_void};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{CONTEXT, GATE};

/// The signals that Linux has, and signal 0, which is none.
const SIGNALS: usize = 65;

/// What to call on.
struct Previous {
    /// A function, or one of the constants that stand for an action.
    handler: AtomicUsize,
    with_info: AtomicBool,
}

static PREVIOUS: [Previous; SIGNALS] =
    [const { Previous { handler: AtomicUsize::new(libc::SIG_DFL), with_info: AtomicBool::new(false) } }; SIGNALS];

/// Our handler, as `sigaction` takes it.
pub(super) fn address() -> libc::sighandler_t {
    on_signal as *const () as libc::sighandler_t
}

/// [interrupt P3], before ours is installed: what it calls on.
pub(super) fn set_previous(signal: c_int, action: &libc::sigaction) {
    let Some(previous) = PREVIOUS.get(signal as usize) else { return };
    previous.with_info.store(action.sa_flags & libc::SA_SIGINFO != 0, Ordering::Relaxed);
    // Release: who finds the handler knows its kind.
    previous.handler.store(action.sa_sigaction, Ordering::Release);
}

/// Runs in the middle of anything: no allocation, no lock, no panic, no variable that is made on its first use.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // [interrupt H1]
    let errno = errno();
    if may_be_directed(info) {
        // [interrupt H2]
        let outer = CONTEXT.replace(context);
        GATE.with(|gate| gate.arrive());
        CONTEXT.set(outer);
    }
    // [interrupt H3]
    call_previous(signal, info, context);
    // [interrupt H4]
    set_errno(errno);
}

/// Whether somebody has named this thread: then it is a core's, or its own business.
fn may_be_directed(info: *mut libc::siginfo_t) -> bool {
    // SAFETY: 1. the kernel hands a handler with `SA_SIGINFO` valid information.
    let Some(info) = (unsafe { info.as_ref() }) else { return true };
    match info.si_code {
        libc::SI_TKILL => true,
        // What is left when the limit of queued signals is reached: nobody's signal.
        // SAFETY: 1. a signal with this code was sent by a process, whose id it has.
        libc::SI_USER => unsafe { info.si_pid() == 0 },
        _ => false,
    }
}

fn call_previous(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS.get(signal as usize) else { return };
    let handler = previous.handler.load(Ordering::Acquire);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    if previous.with_info.load(Ordering::Relaxed) {
        // SAFETY: 1. it was installed as a handler with `SA_SIGINFO`, so it is a function of this type.
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = unsafe { mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: 1. it was installed as a handler without `SA_SIGINFO`, so it is a function of this type.
        let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
        handler(signal);
    }
}

fn errno() -> c_int {
    // SAFETY: 1. the thread's own word, always there.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: 1. as above.
    unsafe { *place }
}

fn set_errno(errno: c_int) {
    // SAFETY: 1. the thread's own word, always there.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: 1. as above.
    unsafe { *place = errno };
}
