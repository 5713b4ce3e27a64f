//! More work than the queues hold.

mod common;

use std::future::poll_fn;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use common::{WATCHDOG, block_on, join_all, poll_once, spin_on, wait_until};
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
    for round in 0..34 {
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
        let done: Vec<BufResult<usize, Vec<u8>>> = match round % 2 {
            0 => block_on(driver, join_all(receives)),
            _ => spin_on(driver, join_all(receives)),
        };
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

/// The kernel ends multishot polls whose completions find the queue full; none of their sockets goes deaf.
fn watched_sockets_stay_watched(driver: &Driver) {
    let pairs = pairs(driver, 300);
    for round in 0..6u8 {
        let mut reads: Vec<Pin<Box<dyn Future<Output = u8>>>> = Vec::new();
        for (near, _) in &pairs {
            let near = near.clone();
            let read = async move {
                let mut byte = [0];
                poll_fn(|cx| near.poll_read(cx, &mut byte)).await.unwrap();
                byte[0]
            };
            reads.push(Box::pin(read));
        }
        let mut all = Box::pin(join_all(reads));
        assert!(poll_once(&mut all).is_pending());
        driver.flush();
        driver.poll();
        for (_, far) in &pairs {
            (&*far).write_all(&[round]).unwrap();
            driver.notifier().notify();
        }
        let bytes = match round % 2 {
            0 => block_on(driver, all),
            _ => spin_on(driver, all),
        };
        assert_eq!(bytes, [round; 300]);
        driver.wait(Some(Duration::from_millis(1))).unwrap();
        driver.notifier().notify();
        let start = Instant::now();
        driver.wait(Some(WATCHDOG)).unwrap();
        assert!(start.elapsed() < WATCHDOG, "notifications are not seen any more");
    }
}

fn a_ready_socket_gives_others_a_turn(driver: &Driver) {
    let pairs = pairs(driver, 1);
    let (near, far) = &pairs[0];
    (&*far).write_all(&[0; 4096]).unwrap();
    block_on(driver, near.recv([0])).0.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let in_a_row = (0..4095).take_while(|_| near.poll_read(&mut cx, &mut [0]).is_ready()).count();
    assert!((64..=128).contains(&in_a_row), "{in_a_row}");
    assert!(near.poll_read(&mut cx, &mut [0]).is_ready(), "only one turn is given up");
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

#[test]
fn watched_sockets_stay_watched_on_uring() {
    watched_sockets_stay_watched(&narrow(DriverKind::Uring));
}

#[test]
fn watched_sockets_stay_watched_on_epoll() {
    watched_sockets_stay_watched(&narrow(DriverKind::Epoll));
}

#[test]
fn a_ready_socket_gives_others_a_turn_on_uring() {
    a_ready_socket_gives_others_a_turn(&narrow(DriverKind::Uring));
}

#[test]
fn a_ready_socket_gives_others_a_turn_on_epoll() {
    a_ready_socket_gives_others_a_turn(&narrow(DriverKind::Epoll));
}
