//! The fabric on one thread and on a few: what needs no real machine.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::call::{CallError, PendingCall};
use crate::slice::Progress;
use crate::{Config, Core, CoreId, CoreSet, Fabric, Message, SendError, SpaceWait};

#[path = "../tests/machine/mod.rs"]
pub(crate) mod machine;

use machine::{Awake, Script};

struct Quiet;

impl Script for Quiet {}

/// The seats of a fabric for threads that never sleep.
pub(crate) fn cores_of(cores: usize) -> Vec<crate::Seat> {
    Fabric::new(Config { cores, ..Config::default() }, Arc::new(Awake(Quiet))).expect("a valid configuration").1
}

pub(crate) fn cores(count: usize, capacity: usize) -> (Fabric, Vec<Core>) {
    let config = Config { cores: count, ring_capacity: capacity, first_index: u32::MAX - 2 };
    let (fabric, seats) = Fabric::new(config, Arc::new(Awake(Quiet))).expect("a valid configuration");
    (fabric, seats.into_iter().map(crate::Seat::enter).collect())
}

fn bump(counter: &AtomicUsize) {
    add(counter, 1);
}

fn add(counter: &AtomicUsize, n: usize) {
    counter.fetch_add(n, Ordering::Relaxed);
}

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

#[test]
fn a_send_to_the_own_core_runs_inside_the_call() {
    let (_fabric, cores) = cores(1, 4);
    let ran = Arc::new(AtomicUsize::new(0));
    let seen = ran.clone();
    cores[0].try_send(A, move |_, _| bump(&seen)).expect("inline");
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

#[test]
fn a_full_ring_gives_the_closure_back_and_overflow_keeps_the_order() {
    let (fabric, cores) = cores(2, 4);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = |n: usize| {
        let seen = seen.clone();
        move |_: &Core, _: CoreId| seen.lock().expect("not poisoned").push(n)
    };
    for n in 0..4 {
        cores[0].try_send(B, note(n)).expect("space");
    }
    cores[0].send_or_list(B, note(4));
    let refused = cores[0].try_send(B, note(5)).expect_err("full");
    assert!(refused.is_full());
    cores[0].send_or_list(B, note(5));
    let end = cores[0].sequence(B);
    while !cores[0].has_executed(B, end) {
        cores[1].drain(64);
        cores[0].flush();
    }
    assert_eq!(*seen.lock().expect("not poisoned"), [0, 1, 2, 3, 4, 5]);
    let counters = fabric.pair_counters(A, B);
    assert_eq!((counters.sent, counters.received, counters.overflowed), (6, 6, 2));
}

#[test]
fn large_closures_go_home_and_are_reused() {
    let (_fabric, cores) = cores(2, 8);
    let sum = Arc::new(AtomicUsize::new(0));
    for round in 0..100 {
        for _ in 0..4 {
            let (sum, large) = (sum.clone(), [round; 40]);
            cores[0].try_send(B, move |_, _| add(&sum, large[39])).expect("space");
        }
        cores[1].drain(64);
        cores[1].flush();
        cores[0].drain(64);
    }
    assert_eq!(sum.load(Ordering::Relaxed), 4 * (0..100).sum::<usize>());
}

#[test]
fn what_was_not_delivered_is_dropped_once() {
    let token = Arc::new(());
    {
        let (fabric, mut cores) = cores(2, 4);
        for _ in 0..3 {
            let (held, large) = (token.clone(), [0u64; 20]);
            cores[0].try_send(B, move |_, _| drop((held, large))).expect("space");
        }
        for _ in 0..3 {
            let held = token.clone();
            cores[0].send_or_list(B, move |_, _| drop(held));
        }
        let held = token.clone();
        fabric.post(B, Message::foreign(move |_, _| drop(held))).expect("not gone");
        cores.truncate(1);
        cores[0].flush();
        let held = token.clone();
        let gone = cores[0].try_send(B, move |_, _| drop(held)).expect_err("gone");
        assert!(matches!(gone, SendError::Gone(_)));
        drop(gone);
        assert_eq!(Arc::strong_count(&token), 1, "taken back as soon as the departure was noticed");
    }
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn passive_messages_ring_once_at_the_flush() {
    let (fabric, cores) = cores(2, 8);
    for _ in 0..3 {
        cores[0].try_send_passive(B, |_, _| ()).expect("space");
    }
    cores[0].flush();
    assert_eq!(cores[1].drain(64), 3);
    let counters = fabric.pair_counters(A, B);
    assert_eq!((counters.passive, counters.kicked, counters.avoided), (3, 0, 0));
}

#[test]
fn a_parked_target_is_kicked_once() {
    let (fabric, cores) = cores(2, 8);
    let armed = cores[1].arm(|| true).expect("nothing waits");
    for _ in 0..3 {
        cores[0].try_send(B, |_, _| ()).expect("space");
    }
    assert!(armed.is_kicked());
    drop(armed);
    let counters = fabric.pair_counters(A, B);
    assert_eq!((counters.kicked, counters.avoided), (1, 2));
    assert!(cores[1].arm(|| true).is_none(), "messages wait");
    assert_eq!(fabric.core_counters(B).park_refused, 1);
}

#[test]
fn a_set_skips_cores_that_have_left_and_includes_the_own_one() {
    let (_fabric, mut cores) = cores(4, 8);
    cores.remove(2);
    let ran = Arc::new(AtomicUsize::new(0));
    let seen = ran.clone();
    let sent = cores[0].send_to_set(&CoreSet::first(4), move |_, _| bump(&seen));
    for core in &cores {
        core.drain(64);
    }
    assert_eq!((sent, ran.load(Ordering::Relaxed)), (3, 3));
}

#[test]
fn waiters_for_space_are_woken_in_order_and_give_their_turn_on() {
    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (_fabric, cores) = cores(2, 2);
    let woken: Vec<_> = (0..3).map(|_| Arc::new(Count(AtomicUsize::new(0)))).collect();
    let wakers: Vec<Waker> = woken.iter().map(|count| count.clone().into()).collect();
    let mut waits: Vec<_> = (0..3).map(|_| SpaceWait::default()).collect();
    for _ in 0..2 {
        cores[0].try_send(B, |_, _| ()).expect("space");
    }
    for (wait, waker) in waits.iter_mut().zip(&wakers) {
        assert!(cores[0].poll_space(B, wait, &Context::from_waker(waker)).is_pending());
    }
    cores[1].drain(1);
    cores[0].flush();
    let counts = || woken.iter().map(|count| count.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
    assert_eq!(counts(), [1, 0, 0], "one slot, one waiter");
    assert!(cores[0].try_send(B, |_, _| ()).is_err(), "newcomers do not overtake");
    cores[0].end_wait(&mut waits[0]);
    assert_eq!(counts(), [1, 1, 0], "who gives up passes its turn on");
    let cx = Context::from_waker(&wakers[1]);
    assert!(cores[0].poll_space(B, &mut waits[1], &cx).is_ready());
}

#[test]
fn who_waited_for_space_sends_before_later_waiters_and_newcomers() {
    let (_fabric, cores) = cores(2, 2);
    let mut waits = [SpaceWait::default(), SpaceWait::default()];
    let cx = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        cores[0].try_send(B, |_, _| ()).expect("space");
    }
    for wait in &mut waits {
        assert!(cores[0].poll_space(B, wait, &cx).is_pending());
    }
    cores[1].drain(1);
    // Space is there, and no flush has woken anybody yet.
    assert!(cores[0].poll_space(B, &mut waits[1], &cx).is_pending(), "the second one's turn comes later");
    assert!(cores[0].poll_space(B, &mut waits[0], &cx).is_ready());
    assert!(cores[0].try_send(B, |_, _| ()).is_err(), "newcomers do not overtake");
    assert!(cores[0].try_send_in_turn(B, |_, _| (), &mut waits[1]).is_err());
    cores[0].try_send_in_turn(B, |_, _| (), &mut waits[0]).expect("its turn");
    cores[1].drain(1);
    cores[0].try_send_in_turn(B, |_, _| (), &mut waits[1]).expect("its turn");
    cores[1].drain(2);
    cores[0].try_send(B, |_, _| ()).expect("nobody waits any more");
}

fn poll<F, R>(call: &mut PendingCall<F, R>, core: &Core) -> Poll<Result<R, CallError>>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    call.poll(core, &mut Context::from_waker(Waker::noop()))
}

#[test]
fn calls_bring_small_and_large_values_back() {
    let (_fabric, cores) = cores(2, 4);
    let large = [7u64; 30];
    let mut small_call = PendingCall::new(&cores[0], B, || 42);
    let mut large_call = PendingCall::new(&cores[0], B, move || large);
    let mut own_call = PendingCall::new(&cores[0], A, || "here");
    assert!(poll(&mut small_call, &cores[0]).is_pending());
    cores[1].drain(64);
    cores[1].flush();
    cores[0].drain(64);
    assert!(matches!(poll(&mut small_call, &cores[0]), Poll::Ready(Ok(42))));
    assert!(matches!(poll(&mut large_call, &cores[0]), Poll::Ready(Ok(values)) if values == large));
    assert!(matches!(poll(&mut own_call, &cores[0]), Poll::Ready(Ok("here"))));
}

#[test]
fn calls_beyond_the_capacity_wait_for_space_and_complete() {
    let (_fabric, cores) = cores(2, 2);
    let mut calls: Vec<_> = (0..20).map(|n| PendingCall::new(&cores[0], B, move || n)).collect();
    let mut answers = Vec::new();
    while answers.len() < 20 {
        calls.retain_mut(|call| match poll(call, &cores[0]) {
            Poll::Ready(answer) => {
                answers.push(answer.expect("a value"));
                false
            }
            Poll::Pending => true,
        });
        cores[1].drain(64);
        cores[1].flush();
        cores[0].drain(64);
        cores[0].flush();
    }
    assert_eq!(answers, (0..20).collect::<Vec<_>>());
}

#[test]
fn dropping_a_call_at_any_point_drops_its_value_once() {
    let token = Arc::new(());
    let (_fabric, cores) = cores(2, 4);
    let call = || {
        let held = token.clone();
        PendingCall::new(&cores[0], B, move || held)
    };
    let pump = || {
        cores[1].drain(64);
        cores[0].drain(64);
    };
    drop(call());
    pump();
    let answered = call();
    pump();
    drop(answered);
    let mut polled = call();
    assert!(poll(&mut polled, &cores[0]).is_pending());
    pump();
    assert!(poll(&mut polled, &cores[0]).is_ready());
    drop(polled);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn a_call_takes_the_tag_along_that_its_home_has_when_it_is_made() {
    std::thread_local!(static FAR: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) });
    let (_fabric, mut cores) = cores(2, 2);
    let far = Rc::new(cores.pop().expect("two"));
    FAR.set(Some(far.clone()));
    let home = &cores[0];
    let make = |tag| {
        home.set_tag(tag);
        (tag, PendingCall::new(home, B, || FAR.with_borrow(|far| far.as_ref().map(|far| far.tag()))))
    };
    // More than the ring has space for.
    let calls = [0, 7, 255, 0, 9].map(make);
    home.set_tag(1);
    far.set_tag(3);
    for (tag, mut call) in calls {
        let answer = loop {
            if let Poll::Ready(answer) = poll(&mut call, home) {
                break answer.expect("no panic");
            }
            far.drain(64);
            home.drain(64);
        };
        // A call without one leaves what is there.
        assert_eq!(answer, Some(if tag == 0 { 3 } else { tag }));
        assert_eq!((home.tag(), far.tag()), (1, 3));
    }
    FAR.set(None);
}

#[test]
fn a_panic_in_a_called_closure_reaches_the_caller_alone() {
    let (_fabric, cores) = cores(2, 4);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut call = PendingCall::new(&cores[0], B, || -> u32 { panic!("no such key") });
    cores[1].drain(64);
    std::panic::set_hook(hook);
    cores[0].drain(64);
    match poll(&mut call, &cores[0]) {
        Poll::Ready(Err(error)) => assert!(std::format!("{error}").contains("no such key")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_to_a_core_that_leaves_or_closes_are_answered_gone() {
    let (_fabric, mut cores) = cores(3, 4);
    let mut to_leaving = PendingCall::new(&cores[0], CoreId::new(2), || 1);
    let mut to_closing = PendingCall::new(&cores[0], B, || 2);
    cores.truncate(2);
    cores[1].close();
    cores[1].drain(64);
    cores[0].flush();
    cores[0].drain(64);
    assert!(matches!(poll(&mut to_leaving, &cores[0]), Poll::Ready(Err(error)) if error.is_gone()));
    assert!(matches!(poll(&mut to_closing, &cores[0]), Poll::Ready(Err(error)) if error.is_gone()));
    let mut late = PendingCall::new(&cores[0], CoreId::new(2), || 3);
    assert!(matches!(poll(&mut late, &cores[0]), Poll::Ready(Err(error)) if error.is_gone()));
}

#[test]
fn waiting_for_a_sequence_is_not_fooled_by_a_nested_drain() {
    let (_fabric, cores) = cores(2, 8);
    let early = Arc::new(AtomicUsize::new(0));
    // The first function drains its core again, which runs the second one inside the first.
    cores[0]
        .try_send(B, |core, _| {
            core.drain_all(64);
        })
        .expect("space");
    let first = cores[0].sequence(B);
    let seen = early.clone();
    cores[0].try_send(B, move |_, _| bump(&seen)).expect("space");
    assert!(!cores[0].has_executed(B, first));
    cores[1].drain(64);
    assert!(cores[0].has_executed(B, cores[0].sequence(B)));
    assert_eq!(early.load(Ordering::Relaxed), 1);
}

#[test]
fn order_survives_a_source_that_sends_from_inside_messages() {
    let (_fabric, cores) = cores(2, 4);
    let order = Rc::new(RefCell::new(Vec::new()));
    let count = Rc::new(Cell::new(0));
    let seen = Arc::new(Mutex::new(Vec::new()));
    for n in 0..50 {
        let seen = seen.clone();
        cores[0].send_or_list(B, move |core, source| {
            seen.lock().expect("not poisoned").push(n);
            core.send_or_list(source, |_, _| ());
        });
        if n % 7 == 0 {
            count.set(count.get() + cores[1].drain(2));
            cores[1].flush();
            cores[0].drain(64);
            cores[0].flush();
        }
    }
    while seen.lock().expect("not poisoned").len() < 50 {
        cores[1].drain(64);
        cores[1].flush();
        cores[0].drain(64);
        cores[0].flush();
    }
    order.borrow_mut().extend(seen.lock().expect("not poisoned").iter().copied());
    assert_eq!(*order.borrow(), (0..50).collect::<Vec<_>>());
}

#[test]
fn mutually_full_rings_of_blocking_sends_do_not_deadlock() {
    let (fabric, seats) =
        Fabric::new(Config { cores: 3, ring_capacity: 4, first_index: 0 }, Arc::new(Awake(Quiet))).expect("valid");
    let done = Arc::new(AtomicUsize::new(0));
    let received = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = seats
        .into_iter()
        .map(|seat| {
            let (done, received) = (done.clone(), received.clone());
            std::thread::spawn(move || {
                let core = seat.enter();
                for n in 0..3000 {
                    let target = CoreId::new((core.id().index() + 1 + n % 2) % 3);
                    let received = received.clone();
                    // Each message answers with a blocking send of its own.
                    let answer = move |core: &Core, source| {
                        let sent = core.send(source, move |_, _| bump(&received));
                        sent.map_err(drop).expect("nobody leaves yet");
                    };
                    core.send(target, answer).map_err(drop).expect("nobody leaves yet");
                }
                done.fetch_add(1, Ordering::Relaxed);
                while done.load(Ordering::Relaxed) < 3 || received.load(Ordering::Relaxed) < 9000 {
                    core.drain(64);
                    core.flush();
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(received.load(Ordering::Relaxed), 9000);
    let deepest = (0..3).map(|core| fabric.core_counters(CoreId::new(core)).max_nesting).max();
    assert!(deepest <= Some(21), "{deepest:?}");
}

std::thread_local! {
    /// What destructors and wakers of a test may reach: the endpoints of its thread.
    static REACHED: RefCell<Vec<Rc<Core>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn reached(core: usize) -> Option<Rc<Core>> {
    REACHED.with(|cores| cores.borrow().get(core).cloned())
}

/// Runs `scenario` while `cores` can be reached.
pub(crate) fn reaching(cores: Vec<Core>, scenario: impl FnOnce()) {
    REACHED.with(|reached| reached.borrow_mut().extend(cores.into_iter().map(Rc::new)));
    scenario();
    REACHED.with(RefCell::take);
}

/// A waker of somebody else's, whose clone runs `f` first. It stays on this thread.
pub(crate) fn meddling(f: impl Fn() + 'static) -> Waker {
    type Data = Box<dyn Fn()>;
    static TABLE: RawWakerVTable = RawWakerVTable::new(
        |data| {
            // SAFETY: 1. the waker that is cloned holds a count.
            unsafe { Rc::increment_strong_count(data.cast::<Data>()) };
            // SAFETY: 1. as above.
            let f = unsafe { &*data.cast::<Data>() };
            f();
            RawWaker::new(data, &TABLE)
        },
        // SAFETY: 1. the waker's own count.
        |data| drop(unsafe { Rc::from_raw(data.cast::<Data>()) }),
        |_| (),
        // SAFETY: 1. the waker's own count.
        |data| drop(unsafe { Rc::from_raw(data.cast::<Data>()) }),
    );
    let data: *const Data = Rc::into_raw(Rc::new(Box::new(f)));
    // SAFETY: 1. the functions of the table treat the pointer as what it is. 2. it stays on this thread.
    unsafe { Waker::from_raw(RawWaker::new(data.cast(), &TABLE)) }
}

/// Sends to `B` again when it is dropped, `again` times.
struct SendsAgain {
    again: u32,
    alive: Arc<AtomicUsize>,
}

impl SendsAgain {
    fn new(again: u32, alive: &Arc<AtomicUsize>) -> Self {
        bump(alive);
        Self { again, alive: alive.clone() }
    }
}

impl Drop for SendsAgain {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
        if self.again > 0
            && let Some(core) = reached(0)
        {
            let next = Self::new(self.again - 1, &self.alive);
            core.send_or_list(B, move |_, _| drop(next));
        }
    }
}

#[test]
fn a_destructor_may_send_to_the_core_that_its_message_comes_back_from() {
    let alive = Arc::new(AtomicUsize::new(0));
    let (_fabric, mut cores) = cores(2, 16);
    for _ in 0..3 {
        let captured = SendsAgain::new(2, &alive);
        cores[0].try_send(B, move |_, _| drop(captured)).expect("space");
    }
    drop(cores.pop());
    REACHED.with(|reached| reached.borrow_mut().extend(cores.drain(..).map(Rc::new)));
    reached(0).expect("the source").flush();
    assert_eq!(alive.load(Ordering::Relaxed), 0, "each was dropped once");
    REACHED.with(RefCell::take);
}

/// A waker that runs the inbox of `A` when it is dropped.
struct DrainsOnDrop;

impl std::task::Wake for DrainsOnDrop {
    fn wake(self: Arc<Self>) {}
}

impl Drop for DrainsOnDrop {
    fn drop(&mut self) {
        if let Some(core) = reached(0) {
            core.drain_all(64);
        }
    }
}

#[test]
fn a_reply_may_arrive_while_a_call_lets_go_of_its_old_waker() {
    let (_fabric, cores) = cores(2, 4);
    REACHED.with(|reached| reached.borrow_mut().extend(cores.into_iter().map(Rc::new)));
    let (a, b) = (reached(0).expect("the caller"), reached(1).expect("the target"));
    let mut call = PendingCall::new(&a, B, || alloc::vec![7; 100]);
    let waker = Waker::from(Arc::new(DrainsOnDrop));
    assert!(call.poll(&a, &mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    b.drain(64);
    let Poll::Ready(Ok(value)) = call.poll(&a, &mut Context::from_waker(Waker::noop())) else {
        panic!("the reply came while the old waker was dropped");
    };
    assert_eq!(value, [7; 100]);
    REACHED.with(RefCell::take);
}

struct PanicOnDrop(Arc<AtomicUsize>);

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        bump(&self.0);
        panic!("a destructor's panic");
    }
}

#[test]
fn a_message_whose_captured_value_panics_holds_up_no_departure() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let message = || {
        let captured = PanicOnDrop(dropped.clone());
        move |_: &Core, _: CoreId| drop(captured)
    };
    let (fabric, mut cores) = cores(2, 2);
    for _ in 0..4 {
        cores[0].send_or_list(B, message());
        cores[1].send_or_list(A, message());
        fabric.post(B, Message::foreign(message())).expect("not gone");
    }
    drop(cores.pop());
    cores[0].flush();
    assert_eq!(dropped.load(Ordering::Relaxed), 8, "all but the four on their way to A");
    drop((cores, fabric));
    assert_eq!(dropped.load(Ordering::Relaxed), 12);
}

#[test]
fn a_message_between_two_cores_that_leave_is_dropped_whoever_leaves_first() {
    for first in [0, 1] {
        let token = Arc::new(());
        let (_fabric, mut cores) = cores(2, 4);
        for _ in 0..6 {
            let held = token.clone();
            cores[0].send_or_list(B, move |_, _| drop(held));
        }
        drop(cores.remove(first));
        drop(cores);
        assert_eq!(Arc::strong_count(&token), 1, "while the fabric lives");
    }
}

fn safe_point(core: &Core) {
    // SAFETY: 1. and 2. the test itself is the loop, and holds nothing of a message.
    unsafe { core.safe_point() };
}

#[test]
fn what_is_put_off_in_a_message_runs_at_the_next_safe_point_and_what_that_puts_off_at_the_one_after() {
    let (_fabric, cores) = cores(2, 4);
    let ran = Arc::new(AtomicUsize::new(0));
    let seen = ran.clone();
    cores[0]
        .try_send(B, move |core, _| {
            core.at_safe_point(move |here| {
                assert_eq!(here.core().nesting(), 0);
                bump(&seen);
                let again = seen.clone();
                here.core().at_safe_point(move |_| bump(&again));
                panic!("of what was put off: reaches nobody");
            });
        })
        .expect("space");
    cores[1].drain(64);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    assert!(cores[1].wants_safe_point());
    assert!(cores[1].arm(|| true).is_none(), "it must not sleep before");
    safe_point(&cores[1]);
    assert_eq!(ran.load(Ordering::Relaxed), 1);
    safe_point(&cores[1]);
    assert_eq!(ran.load(Ordering::Relaxed), 2);
    assert!(!cores[1].wants_safe_point());
}

#[test]
fn what_is_put_off_on_a_core_that_leaves_is_dropped_and_not_run() {
    let (_fabric, mut cores) = cores(1, 4);
    let token = Arc::new(());
    let held = token.clone();
    cores[0].at_safe_point(move |_| {
        let _held = held;
        panic!("ran");
    });
    cores.clear();
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn the_end_of_a_slice_ends_one_turn_of_a_core_that_is_awake() {
    let (fabric, cores) = cores(2, 4);
    let Progress::Turn(first) = fabric.progress(B) else { panic!("it is awake") };
    assert!(!cores[1].should_yield());
    fabric.end_slice(B);
    assert!(cores[1].should_yield());
    assert!(cores[1].wants_safe_point());
    assert!(!cores[0].should_yield(), "another core");
    cores[1].drain(64);
    assert!(cores[1].should_yield(), "still before the safe point");
    safe_point(&cores[1]);
    assert!(!cores[1].should_yield());
    let Progress::Turn(later) = fabric.progress(B) else { panic!("it is awake") };
    assert_eq!(later, first + 1);
}

#[test]
fn a_core_that_is_asked_back_ends_its_turn_and_tells_no_poll() {
    let (fabric, cores) = cores(2, 4);
    fabric.ask_back(B);
    assert!(!cores[1].should_yield() && cores[1].wants_safe_point());
    fabric.end_slice(B);
    assert!(cores[1].should_yield(), "for another reason");
    safe_point(&cores[1]);
    assert!(!cores[1].wants_safe_point());
    fabric.ask_back(B);
    assert!(cores[1].arm(|| true).is_none(), "one turn more");
}

#[test]
fn a_core_that_sleeps_or_has_left_is_in_no_turn() {
    let (fabric, mut cores) = cores(2, 4);
    let armed = cores[1].arm(|| true).expect("there is nothing to do");
    assert_eq!(fabric.progress(B), Progress::Asleep);
    drop(armed);
    assert!(matches!(fabric.progress(B), Progress::Turn(_)));
    fabric.end_slice(B);
    assert!(cores[1].arm(|| true).is_none(), "one turn more");
    cores.pop();
    assert_eq!(fabric.progress(B), Progress::Gone);
}
