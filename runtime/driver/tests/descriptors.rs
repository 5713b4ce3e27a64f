//! File descriptors: none left over, none confused. One test, for it looks at the whole process.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use common::{block_on, driver, listener, open_fds, pair, poll_once, wait_until};
use ipiq_driver::{Driver, DriverKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn descriptors_are_given_back() {
    for kind in [DriverKind::Uring, DriverKind::Epoll] {
        let before = open_fds();
        let driver = driver(kind);
        let during = open_fds();
        churn_returns_to_the_baseline(&driver);
        a_number_used_again_wakes_only_its_new_owner(&driver);
        accept_reports_that_descriptors_ran_out_and_recovers(&driver);
        wait_until(&driver, || open_fds() <= during);
        drop(driver);
        assert_eq!(open_fds(), before, "{kind:?}");
    }
}

fn churn_returns_to_the_baseline(driver: &Driver) {
    let before = open_fds();
    let (listener, address) = listener(driver);
    for round in 0..200 {
        let mut far = TcpStream::connect(address).unwrap();
        let (near, _) = block_on(driver, listener.accept()).unwrap();
        match round % 5 {
            0 => {
                far.write_all(b"x").unwrap();
                block_on(driver, near.recv(Vec::with_capacity(1))).0.unwrap();
            }
            1 => assert!(poll_once(&mut near.recv(Vec::with_capacity(1))).is_pending()),
            2 => {
                let mut recv = near.recv(Vec::with_capacity(1));
                assert!(poll_once(&mut recv).is_pending());
                driver.flush();
                far.write_all(b"x").unwrap();
            }
            3 => {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(near.poll_read(&mut cx, &mut [0]).is_pending());
            }
            _ => rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap(),
        }
    }
    drop(listener);
    wait_until(driver, || open_fds() == before);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether nothing ends a short wait.
fn is_quiet(driver: &Driver) -> bool {
    let start = Instant::now();
    driver.wait(Some(Duration::from_millis(10))).unwrap();
    start.elapsed() >= Duration::from_millis(10)
}

/// As after `fork`, a duplicate keeps the old socket open, and the kernel goes on to see its events.
fn a_number_used_again_wakes_only_its_new_owner(driver: &Driver) {
    let (old, mut old_far) = pair(driver);
    let number = old.as_fd().as_raw_fd();
    let _duplicate = old.as_fd().try_clone_to_owned().unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(old.poll_read(&mut cx, &mut [0]).is_pending());
    driver.flush();
    old_far.write_all(b"x").unwrap(); // An event of the old socket is on its way.
    block_on(driver, old.close());

    let (new, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut filler = Vec::new();
    let mut new = new;
    while new.as_raw_fd() != number {
        filler.push(new.try_clone().unwrap());
        std::mem::swap(&mut new, filler.last_mut().unwrap());
        assert!(filler.len() < 100, "the number is free");
    }
    let new = driver.attach(new).unwrap();
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut recv = new.recv(Vec::with_capacity(1));
    assert!(Future::poll(Pin::new(&mut recv), &mut Context::from_waker(&waker)).is_pending());
    wait_until(driver, || is_quiet(driver)); // It may report once that it can be written.
    let before = woken.0.load(Ordering::SeqCst);
    // A wait may end early for nothing: what the kernel does for a ring that was closed interrupts it. Not five times in a row.
    let heard_nothing = (0..5).any(|_| {
        old_far.write_all(b"x").unwrap();
        is_quiet(driver)
    });
    assert!(heard_nothing, "an event of a socket that is gone");
    assert_eq!(woken.0.load(Ordering::SeqCst), before, "woken for another socket");
    (&far).write_all(b"y").unwrap();
    assert_eq!(block_on(driver, recv).1, b"y");
}

fn accept_reports_that_descriptors_ran_out_and_recovers(driver: &Driver) {
    let (listener, address) = listener(driver);
    let far_ends: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let limit = getrlimit(Resource::Nofile);
    let highest = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u64>().ok())
        .max();
    // The next number is beyond the limit, unless there is a gap; gaps are filled first.
    let fillers = std::iter::from_fn(|| {
        let filler = std::fs::File::open("/dev/null").unwrap();
        (filler.as_raw_fd() as u64 <= highest.unwrap()).then_some(filler)
    })
    .collect::<Vec<_>>();
    let lowered = Rlimit { current: highest.map(|h| h + 1), ..limit };
    setrlimit(Resource::Nofile, lowered).unwrap();
    let refused: Vec<_> = (0..3).map(|_| block_on(driver, listener.accept())).collect();
    setrlimit(Resource::Nofile, limit).unwrap();
    for accept in refused {
        let error = accept.expect_err("no descriptor is free");
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    }
    drop(fillers);
    for _ in &far_ends {
        block_on(driver, listener.accept()).expect("the connections waited");
    }
}
