//! A kernel or policy that refuses io_uring. Seccomp filters hold for one thread: each scenario has its own.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{block_on, pair, poll_once};
use ipiq_driver::{Config, Driver, DriverError, DriverKind};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Runs a scenario on a thread where `io_uring_setup` with at least so many entries fails.
fn with_refusal<T: Send + 'static>(errno: i32, from_entries: u64, scenario: impl FnOnce() -> T + Send + 'static) -> T {
    with_failure(libc::SYS_io_uring_setup, errno, from_entries, scenario)
}

/// Runs a scenario on a thread where a system call fails if its first argument is at least `from`.
fn with_failure<T: Send + 'static>(
    call: libc::c_long,
    errno: i32,
    from: u64,
    scenario: impl FnOnce() -> T + Send + 'static,
) -> T {
    std::thread::spawn(move || {
        let rule = SeccompRule::new(vec![at_least(0, from)]).unwrap();
        apply(call, errno, rule);
        scenario()
    })
    .join()
    .unwrap()
}

fn at_least(argument: u8, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ge, value).unwrap()
}

fn apply(call: libc::c_long, errno: i32, rule: SeccompRule) {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, vec![rule])]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

fn explicit(errno: i32) -> DriverError {
    with_refusal(errno, 0, || Driver::new(&Config::with_kind(DriverKind::Uring)).expect_err("refused"))
}

#[test]
fn auto_falls_back_to_epoll_and_says_why() {
    for errno in [libc::EPERM, libc::ENOSYS, libc::ENOMEM] {
        with_refusal(errno, 0, || {
            let driver = Driver::new(&Config::default()).unwrap();
            assert_eq!(driver.kind(), DriverKind::Epoll);
            let reason = driver.fallback_reason().expect("a reason");
            assert!(reason.contains("io_uring"), "{reason}");
            let (near, far) = pair(&driver);
            std::io::Write::write_all(&mut &far, b"x").unwrap();
            assert_eq!(block_on(&driver, near.recv(Vec::with_capacity(1))).1, b"x");
        });
    }
}

#[test]
fn an_explicit_choice_that_is_refused_is_an_error_that_says_what_to_do() {
    let forbidden = explicit(libc::EPERM);
    assert!(forbidden.is_permission_denied());
    assert!(forbidden.to_string().contains("seccomp"), "{forbidden}");
    let unknown = explicit(libc::ENOSYS);
    assert!(unknown.is_unsupported());
    assert!(unknown.to_string().contains("Linux 5.19"), "{unknown}");
    let short = explicit(libc::ENOMEM);
    assert!(short.is_out_of_resources());
    assert!(short.to_string().contains("RLIMIT_MEMLOCK"), "{short}");
}

#[test]
fn a_ring_too_large_for_the_locked_memory_is_made_smaller() {
    with_refusal(libc::ENOMEM, 256, || {
        let driver = Driver::new(&Config::default()).unwrap();
        assert_eq!(driver.kind(), DriverKind::Uring);
        assert_eq!(driver.fallback_reason(), None);
    });
}

#[test]
fn epoll_when_asked_for_has_no_reason_to_give() {
    let driver = common::driver(DriverKind::Epoll);
    assert_eq!(driver.kind(), DriverKind::Epoll);
    assert_eq!(driver.fallback_reason(), None);
}

#[test]
fn a_kernel_without_epoll_pwait2_keeps_timeouts_to_the_next_millisecond() {
    with_failure(libc::SYS_epoll_pwait2, libc::ENOSYS, 0, || {
        let driver = common::driver(DriverKind::Epoll);
        for micros in [300, 1000, 1700] {
            let asked = Duration::from_micros(micros);
            driver.wait(Some(asked)).unwrap(); // The first finds out, and may return early.
            let start = Instant::now();
            driver.wait(Some(asked)).unwrap();
            assert!(start.elapsed() >= asked);
        }
    });
}

/// Submitting two entries or more fails, except together with a wait.
#[test]
fn submissions_that_the_kernel_puts_off_are_made_later() {
    std::thread::spawn(|| {
        let no_wait = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0).unwrap();
        let mut config = Config::with_kind(DriverKind::Uring);
        config.entries = 2;
        let driver = Driver::new(&config).unwrap();
        let pairs: Vec<_> = (0..20).map(|_| pair(&driver)).collect();
        apply(libc::SYS_io_uring_enter, libc::EAGAIN, SeccompRule::new(vec![at_least(1, 2), no_wait]).unwrap());
        let mut receives: Vec<_> = pairs.iter().map(|(near, _)| near.recv(Vec::with_capacity(1))).collect();
        for recv in &mut receives {
            assert!(poll_once(recv).is_pending());
        }
        for (_, far) in &pairs {
            std::io::Write::write_all(&mut &*far, b"x").unwrap();
        }
        for recv in receives {
            assert_eq!(block_on(&driver, recv).1, b"x");
        }
    })
    .join()
    .unwrap();
}
