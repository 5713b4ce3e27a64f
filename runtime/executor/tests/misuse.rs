//! Executors used in ways that no runtime uses them, but which the compiler allows: odd, never unsound.

use std::cell::Cell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;

use ipiq_executor::{Executor, Remote, SpinPolicy};
use ipiq_fabric::port::{Clock, FenceKind, Idle, Port};
use ipiq_fabric::{Armed, Config, CoreId, Fabric, Message};

thread_local! {
    static CURRENT: Cell<*const ()> = const { Cell::new(ptr::null()) };
}

/// One thread, which never sleeps.
struct Machine;

// SAFETY: 1. the slot is a cell of the thread. 2. the fence kind is symmetric.
unsafe impl Port for Machine {
    fn fence_kind(&self) -> FenceKind {
        FenceKind::Symmetric
    }
    fn heavy_fence(&self) -> bool {
        unreachable!("symmetric")
    }
    fn kick(&self, _target: CoreId) {}
    fn relax(&self, _turn: u32) {}
    fn current(&self) -> *const () {
        CURRENT.get()
    }
    unsafe fn set_current(&self, slot: *const ()) {
        CURRENT.set(slot);
    }
}

impl Idle for Machine {
    fn poll(&mut self) -> usize {
        0
    }
    fn park(&mut self, _armed: &Armed<'_>, _timeout_ns: Option<u64>) {}
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        0
    }
}

fn executor() -> Executor {
    let (fabric, mut seats) = Fabric::new(Config::default(), Arc::new(Machine)).expect("a valid configuration");
    Executor::new(seats.remove(0).enter(), Remote::new(&fabric), Arc::new(Machine), SpinPolicy::Never)
}

const A: CoreId = CoreId::new(0);

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
    let outcome = Future::poll(std::pin::pin!(&mut join), &mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Err(error)) = outcome else { panic!("the task ran on a core that is not its home") };
    assert!(error.is_cancelled());
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
    let outcome = Future::poll(std::pin::pin!(&mut join), &mut Context::from_waker(Waker::noop()));
    assert!(matches!(outcome, Poll::Ready(Err(error)) if error.is_cancelled()));
}

#[test]
#[should_panic(expected = "of one fabric")]
fn an_executor_is_not_made_of_two_fabrics() {
    let (_fabric, mut seats) = Fabric::new(Config::default(), Arc::new(Machine)).expect("a valid configuration");
    let other = executor();
    drop(Executor::new(seats.remove(0).enter(), other.remote().clone(), Arc::new(Machine), SpinPolicy::Never));
}
