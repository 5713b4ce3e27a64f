//! A machine that loses, holds back and refuses: what was sent arrives all the same, and who waits too long is told for whom.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipiq_fabric::watch::{Stall, TargetState, WaitKind, Watch};
use ipiq_fabric::{Config, Core, CoreId};
use ipiq_linux::port::{FenceChoice, LinuxPort};
use ipiq_suites::alone::alone;
use ipiq_suites::cores::{FENCES, Seated, on_faulty_cores};
use ipiq_suites::faults::FaultyPort;

const LIMIT: Duration = Duration::from_secs(60);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);
/// Long for a wait, short for a test.
const INTERVAL: Duration = Duration::from_millis(20);

fn config(cores: usize) -> Config {
    Config { cores, ring_capacity: 8, first_index: u32::MAX - 4 }
}

/// What the watch has told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Stall>>>);

impl Told {
    fn watch(&self, sleepers: bool) -> Watch {
        let told = self.0.clone();
        let report = move |stall: &Stall| told.lock().expect("not poisoned").push(*stall);
        Watch { interval_ns: INTERVAL.as_nanos() as u64, sleepers, report: Some(Arc::new(report)) }
    }

    fn first(&self) -> Stall {
        *self.0.lock().expect("not poisoned").first().expect("the stall was told of")
    }
}

#[derive(Clone, Default)]
struct Flag(Arc<AtomicBool>);

impl Flag {
    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn wait(&self) {
        while !self.is_set() {
            std::thread::yield_now();
        }
    }
}

/// Waits until `core` has gone to sleep, or is about to: from then on it has to be kicked.
fn wait_until_asleep(seated: &Seated<'_>, core: CoreId) {
    while seated.fabric.core_counters(core).parked == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_lost_kick_is_repaired_by_who_waits_in_a_loop() {
    alone("a_lost_kick_is_repaired_by_who_waits_in_a_loop", LIMIT, || {
        for fence in FENCES {
            let port = FaultyPort::new(LinuxPort::new(2, fence));
            let (told, ran) = (Told::default(), Flag::default());
            let fabric = on_faulty_cores(config(2), &port, told.watch(false), |seated| {
                if seated.id() == A {
                    wait_until_asleep(seated, B);
                    port.lose_kicks.store(1, Ordering::Release);
                    let note = ran.clone();
                    let sent = seated.core.send(B, move |_, _| note.set()).map_err(drop).expect("nobody leaves");
                    // The doorbell says that the target was kicked: no sender would do it again.
                    seated.core.wait_executed(B, sent);
                    assert_eq!(port.lose_kicks.load(Ordering::Acquire), 0, "it was lost");
                } else {
                    seated.serve_until(|| ran.is_set());
                }
                seated.serve_until_all_are_done();
            });
            let stall = told.first();
            assert_eq!((stall.wait.core, stall.wait.target, stall.wait.kind), (A, B, WaitKind::Execution));
            assert_eq!(stall.target, TargetState::Asleep);
            assert!(stall.wait.elapsed >= INTERVAL);
            assert!(fabric.pair_counters(A, B).repeated >= 1);
        }
    });
}

#[test]
fn a_lost_kick_is_repaired_by_a_core_that_sleeps_until_the_answer() {
    alone("a_lost_kick_is_repaired_by_a_core_that_sleeps_until_the_answer", LIMIT, || {
        let port = FaultyPort::new(LinuxPort::new(2, FenceChoice::Auto));
        let (told, asked, answered) = (Told::default(), Flag::default(), Flag::default());
        on_faulty_cores(config(2), &port, told.watch(true), |seated| {
            if seated.id() == A {
                wait_until_asleep(seated, B);
                port.lose_kicks.store(1, Ordering::Release);
                let (noted, replied) = (asked.clone(), answered.clone());
                let answer = move |core: &Core, source: CoreId| {
                    noted.set();
                    core.send_or_list(source, move |_, _| replied.set());
                };
                seated.core.send_or_list(B, answer);
                // As an executor does.
                while !asked.is_set() {
                    let next = seated.core.watch();
                    if seated.serve() == 0 {
                        seated.park(next);
                    }
                }
            } else {
                seated.serve_until(|| asked.is_set());
            }
            seated.serve_until_all_are_done();
        });
        let stall = told.first();
        assert_eq!((stall.wait.core, stall.wait.target, stall.wait.kind), (A, B, WaitKind::Call));
        assert!(answered.is_set());
    });
}

#[test]
fn a_kick_that_its_sender_owes_is_given_by_another_that_waits() {
    alone("a_kick_that_its_sender_owes_is_given_by_another_that_waits", LIMIT, || {
        for fence in FENCES {
            let port = FaultyPort::new(LinuxPort::new(3, fence));
            let (told, ran) = (Told::default(), Flag::default());
            let kicking = Flag::default();
            let fabric = on_faulty_cores(config(3), &port, told.watch(false), |seated| {
                match seated.id() {
                    // Wins the right to kick, and loses its CPU.
                    A => {
                        wait_until_asleep(seated, B);
                        port.held.store(1, Ordering::Release);
                        port.hold_kicks.store(1, Ordering::Release);
                        kicking.set();
                        seated.core.send_or_list(B, |_, _| ());
                    }
                    // Finds the target kicked, as it seems.
                    C => {
                        kicking.wait();
                        while port.hold_kicks.load(Ordering::Acquire) > 0 {
                            std::thread::yield_now();
                        }
                        let note = ran.clone();
                        let sent = seated.core.send(B, move |_, _| note.set()).map_err(drop).expect("nobody leaves");
                        seated.core.wait_executed(B, sent);
                        // Only now the first one goes on.
                        port.held.store(0, Ordering::Release);
                    }
                    _ => seated.serve_until(|| ran.is_set()),
                }
                seated.serve_until_all_are_done();
            });
            assert_eq!((told.first().wait.core, told.first().wait.target), (C, B));
            let pair = fabric.pair_counters(C, B);
            assert_eq!((pair.kicked, pair.avoided), (0, 1), "the doorbell asked for no kick");
            assert!(pair.repeated >= 1);
        }
    });
}

#[test]
fn refused_fences_keep_a_core_awake_and_lose_nothing() {
    alone("refused_fences_keep_a_core_awake_and_lose_nothing", LIMIT, || {
        const ROUNDS: u64 = 200;
        let port = FaultyPort::new(LinuxPort::new(2, FenceChoice::Auto));
        let (asked, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let fabric = on_faulty_cores(config(2), &port, Watch::default(), |seated| {
            if seated.id() == A {
                for round in 1..=ROUNDS {
                    port.refuse_fences.store(3, Ordering::Release);
                    let (asked, replied) = (asked.clone(), answered.clone());
                    let answer = move |core: &Core, source: CoreId| {
                        asked.fetch_add(1, Ordering::Release);
                        core.send_or_list(source, move |_, _| _ = replied.fetch_add(1, Ordering::Release));
                    };
                    seated.core.send_or_list(B, answer);
                    seated.serve_until(|| answered.load(Ordering::Acquire) == round);
                }
            } else {
                seated.serve_until(|| asked.load(Ordering::Acquire) == ROUNDS);
            }
            seated.serve_until_all_are_done();
        });
        let refused: u64 = [A, B].iter().map(|&core| fabric.core_counters(core).park_refused).sum();
        assert!(refused >= ROUNDS, "{refused}");
    });
}

#[test]
fn a_core_in_a_long_function_is_named_by_who_waits_for_space() {
    alone("a_core_in_a_long_function_is_named_by_who_waits_for_space", LIMIT, || {
        for fence in FENCES {
            let port = FaultyPort::new(LinuxPort::new(2, fence));
            let (told, begun, ran) = (Told::default(), Flag::default(), Arc::new(AtomicU64::new(0)));
            on_faulty_cores(config(2), &port, told.watch(false), |seated| {
                if seated.id() == A {
                    // Given a core that is in the middle of a function until a stall is reported,
                    let (note, reported) = (begun.clone(), told.clone());
                    let long = move |_: &Core, _: CoreId| {
                        note.set();
                        while reported.0.lock().expect("not poisoned").is_empty() {
                            std::thread::yield_now();
                        }
                    };
                    seated.core.send(B, long).map_err(drop).expect("nobody leaves");
                    begun.wait();
                    // when more is sent to it than is let into its ring,
                    for _ in 0..8 {
                        let ran = ran.clone();
                        let count = move |_: &Core, _: CoreId| _ = ran.fetch_add(1, Ordering::Relaxed);
                        seated.core.send(B, count).map_err(drop).expect("nobody leaves");
                    }
                    assert_eq!(seated.fabric.waits(), [], "the wait is over");
                } else {
                    seated.serve_until(|| ran.load(Ordering::Relaxed) == 8);
                }
                seated.serve_until_all_are_done();
            });
            // then the report says who waits for whom, and why.
            let stall = told.first();
            let text = stall.to_string();
            assert!(
                text.starts_with("core 0 waits for core 1, ") && text.ends_with("s, in send; core 1 is busy"),
                "{text}"
            );
            assert_eq!(ran.load(Ordering::Relaxed), 8);
        }
    });
}
