//! Calls to every core from all cores at once, inside each other, through rings that are always full.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use ipiq::xcall::{self, Class, Ticket};
use ipiq::{CoreId, Runtime, core_id, yield_now};
use ipiq_suites::alone::alone;
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(600);
/// Tasks of each core that call.
const CALLERS: usize = 3;

thread_local! {
    /// Functions that ran on this core.
    static RAN: Cell<usize> = const { Cell::new(0) };
}

fn ran() {
    RAN.set(RAN.get() + 1);
}

/// Awaited twice: where it was drawn, and on the next core.
async fn await_twice(ticket: Ticket) {
    let next = CoreId::new((core_id().index() + 1) % ipiq::core_count());
    let there = ipiq::spawn_on(next, move || xcall::wait(ticket));
    xcall::wait(ticket).await.expect("the home lives");
    there.await.expect("no panic").expect("the home lives");
}

/// One round of a caller. Returns how many functions it made run.
async fn round(number: usize, cores: usize) -> usize {
    match number % 5 {
        // A broadcast of each class.
        0 => {
            xcall::high::broadcast(ran).await.into_iter().for_each(|(_, answer)| answer.expect("a value"));
            cores
        }
        1 => {
            let low = xcall::low::broadcast(|| async {
                yield_now().await;
                ran();
            });
            await_twice({ low }.ticket()).await;
            cores
        }
        // Low in low, and a barrier.
        2 => {
            let outer = xcall::low::broadcast(|| async {
                let inner = xcall::low::broadcast(|| async { ran() });
                inner.await.into_iter().for_each(|(_, answer)| answer.expect("a value"));
                xcall::barrier(Class::High).await;
            });
            outer.await.into_iter().for_each(|(_, answer)| answer.expect("a value"));
            cores * cores
        }
        // High in high: issued by functions, awaited by ticket.
        3 => {
            let outer = xcall::high::broadcast(|| xcall::high::broadcast(ran).ticket());
            for (_, ticket) in outer.await {
                xcall::wait(ticket.expect("a value")).await.expect("the home lives");
            }
            cores * cores
        }
        // Several at a time.
        _ => {
            let calls: Vec<_> = (0..8).map(|_| xcall::high::broadcast(ran)).collect();
            for answers in join_all(calls).await {
                answers.into_iter().for_each(|(_, answer)| answer.expect("a value"));
            }
            8 * cores
        }
    }
}

fn storm(runtime: &Runtime, cores: usize, rounds: usize) {
    let expected = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..cores * CALLERS)
        .map(|caller| {
            let expected = expected.clone();
            runtime.handle().spawn_on(CoreId::new(caller % cores), move || async move {
                for number in 0..rounds {
                    let functions = round(number + caller, cores).await;
                    expected.fetch_add(functions, Ordering::Relaxed);
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| Runtime::wait(caller).expect("no panic"));
    let counted = Runtime::wait(runtime.handle().broadcast_high(|| RAN.take()));
    let counted: usize = counted.into_iter().map(|(_, answer)| answer.expect("a value")).sum();
    assert_eq!(counted, expected.load(Ordering::Relaxed), "every function runs once");
    let counters = Runtime::wait(runtime.handle().broadcast_high(xcall::counters));
    for (core, counters) in counters {
        let counters = counters.expect("a value");
        assert_eq!(counters.tickets, counters.finished, "{core}");
    }
}

#[test]
fn nested_calls_from_all_cores_at_once_run_each_function_once() {
    alone("nested_calls_from_all_cores_at_once_run_each_function_once", LIMIT, || {
        for cores in [2, 4, 16] {
            each_kind(|builder| {
                let runtime = builder.cores(cores).ring_capacity(2).build().expect("a runtime");
                let started = Instant::now();
                storm(&runtime, cores, scaled(50, 5_000) / cores);
                let overflowed = (0..cores).map(CoreId::new).flat_map(|source| {
                    let handle = runtime.handle();
                    (0..cores).map(CoreId::new).map(move |target| handle.pair_counters(source, target).overflowed)
                });
                let overflowed: u64 = overflowed.sum();
                println!(
                    "{cores} cores, {:?}: {overflowed} times full, {:?}",
                    runtime.info().driver,
                    started.elapsed()
                );
            });
        }
    });
}
