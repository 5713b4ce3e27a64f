//! More work than the queues hold.

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;

use common::{WATCHDOG, block_on, join_all, poll_once, wait_until};
use ipiq_driver::buf::BufResult;
use ipiq_driver::{Config, Driver, DriverKind, Socket};

fn narrow(kind: DriverKind) -> Driver {
    let mut config = Config::with_kind(kind);
    config.entries = 2;
    Driver::new(&config).expect("a driver")
}

fn pairs(driver: &Driver, count: usize) -> Vec<(Socket, UnixStream)> {
    let make = || {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_write_timeout(Some(WATCHDOG)).unwrap();
        (driver.attach(near).unwrap(), far)
    };
    std::iter::repeat_with(make).take(count).collect()
}

/// Ten thousand receives, three hundred at a time, through queues of two and eight entries.
fn every_receive_completes(driver: &Driver) {
    for _ in 0..34 {
        let pairs = pairs(driver, 100);
        let mut receives = Vec::new();
        for (near, _) in &pairs {
            for _ in 0..3 {
                let mut recv = near.recv(Vec::with_capacity(1));
                assert!(poll_once(&mut recv).is_pending());
                receives.push(Box::pin(recv) as _);
            }
        }
        driver.flush();
        for (_, far) in &pairs {
            (&*far).write_all(b"abc").unwrap();
        }
        let done: Vec<BufResult<usize, Vec<u8>>> = block_on(driver, join_all(receives));
        let mut bytes: Vec<u8> = done.into_iter().flat_map(|r| r.unwrap().1).collect();
        bytes.sort_unstable();
        let counts = [b'a', b'b', b'c'].map(|letter| bytes.iter().filter(|&&b| b == letter).count());
        assert_eq!(counts, [100; 3]);
    }
}

fn every_cancel_is_answered(driver: &Driver) {
    let pairs = pairs(driver, 300);
    for (near, _) in &pairs {
        let mut recv = near.recv(Vec::with_capacity(1));
        assert!(poll_once(&mut recv).is_pending());
    }
    let (near_ends, far_ends): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    drop(near_ends);
    let is_closed = |far: &UnixStream| {
        far.set_nonblocking(true).unwrap();
        (&*far).write_all(b"x").is_err()
    };
    wait_until(driver, || far_ends.iter().all(is_closed));
}

#[test]
fn every_receive_completes_on_uring() {
    every_receive_completes(&narrow(DriverKind::Uring));
}

#[test]
fn every_receive_completes_on_epoll() {
    every_receive_completes(&narrow(DriverKind::Epoll));
}

#[test]
fn every_cancel_is_answered_on_uring() {
    every_cancel_is_answered(&narrow(DriverKind::Uring));
}

#[test]
fn every_cancel_is_answered_on_epoll() {
    every_cancel_is_answered(&narrow(DriverKind::Epoll));
}
