//! Executors used in ways that no runtime uses them, but which the compiler allows: odd, never unsound.

mod machine;

use std::cell::Cell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;

use ipiq_executor::{Executor, JoinError, JoinHandle, Pause, Remote, SpinPolicy, yield_now};
use ipiq_fabric::shootdown::Source;
use ipiq_fabric::{Config, CoreId, Fabric, Message, Seat};
use machine::Machine;

fn executor() -> Executor {
    let (fabric, mut seats) = Fabric::new(Config::default(), Arc::new(Machine)).expect("a valid configuration");
    Executor::new(seats.remove(0).enter(), Remote::new(&fabric), Arc::new(Machine), SpinPolicy::Never)
}

const A: CoreId = CoreId::new(0);

fn outcome_of<T>(join: &mut JoinHandle<T>) -> Result<T, JoinError> {
    let polled = Future::poll(std::pin::pin!(join), &mut Context::from_waker(Waker::noop()));
    let Poll::Ready(outcome) = polled else { panic!("the task has not ended") };
    outcome
}

#[test]
fn a_task_whose_home_does_not_run_is_cancelled_and_never_polled_on_another_core() {
    let (running, idle) = (executor(), Rc::new(executor()));
    let mut join = idle.remote().spawn_on(A, || async { 1 });
    let task = running.spawn({
        let (idle, remote) = (idle.clone(), running.remote().clone());
        async move {
            idle.core().drain_foreign(1);
            remote.stop();
        }
    });
    running.run(&mut Machine);
    drop((task, idle));
    assert!(outcome_of(&mut join).is_err_and(|error| error.is_cancelled()));
}

struct Witness(Arc<Mutex<Vec<ThreadId>>>, PhantomData<Rc<()>>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.lock().expect("not poisoned").push(std::thread::current().id());
    }
}

#[test]
fn a_future_whose_loop_was_torn_down_is_dropped_by_its_home_and_not_by_the_thread_that_wakes_it() {
    let (kept, dropped) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(Vec::new())));
    let executor = executor();
    drop(executor.spawn({
        let (kept, fabric) = (kept.clone(), executor.remote().fabric().clone());
        let witness = Witness(dropped.clone(), PhantomData);
        poll_fn(move |cx| {
            let _at_home = &witness;
            *kept.lock().expect("not poisoned") = Some(cx.waker().clone());
            drop(fabric.post(A, Message::foreign(|_, _| panic!("a message that panics"))));
            Poll::<()>::Pending
        })
    }));
    catch_unwind(AssertUnwindSafe(|| executor.run(&mut Machine))).expect_err("the message's panic");
    drop(executor);
    let waker: Waker = kept.lock().expect("not poisoned").take().expect("the task was polled");
    std::thread::spawn(move || waker.wake()).join().expect("no panic");
    assert_eq!(*dropped.lock().expect("not poisoned"), [std::thread::current().id()]);
}

#[test]
fn tasks_of_an_executor_that_never_ran_are_cancelled() {
    let idle = executor();
    let mut join = idle.spawn(async { 1 });
    drop(idle);
    assert!(outcome_of(&mut join).is_err_and(|error| error.is_cancelled()));
}

/// Runs `executor` until all its tasks wait, then tears its loop down.
fn run_and_tear_down(executor: &Executor) {
    let (fabric, id) = (executor.remote().fabric().clone(), executor.core().id());
    drop(executor.spawn(async move {
        yield_now().await;
        drop(fabric.post(id, Message::foreign(|_, _| panic!("a message that panics"))));
    }));
    catch_unwind(AssertUnwindSafe(|| executor.run(&mut Machine))).expect_err("the message's panic");
}

#[test]
fn an_executor_dropped_inside_anothers_task_drops_its_own_tasks_and_disturbs_no_other() {
    let (torn, running) = (executor(), executor());
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let waits = |witness: &Arc<Mutex<Vec<ThreadId>>>| {
        let witness = Witness(witness.clone(), PhantomData);
        poll_fn(move |_| {
            let _at_home = &witness;
            Poll::<()>::Pending
        })
    };
    let mut joins: Vec<_> = (0..3).map(|_| torn.spawn(waits(&dropped))).collect();
    run_and_tear_down(&torn);
    let others = Arc::new(Mutex::new(Vec::new()));
    let mut other = running.spawn(waits(&others));
    let (remote, seen, spared) = (running.remote().clone(), dropped.clone(), others.clone());
    drop(running.spawn(async move {
        yield_now().await;
        drop(torn);
        assert_eq!(seen.lock().expect("not poisoned").len(), 3);
        assert_eq!(spared.lock().expect("not poisoned").len(), 0);
        remote.stop();
    }));
    running.run(&mut Machine);
    assert_eq!(others.lock().expect("not poisoned").len(), 1);
    for join in joins.iter_mut().chain([&mut other]) {
        assert!(outcome_of(join).is_err_and(|error| error.is_cancelled()));
    }
}

#[test]
fn a_task_on_its_way_to_a_core_outlives_the_remote_that_spawned_it() {
    let (fabric, mut seats) = Fabric::new(Config::default(), Arc::new(Machine)).expect("a valid configuration");
    let core = seats.remove(0).enter();
    let mut joins: Vec<_> = (0..2).map(|n| Remote::new(&fabric).spawn_on(A, move || async move { n })).collect();
    // By hand, without an executor.
    core.drain_foreign(1);
    assert!(outcome_of(&mut joins[0]).is_err_and(|error| error.is_cancelled()));
    // On an executor that was made later, of another remote.
    let executor = Executor::new(core, Remote::new(&fabric), Arc::new(Machine), SpinPolicy::Never);
    let remote = executor.remote().clone();
    drop(executor.spawn(async move { remote.stop() }));
    executor.run(&mut Machine);
    assert!(joins[1].is_finished());
}

#[test]
fn a_wake_up_that_a_leaving_core_could_not_send_reaches_its_task() {
    let config = Config { cores: 2, ring_capacity: 2, ..Config::default() };
    let (fabric, seats) = Fabric::new(config, Arc::new(Machine)).expect("a valid configuration");
    let remote = Remote::new(&fabric);
    let executor = |seat: Seat| Executor::new(seat.enter(), remote.clone(), Arc::new(Machine), SpinPolicy::Never);
    let [leaving, home] = <[Seat; 2]>::try_from(seats).expect("two seats").map(executor);
    let (polls, kept) = (Rc::new(Cell::new(0)), Arc::new(Mutex::new(None)));
    drop(home.spawn(poll_fn({
        let (polls, kept) = (polls.clone(), kept.clone());
        move |cx| {
            polls.set(polls.get() + 1);
            *kept.lock().expect("not poisoned") = Some(cx.waker().clone());
            Poll::<()>::Pending
        }
    })));
    run_and_tear_down(&home);
    let waker: Waker = kept.lock().expect("not poisoned").take().expect("the task was polled");
    drop(leaving.spawn({
        let (remote, waker) = (remote.clone(), waker.clone());
        async move {
            // They fill the ring.
            for _ in 0..2 {
                drop(remote.spawn_on(CoreId::new(1), || async {}));
            }
            waker.wake();
        }
    }));
    run_and_tear_down(&leaving);
    drop(leaving);
    run_and_tear_down(&home);
    assert_eq!(polls.get(), 2);
    // A later one is not taken for one that is under way.
    std::thread::spawn(move || waker.wake()).join().expect("no panic");
    run_and_tear_down(&home);
    assert_eq!(polls.get(), 3);
}

#[test]
#[should_panic(expected = "of one fabric")]
fn an_executor_is_not_made_of_two_fabrics() {
    let (_fabric, mut seats) = Fabric::new(Config::default(), Arc::new(Machine)).expect("a valid configuration");
    let other = executor();
    drop(Executor::new(seats.remove(0).enter(), other.remote().clone(), Arc::new(Machine), SpinPolicy::Never));
}

/// A value that is another one each time it is looked at.
struct Latest(Mutex<u64>);

impl Source for Latest {
    type Value = Vec<u64>;

    fn current(&self) -> (u64, Arc<Vec<u64>>) {
        let mut version = self.0.lock().expect("not poisoned");
        *version += 1;
        (*version, Arc::new(vec![*version; 64]))
    }
}

#[test]
fn a_loop_does_not_begin_in_the_middle_of_a_read_of_what_it_would_replace() {
    let (executor, source) = (executor(), Arc::new(Latest(Mutex::new(0))));
    let remote = executor.remote().clone();
    drop(executor.spawn({
        let source = source.clone();
        async move {
            remote.update(&source).await.expect("no clone panics");
            remote.stop();
        }
    }));
    let replica = executor.core().replica(&source);
    replica.read(|value| {
        let begun = catch_unwind(AssertUnwindSafe(|| executor.run(&mut Machine)));
        assert_eq!(*value, [1; 64]);
        begun.expect_err("the value is being read");
    });
    drop(replica);
    executor.run(&mut Machine);
}

#[test]
fn a_pause_of_a_core_whose_loop_does_not_run_stops_no_other_runtime() {
    let (running, idle) = (executor(), Rc::new(executor()));
    let mut pausing = idle.remote().pause(A, Pause::all(), |_| ());
    drop(running.spawn({
        let (idle, remote) = (idle.clone(), running.remote().clone());
        async move {
            idle.core().drain_foreign(1);
            yield_now().await;
            remote.stop();
        }
    }));
    running.run(&mut Machine);
    let polled = Future::poll(std::pin::pin!(&mut pausing), &mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Err(error)) if error.is_gone()));
}

#[test]
fn a_pause_asked_for_by_a_foreign_thread_after_the_stop_is_refused_at_once() {
    let executor = executor();
    executor.remote().stop();
    let mut pausing = executor.remote().pause(A, Pause::all(), |_| ());
    let polled = Future::poll(std::pin::pin!(&mut pausing), &mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Err(error)) if error.is_gone()));
}
