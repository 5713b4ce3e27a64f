//! Futures dropped at every phase: no byte is lost, no buffer freed early, late or twice.

mod common;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use common::{block_on, listener, pair, poll_once, wait_until};
use ipiq_driver::buf::{BufResult, IoBuf, IoBufMut, SetLen};
use ipiq_driver::{Driver, Socket};
use rustix::event::{PollFd, PollFlags, Timespec};

on_both_drivers! {
    a_recv_dropped_before_the_bytes_leaves_them_to_the_next;
    a_recv_dropped_after_the_bytes_leaves_them_to_the_next;
    a_recv_dropped_with_its_answer_unseen_leaves_the_bytes_to_a_borrowed_reader;
    a_dropped_recv_frees_its_buffer_once_the_kernel_has_let_go;
    buffers_that_lie_in_the_future_are_filled;
    a_send_after_a_dropped_send_comes_after_it;
    a_driver_dropped_with_operations_in_flight_frees_every_buffer;
    a_forgotten_operation_keeps_its_driver;
    an_operation_outlives_the_drivers_handle;
    a_waker_may_call_into_the_driver;
    close_resolves_when_the_kernel_has_let_go;
}

/// A buffer that counts its drops.
struct Counted {
    bytes: Vec<u8>,
    drops: Arc<AtomicUsize>,
}

impl Counted {
    fn new(drops: &Arc<AtomicUsize>) -> Self {
        Self { bytes: Vec::with_capacity(64), drops: Arc::clone(drops) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // What the kernel wrote late would show here under a checker; what was freed twice, in the count.
        self.bytes.fill(0xdb);
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

impl IoBuf for Counted {
    fn as_init(&self) -> &[u8] {
        &self.bytes
    }
}

impl SetLen for Counted {
    unsafe fn set_len(&mut self, len: usize) {
        // SAFETY: the same conditions.
        unsafe { self.bytes.set_len(len) };
    }
}

impl IoBufMut for Counted {
    fn as_uninit(&mut self) -> &mut [MaybeUninit<u8>] {
        self.bytes.as_uninit()
    }
}

fn a_recv_dropped_before_the_bytes_leaves_them_to_the_next(driver: &Driver) {
    for flush in [false, true] {
        let (near, mut far) = pair(driver);
        let mut dropped = near.recv(Vec::with_capacity(64));
        assert!(poll_once(&mut dropped).is_pending());
        if flush {
            driver.flush();
        }
        drop(dropped);
        far.write_all(b"bytes").unwrap();
        let BufResult(result, buf) = block_on(driver, near.recv(Vec::with_capacity(64)));
        assert_eq!(result.unwrap(), 5);
        assert_eq!(buf, b"bytes");
    }
}

fn a_recv_dropped_after_the_bytes_leaves_them_to_the_next(driver: &Driver) {
    for round in 0..50 {
        let (near, mut far) = pair(driver);
        let mut dropped = near.recv(Vec::with_capacity(3));
        assert!(poll_once(&mut dropped).is_pending());
        driver.flush();
        far.write_all(b"first").unwrap();
        if round % 2 == 0 {
            driver.flush(); // The kernel may answer now, before the cancel.
        }
        drop(dropped);
        far.write_all(b"second").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        block_on(driver, async {
            loop {
                let BufResult(result, buf) = near.recv(Vec::with_capacity(4)).await;
                if result.unwrap() == 0 {
                    break;
                }
                all.extend(buf);
            }
        });
        assert_eq!(all, b"firstsecond");
    }
}

fn a_recv_dropped_with_its_answer_unseen_leaves_the_bytes_to_a_borrowed_reader(driver: &Driver) {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (near, mut far) = pair(driver);
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut dropped = near.recv(Vec::with_capacity(64));
    assert!(Future::poll(Pin::new(&mut dropped), &mut Context::from_waker(&waker)).is_pending());
    far.write_all(b"bytes").unwrap();
    wait_until(driver, || woken.0.load(Ordering::SeqCst) > 0);
    drop(dropped);
    let mut buf = [0; 3];
    let count = block_on(driver, poll_fn(|cx| near.poll_read(cx, &mut buf))).unwrap();
    assert_eq!(&buf[..count], b"byt");
    let count = block_on(driver, poll_fn(|cx| near.poll_read(cx, &mut buf))).unwrap();
    assert_eq!(&buf[..count], b"es");
}

fn a_dropped_recv_frees_its_buffer_once_the_kernel_has_let_go(driver: &Driver) {
    let drops = Arc::new(AtomicUsize::new(0));
    let (near, mut far) = pair(driver);
    let mut recv = near.recv(Counted::new(&drops));
    assert!(poll_once(&mut recv).is_pending());
    driver.flush();
    drop(recv);
    wait_until(driver, || drops.load(Ordering::SeqCst) == 1);

    far.write_all(b"bytes").unwrap();
    let BufResult(result, buf) = block_on(driver, near.recv(Counted::new(&drops)));
    assert_eq!(result.unwrap(), 5);
    assert_eq!(buf.bytes, b"bytes");
    assert_eq!(drops.load(Ordering::SeqCst), 1, "a buffer given back is the caller's");
    drop(buf);
    assert_eq!(drops.load(Ordering::SeqCst), 2);
}

fn buffers_that_lie_in_the_future_are_filled(driver: &Driver) {
    let (near, mut far) = pair(driver);
    let mut small = near.recv([0u8; 32]);
    assert!(poll_once(&mut small).is_pending());
    driver.flush();
    let small = Box::new(small); // A moved future changes nothing.
    far.write_all(&[1; 32]).unwrap();
    assert_eq!(block_on(driver, small).1, [1; 32]);
    let mut large = near.recv([0u8; 4096]);
    assert!(poll_once(&mut large).is_pending());
    driver.flush();
    far.write_all(&[2; 100]).unwrap();
    let BufResult(result, buf) = block_on(driver, Box::new(large));
    assert_eq!(result.unwrap(), 100);
    assert_eq!(buf[..100], [2; 100]);
    assert_eq!(buf[100..], [0; 3996]);
}

fn can_send(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

fn a_send_after_a_dropped_send_comes_after_it(driver: &Driver) {
    let (near, mut far) = pair(driver);
    let blocked = loop {
        let mut send = near.send(vec![b'a'; 1 << 20]);
        if poll_once(&mut send).is_pending() {
            break send;
        }
    };
    driver.flush();
    drop(blocked);
    let mut taken = 0;
    while !can_send(&near) {
        taken += far.read(&mut [0; 65536]).unwrap();
    }
    let mut last = near.send(b"z".to_vec());
    assert!(poll_once(&mut last).is_pending(), "after {taken} bytes the dropped send may go on");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        all
    });
    block_on(driver, last).0.unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    wait_until(driver, || reader.is_finished());
    let all = reader.join().unwrap();
    assert_eq!(all.iter().position(|&b| b == b'z'), Some(all.len() - 1));
}

fn a_driver_dropped_with_operations_in_flight_frees_every_buffer(driver: &Driver) {
    let drops = Arc::new(AtomicUsize::new(0));
    let mine = common::driver(driver.kind());
    let mut far_ends = Vec::new();
    for round in 0..20 {
        let (near, far) = pair(&mine);
        let mut recv = near.recv(Counted::new(&drops));
        assert!(poll_once(&mut recv).is_pending());
        if round % 2 == 0 {
            mine.flush();
        }
        far_ends.push(far);
    }
    drop(mine);
    assert_eq!(drops.load(Ordering::SeqCst), 20);
    for mut far in far_ends {
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "the near end is closed");
    }
}

fn a_forgotten_operation_keeps_its_driver(driver: &Driver) {
    let drops = Arc::new(AtomicUsize::new(0));
    let mine = common::driver(driver.kind());
    let (near, mut far) = pair(&mine);
    let mut recv = near.recv(Counted::new(&drops));
    assert!(poll_once(&mut recv).is_pending());
    mine.flush();
    std::mem::forget(recv);
    drop(near);
    drop(mine);
    far.write_all(b"bytes").unwrap(); // The kernel writes to memory that is still there.
    assert_eq!(drops.load(Ordering::SeqCst), 0);
}

fn an_operation_outlives_the_drivers_handle(driver: &Driver) {
    let mine = common::driver(driver.kind());
    let (near, mut far) = pair(&mine);
    let mut recv = near.recv(Vec::with_capacity(8));
    assert!(poll_once(&mut recv).is_pending());
    drop(near);
    far.write_all(b"bytes").unwrap();
    let BufResult(result, buf) = block_on(&mine, recv);
    assert_eq!(result.unwrap(), 5);
    assert_eq!(buf, b"bytes");
}

fn a_waker_may_call_into_the_driver(driver: &Driver) {
    thread_local! {
        static HOME: RefCell<Option<Driver>> = const { RefCell::new(None) };
    }
    struct Reenter(AtomicUsize);
    impl Wake for Reenter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
            let home = HOME.with_borrow(Clone::clone).expect("on the home thread");
            home.poll();
            home.flush();
        }
    }
    HOME.set(Some(driver.clone()));
    let pairs: Vec<_> = (0..8).map(|_| pair(driver)).collect();
    let reenter = Arc::new(Reenter(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&reenter));
    let mut recvs: Vec<_> = pairs.iter().map(|(near, _)| near.recv(Vec::with_capacity(8))).collect();
    for recv in &mut recvs {
        assert!(Future::poll(Pin::new(recv), &mut Context::from_waker(&waker)).is_pending());
    }
    driver.flush();
    for (_, far) in &pairs {
        (&*far).write_all(b"x").unwrap();
    }
    wait_until(driver, || reenter.0.load(Ordering::SeqCst) >= 8);
    for recv in recvs {
        assert_eq!(block_on(driver, recv).1, b"x");
    }
    HOME.set(None);
}

fn close_resolves_when_the_kernel_has_let_go(driver: &Driver) {
    let (near, mut far) = pair(driver);
    let mut recv = near.recv(Vec::with_capacity(8));
    assert!(poll_once(&mut recv).is_pending());
    driver.flush();
    drop(recv);
    block_on(driver, near.close());
    assert_eq!(far.read(&mut [0]).unwrap(), 0);

    let (listener, _) = listener(driver);
    let mut accept = listener.accept();
    assert!(poll_once(&mut accept).is_pending());
    drop(accept);
    block_on(driver, listener.close());
}
