//! The [doorbell](crate::doorbell) with real endpoints: a message that its target sleeps through is a deadlock here.

use alloc::sync::Arc;

use super::{A, B, Ended, Machine, Plain, explore, leaver, pair};
use crate::port::FenceKind;
use crate::slice::Progress;
use crate::sync::checker::thread;
use crate::sync::{AtomicBool, Counter, Ordering, fence};
use crate::{Message, Seat};

/// One core sends `messages` to one that sleeps whenever it finds nothing.
fn sleeper(fence: FenceKind, refusals: u64, messages: u64) {
    explore(4, move || {
        let machine = Machine::refusing(fence, 2, refusals);
        let (_fabric, seats) = machine.fabric();
        let (source, target) = pair(seats);
        let got = Arc::new(Counter::default());
        let sender = thread::spawn(send_numbered(source, messages, &got));
        let target = target.enter();
        machine.serve(&target, || got.get() == messages);
        sender.join().expect("no panic");
    });
}

fn send_numbered(seat: Seat, messages: u64, got: &Arc<Counter>) -> impl FnOnce() -> Ended + 'static {
    let got = got.clone();
    move || {
        let core = seat.enter();
        for n in 0..messages {
            let got = got.clone();
            core.send_or_list(B, move |_, _| {
                assert_eq!(got.get(), n, "in order, each once");
                got.add(1);
            });
        }
        Ended(core)
    }
}

#[test]
fn a_target_sleeps_through_no_message_with_symmetric_fences() {
    sleeper(FenceKind::Symmetric, 0, 2);
}

#[test]
fn a_target_sleeps_through_no_message_with_asymmetric_fences() {
    sleeper(FenceKind::Asymmetric, 0, 2);
}

#[test]
fn a_target_whose_heavy_fence_is_refused_stays_awake_and_gets_its_message() {
    sleeper(FenceKind::Asymmetric, 1, 1);
}

/// A watcher that sleeps while nobody is awake, and a core that looks whether it does when it has woken, and then for long no more.
#[test]
fn a_core_that_wakes_sees_the_watcher_asleep_or_is_seen_by_it() {
    explore(4, || {
        let machine = Machine::new(FenceKind::Symmetric, 1);
        let (fabric, mut seats) = machine.fabric();
        let sleeps = Arc::new(AtomicBool::new(false));
        let watcher = thread::spawn({
            let sleeps = sleeps.clone();
            move || {
                sleeps.store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                matches!(fabric.progress(A), Progress::Turn(_))
            }
        });
        let core = seats.remove(0).enter();
        drop(core.arm(|| true));
        let is_told = sleeps.load(Ordering::Relaxed);
        assert!(watcher.join().expect("no panic") || is_told);
        drop(Ended(core));
    });
}

#[test]
fn a_target_sleeps_through_no_passive_message() {
    explore(4, || {
        let (machine, _fabric, (source, target)) = Machine::pair(FenceKind::Asymmetric);
        let got = Arc::new(Counter::default());
        let sender = thread::spawn({
            let got = got.clone();
            move || {
                let core = source.enter();
                core.try_send_passive(B, move |_, _| got.add(1)).expect("space");
                core.flush();
                Ended(core)
            }
        });
        let target = target.enter();
        machine.serve(&target, || got.get() == 1);
        drop(sender.join().expect("no panic"));
    });
}

#[test]
fn two_senders_kick_a_sleeping_target_once() {
    explore(4, || {
        let machine = Machine::new(FenceKind::Symmetric, 3);
        let (_fabric, mut seats) = machine.fabric();
        let target = seats.pop().expect("three cores").enter();
        let armed = target.arm(|| true).expect("nothing waits");
        let id = target.id();
        let senders = [0, 1].map(|_| {
            let seat = seats.pop().expect("three cores");
            thread::spawn(move || {
                let core = seat.enter();
                core.send_or_list(id, |_, _| ());
                Ended(core)
            })
        });
        machine.sleep(id);
        let [first, second] = senders.map(|sender| sender.join().expect("no panic"));
        assert!(armed.is_kicked());
        drop(armed);
        assert_eq!(machine.kicks(id), 1);
        assert_eq!(target.drain_all(8), 2);
        drop((first, second));
    });
}

#[test]
fn a_target_sleeps_through_no_message_of_a_foreign_thread() {
    for fence in [FenceKind::Symmetric, FenceKind::Asymmetric] {
        explore(4, move || {
            let machine = Machine::new(fence, 1);
            let (fabric, seats) = machine.fabric();
            let got = Arc::new(Counter::default());
            let sender = thread::spawn({
                let (fabric, got) = (fabric.clone(), got.clone());
                move || fabric.post(A, Message::foreign(move |_, _| got.add(1))).expect("not gone")
            });
            let target = seats.into_iter().next().expect("one core").enter();
            machine.serve(&target, || got.get() == 1);
            sender.join().expect("no panic");
        });
    }
}

#[test]
fn a_message_to_a_core_that_leaves_is_delivered_or_taken_back_once() {
    explore(4, || {
        let (machine, _fabric, (source, target)) = Machine::pair(FenceKind::Symmetric);
        let leaver = leaver(target);
        let source = source.enter();
        let token = Arc::new(Counter::default());
        let held = token.clone();
        source.send_or_list(B, move |_, _| held.add(1));
        machine.serve(&source, || Arc::strong_count(&token) == 1);
        leaver.join().expect("no panic");
        assert!(token.get() <= 1);
    });
}

#[test]
fn what_a_core_that_leaves_had_listed_arrives_in_order_at_one_that_sleeps() {
    for fence in [FenceKind::Symmetric, FenceKind::Asymmetric] {
        explore(2, move || {
            let (machine, _fabric, (source, target)) = Machine::pair(fence);
            let got = Arc::new(Counter::default());
            let leaver = thread::spawn({
                let send = send_numbered(source, 3, &got);
                move || drop(send())
            });
            let target = target.enter();
            machine.serve(&target, || got.get() == 3);
            leaver.join().expect("no panic");
        });
    }
}

#[test]
fn who_sees_that_a_core_has_left_sees_what_its_messages_wrote() {
    explore(4, || {
        let (_machine, _fabric, (source, target)) = Machine::pair(FenceKind::Asymmetric);
        let source = source.enter();
        let written = Plain::new();
        let cell = written.clone();
        source.send_or_list(B, move |_, _| {
            cell.write(7);
        });
        let leaver = leaver(target);
        source.wait_executed(B, source.sequence(B));
        // It may have left without having run it.
        assert!([0, 7].contains(&written.read()));
        leaver.join().expect("no panic");
    });
}

#[test]
fn a_foreign_message_to_a_core_that_leaves_is_dropped_with_it() {
    for fence in [FenceKind::Symmetric, FenceKind::Asymmetric] {
        explore(4, move || {
            let machine = Machine::new(fence, 1);
            let (fabric, seats) = machine.fabric();
            let token = Arc::new(());
            let sender = thread::spawn({
                let (fabric, held) = (fabric.clone(), token.clone());
                move || drop(fabric.post(A, Message::foreign(move |_, _| drop(held))))
            });
            for seat in seats {
                drop(seat.enter());
            }
            sender.join().expect("no panic");
            assert_eq!(Arc::strong_count(&token), 1, "nobody is left to drop it");
        });
    }
}
