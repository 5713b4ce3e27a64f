//! Ends of a runtime that are out of the ordinary.

use std::cell::RefCell;
use std::sync::mpsc;
use std::time::Duration;

use ipiq::ipi::{TriggerError, Unregistered};
use ipiq::{CallError, CoreId, CoreSet, IdlePolicy, Runtime};

/// An end that takes this long never comes.
const HUNG: Duration = Duration::from_secs(20);

/// Runs `f` on a thread of its own.
fn within<R: Send + 'static>(what: &str, f: impl FnOnce() -> R + Send + 'static) -> R {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(f()));
    told.recv_timeout(HUNG).unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[test]
fn a_runtime_whose_idle_cores_never_sleep_ends() {
    within("the end of spinning cores", || {
        let runtime = Runtime::builder().cores(2).idle(IdlePolicy::Spin).build().expect("a runtime of two cores");
        runtime.block_on(|| async {});
    });
}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("a destructor's panic");
    }
}

/// Core 0 is told to stop in the middle of a closure, behind which another call waits.
#[test]
fn a_call_that_finds_its_core_closing_drops_what_it_captured_without_harm() {
    let answer = within("the end of a core whose inbox holds a panicking destructor", || {
        let runtime = Runtime::builder().cores(1).build().expect("a runtime of one core");
        let handle = runtime.handle();
        let (entered, wait_entered) = mpsc::channel();
        let (leave, wait_leave) = mpsc::channel::<()>();
        let first = handle.call_on(CoreId::new(0), move || {
            entered.send(()).expect("a listener");
            wait_leave.recv().expect("a word");
        });
        wait_entered.recv().expect("the closure runs");
        // More than one look at the injector takes: some are left when the core closes.
        let calls: Vec<_> = (0..1000)
            .map(|_| {
                let captured = PanicOnDrop;
                handle.call_on(CoreId::new(0), move || drop(captured))
            })
            .collect();
        handle.stop();
        leave.send(()).expect("the closure waits");
        Runtime::wait(first).expect("a value");
        drop(runtime);
        calls.into_iter().map(Runtime::wait).filter(|answer| answer.as_ref().is_err_and(CallError::is_gone)).count()
    });
    assert!(answer > 0, "some calls came too late");
}

/// What it panics with panics in its turn when it is dropped.
struct PanicTwice;

impl Drop for PanicTwice {
    fn drop(&mut self) {
        std::panic::panic_any(PanicOnDrop);
    }
}

#[test]
fn panics_whose_payloads_panic_when_dropped_end_nobody() {
    within("the work of a core that saw such payloads", || {
        let runtime = Runtime::builder().cores(1).build().expect("a runtime of one core");
        drop(runtime.handle().spawn_on(CoreId::new(0), || async { std::panic::panic_any(PanicTwice) }));
        drop(runtime.handle().call_on(CoreId::new(0), || std::panic::panic_any(PanicTwice)));
        assert_eq!(runtime.block_on(|| async { 1 }), 1);
    });
}

thread_local! {
    static KEPT: RefCell<Option<(Runtime, mpsc::Sender<()>)>> = const { RefCell::new(None) };
}

#[test]
fn a_runtime_that_its_own_thread_drops_at_its_very_end_is_not_waited_for() {
    within("the end of a thread that keeps its runtime", || {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime of two cores");
        let handle = runtime.handle();
        let (dropped, wait_dropped) = mpsc::channel();
        let kept = handle.call_on(CoreId::new(0), move || KEPT.set(Some((runtime, dropped))));
        Runtime::wait(kept).expect("a value");
        handle.stop();
        wait_dropped.recv().expect_err("the sender is dropped after the runtime");
    });
}

#[test]
fn handlers_are_unregistered_when_the_runtime_has_stopped_and_when_they_come_later() {
    within("the triggers of handlers of a runtime that has stopped", || {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime of two cores");
        let handle = runtime.handle();
        let early = handle.register_handler(|_| ()).expect("a free place");
        drop(runtime);
        let late = handle.register_handler(|_| ()).expect("a free place");
        for handler in [early, late] {
            assert_eq!(handler.trigger(CoreId::new(1)), Err(TriggerError::Unregistered));
            assert_eq!(handler.trigger_set(&CoreSet::first(2)), Err(Unregistered));
            assert_eq!(handler.trigger_all(), Err(Unregistered));
            assert_eq!(handler.trigger_others(), Err(Unregistered));
            Runtime::wait(handler.unregister());
        }
    });
}
