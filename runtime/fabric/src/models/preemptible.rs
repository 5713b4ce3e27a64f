//! [Sections](crate::preemptible) against updates of replicas and prompt operations, with real endpoints, gates and interrupts.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::shootdown::{Master, outcome, serve, update};
use super::urgent::Interrupting;
use super::{B, Ended, Plain, explore};
use crate::shootdown::PendingShootdown;
use crate::sync::checker::thread;
use crate::sync::{Counter, edge};
use crate::urgent::InterruptSafe;
use crate::{Core, CoreSet, Seat};

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

/// A core in a section for as long as `inside` says, which then serves until `executed` says so.
fn target(
    machine: &Arc<Interrupting>,
    seat: Seat,
    told: &Arc<Counter>,
    inside: fn(&Interrupting, &Counter),
    executed: impl Fn() -> bool + Send + 'static,
) -> thread::JoinHandle<Ended> {
    let (machine, told) = (machine.clone(), told.clone());
    thread::spawn(move || {
        let core = machine.enter(seat);
        let accepting = core.accept_interrupts().expect("a gate");
        // SAFETY: 1. and 2. the model itself is the loop, and is not inside a read; what runs inside uses no endpoint.
        unsafe { core.preemptible(|| inside(&machine, &told), |_| ()) };
        serve(&machine.machine, &core, executed);
        drop(accepting);
        Interrupting::end(core)
    })
}

/// Writes `value` to `cell`, which the checker watches, and counts.
fn write(cell: &Arc<Plain>, executed: &Arc<Counter>, value: u32) -> impl Fn() + Send + Sync + 'static {
    let (cell, executed) = (cell.clone(), executed.clone());
    move || {
        cell.write(value);
        executed.add(1);
    }
}

fn prompt(core: &Core, f: impl Fn() + Send + Sync + 'static) -> Box<PendingShootdown> {
    let only_b: CoreSet = [B].into_iter().collect();
    // SAFETY: 1. to 5. atomics, and a word that nothing else on the core uses.
    let f = unsafe { InterruptSafe::new(move |_| f()) };
    Box::new(PendingShootdown::prompt(core, &only_b, f))
}

#[test]
fn a_prompt_operation_overtakes_one_that_waits_for_the_end_of_a_section() {
    explore(2, || {
        let machine = Interrupting::new(2, 0);
        let (_fabric, mut seats) = machine.fabric();
        let (cells, executed, told) = ([Plain::new(), Plain::new()], Arc::new(Counter::default()), Arc::default());
        let ended = executed.clone();
        let waiting: fn(&Interrupting, &Counter) = |machine, told| {
            while told.get() == 0 {
                machine.wait(B);
            }
        };
        let there = target(&machine, seats.remove(1), &told, waiting, move || ended.get() == 2);
        let core = machine.enter(seats.remove(0));
        let (first, second) = (write(&cells[0], &executed, 1), write(&cells[1], &executed, 2));
        let first = PendingShootdown::new(&core, &[B].into_iter().collect(), move |_: &Core| first());
        let second = prompt(&core, second);
        assert!(matches!(outcome(&machine.machine, &core, second.into()), Ok(1)));
        assert_eq!(cells[1].read(), 2, "executed when it was acknowledged");
        told.add(1);
        machine.tell(B);
        assert!(matches!(outcome(&machine.machine, &core, Box::pin(first)), Ok(1)));
        assert_eq!(cells[0].read(), 1);
        drop((there.join().expect("no panic"), Interrupting::end(core)));
    });
}

#[test]
fn a_prompt_operation_is_executed_once_whenever_a_section_ends() {
    explore(3, || {
        let machine = Interrupting::new(2, 0);
        let (_fabric, mut seats) = machine.fabric();
        let (cell, executed, told) = (Plain::new(), Arc::new(Counter::default()), Arc::default());
        let ended = executed.clone();
        let there = target(&machine, seats.remove(1), &told, |_, _| edge(), move || ended.get() > 0);
        let core = machine.enter(seats.remove(0));
        let pending = prompt(&core, write(&cell, &executed, 1));
        assert!(matches!(outcome(&machine.machine, &core, pending.into()), Ok(1)));
        assert_eq!((cell.read(), executed.get()), (1, 1));
        drop((there.join().expect("no panic"), Interrupting::end(core)));
    });
}
