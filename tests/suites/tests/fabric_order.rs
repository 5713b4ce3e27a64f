//! Waiting for everything sent, on every core at once, while all cores do the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use ipiq_fabric::synchronize::PendingSynchronize;
use ipiq_fabric::{Config, Core, CoreId};
use ipiq_suites::alone::alone;
use ipiq_suites::cores::{FENCES, Seated, on_cores};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(100);

fn config(cores: usize) -> Config {
    Config { cores, ring_capacity: 4, first_index: u32::MAX - 100 }
}

/// Sends `round` messages to each other core; some of them drain their core in the middle.
fn send_to_all(seated: &Seated<'_>, round: u64, ended: &Arc<AtomicU64>) -> u64 {
    let mut sent = 0;
    for target in (0..seated.core.cores()).map(CoreId::new).filter(|&target| target != seated.id()) {
        for n in 0..round % 7 {
            let ended = ended.clone();
            seated.core.send_or_list(target, move |core: &Core, _| {
                if n % 3 == 0 {
                    core.drain_all(64);
                }
                // What is waited for is the end of the function, not its start.
                ended.fetch_add(1, Ordering::Relaxed);
            });
            sent += 1;
        }
    }
    sent
}

/// As an executor waits: serves, sleeps, and asks again.
fn synchronize(seated: &mut Seated<'_>) {
    let mut wait = PendingSynchronize::new(&seated.core);
    let cx = Context::from_waker(Waker::noop());
    while wait.poll(&seated.core, &cx).is_pending() {
        if seated.serve() == 0 {
            seated.park(None);
        }
    }
}

#[test]
fn everything_sent_has_ended_on_every_core_when_a_synchronize_ends() {
    alone("everything_sent_has_ended_on_every_core_when_a_synchronize_ends", LIMIT, || {
        for (fence, cores) in FENCES.into_iter().flat_map(|fence| [(fence, 2), (fence, 4)]) {
            on_cores(config(cores), fence, |seated| {
                let ended = Arc::new(AtomicU64::new(0));
                let mut sent = 0;
                for round in 0..scaled(1_000, 50_000) {
                    sent += send_to_all(seated, round, &ended);
                    if round % 2 == 0 {
                        synchronize(seated)
                    } else {
                        seated.core.synchronize_blocking()
                    }
                    assert_eq!(ended.load(Ordering::Relaxed), sent);
                }
                seated.serve_until_all_are_done();
            });
        }
    });
}

#[test]
fn a_synchronize_ends_while_cores_leave() {
    alone("a_synchronize_ends_while_cores_leave", LIMIT, || {
        for round in 0..scaled(100, 2_000) {
            on_cores(config(4), FENCES[round % 2], |seated| {
                let (id, ended) = (seated.id().index(), Arc::new(AtomicU64::new(0)));
                // Cores 2 and 3 leave after a while, in the middle of everything.
                for turn in 0..if id < 2 { 60 } else { 10 * id + round % 10 } {
                    send_to_all(seated, turn as u64, &ended);
                    if (turn + id) % 2 == 0 { synchronize(seated) } else { seated.core.synchronize_blocking() }
                }
                if id < 2 { seated.serve_until_all_are_done() } else { seated.leave() }
            });
        }
    });
}
