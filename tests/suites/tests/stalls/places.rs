//! Cores that are stuck in the middle of anything.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::thread;

use ipiq::NoBacktrace;
use ipiq::urgent::critical;
use ipiq_suites::watchdog::watch;

use super::*;

#[test]
fn in_the_allocator() {
    #[inline(never)]
    fn allocates_and_frees(told: &AtomicBool) {
        let mut kept = Vec::new();
        while !told.load(Ordering::Relaxed) {
            kept.push(black_box(vec![0_u8; 100 + kept.len()]));
            if kept.len() > 1_000 {
                kept.clear();
            }
        }
    }
    let _watchdog = watch("the allocator");
    let scene = Scene::new(|builder| builder);
    for _ in 0..5 {
        scene.until_told(allocates_and_frees, |report| names(report, "allocates_and_frees"));
    }
}

#[test]
fn while_it_formats_panics_and_unwinds() {
    #[inline(never)]
    fn panics_again_and_again(told: &AtomicBool) {
        while !told.load(Ordering::Relaxed) {
            let payload = std::panic::catch_unwind(|| {
                let _dropped = Box::new([0_u8; 100]);
                std::panic::resume_unwind(Box::new(format!("{:?}", vec![2])));
            });
            assert!(payload.is_err());
        }
    }
    let _watchdog = watch("panics");
    let scene = Scene::new(|builder| builder);
    scene.until_told(panics_again_and_again, |report| names(report, "panics_again_and_again"));
}

#[test]
fn while_it_resolves_names_itself() {
    #[inline(never)]
    fn takes_backtraces(told: &AtomicBool) {
        while !told.load(Ordering::Relaxed) {
            black_box(std::backtrace::Backtrace::force_capture().to_string());
        }
    }
    let _watchdog = watch("names");
    let scene = Scene::new(|builder| builder);
    scene.until_told(takes_backtraces, |report| names(report, "takes_backtraces"));
}

#[test]
fn in_front_of_a_mutex_that_another_thread_holds() {
    #[inline(never)]
    fn waits_for_the_mutex(mutex: &Mutex<u32>) -> u32 {
        *mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
    let _watchdog = watch("a mutex");
    let scene = Scene::new(|builder| builder);
    let mutex = Arc::new(Mutex::new(0));
    let mut held = mutex.lock().expect("free");
    let there = mutex.clone();
    let task = scene.runtime.handle().spawn_on(B, move || async move { waits_for_the_mutex(&there) });
    scene.report(|report| names(report, "waits_for_the_mutex"));
    *held = 5;
    drop(held);
    assert_eq!(Runtime::wait(task).expect("no panic"), 5);
}

#[test]
fn in_a_read_of_a_pipe_which_goes_on_afterwards() {
    #[inline(never)]
    fn reads_a_byte(mut from: &UnixStream) -> (isize, u8) {
        let mut byte = [0];
        // SAFETY: 1. a byte that may be written. Without the standard library, which would try again.
        let read = unsafe { libc::read(from.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
        let mut rest = Vec::new();
        from.read_to_end(&mut rest).expect("it is closed");
        (read, byte[0])
    }
    let _watchdog = watch("a read");
    let scene = Scene::new(|builder| builder);
    for _ in 0..5 {
        let (mut here, there) = UnixStream::pair().expect("a pair of sockets");
        let task = scene.runtime.handle().spawn_on(B, move || async move { reads_a_byte(&there) });
        scene.report(|report| names(report, "reads_a_byte"));
        here.write_all(b"x").expect("it is open");
        drop(here);
        assert_eq!(Runtime::wait(task).expect("no panic"), (1, b'x'), "no EINTR");
    }
}

#[test]
fn in_a_sleep_which_is_as_long_as_it_should_be() {
    #[inline(never)]
    fn sleeps(time: Duration) -> Duration {
        let begun = Instant::now();
        thread::sleep(time);
        begun.elapsed()
    }
    let _watchdog = watch("a sleep");
    let scene = Scene::new(|builder| builder);
    let time = 10 * LIMIT;
    // The machine may be too busy to look in time.
    loop {
        let task = scene.runtime.handle().spawn_on(B, move || async move { sleeps(time) });
        assert!(Runtime::wait(task).expect("no panic") >= time);
        if scene.reports.try_iter().any(|report| names(&report, "sleeps")) {
            break;
        }
    }
}

#[test]
fn in_a_bare_nanosleep_which_may_end_early_as_documented() {
    #[inline(never)]
    fn sleeps_bare(told: &AtomicBool) {
        while !told.load(Ordering::Relaxed) {
            let time = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            // SAFETY: 1. a time; what is left of it is not asked for.
            let result = unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
            let interrupted = std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
            assert!(result == 0 || interrupted);
        }
    }
    let _watchdog = watch("a bare sleep");
    let scene = Scene::new(|builder| builder);
    scene.until_told(sleeps_bare, |report| names(report, "sleeps_bare"));
}

#[test]
fn in_a_critical_section_it_is_told_of_in_time_without_a_backtrace() {
    let _watchdog = watch("a critical section");
    let scene = Scene::new(|builder| builder);
    let task = |report: &StallReport| report.task.as_ref().is_some_and(|task| task.future.contains("holds_off"));
    let mut rounds = 0;
    while rounds < 3 {
        let told = Arc::new(AtomicBool::new(false));
        let tell = told.clone();
        async fn holds_off(told: Arc<AtomicBool>) {
            critical(|| critical(|| spin_until(&told)));
        }
        let stuck = scene.runtime.handle().spawn_on(B, move || holds_off(told));
        let report = scene.report(task);
        tell.store(true, Ordering::Relaxed);
        Runtime::wait(stuck).expect("no panic");
        // A machine that is busy may keep the core from beginning the section in time.
        if report.backtrace.is_ok() && !names(&report, "spin_here") {
            continue;
        }
        assert_eq!(report.backtrace, Err(NoBacktrace::NoAnswer), "{report}");
        rounds += 1;
    }
    // What was let go disturbs nobody.
    scene.until_told(spin_until, |report| names(report, "spin_here"));
}

#[test]
fn at_the_end_of_a_critical_section_it_is_asked_again() {
    let _watchdog = watch("the end of a critical section");
    let scene = Scene::new(|builder| builder);
    // The watcher may be too late to ask within the section, or again after it: but not each time.
    loop {
        let (told, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let tell = told.clone();
        let task = scene.runtime.handle().spawn_on(B, move || {
            ipiq::named("stuck", async move {
                critical(|| spin_here(|| begun.elapsed() >= 2 * LIMIT));
                spin_until(&told);
            })
        });
        let report = scene.report(|report| report.core == B && report.task.is_some());
        tell.store(true, Ordering::Relaxed);
        Runtime::wait(task).expect("no panic");
        if names(&report, "spin_here") {
            break;
        }
    }
}
