//! Every test has a signal of its own: actions belong to the process.

use std::ffi::c_void;
use std::io::{Read, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use ipiq_fabric::urgent::{InterruptSafe, UrgentId};
use ipiq_fabric::{Config, Core, CoreId, Fabric};

use super::*;
use crate::port::{FenceChoice, LinuxPort};

const A: CoreId = CoreId::new(0);

fn rt(offset: c_int) -> c_int {
    libc::SIGRTMIN() + offset
}

fn register(fabric: &Fabric, f: impl Fn(CoreId) + Send + Sync + 'static) -> UrgentId {
    // SAFETY: 1. to 5. the functions of these tests use atomics and `sigaltstack` only.
    fabric.register_urgent(unsafe { InterruptSafe::new(f) }).expect("a free slot")
}

/// Runs `on_core` on the thread of a core that `signal` interrupts, while `meanwhile` runs on this one.
fn with_core<R: Send>(signal: c_int, on_core: impl FnOnce(&Core) -> R + Send, meanwhile: impl FnOnce(&Fabric)) -> R {
    let interrupts = Arc::new(Interrupts::install(signal).expect("a suitable signal"));
    let port = Arc::new(LinuxPort::new(1, FenceChoice::Symmetric).with_interrupts(&interrupts));
    let (fabric, mut seats) = Fabric::new(Config::default(), port.clone()).expect("one core");
    let seat = seats.remove(0);
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let core = scope.spawn(|| {
            let core = seat.enter();
            let _thread = CoreThread::enter(port, A, interrupts).expect("it is not blocked");
            let _accepting = core.accept_interrupts().expect("a gate");
            ready.wait();
            on_core(&core)
        });
        ready.wait();
        meanwhile(&fabric);
        core.join().expect("no panic")
    })
}

/// Leaves the CPU to the others meanwhile.
fn wait(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come");
        thread::yield_now();
    }
}

fn raise(signal: c_int) {
    // SAFETY: 1. the signal has a handler.
    unsafe { libc::raise(signal) };
}

fn action(signal: c_int) -> libc::sigaction {
    // SAFETY: 1. all zero is a valid action.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: 1. `action` is valid for a write.
    assert_eq!(unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) }, 0);
    action
}

fn set_action(signal: c_int, handler: libc::sighandler_t, flags: c_int) {
    let mut action = action(signal);
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: 1. the tests' handlers are of the type that their flags promise, and use atomics only.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }, 0);
}

#[test]
fn a_core_in_a_loop_without_end_is_reached() {
    const TRIGGERS: u32 = 200;
    let ran = Arc::new(AtomicU32::new(0));
    let seen = ran.clone();
    with_core(
        rt(1),
        // It looks at nothing of the fabric.
        move |_| while seen.load(Ordering::Relaxed) < TRIGGERS {},
        |fabric| {
            let id = register(fabric, {
                let ran = ran.clone();
                move |core| {
                    assert_eq!(core, A);
                    ran.fetch_add(1, Ordering::Relaxed);
                }
            });
            for n in 0..TRIGGERS {
                fabric.trigger_urgent(id, A).expect("live");
                wait(|| ran.load(Ordering::Relaxed) > n);
            }
            assert_eq!(fabric.core_counters(A).interrupts_refused, 0);
        },
    );
}

#[test]
fn a_handler_sees_what_it_interrupts_and_nothing_at_the_end_of_a_critical_section() {
    let (at_once, at_an_end) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (interrupting, late) = (at_once.clone(), at_an_end.clone());
    with_core(
        rt(12),
        move |_| {
            while interrupting.load(Ordering::Relaxed) == 0 {}
            // Sooner or later one comes in here.
            while late.load(Ordering::Relaxed) == 0 {
                critical(|| (0..1_000).for_each(|_| std::hint::spin_loop()));
            }
            assert!(context().is_null());
        },
        |fabric| {
            let (interrupting, late) = (at_once.clone(), at_an_end.clone());
            let id = register(fabric, move |_| {
                let counter = if context().is_null() { &late } else { &interrupting };
                counter.fetch_add(1, Ordering::Relaxed);
            });
            while at_an_end.load(Ordering::Relaxed) == 0 {
                let _ = fabric.trigger_urgent(id, A);
                thread::yield_now();
            }
        },
    );
}

#[test]
fn a_critical_section_holds_them_off_and_ends_with_them() {
    let (ran, inside) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (seen, entered) = (ran.clone(), inside.clone());
    let done = Arc::new(AtomicBool::new(false));
    let told = done.clone();
    let within = with_core(
        rt(2),
        move |_| {
            let within = critical(|| {
                entered.store(true, Ordering::Release);
                while !told.load(Ordering::Acquire) {}
                seen.load(Ordering::Relaxed)
            });
            assert_eq!(seen.load(Ordering::Relaxed), 1);
            within
        },
        |fabric| {
            let id = register(fabric, move |_| _ = ran.fetch_add(1, Ordering::Relaxed));
            wait(|| inside.load(Ordering::Acquire));
            fabric.trigger_urgent(id, A).expect("live");
            done.store(true, Ordering::Release);
        },
    );
    assert_eq!(within, 0);
}

static CALLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn plain(signal: c_int) {
    CALLED.fetch_add(signal as u32, Ordering::Relaxed);
    set_errno(77);
}

fn set_errno(errno: c_int) {
    // SAFETY: 1. the thread's own word, always there.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: 1. as above.
    unsafe { *place = errno };
}

#[test]
fn the_previous_handler_is_called_errno_is_kept_and_the_action_comes_back() {
    let signal = rt(3);
    set_action(signal, plain as *const () as usize, 0);
    let interrupts = Interrupts::install(signal).expect("a suitable signal");
    let again = Interrupts::install(signal).expect("a second user");
    set_errno(5);
    raise(signal);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(5));
    assert_eq!(CALLED.load(Ordering::Relaxed), signal as u32);
    drop(interrupts);
    assert_eq!(action(signal).sa_sigaction, handler::address());
    drop(again);
    let restored = action(signal);
    assert_eq!(restored.sa_sigaction, plain as *const () as usize);
    assert_eq!(restored.sa_flags & (libc::SA_SIGINFO | libc::SA_ONSTACK), 0);
    raise(signal);
    assert_eq!(CALLED.load(Ordering::Relaxed), 2 * signal as u32);
}

static SENDER: AtomicI32 = AtomicI32::new(0);

extern "C" fn with_info(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    assert!(!context.is_null());
    // SAFETY: 1. a handler with `SA_SIGINFO` is given valid information.
    let info = unsafe { &*info };
    // SAFETY: 1. a process has sent it.
    SENDER.store(unsafe { info.si_pid() }, Ordering::Relaxed);
}

#[test]
fn a_previous_handler_with_information_gets_it() {
    let signal = rt(4);
    set_action(signal, with_info as *const () as usize, libc::SA_SIGINFO);
    let interrupts = Interrupts::install(signal).expect("a suitable signal");
    raise(signal);
    assert_eq!(SENDER.load(Ordering::Relaxed), std::process::id().cast_signed());
    drop(interrupts);
}

static OURS: AtomicUsize = AtomicUsize::new(0);
static OVER: AtomicU32 = AtomicU32::new(0);

extern "C" fn over(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    OVER.fetch_add(1, Ordering::Relaxed);
    // SAFETY: 1. what was installed before this one: ours, of this type.
    let ours: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
        unsafe { mem::transmute(OURS.load(Ordering::Relaxed)) };
    ours(signal, info, context);
}

#[test]
fn a_handler_installed_over_ours_stays_and_a_later_runtime_works_through_it() {
    let signal = rt(5);
    let reach = |fabric: &Fabric, ran: &Arc<AtomicU32>| {
        let count = ran.clone();
        let id = register(fabric, move |_| _ = count.fetch_add(1, Ordering::Relaxed));
        fabric.trigger_urgent(id, A).expect("live");
    };
    for round in 0..3 {
        let ran = Arc::new(AtomicU32::new(0));
        let seen = ran.clone();
        with_core(
            signal,
            move |_| while seen.load(Ordering::Relaxed) == 0 {},
            |fabric| {
                if round == 0 {
                    OURS.store(action(signal).sa_sigaction, Ordering::Relaxed);
                    set_action(signal, over as *const () as usize, libc::SA_SIGINFO);
                }
                reach(fabric, &ran);
            },
        );
        // From the second round on, once for the question that `install` asks, and once for the interrupt.
        assert_eq!(
            (action(signal).sa_sigaction, OVER.load(Ordering::Relaxed)),
            (over as *const () as usize, 2 * round + 1)
        );
    }
    // Who takes the signal away altogether is believed.
    set_action(signal, libc::SIG_DFL, 0);
    drop(Interrupts::install(signal).expect("a suitable signal"));
    assert_eq!(action(signal).sa_sigaction, libc::SIG_DFL);
}

static UNRELATED: AtomicU32 = AtomicU32::new(0);

extern "C" fn unrelated(_: c_int) {
    UNRELATED.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn takes_none(_: c_int) {}

#[test]
fn a_handler_that_does_not_call_ours_is_not_taken_for_one_that_does() {
    let signal = rt(13);
    let ran = Arc::new(AtomicU32::new(0));
    for round in 0..3 {
        let replaced = Arc::new(AtomicBool::new(false));
        let over = replaced.clone();
        with_core(
            signal,
            // It looks at nothing of the fabric.
            move |_| while !over.load(Ordering::Acquire) {},
            |fabric| {
                let count = ran.clone();
                let id = register(fabric, move |_| _ = count.fetch_add(1, Ordering::Relaxed));
                fabric.trigger_urgent(id, A).expect("live");
                wait(|| ran.load(Ordering::Relaxed) > round);
                // Over ours, so that ours stays when its last user has gone; without calling it.
                set_action(signal, unrelated as *const () as usize, 0);
                replaced.store(true, Ordering::Release);
            },
        );
        assert_eq!(action(signal).sa_sigaction, unrelated as *const () as usize);
    }
    let before = UNRELATED.load(Ordering::Relaxed);
    // With another user, too.
    let first = Interrupts::install(signal).expect("a suitable signal");
    assert_eq!(action(signal).sa_sigaction, handler::address());
    set_action(signal, unrelated as *const () as usize, 0);
    let second = Interrupts::install(signal).expect("a suitable signal");
    assert_eq!(action(signal).sa_sigaction, handler::address());
    raise(signal);
    assert_eq!(UNRELATED.load(Ordering::Relaxed), before + 3, "asked twice, and called on");
    drop((first, second));
    assert_eq!(action(signal).sa_sigaction, unrelated as *const () as usize);
}

static WRONG: AtomicU32 = AtomicU32::new(0);

extern "C" fn takes_info(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: 1. a handler with `SA_SIGINFO` is given valid information.
    let right = !context.is_null() && unsafe { (*info).si_signo } == signal;
    WRONG.fetch_add(u32::from(!right), Ordering::Relaxed);
}

/// The previous handler changes its kind again and again while ours runs.
#[test]
fn a_previous_handler_is_called_as_it_was_installed_while_others_are() {
    let signal = rt(14);
    let over = AtomicBool::new(false);
    let kinds = [(takes_none as *const () as usize, 0), (takes_info as *const () as usize, libc::SA_SIGINFO)];
    thread::scope(|scope| {
        scope.spawn(|| {
            // Ours all the while, as far as the kernel knows.
            let (ours, mut n) = (handler::address(), 0);
            while !over.load(Ordering::Relaxed) {
                n += 1;
                let (handler, flags) = kinds[n % 2];
                let mut previous = action(signal);
                (previous.sa_sigaction, previous.sa_flags) = (handler, flags);
                handler::set_previous(signal, &previous);
                set_action(signal, ours, libc::SA_SIGINFO);
            }
        });
        set_action(signal, handler::address(), libc::SA_SIGINFO);
        (0..20_000).for_each(|_| raise(signal));
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(WRONG.load(Ordering::Relaxed), 0);
    for (handler, flags) in kinds {
        let mut previous = action(signal);
        (previous.sa_sigaction, previous.sa_flags) = (handler, flags);
        let read = handler::Previous::of(&previous);
        assert_eq!((read.handler(), read.takes_info()), (handler, flags != 0));
    }
}

#[test]
fn a_second_thread_for_a_core_is_refused_and_the_first_goes_on() {
    let signal = rt(15);
    let interrupts = Arc::new(Interrupts::install(signal).expect("a suitable signal"));
    let port = Arc::new(LinuxPort::new(1, FenceChoice::Symmetric).with_interrupts(&interrupts));
    let enter = || CoreThread::enter(port.clone(), A, interrupts.clone()).expect("it is not blocked");
    let interrupted = || ipiq_fabric::port::Port::interrupt(&*port, A);
    let first = enter();
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(enter));
    let text = *again.map(drop).expect_err("it has a thread").downcast::<String>().expect("a text");
    assert!(text.contains("has a thread already"), "{text}");
    assert!(thread::scope(|scope| scope.spawn(|| catch_panic(enter)).join().expect("it is caught")));
    assert!(interrupted(), "the first is there as before");
    drop(first);
    assert!(!interrupted());
    drop(enter());
}

fn catch_panic(f: impl FnOnce() -> CoreThread) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(f()))).is_err()
}

/// The thread lives on after its core, and unblocks the signal, whose default would end the process.
#[test]
fn a_signal_left_over_behind_a_mask_meets_our_handler() {
    let signal = rt(16);
    let begin = move || {
        let interrupts = Arc::new(Interrupts::install(signal).expect("a suitable signal"));
        let port = Arc::new(LinuxPort::new(1, FenceChoice::Symmetric).with_interrupts(&interrupts));
        let thread = CoreThread::enter(port.clone(), A, interrupts).expect("it is not blocked");
        (port, thread)
    };
    let in_a_thread = |send: bool| {
        thread::spawn(move || {
            let (port, thread) = begin();
            super::thread::block(signal);
            assert!(!send || ipiq_fabric::port::Port::interrupt(&*port, A));
            drop(thread);
            unblock(signal);
        })
        .join()
        .expect("no panic");
        action(signal).sa_sigaction
    };
    assert_eq!(in_a_thread(false), libc::SIG_DFL, "nothing was left over");
    assert_eq!(in_a_thread(true), handler::address());
    // A later one finds it, and leaves it where it is.
    drop(begin());
    assert_eq!(action(signal).sa_sigaction, handler::address());
    raise(signal);
}

fn unblock(signal: c_int) {
    // SAFETY: 1. all zero is the empty set.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: 1. a whole set, and a signal that there is.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: 1. a whole set.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) }, 0);
}

#[test]
fn signals_that_are_kept_ignored_or_blocked_are_refused() {
    for signal in [-1, 0, libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGCHLD, libc::SIGTERM, 32, 33, 65, 1000] {
        let error = Interrupts::install(signal).expect_err("not for us");
        assert!(error.is_reserved() && error.signal() == signal);
        assert!(error.to_string().contains("choose SIGURG (23)"), "{error}");
    }
    let signal = rt(6);
    set_action(signal, libc::SIG_IGN, 0);
    let error = Interrupts::install(signal).expect_err("ignored by choice");
    assert!(error.is_ignored() && error.to_string().contains("ignores it"), "{error}");
    set_action(signal, libc::SIG_DFL, 0);
    let interrupts = Arc::new(Interrupts::install(signal).expect("a suitable signal"));
    // A thread of its own: the mask stays with it.
    thread::spawn(move || {
        interrupts.keep_out();
        let error = Interrupts::install(signal).expect_err("blocked");
        assert!(error.is_blocked() && error.to_string().contains("blocks it"), "{error}");
        let port = Arc::new(LinuxPort::new(1, FenceChoice::Symmetric).with_interrupts(&interrupts));
        assert!(CoreThread::enter(port, A, interrupts).expect_err("blocked").is_blocked());
    })
    .join()
    .expect("no panic");
    assert_eq!(action(signal).sa_sigaction, libc::SIG_DFL);
}

#[test]
fn a_signal_that_is_blocked_later_costs_latency_alone() {
    let signal = rt(7);
    let ran = Arc::new(AtomicU32::new(0));
    let (seen, triggered) = (ran.clone(), Arc::new(AtomicU32::new(0)));
    let (told, blocked) = (triggered.clone(), Arc::new(AtomicBool::new(false)));
    let tell = blocked.clone();
    with_core(
        signal,
        move |core| {
            super::thread::block(signal);
            tell.store(true, Ordering::Release);
            for round in 1..=3 {
                wait(|| told.load(Ordering::Acquire) >= round);
                assert_eq!(seen.load(Ordering::Relaxed), round - 1, "the signal stays away");
                core.drain(64);
                assert_eq!(seen.load(Ordering::Relaxed), round);
            }
        },
        |fabric| {
            let count = ran.clone();
            let id = register(fabric, move |_| _ = count.fetch_add(1, Ordering::Relaxed));
            wait(|| blocked.load(Ordering::Acquire));
            for round in 1..=3 {
                wait(|| ran.load(Ordering::Relaxed) >= round - 1);
                fabric.trigger_urgent(id, A).expect("live");
                triggered.store(round, Ordering::Release);
            }
        },
    );
}

#[test]
fn handlers_run_on_a_large_alternate_stack_which_goes_with_the_core() {
    let place = Arc::new(AtomicUsize::new(0));
    let seen = place.clone();
    let stacks = with_core(
        rt(8),
        move |_| {
            while seen.load(Ordering::Relaxed) == 0 {}
            stack()
        },
        |fabric| {
            let id = register(fabric, {
                let place = place.clone();
                move |_| {
                    let local = 0_u8;
                    place.store(ptr::from_ref(std::hint::black_box(&local)).addr(), Ordering::Relaxed);
                }
            });
            fabric.trigger_urgent(id, A).expect("live");
        },
    );
    let (base, size) = stacks;
    assert!(size >= 64 * 1024);
    assert!((base..base + size).contains(&place.load(Ordering::Relaxed)));
}

#[test]
fn the_alternate_stack_that_was_there_comes_back() {
    let before = stack();
    let ours = stack::AlternateStack::ensure().expect("memory");
    let (base, size) = stack();
    assert!(size >= 64 * 1024 && base != before.0);
    assert!(stack::AlternateStack::ensure().expect("memory").is_none(), "it is large enough");
    drop(ours);
    assert_eq!(stack(), before);
}

/// The calling thread's alternate stack.
fn stack() -> (usize, usize) {
    // SAFETY: 1. all zero is a valid description.
    let mut stack: libc::stack_t = unsafe { mem::zeroed() };
    // SAFETY: 1. `stack` is valid for a write; nothing is set.
    unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) };
    (stack.ss_sp.addr(), stack.ss_size)
}

#[test]
fn a_core_whose_thread_has_ended_is_interrupted_no_more() {
    let signal = rt(9);
    let interrupts = Arc::new(Interrupts::install(signal).expect("a suitable signal"));
    let port = Arc::new(LinuxPort::new(2, FenceChoice::Symmetric).with_interrupts(&interrupts));
    let interrupted = |core| ipiq_fabric::port::Port::interrupt(&*port, CoreId::new(core));
    assert!(!interrupted(0), "it has not begun");
    let thread = CoreThread::enter(port.clone(), A, interrupts.clone()).expect("it is not blocked");
    assert!(interrupted(0) && !interrupted(1));
    drop(thread);
    assert!(!interrupted(0));
    drop(interrupts);
    assert_eq!(action(signal).sa_sigaction, libc::SIG_DFL, "the port does not keep it");
}

/// As threads of cores come and go, each signal meets its handler: this one's default would end the process.
#[test]
fn no_signal_comes_after_the_handler_has_gone() {
    let signal = rt(10);
    for _ in 0..20 {
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        with_core(
            signal,
            move |_| over.store(true, Ordering::Release),
            |fabric| {
                let id = register(fabric, |_| ());
                wait(|| {
                    let _ = fabric.trigger_urgent(id, A);
                    ended.load(Ordering::Acquire)
                });
                for _ in 0..100 {
                    let _ = fabric.trigger_urgent(id, A);
                }
            },
        );
    }
    assert_eq!(action(signal).sa_sigaction, libc::SIG_DFL);
}

#[test]
fn a_blocking_read_goes_on_and_a_sleep_of_the_kernel_ends() {
    let ran = Arc::new(AtomicU32::new(0));
    let [has_read, ended] = [(), ()].map(|()| Arc::new(AtomicBool::new(false)));
    let (seen, read, over) = (ran.clone(), has_read.clone(), ended.clone());
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    with_core(
        rt(11),
        move |_| {
            let mut byte = [0];
            // One system call, but for those that `std` repeats: `SA_RESTART` leaves none.
            assert_eq!(reader.read(&mut byte).expect("it goes on"), 1);
            assert_eq!((byte, seen.load(Ordering::Relaxed)), (*b"x", 10));
            read.store(true, Ordering::Release);
            let long = libc::timespec { tv_sec: 1000, tv_nsec: 0 };
            // SAFETY: 1. a time, valid for a read.
            let slept = unsafe { libc::nanosleep(&raw const long, ptr::null_mut()) };
            let error = std::io::Error::last_os_error().raw_os_error();
            over.store(true, Ordering::Release);
            assert_eq!((slept, error), (-1, Some(libc::EINTR)), "as it is documented");
        },
        |fabric| {
            let count = ran.clone();
            let id = register(fabric, move |_| _ = count.fetch_add(1, Ordering::Relaxed));
            for n in 0..10 {
                fabric.trigger_urgent(id, A).expect("live");
                wait(|| ran.load(Ordering::Relaxed) > n);
            }
            writer.write_all(b"x").expect("a reader");
            wait(|| has_read.load(Ordering::Acquire));
            // It may not sleep yet: again and again.
            wait(|| {
                let _ = fabric.trigger_urgent(id, A);
                ended.load(Ordering::Acquire)
            });
        },
    );
}
