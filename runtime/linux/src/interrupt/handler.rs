//! The signal handler.

use std::ffi::{c_int, c_void};
use std::mem;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::{CONTEXT, GATE};

/// The signals that Linux has, and signal 0, which is none.
const SIGNALS: usize = 65;

/// In a word of [`PREVIOUS`]: the handler takes information. No address has this bit.
const WITH_INFO: u64 = 1 << 63;

/// What to call on, by signal: an address, or one of the constants that stand for an action, and [`WITH_INFO`]. One word: the handler may run while another is written.
static PREVIOUS: [AtomicU64; SIGNALS] = [const { AtomicU64::new(libc::SIG_DFL as u64) }; SIGNALS];

/// A previous handler, as read from its word.
#[derive(Clone, Copy)]
pub(super) struct Previous(u64);

impl Previous {
    pub(super) fn of(action: &libc::sigaction) -> Self {
        let with_info = if action.sa_flags & libc::SA_SIGINFO == 0 { 0 } else { WITH_INFO };
        Self(action.sa_sigaction as u64 & !WITH_INFO | with_info)
    }

    pub(super) fn handler(self) -> libc::sighandler_t {
        (self.0 & !WITH_INFO) as libc::sighandler_t
    }

    pub(super) fn takes_info(self) -> bool {
        self.0 & WITH_INFO != 0
    }
}

/// The thread that asks whether a signal comes here; 0: none does.
static PROBING: AtomicI32 = AtomicI32::new(0);

/// Our handler, as `sigaction` takes it.
pub(super) fn address() -> libc::sighandler_t {
    on_signal as *const () as libc::sighandler_t
}

/// [interrupt P3], before ours is installed: what it calls on.
pub(super) fn set_previous(signal: c_int, action: &libc::sigaction) {
    if let Some(previous) = PREVIOUS.get(signal as usize) {
        // Relaxed: nothing belongs to it but what stands in it, and the kernel is told of ours after it.
        previous.store(Previous::of(action).0, Ordering::Relaxed);
    }
}

/// [interrupt P6]: whether a signal of the calling thread to itself, made by `raise`, comes here; also if it cannot be made. One thread at a time asks.
pub(super) fn is_reached_by(raise: impl FnOnce(libc::pid_t) -> bool) -> bool {
    // SAFETY: 1. a question without pointers.
    let thread = unsafe { libc::gettid() };
    // Relaxed, here and below: the handler runs on this thread.
    PROBING.store(thread, Ordering::Relaxed);
    let raised = raise(thread);
    PROBING.swap(0, Ordering::Relaxed) == 0 || !raised
}

/// [interrupt P6]: says that the signal has come here, if this thread has asked.
fn answer_probe() {
    let probing = PROBING.load(Ordering::Relaxed);
    // SAFETY: 1. a question without pointers.
    if probing != 0 && probing == unsafe { libc::gettid() } {
        PROBING.store(0, Ordering::Relaxed);
    }
}

/// Runs in the middle of anything: no allocation, no lock, no panic, no variable that is made on its first use.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // [interrupt H1]
    let errno = errno();
    if may_be_directed(info) {
        answer_probe();
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
    let previous = Previous(previous.load(Ordering::Relaxed));
    let handler = previous.handler();
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    if previous.takes_info() {
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
