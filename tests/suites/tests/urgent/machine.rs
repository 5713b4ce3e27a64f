//! Signals as the machine and other programs make them. Each test in a process of its own: signals belong to the whole of it.

use std::ffi::{c_int, c_void};
use std::mem;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipiq::{InterruptPolicy, Runtime};
use ipiq_suites::alone::alone;
use ipiq_suites::sandbox::{Refusal, refusing};
use ipiq_suites::scale::scaled;

use super::*;

const LIMIT: Duration = Duration::from_secs(120);

fn handler_of(signal: c_int) -> usize {
    // SAFETY: 1. all zero is a valid action.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: 1. `action` is valid for a write.
    assert_eq!(unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) }, 0);
    action.sa_sigaction
}

fn set_handler(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: 1. all zero is a valid action.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: 1. the tests' handlers take a number, and use atomics only.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }, 0);
}

static CALLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: c_int) {
    CALLED.fetch_add(1, Ordering::Relaxed);
}

/// Has core B, which is busy until it has seen them, interrupted `times` times.
fn reach_a_busy_core(runtime: &Runtime, times: u64) {
    let told = Told::default();
    let handler = told.handler(&runtime.handle());
    let stuck = told.clone();
    let task = runtime.handle().spawn_on(B, move || async move { while stuck.seen() < times {} });
    (1..=times).for_each(|n| told.tell(&handler, B, n));
    Runtime::wait(task).expect("it has seen them all");
}

/// The same with one that looks by itself, between its polls.
fn reach_a_core_that_yields(runtime: &Runtime, times: u64) {
    let told = Told::default();
    let handler = told.handler(&runtime.handle());
    let looks = told.clone();
    let task = runtime.handle().spawn_on(B, move || async move {
        while looks.seen() < times {
            ipiq::yield_now().await;
        }
    });
    (1..=times).for_each(|n| told.tell(&handler, B, n));
    Runtime::wait(task).expect("it has seen them all");
}

#[test]
fn the_handler_is_there_while_a_runtime_is_and_calls_the_one_before() {
    alone("machine::the_handler_is_there_while_a_runtime_is_and_calls_the_one_before", LIMIT, || {
        drop(two_cores(Runtime::builder().interrupts(InterruptPolicy::Off)));
        assert_eq!(handler_of(libc::SIGURG), libc::SIG_DFL);
        set_handler(libc::SIGURG, count as *const () as usize, libc::SA_RESTART);
        let off = two_cores(Runtime::builder().interrupts(InterruptPolicy::Off));
        assert_eq!(handler_of(libc::SIGURG), count as *const () as usize);
        let (one, other) = (two_cores(Runtime::builder()), two_cores(Runtime::builder()));
        assert_eq!(one.info().interrupt_signal, Some(libc::SIGURG));
        let handle = one.handle();
        reach_a_busy_core(&one, 10);
        assert!(CALLED.load(Ordering::Relaxed) > 0);
        drop(one);
        reach_a_busy_core(&other, 10);
        drop((other, off));
        // A handle does not keep it.
        assert_eq!((handler_of(libc::SIGURG), handle.core_count()), (count as *const () as usize, 2));
    });
}

#[test]
fn a_signal_that_is_ignored_or_blocked_is_left_alone() {
    alone("machine::a_signal_that_is_ignored_or_blocked_is_left_alone", LIMIT, || {
        set_handler(libc::SIGURG, libc::SIG_IGN, 0);
        let runtime = two_cores(Runtime::builder());
        let info = runtime.info();
        assert_eq!(info.interrupt_signal, None);
        assert!(info.interrupt_fallback.as_deref().is_some_and(|why| why.contains("ignores it")), "{info:?}");
        assert_eq!(handler_of(libc::SIGURG), libc::SIG_IGN);
        let asked = Runtime::builder().cores(2).interrupts(InterruptPolicy::Signal(libc::SIGURG));
        let error = asked.clone().build().expect_err("ignored");
        assert!(error.is_interrupts() && error.to_string().contains("signal 23: the process ignores it"), "{error}");
        drop(runtime);
        set_handler(libc::SIGURG, libc::SIG_DFL, 0);

        let hooked = |core: CoreId| {
            if core == B {
                block(libc::SIGURG)
            }
        };
        let error = asked.on_thread_start(hooked).build().expect_err("blocked on one core");
        assert!(error.to_string().starts_with("core 1: ") && error.to_string().contains("blocks it"), "{error}");
        let runtime = two_cores(Runtime::builder().on_thread_start(hooked));
        let info = runtime.info();
        assert_eq!(info.interrupt_signal, Some(libc::SIGURG));
        assert!(info.interrupt_fallback.as_deref().is_some_and(|why| why.contains("core 1: ")), "{info:?}");
        // The other core is reached.
        let told = Told::default();
        let handler = told.handler(&runtime.handle());
        let stuck = told.clone();
        let task = runtime.handle().spawn_on(A, move || async move { while stuck.seen() < 5 {} });
        (1..=5).for_each(|n| told.tell(&handler, A, n));
        Runtime::wait(task).expect("it has seen them all");
        drop(runtime);
        assert_eq!(handler_of(libc::SIGURG), libc::SIG_DFL);
        block(libc::SIGURG);
        assert!(Runtime::builder().cores(1).build().expect("a runtime").info().interrupt_signal.is_none());
    });
}

fn block(signal: c_int) {
    // SAFETY: 1. all zero is the empty set.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: 1. a whole set, and a signal that there is.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: 1. a whole set.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) }, 0);
}

#[test]
fn other_signals_do_as_well() {
    alone("machine::other_signals_do_as_well", LIMIT, || {
        for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGRTMIN(), libc::SIGRTMAX()] {
            let runtime = two_cores(Runtime::builder().interrupts(InterruptPolicy::Signal(signal)));
            reach_a_busy_core(&runtime, 50);
        }
        let error = Runtime::builder().interrupts(InterruptPolicy::Signal(libc::SIGSEGV)).build();
        assert!(error.expect_err("not for us").to_string().contains("kept for something else"));
    });
}

#[test]
fn no_room_for_queued_signals_costs_latency_at_most() {
    alone("machine::no_room_for_queued_signals_costs_latency_at_most", LIMIT, || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: 1. a limit, valid for a read.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const none) }, 0);
        // A standard signal loses what it tells of its sender, and comes.
        reach_a_busy_core(&two_cores(Runtime::builder()), 100);
        // A real-time one is refused: the core finds the trigger by itself.
        let runtime = two_cores(Runtime::builder().interrupts(InterruptPolicy::Signal(libc::SIGRTMIN() + 1)));
        reach_a_core_that_yields(&runtime, 100);
        let counters = runtime.handle().core_counters(B);
        assert!(counters.interrupts_refused > 0 && counters.interrupts_sent == 0, "{counters:?}");
    });
}

#[test]
fn a_sandbox_that_refuses_the_signal_costs_latency_at_most() {
    let refusals = [Refusal { calls: &[libc::SYS_tgkill], first_argument: None, errno: libc::EPERM }];
    refusing("machine::a_sandbox_that_refuses_the_signal_costs_latency_at_most", &refusals, || {
        let runtime = two_cores(Runtime::builder());
        reach_a_core_that_yields(&runtime, 100);
        assert!(runtime.handle().core_counters(B).interrupts_refused > 0);
    });
}

/// Another process, which sends this one signals, 50,000 a second if it has the time: to the whole of it, and to one thread.
struct Noise {
    child: libc::pid_t,
    sent: &'static AtomicU32,
    begun: Instant,
}

impl Noise {
    const EACH_NS: i64 = 20_000;

    fn start(signal: c_int, thread: c_int) -> Self {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: 1. a new map, at a place that the kernel chooses.
        let map = unsafe { libc::mmap(ptr::null_mut(), size_of::<AtomicU32>(), access, flags, -1, 0) };
        assert_ne!(map, libc::MAP_FAILED);
        // SAFETY: 1. the map is zeroed, large enough, and stays.
        let sent: &'static AtomicU32 = unsafe { &*map.cast() };
        let process = std::process::id().cast_signed();
        // SAFETY: 1. the child uses atomics and system calls only, and never returns.
        let child = unsafe { libc::fork() };
        if child == 0 {
            Self::run(process, thread, signal, sent);
        }
        assert!(child > 0);
        Self { child, sent, begun: Instant::now() }
    }

    fn run(process: c_int, thread: c_int, signal: c_int, sent: &AtomicU32) -> ! {
        let now_ns = || {
            let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: 1. `now` is valid for a write.
            unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
            now.tv_sec * 1_000_000_000 + now.tv_nsec
        };
        let begun = now_ns();
        loop {
            let count = sent.fetch_add(1, Ordering::Relaxed);
            let result = match count % 2 {
                // SAFETY: 1. no pointers; the test's process, which waits for this one.
                0 => unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) },
                // SAFETY: 1. as above.
                _ => unsafe { libc::kill(process, signal) }.into(),
            };
            // SAFETY: 1. no pointers. Who is an orphan ends.
            if result != 0 || unsafe { libc::getppid() } != process {
                // SAFETY: 1. it ends the child, and runs nothing of its parent.
                unsafe { libc::_exit(0) };
            }
            while now_ns() - begun < i64::from(count) * Self::EACH_NS {
                std::hint::spin_loop();
            }
        }
    }

    /// Ends it; returns how many signals it has sent.
    fn end(self) -> u32 {
        let mut status = 0;
        // SAFETY: 1. a child of this process that nobody has waited for.
        unsafe { libc::kill(self.child, libc::SIGKILL) };
        // SAFETY: 1. `status` is valid for a write.
        assert_eq!(unsafe { libc::waitpid(self.child, &raw mut status, 0) }, self.child);
        self.sent.load(Ordering::Relaxed)
    }
}

/// Forged signals, from this process and another one, and a timer's without `SA_RESTART`, 10,000 a second, while the runtime works. All of its work is right, and there is noise until it is over;
/// how much comes is the machine's affair.
#[test]
fn noise_disturbs_nobody() {
    alone("machine::noise_disturbs_nobody", LIMIT, || {
        // SAFETY: 1. a question without pointers.
        let outside = runtime_with_noise(|| Noise::start(libc::SIGURG, unsafe { libc::gettid() }));
        let lasted = outside.begun.elapsed();
        let sent = outside.end();
        let rate = f64::from(sent) / lasted.as_secs_f64();
        println!("{sent} signals of another process, {rate:.0} a second; {} came", CALLED.load(Ordering::Relaxed));
    });
}

fn runtime_with_noise(start: impl FnOnce() -> Noise + Send + 'static) -> Noise {
    set_handler(libc::SIGURG, count as *const () as usize, libc::SA_RESTART);
    set_handler(libc::SIGALRM, count as *const () as usize, 0);
    let runtime = two_cores(Runtime::builder());
    let each = libc::timeval { tv_sec: 0, tv_usec: 100 };
    let timer = libc::itimerval { it_interval: each, it_value: each };
    // SAFETY: 1. a timer, valid for a read.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) }, 0);
    let outside = Runtime::wait(runtime.handle().spawn_on(B, || async { start() })).expect("it forks");
    let process = std::process::id().cast_signed();
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let inside = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for thread in std::fs::read_dir("/proc/self/task").expect("it is mounted").flatten() {
                let id: c_int = thread.file_name().to_string_lossy().parse().expect("a number");
                // SAFETY: 1. no pointers; `SIGURG` has a handler.
                unsafe { libc::syscall(libc::SYS_tgkill, process, id, libc::SIGURG) };
            }
            // SAFETY: 1. no pointers; `SIGURG` has a handler.
            unsafe { libc::kill(process, libc::SIGURG) };
        }
    });
    let triggers = scaled(500, 2_000);
    // Each part of the work goes on until noise has come in the middle of it.
    under_noise(&outside, || reach_a_busy_core(&runtime, triggers));
    under_noise(&outside, || call_urgently(&runtime, 100));
    under_noise(&outside, || runtime.block_on(|| call_and_sleep(200)));
    over.store(true, Ordering::Relaxed);
    inside.join().expect("no panic");
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: never, it_value: never };
    // SAFETY: 1. a timer, valid for a read.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    let counters = runtime.handle().core_counters(B);
    assert!(counters.urgent_run >= triggers, "{counters:?}");
    outside
}

/// Does `work`, and does it again until another process has sent signals, and some have come, while it was done.
fn under_noise(outside: &Noise, mut work: impl FnMut()) {
    let so_far = || (outside.sent.load(Ordering::Relaxed), CALLED.load(Ordering::Relaxed));
    let (sent, came) = so_far();
    loop {
        work();
        let (sent_now, came_now) = so_far();
        if sent_now > sent && came_now > came {
            return;
        }
    }
}

/// Each function runs once, on its core, and its value comes back, to this thread and to a core.
fn call_urgently(runtime: &Runtime, times: u64) {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let adding = |n: u64| {
        // SAFETY: 1. to 5. it adds to an atomic.
        unsafe { InterruptSafe::new(move |core| (core, RUN.fetch_add(n, Ordering::Relaxed))) }
    };
    let mut sum = RUN.load(Ordering::Relaxed);
    for n in 1..=times {
        assert_eq!(Runtime::wait(runtime.handle().call_urgent(B, adding(n))).expect("it lives"), (B, sum));
        let call = adding(n);
        let there = runtime.handle().spawn_on(A, move || ipiq::urgent::call_on(B, call));
        assert_eq!(Runtime::wait(there).expect("no panic").expect("it lives"), (B, sum + n));
        sum += 2 * n;
    }
    assert_eq!(RUN.load(Ordering::Relaxed), sum);
}

/// Each call answers with its own number, and no sleep ends early.
async fn call_and_sleep(times: u64) {
    for n in 0..times {
        assert_eq!(ipiq::call_on(B, move || n).await.expect("it lives"), n);
        let (begun, each) = (Instant::now(), Duration::from_micros(200));
        ipiq::time::sleep(each).await;
        assert!(begun.elapsed() >= each, "{:?}", begun.elapsed());
    }
}

static UNDER: AtomicUsize = AtomicUsize::new(0);

/// Calls the handler that was there before, as is custom.
extern "C" fn over_and_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    CALLED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: 1. what was installed before this one: the runtime's, of this type.
    let under: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
        unsafe { mem::transmute(UNDER.load(Ordering::Relaxed)) };
    under(signal, info, context);
}

#[test]
fn a_handler_installed_after_ours_calls_it_or_costs_latency() {
    alone("machine::a_handler_installed_after_ours_calls_it_or_costs_latency", LIMIT, || {
        let runtime = two_cores(Runtime::builder());
        UNDER.store(handler_of(libc::SIGURG), Ordering::Relaxed);
        set_handler(libc::SIGURG, over_and_on as *const () as usize, libc::SA_SIGINFO | libc::SA_RESTART);
        reach_a_busy_core(&runtime, 50);
        assert!(CALLED.load(Ordering::Relaxed) > 0);
        // A second runtime finds ours below it.
        let second = two_cores(Runtime::builder());
        assert_eq!(handler_of(libc::SIGURG), over_and_on as *const () as usize);
        reach_a_busy_core(&second, 50);
        // One that calls nobody.
        set_handler(libc::SIGURG, count as *const () as usize, libc::SA_RESTART);
        let before = CALLED.load(Ordering::Relaxed);
        reach_a_core_that_yields(&runtime, 50);
        drop(second);
        // The next runtime puts ours over it, and calls it.
        let third = two_cores(Runtime::builder());
        reach_a_busy_core(&third, 50);
        reach_a_busy_core(&runtime, 50);
        assert!(CALLED.load(Ordering::Relaxed) > before);
        drop((third, runtime));
        assert_eq!(handler_of(libc::SIGURG), count as *const () as usize);
    });
}

/// What a debugger does with the signal.
#[derive(Clone, Copy)]
enum Debugger {
    /// As `gdb` by itself: `nostop noprint pass`.
    Passes,
    /// `stop print pass`: the thread stands still for a while.
    Stops,
    /// `nopass`.
    Swallows,
}

const TRACED: &str = "IPIQ_TRACED";

/// Runs `scenario` in a process of its own, each thread of which is traced, by a debugger that detaches in the end if it is told to.
fn debugged(test: &str, debugger: Debugger, detach_after: Option<u32>, scenario: impl FnOnce()) {
    if std::env::var_os(TRACED).is_some() {
        return ipiq_suites::watchdog::with_watchdog(test, LIMIT, scenario);
    }
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"));
    child.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(TRACED, "1").stdout(Stdio::null());
    let ask = || match ptrace(libc::PTRACE_TRACEME, 0, 0) {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: 1. it makes one system call.
    unsafe { child.pre_exec(ask) };
    // Who may not be a debugger here has nothing to fear from one.
    let Ok(child) = child.spawn().inspect_err(|error| println!("no tracing here: {error}")) else { return };
    let (status, seen) = trace(child.id().cast_signed(), debugger, detach_after);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:x}");
    assert!(seen > 0, "it has seen no signal");
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t, data: c_int) -> libc::c_long {
    // SAFETY: 1. requests that take no address, and whose data is a number.
    unsafe { libc::ptrace(request, thread, ptr::null_mut::<c_void>(), libc::c_long::from(data)) }
}

/// Returns how the process ended, and how many `SIGURG` the debugger has seen.
fn trace(process: libc::pid_t, debugger: Debugger, detach_after: Option<u32>) -> (c_int, u32) {
    let (mut seen, mut has_begun) = (0, false);
    loop {
        let mut status = 0;
        // Of this thread's children alone: other tests have theirs.
        // SAFETY: 1. `status` is valid for a write.
        let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert!(thread > 0, "{}", std::io::Error::last_os_error());
        if !libc::WIFSTOPPED(status) {
            if thread == process {
                return (status, seen);
            }
            continue;
        }
        let (signal, is_event) = (libc::WSTOPSIG(status), status >> 16 != 0);
        if !has_begun {
            // It has become its program.
            has_begun = true;
            let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
            assert_eq!(ptrace(libc::PTRACE_SETOPTIONS, thread, options), 0);
        }
        let mut passed = if is_event || [libc::SIGTRAP, libc::SIGSTOP].contains(&signal) { 0 } else { signal };
        if signal == libc::SIGURG {
            seen += 1;
            match debugger {
                Debugger::Passes => {}
                Debugger::Stops => (0..50).for_each(|_| std::thread::yield_now()),
                Debugger::Swallows => passed = 0,
            }
        }
        let detaches = detach_after.is_some_and(|after| seen >= after);
        // An error: the thread has just been killed. One that is let go goes on by itself, with what is passed.
        let _ = ptrace(if detaches { libc::PTRACE_DETACH } else { libc::PTRACE_CONT }, thread, passed);
    }
}

#[test]
fn a_debugger_that_passes_the_signal_on_is_not_noticed() {
    let test = "machine::a_debugger_that_passes_the_signal_on_is_not_noticed";
    debugged(test, Debugger::Passes, None, || reach_a_busy_core(&two_cores(Runtime::builder()), scaled(100, 2_000)));
}

#[test]
fn a_debugger_that_stops_at_the_signal_costs_latency_alone() {
    let test = "machine::a_debugger_that_stops_at_the_signal_costs_latency_alone";
    debugged(test, Debugger::Stops, None, || reach_a_busy_core(&two_cores(Runtime::builder()), scaled(50, 500)));
}

#[test]
fn a_debugger_that_swallows_the_signal_costs_latency_at_most() {
    let test = "machine::a_debugger_that_swallows_the_signal_costs_latency_at_most";
    debugged(test, Debugger::Swallows, None, || {
        let runtime = two_cores(Runtime::builder());
        reach_a_core_that_yields(&runtime, scaled(50, 500));
        runtime.block_on(|| async { assert_eq!(ipiq::call_on(B, || 7).await.expect("it lives"), 7) });
    });
}

#[test]
fn a_debugger_that_lets_a_core_go_leaves_nothing_behind() {
    let test = "machine::a_debugger_that_lets_a_core_go_leaves_nothing_behind";
    debugged(test, Debugger::Passes, Some(20), || reach_a_busy_core(&two_cores(Runtime::builder()), 100));
}

#[test]
fn children_inherit_nothing() {
    alone("machine::children_inherit_nothing", LIMIT, || {
        let runtime = two_cores(Runtime::builder());
        let status = runtime.block_on(|| async {
            let output = Command::new("cat").arg("/proc/self/status").output().expect("a child");
            String::from_utf8(output.stdout).expect("text")
        });
        let bit = 1_u64 << (libc::SIGURG - 1);
        for set in ["SigBlk:", "SigIgn:", "SigCgt:", "SigPnd:", "ShdPnd:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set)).expect("a line of each");
            let mask = u64::from_str_radix(line.trim(), 16).expect("a mask");
            assert_eq!(mask & bit, 0, "{set} {mask:x}");
        }
        // In our own it is caught, on every thread blocked nowhere.
        let ours = std::fs::read_to_string("/proc/self/status").expect("it is mounted");
        let caught = ours.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line");
        assert_ne!(u64::from_str_radix(caught.trim(), 16).expect("a mask") & bit, 0);
        // While children come and go, cores are interrupted.
        let told = Told::default();
        let handler = told.handler(&runtime.handle());
        let stuck = told.clone();
        let task = runtime.handle().spawn_on(B, move || async move {
            while stuck.seen() < 200 {
                let child = Command::new("true").status().expect("a child");
                assert!(child.success());
            }
        });
        (1..=200).for_each(|n| told.tell(&handler, B, n));
        Runtime::wait(task).expect("every child has started and ended well");
    });
}

#[test]
fn a_forked_child_without_its_own_program_interrupts_nobody() {
    alone("machine::a_forked_child_without_its_own_program_interrupts_nobody", LIMIT, || {
        let runtime = two_cores(Runtime::builder());
        let told = Told::default();
        let handler = told.handler(&runtime.handle());
        // B is awake and busy at the moment of the fork, so that the child tries to interrupt it.
        let (started, stuck) = (Arc::new(AtomicBool::new(false)), told.clone());
        let start = started.clone();
        let task = runtime.handle().spawn_on(B, move || async move {
            start.store(true, Ordering::Release);
            while stuck.seen() == 0 {}
        });
        while !started.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let sent = || runtime.handle().core_counters(B).interrupts_sent;
        // SAFETY: 1. the child uses atomics and system calls only, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let before = sent();
            let accepted = handler.trigger(B).is_ok();
            let wrong = i32::from(!accepted || sent() != before);
            // SAFETY: 1. it ends the child, and runs nothing of its parent.
            unsafe { libc::_exit(wrong) };
        }
        let mut status = 0;
        // SAFETY: 1. `status` is valid for a write.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "accepted, refused by the kernel, and no harm done");
        assert_eq!(told.seen(), 0);
        told.tell(&handler, B, 1);
        Runtime::wait(task).expect("it has seen it");
    });
}
