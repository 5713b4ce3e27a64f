//! What waits on one core against oracles, with waits dropped in every state and wakers that do what they like.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use fastrand::Rng;
use futures::FutureExt;

use super::*;

/// Notes that it was woken; may panic then.
#[derive(Default)]
struct Flag {
    woken: AtomicBool,
    panics: bool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        assert!(!self.panics, "a waker that panics");
    }
}

impl Flag {
    fn new(panics: bool) -> Arc<Self> {
        Arc::new(Self { woken: AtomicBool::new(false), panics })
    }

    fn is_up(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, flag: &Arc<Flag>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(flag.clone())))
}

/// Runs [`Reenter::ACTION`] when it is woken, and when it is dropped.
struct Reenter;

thread_local!(static ACTION: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) });

impl Reenter {
    fn act() {
        let action = ACTION.with_borrow(Clone::clone);
        if let Some(action) = action {
            action();
        }
    }
}

impl Wake for Reenter {
    fn wake(self: Arc<Self>) {
        Self::act();
    }
}

impl Drop for Reenter {
    fn drop(&mut self) {
        Self::act();
    }
}

/// What may be done with a semaphore.
#[derive(Clone, Copy, Debug)]
enum Op {
    Begin(usize),
    Poll,
    Abandon,
    GiveBack,
    Try(usize),
    Add,
    Forget,
    Close,
}

impl Op {
    fn draw(rng: &mut Rng) -> Self {
        match rng.u32(..200) {
            0..50 => Self::Begin(rng.usize(1..4)),
            50..90 => Self::Poll,
            90..120 => Self::Abandon,
            120..165 => Self::GiveBack,
            165..180 => Self::Try(rng.usize(1..4)),
            180..190 => Self::Add,
            190..199 => Self::Forget,
            _ => Self::Close,
        }
    }
}

/// A semaphore as a line of numbers.
#[derive(Default)]
struct Oracle {
    available: usize,
    closed: bool,
    line: VecDeque<(u64, usize)>,
    called: BTreeMap<u64, Result<usize, Closed>>,
}

impl Oracle {
    fn take(&mut self, need: usize) -> Option<bool> {
        if self.closed {
            return Some(false);
        }
        let fits = self.line.is_empty() && self.available >= need;
        fits.then(|| {
            self.available -= need;
            true
        })
    }

    fn grant(&mut self) {
        while let Some(&(ticket, need)) = self.line.front()
            && self.available >= need
        {
            self.available -= need;
            self.line.pop_front();
            self.called.insert(ticket, Ok(need));
        }
    }

    fn abandon(&mut self, ticket: u64) {
        self.line.retain(|(other, _)| *other != ticket);
        if let Some(Ok(need)) = self.called.remove(&ticket) {
            self.available += need;
        }
        self.grant();
    }

    fn close(&mut self) {
        self.closed = true;
        self.called.extend(self.line.drain(..).map(|(ticket, _)| (ticket, Err(Closed))));
    }
}

#[test]
fn a_semaphore_does_what_a_line_of_tickets_does() {
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let start = rng.usize(..5);
        let semaphore = Semaphore::new(start);
        let mut oracle = Oracle { available: start, ..Oracle::default() };
        let mut waits: Vec<(u64, Acquire<'_>, Arc<Flag>)> = Vec::new();
        let mut permits: Vec<Permit<'_>> = Vec::new();
        for ticket in 0..200 {
            let op = Op::draw(&mut rng);
            match op {
                Op::Begin(need) => {
                    let (mut wait, flag) = (semaphore.acquire_many(need), Flag::new(rng.u32(..8) == 0));
                    match (poll(&mut wait, &flag), oracle.take(need)) {
                        (Poll::Ready(Ok(permit)), Some(true)) => permits.push(permit),
                        (Poll::Ready(Err(Closed)), Some(false)) => {}
                        (Poll::Pending, None) => {
                            oracle.line.push_back((ticket, need));
                            waits.push((ticket, wait, flag));
                        }
                        (real, expected) => panic!("seed {seed}: {real:?}, expected {expected:?}"),
                    }
                }
                Op::Poll if !waits.is_empty() => {
                    let at = rng.usize(..waits.len());
                    if rng.bool() {
                        // Another task's waker from now on.
                        let called = waits[at].2.is_up();
                        waits[at].2 = Flag::new(false);
                        waits[at].2.woken.store(called, Ordering::Relaxed);
                    }
                    let (ticket, wait, flag) = &mut waits[at];
                    match (poll(wait, flag), oracle.called.remove(ticket)) {
                        (Poll::Ready(Ok(permit)), Some(Ok(need))) => {
                            assert_eq!(permit.permits(), need, "seed {seed}");
                            permits.push(permit);
                            drop(waits.remove(at));
                        }
                        (Poll::Ready(Err(Closed)), Some(Err(Closed))) => drop(waits.remove(at)),
                        (Poll::Pending, None) => {}
                        (real, expected) => panic!("seed {seed}: {real:?}, expected {expected:?}"),
                    }
                }
                Op::Abandon if !waits.is_empty() => {
                    let (ticket, ..) = waits.swap_remove(rng.usize(..waits.len()));
                    oracle.abandon(ticket);
                }
                Op::GiveBack if !permits.is_empty() => {
                    let permit = permits.swap_remove(rng.usize(..permits.len()));
                    oracle.available += permit.permits();
                    drop(permit);
                    oracle.grant();
                }
                Op::Try(need) => match (semaphore.try_acquire_many(need), oracle.take(need)) {
                    (Some(permit), Some(true)) => permits.push(permit),
                    (None, Some(false) | None) => {}
                    (real, expected) => panic!("seed {seed}: {real:?}, expected {expected:?}"),
                },
                Op::Add => {
                    semaphore.add_permits(1);
                    oracle.available += 1;
                    oracle.grant();
                }
                Op::Forget => {
                    let forgotten = semaphore.forget_permits(1);
                    assert_eq!(forgotten, oracle.available.min(1), "seed {seed}");
                    oracle.available -= forgotten;
                }
                Op::Close => {
                    semaphore.close();
                    oracle.close();
                }
                Op::Poll | Op::Abandon | Op::GiveBack => {}
            }
            assert_eq!(semaphore.available_permits(), oracle.available, "seed {seed}, {op:?}");
            assert_eq!(semaphore.waiting(), oracle.line.len(), "seed {seed}, {op:?}");
            for (ticket, _, flag) in &waits {
                assert_eq!(flag.is_up(), oracle.called.contains_key(ticket), "seed {seed}, {op:?}");
            }
        }
    }
}

#[test]
fn wakers_that_come_back_find_everything_in_order() {
    let semaphore = Rc::new(Semaphore::new(0));
    let mut waits: Vec<_> = (0..4).map(|_| Box::pin(semaphore.acquire())).collect();
    for wait in &mut waits {
        let waker = Waker::from(Arc::new(Reenter));
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    let (theirs, ran) = (Rc::downgrade(&semaphore), Rc::new(Cell::new(0)));
    let count = ran.clone();
    ACTION.set(Some(Rc::new(move || {
        count.set(count.get() + 1);
        let Some(semaphore) = theirs.upgrade() else { return };
        let mut another = semaphore.acquire();
        let _ = Pin::new(&mut another).poll(&mut Context::from_waker(Waker::noop()));
        drop((semaphore.try_acquire(), another));
    })));
    // Called, replaced, dropped with the wait, closed.
    semaphore.add_permits(1);
    assert!(waits[1].as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(waits.remove(2));
    semaphore.close();
    drop(waits);
    ACTION.set(None);
    assert!(ran.get() >= 4);
    assert_eq!(semaphore.available_permits(), 1);
}

#[test]
fn a_mutex_passes_its_turn_on_past_those_that_went() {
    let mutex = Mutex::new(0);
    let held = mutex.try_lock().expect("free");
    let flags = [(); 4].map(|()| Flag::new(false));
    let mut waits: Vec<_> = (0..4).map(|_| Box::pin(mutex.lock())).collect();
    for (wait, flag) in waits.iter_mut().zip(&flags) {
        assert!(poll(wait, flag).is_pending());
    }
    // One that waits, then one that has its turn and does not know.
    drop(waits.remove(1));
    drop(held);
    assert!(flags[0].is_up() && !flags[2].is_up());
    assert!(mutex.try_lock().is_none(), "others came before");
    drop(waits.remove(0));
    assert!(flags[2].is_up() && !flags[3].is_up());
    let Poll::Ready(mut second) = poll(&mut waits[0], &flags[2]) else { panic!("it is its turn") };
    *second += 1;
    drop(second);
    assert!(flags[3].is_up());
    drop(waits);
    assert_eq!(mutex.into_inner(), 1);
}

#[test]
fn readers_do_not_come_before_a_writer_that_waits() {
    let lock = RwLock::new(0);
    let flags = [(); 3].map(|()| Flag::new(false));
    let (first, second) = (lock.try_read().expect("free"), lock.try_read().expect("read"));
    let mut writer = Box::pin(lock.write());
    assert!(poll(&mut writer, &flags[0]).is_pending());
    let mut readers = [Box::pin(lock.read()), Box::pin(lock.read())];
    assert!(poll(&mut readers[0], &flags[1]).is_pending());
    assert!(lock.try_read().is_none());
    drop(first);
    assert!(!flags[0].is_up());
    drop(second);
    let Poll::Ready(mut value) = poll(&mut writer, &flags[0]) else { panic!("nobody reads") };
    *value = 7;
    assert!(poll(&mut readers[1], &flags[2]).is_pending());
    drop(value);
    for (reader, flag) in readers.iter_mut().zip(&flags[1..]) {
        assert!(flag.is_up());
        assert!(matches!(poll(reader, flag), Poll::Ready(value) if *value == 7));
    }
    // A writer that gives up lets those behind it in.
    let reads = lock.try_read().expect("free");
    let (mut writer, mut reader) = (Box::pin(lock.write()), Box::pin(lock.read()));
    let (one, other) = (Flag::new(false), Flag::new(false));
    assert!(poll(&mut writer, &one).is_pending() && poll(&mut reader, &other).is_pending());
    drop(writer);
    assert!(other.is_up() && poll(&mut reader, &other).is_ready());
    drop(reads);
}

/// A notify as a line of tickets: who was called, and whether for one alone.
#[derive(Default)]
struct NotifyOracle {
    stored: bool,
    line: VecDeque<u64>,
    called: BTreeMap<u64, bool>,
}

impl NotifyOracle {
    fn one(&mut self) {
        match self.line.pop_front() {
            Some(ticket) => _ = self.called.insert(ticket, true),
            None => self.stored = true,
        }
    }
}

#[test]
fn a_notification_for_one_is_not_lost_with_the_one() {
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let (notify, mut oracle) = (Notify::new(), NotifyOracle::default());
        let mut waits: Vec<(u64, Notified<'_>, Arc<Flag>)> = Vec::new();
        for ticket in 0..200 {
            match rng.u32(..20) {
                0..8 => {
                    let (mut wait, flag) = (notify.notified(), Flag::new(rng.bool()));
                    let ready = poll(&mut wait, &flag).is_ready();
                    assert_eq!(ready, std::mem::take(&mut oracle.stored), "seed {seed}");
                    if !ready {
                        oracle.line.push_back(ticket);
                        waits.push((ticket, wait, flag));
                    }
                }
                8..12 => {
                    notify.notify_one();
                    oracle.one();
                }
                12 => {
                    notify.notify_waiters();
                    oracle.called.extend(oracle.line.drain(..).map(|ticket| (ticket, false)));
                }
                13..16 if !waits.is_empty() => {
                    let at = rng.usize(..waits.len());
                    let (ticket, wait, flag) = &mut waits[at];
                    let called = oracle.called.remove(ticket).is_some();
                    assert_eq!(poll(wait, flag).is_ready(), called, "seed {seed}");
                    if called {
                        drop(waits.remove(at));
                    }
                }
                _ if !waits.is_empty() => {
                    let (ticket, ..) = waits.swap_remove(rng.usize(..waits.len()));
                    oracle.line.retain(|other| *other != ticket);
                    if oracle.called.remove(&ticket) == Some(true) {
                        oracle.one();
                    }
                }
                _ => {}
            }
            for (ticket, _, flag) in &waits {
                assert_eq!(flag.is_up(), oracle.called.contains_key(ticket), "seed {seed}");
            }
        }
        drop(waits);
        oracle.stored |= oracle.called.values().any(|for_one| *for_one);
        assert_eq!(notify.notified().now_or_never().is_some(), oracle.stored, "seed {seed}");
    }
}

#[test]
fn all_are_notified_also_those_that_were_not_polled_and_nobody_later() {
    let notify = Notify::new();
    let flag = Flag::new(false);
    let (mut polled, mut unpolled) = (notify.notified(), notify.notified());
    assert!(poll(&mut polled, &flag).is_pending());
    notify.notify_waiters();
    let mut later = notify.notified();
    assert!(poll(&mut later, &flag).is_pending());
    assert!(poll(&mut polled, &flag).is_ready() && poll(&mut unpolled, &flag).is_ready());
}

#[test]
fn a_barrier_opens_for_so_many_and_forgets_those_that_went() {
    let barrier = Barrier::new(3);
    for _ in 0..3 {
        let flags = [(); 3].map(|()| Flag::new(true));
        let mut gone = barrier.wait();
        assert!(poll(&mut gone, &flags[0]).is_pending());
        let mut first = barrier.wait();
        assert!(poll(&mut first, &flags[0]).is_pending());
        drop(gone);
        let mut second = barrier.wait();
        assert!(poll(&mut second, &flags[1]).is_pending());
        assert!(poll(&mut second, &flags[1]).is_pending());
        assert_eq!(barrier.wait().now_or_never(), Some(true));
        assert!(flags[0].is_up() && flags[1].is_up());
        // One that does not look any more keeps nobody.
        drop(first);
        assert_eq!(poll(&mut second, &flags[1]), Poll::Ready(false));
    }
}

#[test]
fn a_queue_keeps_order_and_bound_and_ends_when_either_end_goes() {
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let capacity = rng.usize(1..4);
        let (sender, mut receiver) = mpsc::channel(capacity);
        let alive = Rc::new(());
        let (mut sent, mut reserved) = (VecDeque::new(), Vec::new());
        for n in 0..200 {
            match rng.u32(..10) {
                0..3 => {
                    let full = sent.len() + reserved.len() == capacity;
                    let outcome = sender.try_send((n, alive.clone()));
                    assert_eq!(outcome.is_err_and(|error| error.is_full()), full, "seed {seed}");
                    if !full {
                        sent.push_back(n);
                    }
                }
                3..5 => match sender.reserve().now_or_never() {
                    Some(permit) => reserved.push(permit.expect("open")),
                    None => assert_eq!(sent.len() + reserved.len(), capacity, "seed {seed}"),
                },
                5 if !reserved.is_empty() => {
                    let permit = reserved.swap_remove(rng.usize(..reserved.len()));
                    permit.send((n, alive.clone()));
                    sent.push_back(n);
                }
                6 if !reserved.is_empty() => drop(reserved.pop()),
                _ => {
                    let received = receiver.recv().now_or_never().map(|value| value.expect("open").0);
                    assert_eq!(received, sent.pop_front(), "seed {seed}");
                }
            }
            assert_eq!(receiver.len(), sent.len(), "seed {seed}");
        }
        if rng.bool() {
            // Closed by the receiver: what is reserved may still come.
            receiver.close();
            assert!(sender.try_send((0, alive.clone())).is_err_and(|error| error.is_closed()));
            let more = reserved.pop();
            drop(reserved);
            let flag = Flag::new(false);
            while let Some(n) = sent.pop_front() {
                assert_eq!(receiver.try_recv().map(|value| value.0), Ok(n), "seed {seed}");
            }
            if let Some(permit) = more {
                assert!(poll(&mut Box::pin(receiver.recv()), &flag).is_pending());
                drop(permit);
                assert!(flag.is_up(), "seed {seed}");
            }
            assert!(receiver.try_recv().is_err_and(|error| error.is_closed()), "seed {seed}");
        } else {
            drop(reserved);
            drop(sender);
            let rest = std::iter::from_fn(|| receiver.recv().now_or_never().expect("ended").map(|value| value.0));
            assert!(rest.eq(sent), "seed {seed}");
        }
        drop(receiver);
        assert_eq!(Rc::strong_count(&alive), 1);
    }
}

#[test]
fn space_that_came_too_late_ends_a_closed_queue() {
    let (sender, mut receiver) = mpsc::channel(1);
    sender.try_send(1).expect("space");
    let (reserving, waiting) = (Flag::new(false), Flag::new(false));
    let mut late = Box::pin(sender.reserve());
    assert!(poll(&mut late, &reserving).is_pending());
    assert_eq!(receiver.try_recv(), Ok(1));
    assert!(reserving.is_up());
    receiver.close();
    assert!(poll(&mut Box::pin(receiver.recv()), &waiting).is_pending());
    drop(late);
    assert!(waiting.is_up());
    assert_eq!(receiver.recv().now_or_never(), Some(None));
}

#[test]
fn values_that_nobody_receives_are_dropped_when_the_receiver_goes() {
    // Each value holds a sender: they would keep each other.
    struct Holds(#[expect(dead_code, reason = "it is held")] mpsc::Sender<Holds>, Rc<()>);
    let alive = Rc::new(());
    let (sender, receiver) = mpsc::channel(4);
    for _ in 0..3 {
        assert!(sender.try_send(Holds(sender.clone(), alive.clone())).is_ok());
    }
    let permit = sender.reserve().now_or_never().expect("space").expect("open");
    drop(receiver);
    assert_eq!(Rc::strong_count(&alive), 1);
    permit.send(Holds(sender.clone(), alive.clone()));
    assert_eq!(Rc::strong_count(&alive), 1);
    assert!(
        sender
            .try_send(Holds(sender.clone(), alive.clone()))
            .is_err_and(|back| Rc::strong_count(&back.into_inner().1) == 2)
    );
}

#[test]
fn one_value_or_none() {
    let flag = Flag::new(false);
    let (sender, mut receiver) = oneshot::channel();
    assert!(receiver.try_recv().is_err_and(|error| error.is_empty()));
    assert!(poll(&mut receiver, &flag).is_pending());
    sender.send(1).expect("a receiver");
    assert!(flag.is_up());
    assert_eq!(receiver.now_or_never(), Some(Ok(1)));

    let (sender, receiver) = oneshot::channel::<u32>();
    drop(sender);
    assert_eq!(receiver.now_or_never(), Some(Err(Closed)));

    let flag = Flag::new(false);
    let (mut sender, receiver) = oneshot::channel();
    assert!(poll(&mut Box::pin(sender.closed()), &flag).is_pending());
    drop(receiver);
    assert!(flag.is_up());
    assert_eq!(sender.send(2).expect_err("nobody receives").into_inner(), 2);

    let (value, (sender, mut receiver)) = (Rc::new(()), oneshot::channel());
    sender.send(value.clone()).expect("a receiver");
    receiver.close();
    assert_eq!(Rc::strong_count(&value), 2);
    drop(receiver);
    assert_eq!(Rc::strong_count(&value), 1);
}

#[test]
fn a_watcher_sees_the_last_value_once() {
    let (sender, mut first) = watch::channel(0);
    let mut second = sender.subscribe();
    let flag = Flag::new(false);
    let mut changed = Box::pin(first.changed());
    assert!(poll(&mut changed, &flag).is_pending());
    sender.send(1);
    sender.send(2);
    assert!(flag.is_up());
    drop(changed);
    // What was not returned was not seen.
    assert!(first.has_changed());
    let changed = first.changed().now_or_never().expect("changed");
    assert_eq!(changed.map(|value| *value), Ok(2));
    assert!(first.changed().now_or_never().is_none());
    drop(sender);
    assert_eq!(first.changed().now_or_never(), Some(Err(Closed)));
    assert_eq!(second.changed().now_or_never(), Some(Ok(Rc::new(2))));
    assert_eq!((*second.get(), second.changed().now_or_never()), (2, Some(Err(Closed))));
}

#[test]
fn nobody_is_granted_what_came_back_while_a_semaphore_closes() {
    let semaphore = Rc::new(Semaphore::new(0));
    let (mut first, mut second) = (semaphore.acquire(), semaphore.acquire());
    let waker = Waker::from(Arc::new(Reenter));
    assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(Pin::new(&mut second).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let theirs = semaphore.clone();
    ACTION.set(Some(Rc::new(move || theirs.add_permits(1))));
    semaphore.close();
    ACTION.set(None);
    assert!(first.now_or_never().expect("closed").is_err());
    assert!(second.now_or_never().expect("closed").is_err());
}

#[test]
fn what_shows_a_locked_value_may_try_to_lock_it() {
    type Locks = (Mutex<Option<Shows>>, RwLock<Option<Shows>>);
    struct Shows(std::rc::Weak<Locks>);
    impl std::fmt::Debug for Shows {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let locks = self.0.upgrade().expect("it is there");
            write!(f, "{} {}", locks.0.try_lock().is_some(), locks.1.try_write().is_some())
        }
    }
    let locks = Rc::new((Mutex::new(None), RwLock::new(None)));
    *locks.0.try_lock().expect("free") = Some(Shows(Rc::downgrade(&locks)));
    *locks.1.try_write().expect("free") = Some(Shows(Rc::downgrade(&locks)));
    assert_eq!(format!("{:?}", locks.0), "Mutex { value: Some(false true), .. }");
    assert_eq!(format!("{:?}", locks.1), "RwLock { value: Some(true false), .. }");
    let _held = (locks.0.try_lock(), locks.1.try_write());
    assert_eq!(format!("{:?}", locks.0), "Mutex { value: <locked>, .. }");
    assert_eq!(format!("{:?}", locks.1), "RwLock { value: <locked>, .. }");
}
