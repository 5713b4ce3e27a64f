//! A single-threaded loop over one driver, and helpers for scenarios.
#![allow(dead_code)]

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use ipiq_driver::{Config, Driver, DriverKind, ListenOptions, Notifier, Socket};

/// After this long a scenario hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

/// Makes one test per driver from a function that takes a driver.
#[macro_export]
macro_rules! on_both_drivers {
    ($($(#[$attr:meta])* $name:ident;)*) => {
        mod on_uring {
            $($(#[$attr])* #[test] fn $name() { super::$name(&$crate::common::driver(ipiq_driver::DriverKind::Uring)) })*
        }
        mod on_epoll {
            $($(#[$attr])* #[test] fn $name() { super::$name(&$crate::common::driver(ipiq_driver::DriverKind::Epoll)) })*
        }
    };
}

pub(crate) fn driver(kind: DriverKind) -> Driver {
    Driver::new(&Config::with_kind(kind)).expect("a driver")
}

struct Flag {
    woken: AtomicBool,
    notifier: Notifier,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.notifier.notify();
    }
}

/// Polls a future, and between polls waits on the driver.
pub(crate) fn block_on<F: Future>(driver: &Driver, future: F) -> F::Output {
    let flag = Arc::new(Flag { woken: AtomicBool::new(true), notifier: driver.notifier() });
    let waker = Waker::from(Arc::clone(&flag));
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        if flag.woken.swap(false, Ordering::SeqCst)
            && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return output;
        }
        assert!(start.elapsed() < WATCHDOG, "the scenario hangs");
        driver.wait(Some(Duration::from_secs(1))).expect("wait");
    }
}

/// Polls a future, and between polls looks at the driver without ever sleeping.
pub(crate) fn spin_on<F: Future>(driver: &Driver, future: F) -> F::Output {
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        assert!(start.elapsed() < WATCHDOG, "the scenario hangs");
        driver.poll();
    }
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits on the driver until the condition holds.
pub(crate) fn wait_until(driver: &Driver, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "the scenario hangs");
        driver.wait(Some(Duration::from_millis(10))).expect("wait");
    }
}

pub(crate) fn listener(driver: &Driver) -> (Socket, SocketAddr) {
    let listener = ListenOptions::default().listen(driver, SocketAddr::from(([127, 0, 0, 1], 0))).expect("listen");
    let address = listener.local_addr().expect("local address");
    (listener, address)
}

/// A connection: the near end on the driver, the far end blocking.
pub(crate) fn pair(driver: &Driver) -> (Socket, std::net::TcpStream) {
    let (listener, address) = listener(driver);
    let far = std::net::TcpStream::connect(address).expect("connect");
    far.set_read_timeout(Some(WATCHDOG)).unwrap();
    far.set_write_timeout(Some(WATCHDOG)).unwrap();
    let (near, _) = block_on(driver, listener.accept()).expect("accept");
    (near, far)
}

/// Polls all futures, each when it is woken through the shared waker, until all are done.
pub(crate) async fn join_all<T>(futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    let count = futures.len();
    let futures = RefCell::new(futures.into_iter().map(Some).collect::<Vec<_>>());
    let outputs: Rc<RefCell<Vec<Option<T>>>> = Rc::new(RefCell::new((0..count).map(|_| None).collect()));
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (place, output) in futures.borrow_mut().iter_mut().zip(outputs.borrow_mut().iter_mut()) {
            if let Some(future) = place {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => {
                        *output = Some(value);
                        *place = None;
                    }
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    outputs.borrow_mut().drain(..).map(|o| o.expect("done")).collect()
}

/// Open descriptors of this process.
pub(crate) fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}
