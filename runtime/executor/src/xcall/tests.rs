//! Tickets and their table, on one thread.

use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};

use ipiq_fabric::CoreId;

use super::everywhere::{Everywhere, Part};
use super::own::OwnQueue;
use super::ticket::{Table, WaitHere};
use super::{Class, Ticket};

const A: CoreId = CoreId::new(0);

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn rung(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, bell: &Arc<Bell>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(bell.clone())))
}

#[test]
fn a_tickets_bits_tell_class_home_and_number() {
    for class in [Class::Low, Class::High] {
        for home in [0, 1, 255] {
            for number in [1, u64::from(u32::MAX) + 1, (1 << 55) - 1] {
                let ticket = Ticket::new(class, CoreId::new(home), number);
                assert_eq!((ticket.class(), ticket.home().index(), ticket.number()), (class, home, number));
                assert_eq!(ticket.to_bits() >> 63 == 1, class == Class::High);
                assert_eq!(Ticket::from_bits(ticket.to_bits()), ticket);
            }
        }
    }
}

#[cfg(feature = "std")]
#[test]
fn a_waker_that_panics_reaches_nobody_else_who_waits() {
    struct Broken;
    impl Wake for Broken {
        fn wake(self: Arc<Self>) {
            panic!("a waker's panic");
        }
    }
    let table = Rc::new(Table::default());
    let ticket = table.issue(Class::Low, A);
    let mut waits = [(); 2].map(|()| WaitHere::new(table.clone(), ticket));
    assert!(Pin::new(&mut waits[0]).poll(&mut Context::from_waker(&Waker::from(Arc::new(Broken)))).is_pending());
    let bell = Arc::new(Bell::default());
    assert!(poll(&mut waits[1], &bell).is_pending());
    table.finish(ticket);
    assert_eq!(bell.rung(), 1);
}

#[test]
fn a_later_calls_end_does_not_end_an_earlier_wait() {
    let table = Rc::new(Table::default());
    let (first, second) = (table.issue(Class::Low, A), table.issue(Class::Low, A));
    let bell = Arc::new(Bell::default());
    let mut wait = WaitHere::new(table.clone(), first);
    assert!(poll(&mut wait, &bell).is_pending());
    table.finish(second);
    assert!(poll(&mut WaitHere::new(table.clone(), second), &bell).is_ready());
    assert!(poll(&mut wait, &bell).is_pending() && bell.rung() == 0);
    table.finish(first);
    assert!(poll(&mut wait, &bell).is_ready() && bell.rung() == 1);
}

#[test]
fn numbers_pass_32_bits() {
    let table = Rc::new(Table::starting_at(u64::from(u32::MAX) - 1));
    let tickets: Vec<_> = (0..4).map(|_| table.issue(Class::High, A)).collect();
    let bell = Arc::new(Bell::default());
    for (finished, &ticket) in tickets.iter().enumerate().rev() {
        table.finish(ticket);
        for (other, &waited) in tickets.iter().enumerate() {
            let ended = poll(&mut WaitHere::new(table.clone(), waited), &bell).is_ready();
            assert_eq!(ended, other >= finished, "{waited:?} after the end of {ticket:?}");
        }
    }
}

#[test]
fn every_one_of_many_waits_is_woken_and_a_dropped_one_leaves_nothing() {
    let table = Rc::new(Table::default());
    let ticket = table.issue(Class::Low, A);
    let bells: Vec<_> = (0..5).map(|_| Arc::new(Bell::default())).collect();
    let mut waits: Vec<_> = bells.iter().map(|_| WaitHere::new(table.clone(), ticket)).collect();
    for (wait, bell) in waits.iter_mut().zip(&bells) {
        assert!(poll(wait, bell).is_pending());
    }
    drop(waits.remove(1));
    assert_eq!(table.waiters(ticket), Some(4));
    assert_eq!(Arc::strong_count(&bells[1]), 1, "its waker is gone");
    // A wait that goes to another task is woken there.
    assert!(poll(&mut waits[0], &bells[1]).is_pending());
    table.finish(ticket);
    assert_eq!(bells.iter().map(|bell| bell.rung()).collect::<Vec<_>>(), [0, 1, 1, 1, 1]);
    assert_eq!(table.waiters(ticket), None);
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &bells[0]).is_ready()));
}

std::thread_local! {
    static MEDDLED: RefCell<Option<(Rc<Table>, Ticket)>> = const { RefCell::new(None) };
}

/// A waker that uses the table when it is dropped or woken.
struct Meddler;

impl Meddler {
    fn meddle(&self) {
        MEDDLED.with_borrow(|meddled| {
            let (table, ticket) = meddled.as_ref().expect("a table");
            table.issue(Class::Low, A);
            assert!(table.waiters(*ticket).is_none_or(|waiters| waiters <= 2));
        });
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
    }
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        self.meddle();
    }
}

#[test]
fn wakers_may_use_the_table() {
    let table = Rc::new(Table::default());
    let ticket = table.issue(Class::Low, A);
    MEDDLED.set(Some((table.clone(), ticket)));
    let mut waits = [0; 2].map(|_| WaitHere::new(table.clone(), ticket));
    for _ in 0..2 {
        for wait in &mut waits {
            let waker = Waker::from(Arc::new(Meddler));
            assert!(Pin::new(wait).poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    let [first, mut second] = waits;
    drop(first);
    table.finish(ticket);
    assert!(poll(&mut second, &Arc::default()).is_ready());
}

/// A part that is ready after some polls, and notes them.
struct Countdown {
    core: CoreId,
    polls_left: usize,
    unsent: bool,
    polled: Rc<RefCell<Vec<CoreId>>>,
}

impl Future for Countdown {
    type Output = CoreId;

    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<CoreId> {
        self.polled.borrow_mut().push(self.core);
        if self.polls_left == 0 {
            return Poll::Ready(self.core);
        }
        self.polls_left -= 1;
        Poll::Pending
    }
}

impl Part for Countdown {
    fn is_unsent(&self) -> bool {
        self.unsent
    }
}

fn countdowns(first: usize, polls: [usize; 4], unsent: &[usize]) -> (Everywhere<Countdown>, impl Fn() -> Vec<usize>) {
    let polled: Rc<RefCell<Vec<CoreId>>> = Rc::default();
    let part = |core: CoreId| Countdown {
        core,
        polls_left: polls[core.index()],
        unsent: unsent.contains(&core.index()),
        polled: polled.clone(),
    };
    let everywhere = Everywhere::new(4, first, part);
    (everywhere, move || polled.take().into_iter().map(CoreId::index).collect())
}

#[test]
fn parts_are_awaited_in_turn_and_answer_in_order_of_cores() {
    let bell = Arc::default();
    let (mut everywhere, polled) = countdowns(2, [1, 0, 0, 2], &[]);
    assert!(poll(&mut everywhere, &bell).is_pending());
    assert_eq!(polled(), [2, 3]);
    assert!(poll(&mut everywhere, &bell).is_pending());
    assert_eq!(polled(), [3]);
    assert!(poll(&mut everywhere, &bell).is_pending());
    assert_eq!(polled(), [3, 0]);
    let Poll::Ready(answers) = poll(&mut everywhere, &bell) else { panic!("all have answered") };
    assert!(answers.iter().all(|(core, answer)| core == answer));
    assert!(answers.into_iter().map(|(core, _)| core.index()).eq(0..4));
}

#[test]
fn parts_that_are_not_sent_yet_are_polled_before_their_turn() {
    let bell = Arc::default();
    let (mut everywhere, polled) = countdowns(0, [3, 1, 0, 1], &[1, 2]);
    assert!(poll(&mut everywhere, &bell).is_pending());
    assert_eq!(polled(), [0, 1, 2]);
    assert!(poll(&mut everywhere, &bell).is_pending());
    assert_eq!(polled(), [0, 1], "part 2 is done");
    assert!(poll(&mut everywhere, &bell).is_pending());
    assert!(poll(&mut everywhere, &bell).is_pending());
    assert!(poll(&mut everywhere, &bell).is_ready());
    assert_eq!(polled(), [0, 0, 3, 3]);
}

/// Whatever the class.
fn plainly(_class: u8, run: &dyn Fn()) {
    run();
}

#[test]
fn functions_for_the_own_core_run_in_order_and_only_what_was_there() {
    let queue = Rc::new(OwnQueue::default());
    let ran: Rc<RefCell<Vec<u32>>> = Rc::default();
    let note = |n: u32| {
        let (ran, again) = (ran.clone(), queue.clone());
        move || {
            ran.borrow_mut().push(n);
            if n == 1 {
                drop(again.push(0, || ()));
            }
            n
        }
    };
    let bell = Arc::new(Bell::default());
    let (mut first, second) = (queue.push(0, note(1)), queue.push(7, note(2)));
    assert!(poll(&mut first, &bell).is_pending());
    drop(second);
    let classes = RefCell::new(Vec::new());
    let under = |class, run: &dyn Fn()| {
        classes.borrow_mut().push(class);
        run();
    };
    assert_eq!(queue.run(false, under), 2);
    assert_eq!(*classes.borrow(), [0, 7]);
    assert!(*ran.borrow() == [1, 2] && bell.rung() == 1);
    assert!(!queue.is_empty(), "what a function adds waits for the next turn");
    assert!(matches!(poll(&mut first, &bell), Poll::Ready(Ok(1))));
}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("a destructor's panic");
    }
}

#[test]
fn a_closing_core_runs_no_function_and_panics_of_functions_and_values_end_nobody() {
    let queue = OwnQueue::default();
    let bell = Arc::default();
    let mut panics = queue.push(0, || -> u8 { panic!("in a function") });
    drop(queue.push(0, || PanicOnDrop));
    assert_eq!(queue.run(false, plainly), 2);
    assert!(matches!(poll(&mut panics, &bell), Poll::Ready(Err(error)) if error.is_panic()));
    let captured = PanicOnDrop;
    let mut late = queue.push(0, move || drop(captured));
    assert_eq!(queue.run(true, plainly), 1);
    assert!(matches!(poll(&mut late, &bell), Poll::Ready(Err(error)) if error.is_gone()));
}

#[test]
fn a_section_ends_its_run_of_the_queue_and_waits_for_the_end_of_a_stop() {
    let (queue, seen) = (OwnQueue::default(), Rc::new(RefCell::new(Vec::new())));
    let note = |n: u32| {
        let seen = seen.clone();
        move || seen.borrow_mut().push(n)
    };
    let kept =
        [queue.push_section(note(1)), queue.push(0, note(2)), queue.push_section(note(3)), queue.push(0, note(4))];
    drop(queue.push_section(note(5)));
    assert_eq!(queue.run_all_but_sections(false, plainly), 2);
    assert_eq!(queue.run_all_but_sections(false, plainly), 0, "sections are nothing that a stop waits for");
    assert_eq!(*seen.borrow(), [2, 4]);
    drop(queue.push(0, note(6)));
    assert_eq!(
        (queue.run(false, plainly), queue.run(false, plainly), queue.run(false, plainly)),
        (1, 1, 2),
        "one a turn; nobody awaits the last"
    );
    assert_eq!(*seen.borrow(), [2, 4, 1, 3, 6]);
    drop(kept);
}
