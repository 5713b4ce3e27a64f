//! [Stops](crate::cpusync) with real endpoints: every core sleeps whenever it finds nothing.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::{A, B, Ended, Machine, Plain, explore};
use crate::cpusync::board::{Board, Job, Kind, Order};
use crate::cpusync::turn::Turn;
use crate::cpusync::{CpuSync, CpuSyncError, Lead};
use crate::port::{Clock, FenceKind};
use crate::sync::Counter;
use crate::sync::checker::{Notify, thread};
use crate::{Core, CoreId, CoreSet, Seat};

/// A clock that stands still.
pub(super) struct Noon;

impl Clock for Noon {
    fn now_ns(&self) -> u64 {
        12
    }
}

fn plan(set: CoreSet) -> CpuSync<'static> {
    CpuSync { set, each: None, drain: false, deadline_ns: None, clock: &Noon }
}

fn set<const N: usize>(cores: [CoreId; N]) -> CoreSet {
    cores.into_iter().collect()
}

/// One core's loop until `done`: safe points too.
pub(super) fn serve(machine: &Machine, core: &Core, done: impl Fn() -> bool) {
    while !done() {
        // SAFETY: 1. and 2. this is the loop; nothing of a message is on the stack.
        unsafe { core.safe_point() };
        if done() || core.drain(8) + core.flush() > 0 {
            continue;
        }
        if let Some(_armed) = core.arm(|| !done()) {
            machine.sleep(core.id());
        }
    }
}

/// Leads once, and tells the other cores when that is over.
pub(super) fn lead_once(machine: &Machine, core: &Core, over: &Arc<Counter>, f: impl FnOnce(&Lead<'_>) + 'static) {
    let led = Arc::new(Counter::default());
    let done = led.clone();
    core.lead(move |lead| {
        f(lead);
        led.add(1);
    });
    let me = core.id();
    serve(machine, core, || done.get() == 1);
    for other in (0..core.cores()).map(CoreId::new).filter(|&other| other != me) {
        let over = over.clone();
        core.send_or_list(other, move |_, _| over.add(1));
    }
}

/// Leads a stop of both cores that drains: whatever `caused` counts has `arrived` in it.
fn drain_once(machine: &Machine, core: &Core, over: &Arc<Counter>, [caused, arrived]: [Arc<Counter>; 2]) {
    lead_once(machine, core, over, move |lead| {
        let drain = CpuSync { drain: true, ..plan(set([A, B])) };
        let counts = lead.cpusync(&drain, |_| (caused.get(), arrived.get()));
        let ((caused, arrived), _) = counts.expect("no time limit");
        assert_eq!(caused, arrived);
    });
}

/// A core that serves until `leads` others have told it that they are through.
fn target(machine: &Arc<Machine>, seat: Seat, over: &Arc<Counter>, leads: u64) -> thread::JoinHandle<Ended> {
    let (machine, over) = (machine.clone(), over.clone());
    thread::spawn(move || {
        let core = seat.enter();
        serve(&machine, &core, || over.get() == leads);
        Ended(core)
    })
}

/// What each phase of a stop writes; the checker fails at an access that nothing orders.
struct Phases {
    by_body: Arc<Plain>,
    by_each: [Arc<Plain>; 2],
}

impl Phases {
    fn new() -> Arc<Self> {
        Arc::new(Self { by_body: Plain::new(), by_each: [Plain::new(), Plain::new()] })
    }

    /// A stop of both cores: the body writes, each reads that and writes, the lead reads that.
    fn go_through(&self, lead: &Lead<'_>, n: u32) {
        let each = |core: &Core| {
            assert_eq!(self.by_body.read_shared(), n);
            self.by_each[core.id().index()].write(n);
        };
        let plan = CpuSync { each: Some(&each), ..plan(set([A, B])) };
        lead.cpusync(&plan, |held| {
            assert_eq!(held.cores(), set([A, B]));
            self.by_body.write(n);
        })
        .expect("no time limit");
        assert!(self.by_each.iter().all(|by| by.read() == n));
    }
}

#[test]
fn each_phase_of_a_stop_sees_what_the_one_before_wrote() {
    explore(3, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let (over, phases) = (Arc::new(Counter::default()), Phases::new());
        let other = target(&machine, b, &over, 1);
        let core = a.enter();
        lead_once(&machine, &core, &over, move |lead| phases.go_through(lead, 7));
        drop(other.join().expect("no panic"));
    });
}

#[test]
fn who_was_stopped_and_let_go_sees_what_the_body_wrote() {
    explore(3, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let (over, by_body) = (Arc::new(Counter::default()), Plain::new());
        let other = thread::spawn({
            let (machine, over, by_body) = (machine.clone(), over.clone(), by_body.clone());
            move || {
                let core = b.enter();
                while core.own().answer.last() == Order::NONE && over.get() == 0 {
                    // SAFETY: 1. and 2. nothing else is on the stack.
                    unsafe { core.safe_point() };
                    thread::yield_now();
                }
                if core.own().answer.last() != Order::NONE {
                    assert_eq!(by_body.read(), 7);
                }
                serve(&machine, &core, || over.get() == 1);
                Ended(core)
            }
        });
        let core = a.enter();
        lead_once(&machine, &core, &over, move |lead| {
            lead.cpusync(&plan(set([B])), |_| by_body.write(7)).expect("no time limit");
        });
        drop(other.join().expect("no panic"));
    });
}

/// A target takes the bit after its answer, when the lead may be well into its next stop.
#[test]
fn a_stop_that_asks_while_the_last_ones_bit_is_taken_is_seen() {
    explore(2, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let (over, by_each) = (Arc::new(Counter::default()), Plain::new());
        let other = target(&machine, b, &over, 1);
        let core = a.enter();
        lead_once(&machine, &core, &over, move |lead| {
            for n in 1..3 {
                assert!(lead.quick(&set([B]), &|_| by_each.write(n)).is_ok());
                assert_eq!(by_each.read(), n);
            }
        });
        drop(other.join().expect("no panic"));
    });
}

#[test]
fn two_leads_never_stop_each_other_at_once() {
    explore(2, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let phases = Phases::new();
        let over = [Arc::new(Counter::default()), Arc::new(Counter::default())];
        let run = |seat: Seat, n: u32| {
            let (machine, phases, over) = (machine.clone(), phases.clone(), over.clone());
            move || {
                let core = seat.enter();
                let [mine, other] = if core.id() == A { [0, 1] } else { [1, 0] };
                lead_once(&machine, &core, &over[other], move |lead| phases.go_through(lead, n));
                serve(&machine, &core, || over[mine].get() == 1);
                Ended(core)
            }
        };
        let other = thread::spawn(run(b, 2));
        let first = run(a, 1)();
        drop((first, other.join().expect("no panic")));
    });
}

/// Stops of the own core alone: only the turn orders them.
#[test]
fn turns_exclude_each_other_and_none_is_slept_through() {
    explore(4, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let shared = Plain::new();
        let run = |seat: Seat| {
            let (machine, shared) = (machine.clone(), shared.clone());
            move || {
                let core = seat.enter();
                let led = Arc::new(Counter::default());
                let done = led.clone();
                core.lead(move |lead| {
                    let own = set([lead.core().id()]);
                    let counted = lead.cpusync(&plan(own), |_| shared.write(shared.read() + 1));
                    assert!(counted.is_ok());
                    led.add(1);
                });
                serve(&machine, &core, || done.get() == 1);
                Ended(core)
            }
        };
        let other = thread::spawn(run(b));
        let first = run(a)();
        drop((first, other.join().expect("no panic")));
        assert_eq!(shared.read(), 2);
    });
}

/// A core that waits for its turn passes safe points meanwhile: it is asked to stop by others, too.
#[test]
fn who_looks_again_while_the_lead_is_on_its_way_gets_it_once() {
    explore(4, || {
        let shared = Arc::new((Turn::new(), [Notify::new(), Notify::new()]));
        let run = |me: CoreId, looks: usize| {
            let shared = shared.clone();
            move || {
                let (turn, asked) = &*shared;
                if !(0..looks).any(|look| turn.take_or_wait(me, look > 0)) {
                    asked[me.index()].wait();
                    // The checker's waits end early, too.
                    while !turn.take_or_wait(me, true) {
                        asked[me.index()].wait();
                    }
                }
                if let Some(next) = turn.pass_on(me) {
                    assert_ne!(next, me, "it wants nothing any more");
                    asked[next.index()].notify();
                }
            }
        };
        let other = thread::spawn(run(B, 1));
        run(A, 2)();
        other.join().expect("no panic");
        assert!(shared.0.take_or_wait(A, false), "the lead is free");
    });
}

#[test]
fn a_core_that_leaves_while_it_waits_for_its_turn_takes_no_turn_with_it() {
    explore(4, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let leaver = thread::spawn(move || {
            let core = b.enter();
            core.lead(|_| ());
            // SAFETY: 1. and 2. nothing else is on the stack.
            unsafe { core.safe_point() };
        });
        let core = a.enter();
        let led = Arc::new(Counter::default());
        for _ in 0..2 {
            let led = led.clone();
            core.lead(move |_| led.add(1));
        }
        serve(&machine, &core, || led.get() == 2);
        leaver.join().expect("no panic");
    });
}

/// A core that comes to one safe point and leaves.
fn passer(seat: Seat) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let core = seat.enter();
        // SAFETY: 1. and 2. nothing else is on the stack.
        unsafe { core.safe_point() };
    })
}

#[test]
fn a_core_that_leaves_holds_up_no_stop() {
    explore(3, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let leaver = passer(b);
        let core = a.enter();
        let over = Arc::new(Counter::default());
        lead_once(&machine, &core, &over, |lead| {
            let stopped = lead.cpusync(&plan(set([A, B])), |held| assert!(held.cores().contains(A)));
            assert!(stopped.is_ok());
        });
        leaver.join().expect("no panic");
    });
}

/// A quick stop, after what `before` does, of a core that leaves right after its function.
fn panic_and_leave(before: impl Fn(&Lead<'_>) + Clone + Send + Sync + 'static) {
    explore(3, move || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let leaver = passer(b);
        let core = a.enter();
        let (over, ran, heard) = (Arc::default(), Arc::new(Counter::default()), Arc::new(Counter::default()));
        let (counted, told, before) = (ran.clone(), heard.clone(), before.clone());
        lead_once(&machine, &core, &over, move |lead| {
            before(lead);
            let outcome = lead.quick(&set([B]), &|_: &Core| {
                counted.add(1);
                std::panic::resume_unwind(Box::new(()));
            });
            told.add(u64::from(outcome.is_err()));
        });
        assert_eq!(heard.get(), ran.get());
        leaver.join().expect("no panic");
    });
}

#[test]
fn the_panic_of_a_core_that_leaves_right_after_its_function_reaches_the_lead() {
    panic_and_leave(|_| ());
}

#[test]
fn the_panic_of_a_core_that_leaves_before_it_is_asked_reaches_the_lead() {
    // It comes by this one's bit.
    panic_and_leave(|lead| drop(lead.cpusync(&CpuSync { deadline_ns: Some(0), ..plan(set([B])) }, |_| ())));
}

#[test]
fn a_stop_that_gives_up_releases_everyone_and_disturbs_no_later_one() {
    explore(1, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let (over, phases) = (Arc::new(Counter::default()), Phases::new());
        let other = target(&machine, b, &over, 1);
        let core = a.enter();
        lead_once(&machine, &core, &over, move |lead| {
            let early = CpuSync { deadline_ns: Some(0), ..plan(set([B])) };
            if let Err(error) = lead.cpusync(&early, |_| ()) {
                assert_eq!(CpuSyncError::not_stopped(&error), Some(set([B])));
            }
            phases.go_through(lead, 7);
        });
        drop(other.join().expect("no panic"));
    });
}

/// A core that was asked by a stop that gave up looks at the board while later ones come and go.
#[test]
fn a_latecomer_runs_no_job_that_is_over() {
    explore(5, || {
        let board = Arc::new(Board::new());
        let target = thread::spawn({
            let board = board.clone();
            move || {
                for _ in 0..3 {
                    let order = board.look();
                    if order.kind() == Kind::Idle {
                        continue;
                    }
                    if board.is_for(order, B) == Some(true) {
                        assert_eq!(order.kind(), Kind::Hold, "the job was for another set");
                    }
                }
            }
        });
        let job = |_: &Core| ();
        board.write_set(A, &set([A]));
        let go = Order::NONE.then(Kind::Go);
        board.order(go, Some(Job::new(&job)));
        // The core of that set has answered.
        let idle = go.then(Kind::Idle);
        board.order(idle, None);
        board.write_set(A, &set([B]));
        board.order(idle.then(Kind::Hold), None);
        target.join().expect("no panic");
    });
}

#[test]
fn a_stop_that_drains_has_run_what_was_sent_before() {
    explore(3, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let over = Arc::new(Counter::default());
        // One poll sends twice; the second message is for the lead, by way of the lead.
        let arrived = Arc::new(Counter::default());
        let (sent, other) = (Arc::new(Counter::default()), over.clone());
        let sender = thread::spawn({
            let (machine, arrived, sent) = (machine.clone(), arrived.clone(), sent.clone());
            move || {
                let core = b.enter();
                core.send_or_list(A, move |core, source| {
                    let arrived = arrived.clone();
                    core.send_or_list(source, move |_, _| arrived.add(1));
                });
                sent.add(1);
                serve(&machine, &core, || other.get() == 1);
                Ended(core)
            }
        });
        let core = a.enter();
        drain_once(&machine, &core, &over, [sent, arrived]);
        drop(sender.join().expect("no panic"));
    });
}

#[test]
fn a_stop_that_drains_has_run_what_a_handler_sent() {
    explore(2, || {
        let (machine, fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let over = Arc::new(Counter::default());
        let (triggered, arrived) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
        let seen = arrived.clone();
        let forward = move |core: &Core| {
            let seen = seen.clone();
            core.send_or_list(B, move |_, _| seen.add(1));
        };
        let handler = fabric.register_handler(forward, |_, _| ()).expect("room");
        let sender = thread::spawn({
            let (machine, over, triggered) = (machine.clone(), over.clone(), triggered.clone());
            move || {
                let core = b.enter();
                core.trigger(handler, A).expect("registered");
                triggered.add(1);
                serve(&machine, &core, || over.get() == 1);
                Ended(core)
            }
        });
        let core = a.enter();
        drain_once(&machine, &core, &over, [triggered, arrived]);
        drop(sender.join().expect("no panic"));
    });
}

#[test]
fn a_stop_that_drains_has_run_what_a_foreign_threads_handler_sent() {
    explore(2, || {
        let (machine, fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let over = Arc::new(Counter::default());
        let (handled, arrived) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
        let (counted, seen) = (handled.clone(), arrived.clone());
        let forward = move |core: &Core| {
            counted.add(1);
            let seen = seen.clone();
            core.send_or_list(B, move |_, _| seen.add(1));
        };
        let handler = fabric.register_handler(forward, |_, _| ()).expect("room");
        let other = target(&machine, b, &over, 1);
        let foreign = thread::spawn(move || fabric.trigger(handler, A).expect("registered"));
        let core = a.enter();
        drain_once(&machine, &core, &over, [handled, arrived]);
        foreign.join().expect("no panic");
        drop(other.join().expect("no panic"));
    });
}

#[test]
fn two_weak_leads_hold_each_other_and_both_come_through() {
    explore(2, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let ran = [Arc::new(Counter::default()), Arc::new(Counter::default())];
        let run = |seat: Seat| {
            let (machine, ran) = (machine.clone(), ran.clone());
            move || {
                let core = seat.enter();
                let mine = ran[core.id().index()].clone();
                let seen = ran.clone();
                let each = move |core: &Core| seen[core.id().index()].add(1);
                assert!(core.cpusync_weak(&set([A, B]), each, || ()).is_ok());
                serve(&machine, &core, || mine.get() == 2);
                Ended(core)
            }
        };
        let other = thread::spawn(run(b));
        let first = run(a)();
        drop((first, other.join().expect("no panic")));
    });
}

#[test]
fn a_weak_stop_sees_what_its_functions_wrote() {
    explore(3, || {
        let (machine, _fabric, (a, b)) = Machine::pair(FenceKind::Symmetric);
        let over = Arc::new(Counter::default());
        let other = target(&machine, b, &over, 1);
        let core = a.enter();
        let (by_body, by_each) = (Plain::new(), Plain::new());
        let (seen, written) = (by_body.clone(), by_each.clone());
        let each = move |_: &Core| written.write(seen.read() + 1);
        assert!(core.cpusync_weak(&set([B]), each, || by_body.write(6)).is_ok());
        assert_eq!(by_each.read(), 7);
        core.send_or_list(B, move |_, _| over.add(1));
        drop(other.join().expect("no panic"));
    });
}
