//! Signals of the system, in processes of their own.

use std::env;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use ipiq::signal::{self, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use ipiq::{Placement, Runtime, shutdown};
use ipiq_suites::alone::alone;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(60);
const CHILD: &str = "IPIQ_SIGNALLED";

fn raise(signal: i32) {
    // SAFETY: 1. no memory is passed.
    assert_eq!(unsafe { libc::kill(std::process::id() as i32, signal) }, 0);
}

/// Blocks a signal for the calling thread.
fn block(signal: i32) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: 1. `set` is valid for a write.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: 1. a whole set by now.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: 1. a whole set; nothing is written.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) }, 0);
}

fn one_core() -> Runtime {
    Runtime::builder().cores(1).build().expect("a runtime")
}

/// How a process ends that runs `scenario`, which is not expected to return.
fn status_of(test: &str, scenario: impl FnOnce()) -> ExitStatus {
    if env::var_os(CHILD).is_some() {
        with_watchdog(test, LIMIT, scenario);
        std::process::exit(0);
    }
    let this = env::current_exe().expect("a running program has a path");
    Command::new(this).args([test, "--exact"]).env(CHILD, "1").output().expect("it starts again").status
}

#[test]
fn a_signal_begins_the_phases() {
    alone("a_signal_begins_the_phases", LIMIT, || {
        for signal in [SIGINT, SIGTERM] {
            let runtime = one_core();
            runtime.handle().shutdown_on_signals().expect("a handler");
            runtime.block_on(move || async move {
                raise(signal);
                drop(shutdown::phase(shutdown::DRAIN).await);
            });
            let report = Runtime::wait(runtime.handle().shutdown());
            assert!(report.is_clean(), "{report}");
        }
    });
}

#[test]
fn a_second_signal_ends_the_process_with_its_status() {
    let status = status_of("a_second_signal_ends_the_process_with_its_status", || {
        let runtime = one_core();
        runtime.handle().shutdown_on_signals().expect("a handler");
        let _open = runtime.handle().guard(shutdown::DRAIN);
        raise(SIGINT);
        drop(Runtime::wait(runtime.handle().phase(shutdown::DRAIN)));
        raise(SIGTERM);
        thread::park();
    });
    assert_eq!(status.code(), Some(128 + SIGTERM));
}

#[test]
fn a_signal_that_nobody_listens_to_any_more_does_what_it_does_by_default() {
    let test = "a_signal_that_nobody_listens_to_any_more_does_what_it_does_by_default";
    let status = status_of(test, || {
        let runtime = one_core();
        runtime.handle().shutdown_on_signals().expect("a handler");
        drop(runtime);
        raise(SIGTERM);
        loop {
            thread::park();
        }
    });
    assert_eq!(status.signal(), Some(SIGTERM));
}

static HEARD: AtomicU32 = AtomicU32::new(0);

extern "C" fn hear(_: i32) {
    HEARD.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_signal_that_the_process_has_a_handler_for_or_ignores_ends_nobody_when_nobody_listens_any_more() {
    let test = "a_signal_that_the_process_has_a_handler_for_or_ignores_ends_nobody_when_nobody_listens_any_more";
    alone(test, LIMIT, || {
        // SAFETY: 1. the handler is async-signal-safe.
        unsafe { libc::signal(SIGTERM, hear as *const () as usize) };
        // SAFETY: 1. there is no handler.
        unsafe { libc::signal(SIGHUP, libc::SIG_IGN) };
        let runtime = one_core();
        runtime.handle().shutdown_on_signals().expect("a handler");
        drop(runtime);
        drop(signal::listen([SIGHUP]).expect("a handler"));
        raise(SIGTERM);
        raise(SIGHUP);
        // They are told of in their order.
        let mut after = signal::listen([SIGUSR1]).expect("a handler");
        raise(SIGUSR1);
        assert_eq!(Runtime::wait(after.recv()), SIGUSR1);
        assert_eq!(HEARD.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_forked_child_hears_signals_with_a_runtime_of_its_own_and_its_parent_hears_none_of_them() {
    let test = "a_forked_child_hears_signals_with_a_runtime_of_its_own_and_its_parent_hears_none_of_them";
    alone(test, LIMIT, || {
        let runtime = one_core();
        runtime.handle().shutdown_on_signals().expect("a handler");
        let mut ours = signal::listen([SIGUSR1]).expect("a handler");
        // SAFETY: 1. the child, which has this thread alone, allocates at most, as glibc lets it, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            with_watchdog(test, LIMIT, || {
                let own = one_core();
                own.handle().shutdown_on_signals().expect("a handler");
                let mut theirs = signal::listen([SIGUSR1]).expect("a handler");
                raise(SIGUSR1);
                assert_eq!(Runtime::wait(theirs.recv()), SIGUSR1);
                raise(SIGTERM);
                drop(Runtime::wait(own.handle().phase(shutdown::DRAIN)));
                drop(own);
            });
            // SAFETY: 1. it takes a number.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: 1. `status` is valid for writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
        assert!(futures::FutureExt::now_or_never(Box::pin(ours.recv())).is_none());
        raise(SIGUSR1);
        assert_eq!(Runtime::wait(ours.recv()), SIGUSR1);
        drop(runtime);
    });
}

#[test]
fn signals_are_received_by_all_who_listen_and_none_is_lost_between_two() {
    alone("signals_are_received_by_all_who_listen_and_none_is_lost_between_two", LIMIT, || {
        let mut ours = signal::listen([SIGUSR1, SIGHUP]).expect("a handler");
        let runtime = one_core();
        runtime.block_on(|| async {
            let once = signal::ctrl_c();
            let mut theirs = signal::listen([SIGUSR1]).expect("a handler");
            for _ in 0..20 {
                raise(SIGUSR1);
                assert_eq!(theirs.recv().await, SIGUSR1);
            }
            raise(SIGINT);
            once.await.expect("a handler");
        });
        // Those that came meanwhile are one.
        assert_eq!(Runtime::wait(ours.recv()), SIGUSR1);
        raise(SIGHUP);
        assert_eq!(Runtime::wait(ours.recv()), SIGHUP);
    });
}

/// What `/proc` says of this process's thread `name`, on a line that begins with `field`; `None`: there is no such thread.
fn of_thread(name: &str, field: &str) -> Option<String> {
    let threads = fs::read_dir("/proc/self/task").expect("the process's threads");
    let statuses = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let of_name = |status: &String| status.lines().next().is_some_and(|line| line == format!("Name:\t{name}"));
    in_status(&statuses.into_iter().find(of_name)?, field)
}

fn in_status(status: &str, field: &str) -> Option<String> {
    status.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()))
}

#[test]
fn threads_that_a_core_starts_have_the_mask_and_the_cpus_of_who_has_started_the_runtime() {
    alone("threads_that_a_core_starts_have_the_mask_and_the_cpus_of_who_has_started_the_runtime", LIMIT, || {
        let own = fs::read_to_string("/proc/thread-self/status").expect("this thread's");
        let [cpus, mask] = ["Cpus_allowed_list:", "SigBlk:"].map(|field| in_status(&own, field).expect("it is there"));
        // Given a core that is pinned, and blocks a signal,
        let builder = Runtime::builder().cores(1).placement(Placement::Pinned).thread_name(|_| "core".into());
        let runtime = builder.on_thread_start(|_| block(SIGUSR2)).build().expect("a runtime");
        let cpu = runtime.info().cpus[0].expect("it is pinned");
        assert_eq!(of_thread("core", "Cpus_allowed_list:"), Some(cpu.to_string()));
        assert_ne!(of_thread("core", "SigBlk:"), Some(mask.clone()));
        let open = runtime.handle().guard(shutdown::DRAIN);
        // what it starts,
        runtime.block_on(|| async {
            ipiq::handle().shutdown_on_signals().expect("a handler");
            drop(ipiq::handle().shutdown());
        });
        // is free of both once it runs.
        for name in ["ipiq-signals", "ipiq-shutdown"] {
            while of_thread(name, "Cpus_allowed_list:").as_ref() != Some(&cpus)
                || of_thread(name, "SigBlk:").as_ref() != Some(&mask)
            {
                thread::yield_now();
            }
        }
        drop(open);
        assert!(Runtime::wait(runtime.handle().shutdown()).is_clean());
    });
}

#[test]
fn a_signal_that_cannot_be_listened_to_is_refused() {
    for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 4242, -1] {
        assert!(signal::listen([signal]).is_err(), "{signal}");
    }
}
