//! Stops that [freeze](crate::freeze) sections, with real endpoints, gates and interrupts.

use alloc::sync::Arc;

use super::cpusync::{Noon, lead_once, serve};
use super::urgent::Interrupting;
use super::{A, B, Ended, Plain, explore};
use crate::cpusync::{CpuSync, Lead};
use crate::port::InterruptSafe;
use crate::sync::checker::thread;
use crate::sync::{Counter, edge};
use crate::{Core, CoreSet, Seat};

/// What a section and the bodies of stops use by turns; the checker fails where nothing orders them.
#[derive(Clone)]
struct Scene {
    machine: Arc<Interrupting>,
    shared: Arc<Plain>,
    /// Whether the target is in the middle of a poll.
    polls: Arc<Counter>,
    /// Bodies that have run.
    bodies: Arc<Counter>,
}

impl Scene {
    fn new(refusals: u64, step_ns: u64) -> Self {
        let machine = Interrupting::with_clock(2, refusals, step_ns);
        Self { machine, shared: Plain::new(), polls: Arc::default(), bodies: Arc::default() }
    }

    fn stop(&self, lead: &Lead<'_>) {
        let set: CoreSet = [A, B].into_iter().collect();
        let plan = CpuSync { set, each: None, drain: false, deadline_ns: None, clock: &Noon };
        let this = self.clone();
        // SAFETY: 1. to 5. an interrupt is a call at an edge here, and no edge lies in the middle of anything.
        let body = unsafe {
            InterruptSafe::new(move |lead| {
                assert_eq!((lead, this.polls.get()), (A, 0));
                this.shared.write(this.shared.read() + 1);
                this.bodies.add(1);
                this.machine.tell(B);
            })
        };
        lead.prompt(&plan, &body).expect("no time limit");
    }

    /// One step of what a section does.
    fn step(&self) {
        self.shared.write(self.shared.read() + 1);
        edge();
    }

    /// A core in a section, and then in a poll.
    fn target(&self, seat: Seat, over: &Arc<Counter>, inside: fn(&Self)) -> thread::JoinHandle<Ended> {
        let (this, over) = (self.clone(), over.clone());
        thread::spawn(move || {
            let core = this.machine.enter(seat);
            let accepting = core.accept_interrupts().expect("a gate");
            // SAFETY: 1. and 2. the model itself is the loop; what runs inside uses no endpoint.
            unsafe { core.preemptible(|| inside(&this), |_| ()) };
            this.polls.add(1);
            edge();
            this.polls.add(u64::MAX);
            serve(&this.machine.machine, &core, || over.get() == 1);
            drop(accepting);
            Interrupting::end(core)
        })
    }
}

/// Nobody waits for the other for longer than a look.
const HASTY_NS: u64 = 1_000_000_000;

fn run(preemptions: usize, [refusals, step_ns]: [u64; 2], stops: u32, inside: fn(&Scene)) {
    explore(preemptions, move || {
        let scene = Scene::new(refusals, step_ns);
        let (_fabric, mut seats) = scene.machine.fabric();
        let over = Arc::new(Counter::default());
        let target = scene.target(seats.remove(1), &over, inside);
        let core: Core = scene.machine.enter(seats.remove(0));
        let stopping = scene.clone();
        lead_once(&scene.machine.machine, &core, &over, move |lead| {
            (0..stops).for_each(|_| stopping.stop(lead));
        });
        let target = target.join().expect("no panic");
        assert_eq!(scene.bodies.get(), u64::from(stops));
        drop((target, Interrupting::end(core)));
    });
}

#[test]
fn a_stop_ends_while_a_section_goes_on() {
    run(2, [0, 0], 1, |scene| {
        scene.step();
        while scene.bodies.get() == 0 {
            scene.machine.wait(B);
        }
        scene.step();
    });
}

#[test]
fn a_stop_whose_interrupt_is_refused_tries_again() {
    run(2, [1, 0], 1, |scene| {
        while scene.bodies.get() == 0 {
            scene.machine.wait(B);
        }
    });
}

#[test]
fn what_a_stop_sees_stands_still_whenever_a_section_begins_and_ends() {
    run(2, [0, 0], 1, |scene| (0..3).for_each(|_| scene.step()));
}

#[test]
fn who_has_waited_long_enough_goes_on_or_is_held() {
    run(3, [0, HASTY_NS], 1, |scene| (0..2).for_each(|_| scene.step()));
}

#[test]
fn a_section_sees_what_the_bodies_of_two_stops_wrote() {
    run(2, [0, 0], 2, |scene| (0..2).for_each(|_| scene.step()));
}
