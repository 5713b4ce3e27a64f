//! Wakers between two cores and a thread that is none; small enough for an interpreter that looks for undefined behaviour.

mod machine;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use ipiq_executor::{Executor, JoinError, JoinHandle, Remote, SpinPolicy, yield_now};
use ipiq_fabric::{Config, CoreId, Fabric};
use machine::Machine;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// The oldest is taken first: of two tasks, neither is passed over for ever by the other's newer wakers.
type Wakers = Arc<Mutex<VecDeque<Waker>>>;

fn take(wakers: &Wakers) -> Option<Waker> {
    wakers.lock().expect("not poisoned").pop_front()
}

/// Waits `waits` times, each time for whoever takes its waker.
struct Waits {
    waits: usize,
    wakers: Wakers,
    own: Option<Waker>,
    dropped: Arc<AtomicUsize>,
    _at_home: Rc<()>,
}

impl Future for Waits {
    type Output = Waker;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Waker> {
        if self.waits == 0 {
            return Poll::Ready(cx.waker().clone());
        }
        self.waits -= 1;
        self.own = Some(cx.waker().clone());
        self.wakers.lock().expect("not poisoned").push_back(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        // Woken and dropped inside its destructor.
        self.own.take().into_iter().for_each(Waker::wake);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn outcome_of<T>(join: &mut JoinHandle<T>) -> Result<T, JoinError> {
    loop {
        if let Poll::Ready(outcome) = Pin::new(&mut *join).poll(&mut Context::from_waker(Waker::noop())) {
            return outcome;
        }
        thread::yield_now();
    }
}

#[test]
fn wakers_are_cloned_used_and_dropped_everywhere_while_tasks_finish_are_aborted_and_shut_down() {
    let config = Config { cores: 2, ring_capacity: 2, ..Config::default() };
    let (fabric, seats) = Fabric::new(config, Arc::new(Machine)).expect("a valid configuration");
    let remote = Remote::new(&fabric);
    let threads: Vec<_> = seats
        .into_iter()
        .map(|seat| {
            let remote = remote.clone();
            thread::spawn(move || {
                Executor::new(seat.enter(), remote, Arc::new(Machine), SpinPolicy::Never).run(&mut Machine);
            })
        })
        .collect();
    let (wakers, dropped) = (Wakers::default(), Arc::new(AtomicUsize::new(0)));
    let spawn = |core, waits| {
        let (wakers, dropped) = (wakers.clone(), dropped.clone());
        remote.spawn_on(core, move || Waits { waits, wakers, own: None, dropped, _at_home: Rc::new(()) })
    };
    let mut finish = [spawn(A, 3), spawn(B, 3), spawn(B, 0)];
    let (mut aborted, shut_down) = (spawn(A, usize::MAX), spawn(B, usize::MAX));
    // One core wakes, too.
    let (seen, peer) = (wakers.clone(), remote.clone());
    drop(remote.spawn_on(A, move || async move {
        loop {
            if let Some(waker) = take(&seen) {
                waker.wake_by_ref();
                drop(peer.spawn_on(B, move || async move { waker.wake() }).await);
            }
            yield_now().await;
        }
    }));
    while !finish.iter().all(JoinHandle::is_finished) {
        if let Some(waker) = take(&wakers) {
            let second = waker.clone();
            waker.wake();
            drop(second);
        }
        thread::yield_now();
    }
    aborted.abort();
    let outcomes: Vec<_> = finish.iter_mut().map(outcome_of).collect();
    assert!(outcome_of(&mut aborted).is_err_and(|error| error.is_cancelled()));
    remote.stop();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(dropped.load(Ordering::Relaxed), 5);
    // They outlive their tasks' cores.
    drop((shut_down, remote, fabric));
    for outcome in outcomes {
        outcome.expect("a waker").wake();
    }
    while let Some(waker) = take(&wakers) {
        waker.clone().wake_by_ref();
    }
}
