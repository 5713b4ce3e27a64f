//! Calls in a set of cores of which one has left.

mod machine;

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use ipiq_executor::xcall::{Class, Ticket};
use ipiq_executor::{Executor, Remote, SpinPolicy, with_current};
use ipiq_fabric::port::Idle;
use ipiq_fabric::{Armed, Config, CoreId, Fabric};
use machine::Machine;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

fn on_core<R>(f: impl FnOnce(&Executor) -> R) -> R {
    with_current(&Machine, f).expect("on a core")
}

/// Ends the loop by a panic once the task has ended, or when nothing happens any more.
struct UntilEnded {
    ended: Rc<Cell<bool>>,
    looks: u32,
}

impl Idle for UntilEnded {
    fn poll(&mut self) -> usize {
        self.looks += 1;
        if self.ended.get() || self.looks > 100_000 {
            std::panic::panic_any(());
        }
        0
    }
    fn park(&mut self, _armed: &Armed<'_>, _timeout_ns: Option<u64>) {}
}

/// Runs a task on core 0 of two, of which the other has left. The loop cannot end as loops do: the other will not come.
fn beside_a_core_that_has_left<Fut: Future<Output = ()> + 'static>(task: Fut) {
    let config = Config { cores: 2, ..Config::default() };
    let (fabric, mut seats) = Fabric::new(config, Arc::new(Machine)).expect("a valid configuration");
    drop(seats.pop());
    let executor = Executor::new(seats.remove(0).enter(), Remote::new(&fabric), Arc::new(Machine), SpinPolicy::Never);
    let ended = Rc::new(Cell::new(false));
    let end = ended.clone();
    drop(executor.spawn(async move {
        task.await;
        end.set(true);
    }));
    let mut idle = UntilEnded { ended: ended.clone(), looks: 0 };
    catch_unwind(AssertUnwindSafe(|| executor.run(&mut idle))).expect_err("it ends by a panic");
    assert!(ended.get(), "the task has not ended: it panicked or waits");
}

#[test]
fn a_core_that_has_left_is_reported_and_not_waited_for() {
    beside_a_core_that_has_left(async {
        let high = on_core(|executor| executor.high_broadcast(|| 7)).await;
        let [(A, Ok(7)), (B, Err(gone))] = &high[..] else { panic!("{high:?}") };
        assert!(gone.is_gone());
        let low = on_core(|executor| executor.low_broadcast(Location::caller(), || async { 8 })).await;
        let [(A, Ok(8)), (B, Err(gone))] = &low[..] else { panic!("{low:?}") };
        assert!(gone.is_cancelled());
        assert!(on_core(|executor| executor.high_unicast(B, || ())).await.expect_err("nobody there").is_gone());
        for class in [Class::Low, Class::High] {
            on_core(|executor| executor.barrier(class)).await;
        }
        // The other core's part has answered; so the call has finished.
        let ticket = on_core(|executor| executor.high_broadcast(|| ()).ticket());
        on_core(|executor| executor.wait_ticket(ticket)).await.expect("it was issued here");
        let elsewhere = Ticket::from_bits(ticket.to_bits() | 1 << 55);
        assert_eq!(elsewhere.home(), B);
        assert!(on_core(|executor| executor.wait_ticket(elsewhere)).await.expect_err("nobody there").is_gone());
    });
}

#[test]
fn a_ticket_drawn_after_the_end_has_ended() {
    beside_a_core_that_has_left(async {
        let mut call = on_core(|executor| executor.high_unicast(A, || 5));
        assert_eq!((&mut call).await.expect("a value"), 5);
        let ticket = call.ticket();
        on_core(|executor| executor.wait_ticket(ticket)).await.expect("it was issued here");
        assert_eq!(call.ticket(), ticket);
        let counters = on_core(Executor::xcall_counters);
        assert_eq!((counters.unicasts, counters.tickets, counters.finished), (1, 1, 1));
    });
}

#[test]
fn a_call_has_the_same_ticket_before_and_after_its_end() {
    beside_a_core_that_has_left(async {
        let mut call = on_core(|executor| executor.high_unicast(A, || 5));
        let ticket = call.ticket();
        assert_eq!((&mut call).await.expect("a value"), 5);
        assert_eq!(call.ticket(), ticket);
    });
}
