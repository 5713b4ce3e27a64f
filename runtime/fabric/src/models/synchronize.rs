//! [synchronize](crate::synchronize) with real endpoints.

use alloc::sync::Arc;
use core::task::{Context, Waker};

use super::{B, Ended, Machine, Plain, Woken, explore};
use crate::Core;
use crate::port::FenceKind;
use crate::sync::Counter;
use crate::sync::checker::thread;
use crate::synchronize::PendingSynchronize;

/// Waits as a task does: sleeps until it is woken, and asks again.
fn synchronize(machine: &Machine, core: &Core) {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut wait = PendingSynchronize::new(core);
    while wait.poll(core, &Context::from_waker(&waker)).is_pending() {
        let seen = woken.0.get();
        machine.serve(core, || woken.0.get() != seen);
    }
}

#[test]
fn everything_sent_has_finished_also_what_drains_in_the_middle() {
    explore(2, || {
        let (machine, _fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let source = source.enter();
        let written = Plain::new();
        let cell = written.clone();
        source.send_or_list(B, move |core, _| {
            // The marker may run here, inside the message that it comes after.
            core.drain_all(8);
            core.flush();
            cell.write(7);
        });
        let done = Arc::new(Counter::default());
        let server = thread::spawn({
            let done = done.clone();
            move || {
                let core = target.enter();
                while done.get() == 0 {
                    core.drain_all(8);
                    core.flush();
                    thread::yield_now();
                }
                Ended(core)
            }
        });
        synchronize(&machine, &source);
        assert_eq!(written.read(), 7);
        done.add(1);
        drop(server.join().expect("no panic"));
    });
}

#[test]
fn a_core_that_leaves_is_not_waited_for() {
    explore(2, || {
        let (machine, _fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let source = source.enter();
        source.send_or_list(B, |_, _| ());
        let leaver = thread::spawn(move || {
            let core = target.enter();
            core.drain_all(1);
            drop(core);
        });
        synchronize(&machine, &source);
        leaver.join().expect("no panic");
    });
}
