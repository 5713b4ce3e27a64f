//! Waiting, timeouts and notifications.

mod common;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{WATCHDOG, pair, poll_once};
use ipiq_driver::Driver;

on_both_drivers! {
    a_notification_before_the_wait_ends_it;
    a_notification_during_the_wait_ends_it;
    a_poll_does_not_use_a_notification_up;
    every_notification_of_many_threads_is_seen;
    a_notifier_outlives_its_driver;
    a_timeout_is_kept_to_parts_of_a_millisecond;
    a_zero_timeout_does_not_sleep;
    the_longest_timeout_is_accepted;
    a_signal_ends_the_wait;
    nothing_ready_is_no_event;
}

fn a_notification_before_the_wait_ends_it(driver: &Driver) {
    for _ in 0..1000 {
        driver.notifier().notify();
        let start = Instant::now();
        driver.wait(None).unwrap();
        assert!(start.elapsed() < WATCHDOG);
    }
    let start = Instant::now();
    driver.wait(Some(Duration::from_millis(5))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(5), "each counts once");
}

fn a_notification_during_the_wait_ends_it(driver: &Driver) {
    let notifier = driver.notifier();
    let (ask, asked) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        for () in asked {
            notifier.notify();
        }
    });
    for _ in 0..1000 {
        ask.send(()).unwrap();
        driver.wait(None).unwrap();
    }
    drop(ask);
    thread.join().unwrap();
}

fn a_poll_does_not_use_a_notification_up(driver: &Driver) {
    let (near, _far) = pair(driver);
    let mut recv = near.recv(Vec::with_capacity(1));
    assert!(poll_once(&mut recv).is_pending());
    driver.notifier().notify();
    for _ in 0..3 {
        driver.poll();
    }
    let start = Instant::now();
    driver.wait(Some(WATCHDOG)).unwrap();
    assert!(start.elapsed() < WATCHDOG);
}

fn every_notification_of_many_threads_is_seen(driver: &Driver) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    const EACH: usize = 2000;
    let sent = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (notifier, sent) = (driver.notifier(), Arc::clone(&sent));
            std::thread::spawn(move || {
                for _ in 0..EACH {
                    sent.fetch_add(1, Ordering::SeqCst);
                    notifier.notify();
                }
            })
        })
        .collect();
    let start = Instant::now();
    while sent.load(Ordering::SeqCst) < 3 * EACH {
        driver.wait(Some(WATCHDOG)).unwrap();
        assert!(start.elapsed() < WATCHDOG, "a notification is lost");
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn a_notifier_outlives_its_driver(driver: &Driver) {
    let mine = common::driver(driver.kind());
    let notifier = mine.notifier();
    drop(mine);
    notifier.notify();
    notifier.clone().notify();
}

fn a_timeout_is_kept_to_parts_of_a_millisecond(driver: &Driver) {
    let asked = Duration::from_micros(300);
    let took = (0..50).map(|_| {
        let start = Instant::now();
        driver.wait(Some(asked)).unwrap();
        let took = start.elapsed();
        assert!(took >= asked, "early: {took:?}");
        took
    });
    let best = took.min().unwrap();
    assert!(best < Duration::from_micros(900), "late: {best:?} at best");
}

fn a_zero_timeout_does_not_sleep(driver: &Driver) {
    let start = Instant::now();
    assert_eq!(driver.wait(Some(Duration::ZERO)).unwrap(), 0);
    assert!(start.elapsed() < WATCHDOG);
}

fn the_longest_timeout_is_accepted(driver: &Driver) {
    driver.notifier().notify();
    driver.wait(Some(Duration::MAX)).unwrap();
}

fn a_signal_ends_the_wait(driver: &Driver) {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: all zero is a valid `sigaction` without flags, hence without `SA_RESTART`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the action is valid and the handler does nothing.
    let installed = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
    // SAFETY: always sound.
    let sleeper = unsafe { libc::pthread_self() };
    let (done, stop) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // Again and again: one may come before the sleep begins.
        while stop.recv_timeout(Duration::from_millis(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: the thread is joined only after this one has stopped.
            unsafe { libc::pthread_kill(sleeper, libc::SIGUSR1) };
        }
    });
    let start = Instant::now();
    assert_eq!(driver.wait(Some(WATCHDOG)).unwrap(), 0);
    assert!(start.elapsed() < WATCHDOG);
    drop(done);
    thread.join().unwrap();
}

fn nothing_ready_is_no_event(driver: &Driver) {
    assert_eq!(driver.poll(), 0);
    driver.flush();
    let (near, _far) = pair(driver);
    let mut recv = near.recv(Vec::with_capacity(1));
    assert!(poll_once(&mut recv).is_pending());
    // A fresh socket reports once that it can be written.
    driver.wait(Some(Duration::from_millis(5))).unwrap();
    assert_eq!(driver.poll(), 0);
}
