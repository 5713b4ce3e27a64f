//! [Sections](crate::preemptible) against updates of replicas, with real endpoints, gates and interrupts.

use alloc::sync::Arc;

use super::shootdown::{Master, serve, update};
use super::urgent::Interrupting;
use super::{B, Ended, Plain, explore};
use crate::Seat;
use crate::sync::checker::thread;
use crate::sync::{Counter, edge};

/// A core with a replica of `master`, in a section for as long as `inside` says; then it reads its replica whenever it likes.
fn reader(
    machine: &Arc<Interrupting>,
    seat: Seat,
    master: &Arc<Master>,
    told: &Arc<Counter>,
    inside: fn(&Interrupting, &Counter),
) -> thread::JoinHandle<Ended> {
    let (machine, master, told) = (machine.clone(), master.clone(), told.clone());
    thread::spawn(move || {
        let core = machine.enter(seat);
        let accepting = core.accept_interrupts().expect("a gate");
        let replica = core.replica(&master);
        let read = || {
            // Told first.
            let done = told.get();
            assert!(replica.read(|value| value.number.get()) >= done, "an old value after its update");
        };
        // SAFETY: 1. and 2. the model itself is the loop, and is not inside a read; what runs inside uses no endpoint.
        unsafe { core.preemptible(|| inside(&machine, &told), |_| ()) };
        serve(&machine.machine, &core, || {
            read();
            edge();
            read();
            told.get() == 1
        });
        drop(accepting);
        Interrupting::end(core)
    })
}

fn run(preemptions: usize, inside: fn(&Interrupting, &Counter)) {
    explore(preemptions, move || {
        let machine = Interrupting::new(2, 0);
        let (_fabric, mut seats) = machine.fabric();
        let (master, told) = (Master::new(&Plain::new()), Arc::new(Counter::default()));
        let reader = reader(&machine, seats.remove(1), &master, &told, inside);
        let core = machine.enter(seats.remove(0));
        master.put(1, &Plain::new());
        update(&machine.machine, &core, &master);
        told.add(1);
        machine.tell(B);
        // It may sleep.
        core.send_or_list(B, |_, _| ());
        let reader = reader.join().expect("no panic");
        drop((reader, Interrupting::end(core)));
    });
}

#[test]
fn an_update_ends_while_a_section_goes_on() {
    run(3, |machine, told| {
        while told.get() == 0 {
            machine.wait(B);
        }
    });
}

#[test]
fn when_an_update_is_done_nobody_reads_the_old_value_whenever_a_section_ends() {
    run(3, |_, _| edge());
}
