//! Tasks that one core spawns on another start in the order in which they were spawned, also through a full ring.

use std::cell::RefCell;
use std::time::Duration;

use futures::future::join_all;
use ipiq::{CoreId, Runtime, core_id, spawn_on};
use ipiq_suites::alone::alone;
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);

thread_local! {
    /// Which tasks have started on this core: who spawned them, and their numbers.
    static STARTED: RefCell<Vec<(CoreId, u32)>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn remote_tasks_start_in_the_order_of_their_spawns() {
    alone("remote_tasks_start_in_the_order_of_their_spawns", LIMIT, || {
        each_kind(|builder| {
            for capacity in [2, 64] {
                let runtime = builder.clone().cores(3).ring_capacity(capacity).build().expect("a runtime");
                let tasks = scaled(10_000, 50_000);
                // Every core spawns on every other at once, in bursts beyond the ring.
                let spawners: Vec<_> = (0..3)
                    .map(|core| runtime.handle().spawn_on(CoreId::new(core), move || spawn_in_bursts(tasks)))
                    .collect();
                spawners.into_iter().for_each(|spawner| Runtime::wait(spawner).expect("no panic"));
                let mut overflowed = 0;
                for target in (0..3).map(CoreId::new) {
                    let started = Runtime::wait(runtime.handle().call_on(target, || STARTED.take())).expect("it runs");
                    for source in (0..3).map(CoreId::new).filter(|&source| source != target) {
                        let numbers = started.iter().filter(|(from, _)| *from == source).map(|(_, number)| *number);
                        assert!(numbers.eq(0..tasks), "{source} to {target}, {capacity} slots: out of order");
                        overflowed += runtime.handle().pair_counters(source, target).overflowed;
                    }
                }
                assert!(capacity > 2 || overflowed > 0, "the rings were never full");
            }
        });
    });
}

async fn spawn_in_bursts(tasks: u32) {
    let own = core_id();
    let mut handles = Vec::new();
    for number in 0..tasks {
        for target in (0..3).map(CoreId::new).filter(|&target| target != own) {
            let start = move || {
                STARTED.with_borrow_mut(|started| started.push((own, number)));
                async {}
            };
            handles.push(spawn_on(target, start));
        }
        if number % 1_000 == 999 {
            join_all(handles.drain(..)).await.into_iter().for_each(|task| task.expect("no panic"));
        }
    }
    join_all(handles).await.into_iter().for_each(|task| task.expect("no panic"));
}
