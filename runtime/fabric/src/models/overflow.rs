//! The [overflow](crate::overflow) list with real endpoints and rings of two slots.

use alloc::sync::Arc;

use super::{B, Ended, Machine, explore, pair};
use crate::port::FenceKind;
use crate::sync::Counter;
use crate::sync::checker::thread;
use crate::{Core, CoreId};

fn note(got: &Arc<Counter>, n: u64) -> impl FnOnce(&Core, CoreId) + Send + 'static {
    let got = got.clone();
    move |_, _| {
        assert_eq!(got.get(), n, "in order, each once");
        got.add(1);
    }
}

/// The source sleeps until the target has made space, whatever the order of the two.
fn sleeping_source(fence: FenceKind) {
    explore(3, move || {
        let machine = Machine::new(fence, 2);
        let (_fabric, seats) = machine.fabric();
        let (source, target) = pair(seats);
        let got = Arc::new(Counter::default());
        let source = source.enter();
        for n in 0..3 {
            source.send_or_list(B, note(&got, n));
        }
        assert!(source.has_overflow());
        let drainer = thread::spawn(move || {
            let core = target.enter();
            core.drain_all(8);
            Ended(core)
        });
        machine.serve(&source, || !source.has_overflow());
        drop(drainer.join().expect("no panic"));
        // The third only if it was flushed while the pass was still going on.
        assert!((2..=3).contains(&got.get()));
    });
}

#[test]
fn a_source_that_sleeps_for_space_is_kicked_with_symmetric_fences() {
    sleeping_source(FenceKind::Symmetric);
}

#[test]
fn a_source_that_sleeps_for_space_is_kicked_with_asymmetric_fences() {
    sleeping_source(FenceKind::Asymmetric);
}

#[test]
fn a_later_send_overtakes_no_listed_message() {
    explore(3, || {
        let machine = Machine::new(FenceKind::Symmetric, 2);
        let (_fabric, seats) = machine.fabric();
        let (source, target) = pair(seats);
        let got = Arc::new(Counter::default());
        let source = source.enter();
        for n in 0..3 {
            source.send_or_list(B, note(&got, n));
        }
        let sender = thread::spawn({
            let got = got.clone();
            let source = Ended(source);
            move || {
                let source = source;
                source.0.send_or_list(B, note(&got, 3));
                while source.0.has_overflow() {
                    source.0.flush();
                    thread::yield_now();
                }
                source
            }
        });
        let target = target.enter();
        while got.get() < 4 {
            target.drain_all(1);
            thread::yield_now();
        }
        drop(sender.join().expect("no panic"));
    });
}
