//! Handlers, the mailbox and bells on one thread: what needs no real machine.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::{BellWait, HandlerId, MAX_HANDLERS, TableFull, TriggerError, Unregistered};
use crate::call::CallError;
use crate::doorbell::Ask;
use crate::tests::{cores, meddling, reached, reaching};
use crate::watch::tests::{INTERVAL_NS, Machine};
use crate::watch::{Stall, WaitKind, Watch};
use crate::{Config, Core, CoreId, CoreSet, Fabric, Panic, PanicPayload};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// What ran, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(CoreId, usize)>>>);

impl Log {
    fn note(&self, core: CoreId, number: usize) {
        self.0.lock().expect("not poisoned").push((core, number));
    }

    fn take(&self) -> Vec<(CoreId, usize)> {
        core::mem::take(&mut self.0.lock().expect("not poisoned"))
    }

    fn handler(&self, fabric: &Fabric, number: usize) -> HandlerId {
        let log = self.clone();
        fabric.register_handler(move |core| log.note(core.id(), number), no_panic).expect("a free slot")
    }
}

fn no_panic(_: &Core, _: PanicPayload) {
    unreachable!("nothing panics here");
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn drain_all(cores: &[Core]) {
    for core in cores {
        core.drain(64);
    }
}

fn bump(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn set(cores: impl IntoIterator<Item = usize>) -> CoreSet {
    cores.into_iter().map(CoreId::new).collect()
}

#[test]
fn triggers_before_a_pass_are_one_run_lowest_slot_first() {
    let (fabric, cores) = cores(2, 4);
    let log = Log::default();
    let ids = [1, 2, 3].map(|number| log.handler(&fabric, number));
    for id in [ids[2], ids[0], ids[2], ids[1], ids[0]] {
        cores[0].trigger(id, B).expect("live");
        fabric.trigger(id, B).expect("live");
    }
    cores[1].drain(64);
    assert_eq!(log.take(), [(B, 1), (B, 2), (B, 3)]);
    cores[1].drain(64);
    assert_eq!(log.take(), []);
    cores[0].trigger(ids[1], B).expect("live");
    cores[1].drain(64);
    assert_eq!(log.take(), [(B, 2)]);
    assert_eq!(fabric.core_counters(B).handlers_run, 4);
}

#[test]
fn a_full_table_refuses_and_slot_zero_is_nobodys() {
    let (fabric, _cores) = cores(1, 4);
    let log = Log::default();
    let ids: Vec<HandlerId> = (0..MAX_HANDLERS).map(|number| log.handler(&fabric, number)).collect();
    assert_eq!(MAX_HANDLERS, 31);
    assert_eq!(ids.iter().map(|id| id.slot()).collect::<Vec<_>>(), (1..32).collect::<Vec<_>>());
    assert_eq!(fabric.register_handler(|_| (), no_panic), Err(TableFull));
}

#[test]
fn a_slot_is_used_again_and_the_old_name_of_it_is_refused() {
    let (fabric, cores) = cores(1, 4);
    let log = Log::default();
    let old = log.handler(&fabric, 1);
    cores[0].unregister_handler(old).expect("live");
    let new = log.handler(&fabric, 2);
    assert_eq!((old.slot(), new.slot()), (1, 1));
    assert_ne!(old, new);
    assert_eq!(cores[0].trigger(old, A), Err(TriggerError::Unregistered));
    assert_eq!(fabric.trigger(old, A), Err(TriggerError::Unregistered));
    assert_eq!(cores[0].trigger_set(old, &set([0])), Err(Unregistered));
    assert_eq!(fabric.trigger_set(old, &set([0])), Err(Unregistered));
    assert_eq!(cores[0].unregister_handler(old), Err(Unregistered));
    cores[0].drain(64);
    assert_eq!(log.take(), []);
}

#[test]
fn a_trigger_of_the_own_core_runs_in_the_next_pass_and_not_inside() {
    let (fabric, cores) = cores(1, 4);
    let log = Log::default();
    let id = log.handler(&fabric, 1);
    cores[0].trigger(id, A).expect("live");
    assert_eq!(log.take(), []);
    assert!(cores[0].arm(|| true).is_none(), "it does not sleep on it");
    cores[0].drain(64);
    assert_eq!(log.take(), [(A, 1)]);
}

#[test]
fn sets_are_triggered_with_and_without_the_own_core_and_those_gone_are_skipped() {
    let (fabric, mut cores) = cores(4, 4);
    let log = Log::default();
    let id = log.handler(&fabric, 1);
    assert_eq!(cores[0].trigger_all(id, true), Ok(4));
    assert_eq!(cores[0].trigger_all(id, false), Ok(3));
    assert_eq!(fabric.trigger_set(id, &set([1, 3])), Ok(2));
    drain_all(&cores);
    assert_eq!(log.take(), [0, 1, 2, 3].map(|core| (CoreId::new(core), 1)));
    drop(cores.remove(2));
    assert_eq!(cores[0].trigger(id, CoreId::new(2)), Err(TriggerError::Gone));
    assert_eq!(cores[0].trigger_all(id, false), Ok(2));
    assert_eq!(cores[0].trigger_set(id, &set([2])), Ok(0));
}

#[test]
fn gap_n2_a_pending_trigger_runs_before_its_unregistration_ends_and_none_after() {
    let (fabric, cores) = cores(2, 4);
    let log = Log::default();
    let id = log.handler(&fabric, 1);
    cores[0].trigger(id, B).expect("live");
    let mut unregister = fabric.unregister_handler(id).expect("live");
    assert_eq!(cores[0].trigger(id, B), Err(TriggerError::Unregistered));
    assert!(poll(&mut unregister).is_pending());
    cores[1].drain(64);
    assert_eq!(log.take(), [(B, 1)], "it was accepted");
    assert!(poll(&mut unregister).is_pending(), "the first core has not passed");
    cores[0].drain(64);
    assert!(poll(&mut unregister).is_pending(), "one round");
    cores[0].drain(64);
    cores[1].drain(64);
    assert!(poll(&mut unregister).is_ready(), "two rounds");
    cores[1].drain(64);
    assert_eq!(log.take(), []);
}

#[test]
fn unregistering_drops_the_function_and_waits_for_no_core_that_has_left() {
    let (fabric, mut cores) = cores(3, 4);
    let token = Arc::new(());
    let held = token.clone();
    let id = fabric.register_handler(move |_| drop(held.clone()), no_panic).expect("a free slot");
    drop(cores.pop());
    let mut unregister = fabric.unregister_handler(id).expect("live");
    drop(cores.pop());
    assert!(poll(&mut unregister).is_pending());
    cores[0].drain(64);
    assert!(poll(&mut unregister).is_pending());
    cores[0].drain(64);
    assert!(poll(&mut unregister).is_ready());
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn who_awaits_an_unregistration_is_woken_by_a_core_that_leaves() {
    let (fabric, mut cores) = cores(2, 4);
    let id = fabric.register_handler(|_| (), no_panic).expect("a free slot");
    let mut unregister = fabric.unregister_handler(id).expect("live");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut poll = || Pin::new(&mut unregister).poll(&mut Context::from_waker(&waker));
    let mut leave = || {
        cores.pop();
        woken.0.swap(0, Ordering::Relaxed) > 0
    };
    assert!(poll().is_pending());
    assert!(leave());
    assert!(poll().is_pending());
    assert!(leave(), "by the second one too");
    assert!(poll().is_ready());
}

#[test]
fn an_unregistration_that_nobody_awaits_is_ended_by_the_cores() {
    let (fabric, cores) = cores(2, 4);
    let token = Arc::new(());
    let register = || {
        let held = token.clone();
        fabric.register_handler(move |_| drop(held.clone()), no_panic)
    };
    let ids: Vec<_> = (0..MAX_HANDLERS).map(|_| register().expect("a free slot")).collect();
    for id in ids {
        drop(fabric.unregister_handler(id));
    }
    assert_eq!(register(), Err(TableFull), "no core has passed");
    for _ in 0..3 {
        drain_all(&cores);
    }
    assert_eq!(Arc::strong_count(&token), 1);
    register().expect("free again");
}

#[test]
fn a_panic_of_a_handler_is_counted_and_told_and_reaches_nobody() {
    fn tell(core: &Core, payload: PanicPayload) {
        assert_eq!(payload.downcast_ref(), Some(&"first"));
        TOLD.fetch_add(1 + core.id().index(), Ordering::Relaxed);
        panic!("the hook too");
    }
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let (fabric, cores) = cores(2, 4);
    let log = Log::default();
    let first = fabric.register_handler(|_| std::panic::panic_any("first"), tell).expect("a free slot");
    let second = log.handler(&fabric, 2);
    for _ in 0..2 {
        cores[0].trigger(first, B).expect("still registered");
        cores[0].trigger(second, B).expect("live");
        cores[1].drain(64);
        assert_eq!(log.take(), [(B, 2)], "the next one runs");
    }
    assert_eq!(TOLD.load(Ordering::Relaxed), 4);
    assert_eq!((fabric.core_counters(B).handlers_run, fabric.core_counters(B).handler_panics), (4, 2));
    cores[0].trigger(first, B).expect("live");
    assert!(!cores[1].is_in_handler());
}

#[test]
fn a_handler_that_triggers_itself_and_drains_runs_once_per_pass() {
    let (fabric, cores) = cores(1, 4);
    let (runs, own) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
    let id = fabric.register_handler(
        {
            let (runs, own) = (runs.clone(), own.clone());
            move |core| {
                assert!(core.is_in_handler());
                runs.fetch_add(1, Ordering::Relaxed);
                let id = own.lock().expect("not poisoned").expect("it is registered");
                core.trigger(id, A).expect("live");
                core.drain(64);
            }
        },
        no_panic,
    );
    *own.lock().expect("not poisoned") = Some(id.expect("a free slot"));
    cores[0].trigger(id.expect("a free slot"), A).expect("live");
    for passes in 1..4 {
        cores[0].drain(64);
        assert_eq!(runs.load(Ordering::Relaxed), passes);
    }
}

#[test]
fn waiting_for_the_end_of_handlers_inside_of_one_is_refused() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let (fabric, cores) = cores(1, 4);
    let other = fabric.register_handler(|_| (), no_panic).expect("a free slot");
    let id = fabric
        .register_handler(
            move |core| core.unregister_handler(other).expect("live"),
            |_, payload| {
                let panic = Panic::new(payload);
                PANICS.fetch_add(usize::from(panic.text().contains("cannot wait")), Ordering::Relaxed);
            },
        )
        .expect("a free slot");
    cores[0].trigger(id, A).expect("live");
    cores[0].drain(64);
    assert_eq!(PANICS.load(Ordering::Relaxed), 1);
    cores[0].trigger(other, A).expect("nothing was begun");
}

#[test]
fn handlers_that_hold_their_fabric_end_when_all_cores_have_left() {
    let token = Arc::new(());
    let (fabric, cores) = cores(2, 4);
    let held = (token.clone(), fabric.clone());
    let register = |held: (Arc<()>, Fabric)| fabric.register_handler(move |_| drop(held.clone()), no_panic);
    let early = register(held.clone()).expect("a free slot");
    drop(cores);
    let late = register(held).expect("a free slot");
    assert_eq!(Arc::strong_count(&token), 1);
    for id in [early, late] {
        assert_eq!(fabric.trigger(id, A), Err(TriggerError::Unregistered));
        assert_eq!(fabric.trigger_set(id, &CoreSet::first(2)), Err(Unregistered));
        assert!(fabric.unregister_handler(id).is_err());
    }
}

#[test]
fn unregistrations_that_nobody_awaits_end_when_all_cores_have_left() {
    for passes in 0..2 {
        let token = Arc::new(());
        let (fabric, cores) = cores(2, 4);
        let held = (token.clone(), fabric.clone());
        let id = fabric.register_handler(move |_| drop(held.clone()), no_panic).expect("a free slot");
        drop(fabric.unregister_handler(id));
        (0..passes).for_each(|_| drain_all(&cores));
        drop(cores);
        assert_eq!(Arc::strong_count(&token), 1, "after {passes} passes");
    }
}

#[test]
fn a_panic_that_a_wait_for_answers_meets_goes_on_only_when_all_have_answered() {
    std::thread_local!(static OTHER: RefCell<Option<Core>> = const { RefCell::new(None) });
    let (fabric, mut cores) = cores(2, 4);
    let ran = AtomicUsize::new(0);
    let let_other_answer = |_: &Core| {
        OTHER.with_borrow(|other| _ = other.as_ref().map(|other| other.drain(64)));
    };
    let id = fabric.register_handler(let_other_answer, no_panic).expect("a free slot");
    let other = cores.pop().expect("two cores");
    // The handler, on A, lets B answer: only when the panic is on its way.
    let broken = move |own: &Core, _: CoreId| {
        own.trigger(id, A).expect("live");
        std::panic::panic_any("a function's panic");
    };
    other.try_send(A, broken).map_err(drop).expect("space");
    OTHER.set(Some(other));
    let waited = catch_unwind(AssertUnwindSafe(|| cores[0].multicast(&set([1]), |_| bump(&ran))));
    let answered = ran.load(Ordering::Relaxed);
    if answered == 0 {
        // Its mailbox points to a frame that is gone.
        core::mem::forget(OTHER.take());
    }
    OTHER.set(None);
    assert!(waited.is_err());
    assert_eq!(answered, 1, "before the frame went");
}

#[test]
fn a_ninth_message_finds_the_mailbox_full_and_is_counted_and_sent_later() {
    let (fabric, cores) = cores(2, 4);
    let log = Log::default();
    let mut messages: Vec<_> = (0..9)
        .map(|number| {
            let log = log.clone();
            cores[0].multicast_later(&set([1]), move |core| log.note(core.id(), number))
        })
        .collect();
    assert_eq!(fabric.core_counters(B).mailbox_full, 1);
    cores[1].drain(64);
    assert_eq!(log.take(), (0..8).map(|number| (B, number)).collect::<Vec<_>>());
    for (number, message) in messages.iter_mut().enumerate() {
        assert_eq!(poll(message).is_ready(), number < 8, "{number}");
    }
    cores[1].drain(64);
    assert_eq!(log.take(), [(B, 8)]);
    assert!(matches!(poll(&mut messages[8]), Poll::Ready(Ok(1))));
    assert_eq!(fabric.core_counters(B).mailbox_full, 1);
}

#[test]
fn the_own_part_of_a_message_runs_inside_the_call_and_last() {
    let (fabric, cores) = cores(2, 4);
    let log = Log::default();
    let noted = log.clone();
    let seen = fabric.clone();
    let mut message = cores[0].multicast_later(&set([0, 1]), move |core| {
        let sent = core.id() == B || seen.shared().core(B).doorbell.is_asked(Ask::Handlers as u64);
        assert!(sent, "the others have it before the own part runs");
        noted.note(core.id(), 1);
    });
    assert_eq!(log.take(), [(A, 1)]);
    assert!(poll(&mut message).is_pending());
    cores[1].drain(64);
    assert_eq!(log.take(), [(B, 1)]);
    assert!(matches!(poll(&mut message), Poll::Ready(Ok(2))));
    let runs = AtomicUsize::new(0);
    cores[0].unicast(A, |_| bump(&runs)).expect("inline");
    assert!(matches!(cores[0].multicast(&CoreSet::empty(), |_| unreachable!("nobody")), Ok(0)));
    assert_eq!(runs.into_inner(), 1);
}

#[test]
fn handlers_that_were_pending_run_before_the_mailbox() {
    let (fabric, cores) = cores(2, 4);
    let log = Log::default();
    let noted = log.clone();
    let message = cores[0].multicast_later(&set([1]), move |core| noted.note(core.id(), 0));
    cores[0].trigger(log.handler(&fabric, 5), B).expect("live");
    cores[1].drain(64);
    assert_eq!(log.take(), [(B, 5), (B, 0)]);
    drop(message);
}

#[test]
fn a_panic_on_one_core_reaches_the_sender_after_all_have_run() {
    let (_fabric, cores) = cores(3, 4);
    let log = Log::default();
    let noted = log.clone();
    let mut message = cores[0].multicast_later(&set([0, 1, 2]), move |core| {
        noted.note(core.id(), 1);
        assert_eq!(core.id(), A, "not here");
    });
    cores[1].drain(64);
    assert!(poll(&mut message).is_pending());
    cores[2].drain(64);
    let Poll::Ready(Err(error)) = poll(&mut message) else { panic!("two of them panicked") };
    assert!(error.is_panic());
    assert_eq!(log.take().len(), 3);
    let own = cores[0].unicast(A, |_| panic!("here"));
    assert!(own.is_err_and(|error| error.is_panic()));
}

#[test]
fn messages_to_cores_that_have_left_or_leave_are_answered_for() {
    let (_fabric, mut cores) = cores(3, 4);
    let token = Arc::new(());
    let held = token.clone();
    let mut message = cores[0].multicast_later(&set([1, 2]), move |_| drop(held.clone()));
    drop(cores.pop());
    cores[1].drain(64);
    assert!(matches!(poll(&mut message), Poll::Ready(Ok(1))));
    drop(message);
    drop(cores.pop());
    let gone = cores[0].unicast(B, |_| unreachable!("it has left"));
    assert!(gone.as_ref().err().is_some_and(CallError::is_gone));
    assert!(matches!(cores[0].broadcast(true, |_| ()), Ok(1)));
    assert!(matches!(cores[0].broadcast(false, |_| ()), Ok(0)));
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn a_message_whose_future_is_dropped_runs_where_it_was_sent_and_leaks_nothing() {
    let (_fabric, cores) = cores(2, 4);
    let token = Arc::new(());
    for _ in 0..12 {
        let held = token.clone();
        drop(cores[0].multicast_later(&set([1]), move |_| drop(held.clone())));
    }
    assert_eq!(Arc::strong_count(&token), 9, "eight were sent");
    cores[1].drain(64);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn who_waits_for_a_message_or_an_unregistration_names_the_core_that_is_late() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let report = Arc::new(move |stall: &Stall| {
        teller.lock().expect("not poisoned").push((stall.wait.target, stall.wait.kind));
    });
    let watch = Watch { interval_ns: INTERVAL_NS, sleepers: false, report: Some(report) };
    let config = Config { cores: 3, ring_capacity: 4, ..Config::default() };
    let (fabric, seats) =
        Fabric::with_watch(config, Arc::new(Machine::default()), watch).expect("a valid configuration");
    let mut seats = seats.into_iter();
    let here = seats.next().expect("three cores").enter();
    let late = CoreId::new(2);
    let is_told = |told: &Mutex<Vec<_>>| told.lock().expect("not poisoned").contains(&(late, WaitKind::Handler));
    let ended = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seat in seats {
            let (told, ended) = (&told, &ended);
            scope.spawn(move || {
                let core = seat.enter();
                for done in 1..=2 {
                    // The last core does nothing until the first one has complained of it.
                    while core.id() == late && !is_told(told) {
                        std::thread::yield_now();
                    }
                    while ended.load(Ordering::Acquire) < done {
                        core.drain(64);
                        std::thread::yield_now();
                    }
                }
            });
        }
        assert!(matches!(here.broadcast(true, |_| ()), Ok(3)));
        told.lock().expect("not poisoned").clear();
        bump(&ended);
        here.unregister_handler(Log::default().handler(&fabric, 1)).expect("live");
        ended.fetch_add(1, Ordering::Release);
        assert!(is_told(&told));
    });
}

/// One task's wait for a bell.
struct Waiting<'a> {
    core: &'a Core,
    bell: &'a super::Bell,
    wait: BellWait,
    woken: Arc<Woken>,
}

impl<'a> Waiting<'a> {
    fn new(core: &'a Core, bell: &'a super::Bell) -> Self {
        Self { core, bell, wait: BellWait::default(), woken: Arc::default() }
    }

    fn poll(&mut self) -> bool {
        let waker = Waker::from(self.woken.clone());
        self.core.poll_bell(self.bell, &mut self.wait, &Context::from_waker(&waker)).is_ready()
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.core.end_bell_wait(self.bell, &mut self.wait);
    }
}

#[test]
fn rings_before_a_look_are_one_notification_of_their_core() {
    let (fabric, cores) = cores(2, 4);
    let bell = fabric.bell();
    (0..3).for_each(|_| bell.ring(B));
    let (mut here, mut there) = (Waiting::new(&cores[0], &bell), Waiting::new(&cores[1], &bell));
    assert!(!here.poll() && there.poll() && !there.poll());
    (0..3).for_each(|_| bell.ring(B));
    assert_eq!(there.woken(), 0);
    drain_all(&cores);
    assert_eq!((here.woken(), there.woken()), (0, 1));
    assert!(there.poll() && !there.poll() && !here.poll());
}

#[test]
fn a_notification_survives_the_waiter_that_was_woken_for_it() {
    let (fabric, cores) = cores(1, 4);
    let bell = fabric.bell();
    let (mut first, mut second) = (Waiting::new(&cores[0], &bell), Waiting::new(&cores[0], &bell));
    assert!(!first.poll() && !second.poll());
    bell.ring(A);
    cores[0].drain(64);
    drop(first);
    assert_eq!(second.woken(), 1);
    assert!(second.poll());
    bell.ring(A);
    cores[0].drain(64);
    drop(second);
    assert!(Waiting::new(&cores[0], &bell).poll(), "kept for the next");
}

#[test]
fn bells_that_share_a_bit_keep_their_notifications_apart() {
    let (fabric, cores) = cores(1, 4);
    let bells: Vec<_> = (0..1_500).map(|_| fabric.bell()).collect();
    let mut waits: Vec<_> = bells.iter().map(|bell| Waiting::new(&cores[0], bell)).collect();
    assert!(waits.iter_mut().all(|wait| !wait.poll()));
    bells[700].ring(A);
    cores[0].drain(64);
    for (number, wait) in waits.iter_mut().enumerate() {
        assert_eq!((wait.woken(), wait.poll()), (usize::from(number == 700), number == 700), "{number}");
    }
}

#[test]
fn a_bell_wakes_a_task_that_polled_with_another_waker_before() {
    let (fabric, cores) = cores(1, 4);
    let bell = fabric.bell();
    let mut waiting = Waiting::new(&cores[0], &bell);
    assert!(!waiting.poll());
    let first = core::mem::take(&mut waiting.woken);
    assert!(!waiting.poll());
    bell.ring(A);
    cores[0].drain(64);
    assert_eq!((first.0.load(Ordering::Relaxed), waiting.woken()), (0, 1));
}

#[test]
fn an_unregistration_wakes_who_awaits_it() {
    let (fabric, cores) = cores(2, 4);
    let id = Log::default().handler(&fabric, 1);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut unregister: Pin<&mut _> = pin!(Box::pin(fabric.unregister_handler(id).expect("live")));
    let mut ready = || unregister.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    for round in 0..2 {
        assert!(!ready());
        for core in &cores {
            let before = woken.0.load(Ordering::Relaxed);
            core.drain(64);
            assert_eq!(woken.0.load(Ordering::Relaxed), before + 1, "round {round}");
        }
    }
    assert!(ready());
}

#[test]
fn a_bell_may_be_rung_and_heard_in_the_middle_of_a_wakers_clone() {
    let (fabric, cores) = cores(1, 4);
    let bell = fabric.bell();
    reaching(cores, || {
        let core = reached(0).expect("a core");
        let rung = bell.clone();
        let waker = meddling(move || {
            rung.ring(A);
            reached(0).into_iter().for_each(|core| _ = core.drain_all(64));
        });
        let mut wait = BellWait::default();
        assert!(core.poll_bell(&bell, &mut wait, &Context::from_waker(&waker)).is_ready());
    });
}
