//! Listening, accepting, connecting.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use common::{WATCHDOG, block_on, join_all, listener, pair, poll_once, wait_until};
use ipiq_driver::buf::BufResult;
use ipiq_driver::{Driver, ListenOptions, Socket};
use rustix::fs::OFlags;
use rustix::io::FdFlags;

on_both_drivers! {
    a_dropped_accept_leaves_the_connection_to_the_next;
    several_accepts_on_one_listener_all_get_a_connection;
    every_waiting_task_is_woken;
    a_connect_reaches_a_listener;
    a_connect_to_nobody_is_refused;
    a_dropped_connect_closes_its_socket;
    two_listeners_share_a_port;
    descriptors_do_not_block_and_do_not_leak_into_children;
    a_blocking_socket_handed_in_does_not_block;
    a_socket_moves_to_another_driver;
}

fn a_dropped_accept_leaves_the_connection_to_the_next(driver: &Driver) {
    let (listener, address) = listener(driver);
    for _ in 0..20 {
        let mut dropped = listener.accept();
        assert!(poll_once(&mut dropped).is_pending());
        driver.flush();
        let far = TcpStream::connect(address).unwrap();
        driver.poll();
        drop(dropped);
        let (near, peer) = block_on(driver, listener.accept()).unwrap();
        assert_eq!(peer, far.local_addr().unwrap());
        assert_eq!(near.peer_addr().unwrap(), peer);
        assert_eq!(near.local_addr().unwrap(), address);
    }
}

fn several_accepts_on_one_listener_all_get_a_connection(driver: &Driver) {
    let (listener, address) = listener(driver);
    let mut accepts = Vec::new();
    for _ in 0..10 {
        let mut accept = listener.accept();
        assert!(poll_once(&mut accept).is_pending());
        accepts.push(Box::pin(accept) as _);
    }
    let far_ends: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    let accepted: Vec<std::io::Result<(Socket, SocketAddr)>> = block_on(driver, join_all(accepts));
    let mut peers: Vec<_> = accepted.into_iter().map(|accepted| accepted.unwrap().1).collect();
    let mut expected: Vec<_> = far_ends.iter().map(|f| f.local_addr().unwrap()).collect();
    peers.sort();
    expected.sort();
    assert_eq!(peers, expected);
}

/// One event may stand for several connections.
fn every_waiting_task_is_woken(driver: &Driver) {
    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (listener, address) = listener(driver);
    let flags: Vec<_> = (0..5).map(|_| Arc::new(Flag(AtomicBool::new(false)))).collect();
    let mut accepts: Vec<_> = flags.iter().map(|_| listener.accept()).collect();
    for (accept, flag) in accepts.iter_mut().zip(&flags) {
        let waker = Waker::from(Arc::clone(flag));
        assert!(Pin::new(accept).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    driver.flush();
    let _far = TcpStream::connect(address).unwrap();
    wait_until(driver, || flags.iter().all(|flag| flag.0.load(Ordering::SeqCst)));
}

fn a_connect_reaches_a_listener(driver: &Driver) {
    let (listener, address) = listener(driver);
    let near = block_on(driver, driver.connect(address)).unwrap();
    let (far, peer) = block_on(driver, listener.accept()).unwrap();
    assert_eq!(near.local_addr().unwrap(), peer);
    for round in 0..6u8 {
        block_on(driver, near.send(vec![round; 10])).0.unwrap();
        let BufResult(result, buf) = block_on(driver, far.recv(Vec::with_capacity(10)));
        assert_eq!(result.unwrap(), 10);
        assert_eq!(buf, [round; 10]);
        block_on(driver, far.send(buf)).0.unwrap();
        let BufResult(_, buf) = block_on(driver, near.recv(Vec::with_capacity(10)));
        assert_eq!(buf, [round; 10]);
    }
}

fn a_connect_to_nobody_is_refused(driver: &Driver) {
    let (listener, address) = listener(driver);
    block_on(driver, listener.close());
    let refused = block_on(driver, driver.connect(address)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn a_dropped_connect_closes_its_socket(driver: &Driver) {
    let (listener, address) = listener(driver);
    let mut connect = driver.connect(address);
    let _ = poll_once(&mut connect);
    drop(connect);
    let (far, _) = block_on(driver, listener.accept()).unwrap();
    let BufResult(result, _) = block_on(driver, far.recv(Vec::with_capacity(1)));
    assert!(!matches!(result, Ok(1..)));
}

fn two_listeners_share_a_port(driver: &Driver) {
    let options = ListenOptions::default().reuse_port(true).backlog(128);
    let first = options.listen(driver, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = first.local_addr().unwrap();
    let second = options.listen(driver, address).unwrap();
    let far_ends: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut counts = [0; 2];
    let start = Instant::now();
    while counts.iter().sum::<usize>() < far_ends.len() {
        for (listener, count) in [&first, &second].into_iter().zip(&mut counts) {
            while poll_once(&mut listener.accept()).is_ready() {
                *count += 1;
            }
        }
        driver.wait(Some(Duration::from_millis(10))).unwrap();
        assert!(start.elapsed() < WATCHDOG, "connections are lost: {counts:?}");
    }
    assert!(counts.iter().all(|&c| c > 0), "one got all: {counts:?}");
    let taken = ListenOptions::default().listen(driver, address).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
}

fn descriptors_do_not_block_and_do_not_leak_into_children(driver: &Driver) {
    let (listener, address) = listener(driver);
    let connected = block_on(driver, driver.connect(address)).unwrap();
    let (accepted, _) = block_on(driver, listener.accept()).unwrap();
    let (attached, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let inherited = rustix::io::dup(&attached).unwrap(); // Without `CLOEXEC`.
    let attached = driver.attach(inherited).unwrap();
    for socket in [&listener, &connected, &accepted, &attached] {
        let flags = rustix::fs::fcntl_getfl(socket.as_fd()).unwrap();
        assert!(flags.contains(OFlags::NONBLOCK));
        let flags = rustix::io::fcntl_getfd(socket.as_fd()).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC));
    }
}

fn a_blocking_socket_handed_in_does_not_block(driver: &Driver) {
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let near = driver.attach(near).unwrap();
    let mut byte = [0];
    let mut cx = Context::from_waker(Waker::noop());
    assert!(near.poll_read(&mut cx, &mut byte).is_pending());
}

fn a_socket_moves_to_another_driver(driver: &Driver) {
    let (near, mut far) = pair(driver);
    far.write_all(b"one").unwrap();
    assert_eq!(block_on(driver, near.recv(Vec::with_capacity(8))).1, b"one");
    let clone = near.clone();
    let near = near.into_fd().expect_err("a clone uses it");
    drop(clone);
    let fd = near.into_fd().expect("nobody uses it");
    let kind = driver.kind();
    std::thread::spawn(move || {
        let other = common::driver(kind);
        let near = other.attach(fd).unwrap();
        far.write_all(b"two").unwrap();
        assert_eq!(block_on(&other, near.recv(Vec::with_capacity(8))).1, b"two");
    })
    .join()
    .unwrap();
}
