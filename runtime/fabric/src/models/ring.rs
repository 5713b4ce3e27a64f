//! The [ring](crate::ring) alone: two threads, two slots.

use alloc::sync::Arc;

use super::{Plain, explore};
use crate::ring::ring;
use crate::sync::Counter;
use crate::sync::checker::thread;

/// A message that tells when it is dropped.
struct Token(u32, Arc<Counter>);

impl Drop for Token {
    fn drop(&mut self) {
        self.1.add(1);
    }
}

#[test]
fn messages_arrive_in_order_and_once_while_slots_are_reused_and_the_index_wraps() {
    for first in [0, u32::MAX] {
        explore(5, move || {
            let dropped = Arc::new(Counter::default());
            let (producer, consumer) = ring::<Token>(2, first);
            let source = thread::spawn({
                let dropped = dropped.clone();
                move || {
                    for n in 0..3 {
                        let mut token = Token(n, dropped.clone());
                        while let Err(refused) = producer.push(token) {
                            token = refused;
                            thread::yield_now();
                        }
                    }
                }
            });
            let mut expected = 0;
            while expected < 3 {
                match consumer.pop() {
                    Some((token, _running)) => {
                        assert_eq!(token.0, expected);
                        expected += 1;
                    }
                    None => {
                        consumer.publish();
                        thread::yield_now();
                    }
                }
            }
            source.join().expect("no panic");
            assert!(consumer.is_empty());
            assert_eq!(dropped.get(), 3);
        });
    }
}

#[test]
fn what_is_left_when_both_ends_are_gone_is_dropped_once() {
    explore(5, || {
        let dropped = Arc::new(Counter::default());
        let (producer, consumer) = ring::<Token>(2, u32::MAX);
        let source = thread::spawn({
            let dropped = dropped.clone();
            move || {
                for n in 0..3 {
                    // Full is fine: what comes back is dropped here.
                    let _ = producer.push(Token(n, dropped.clone()));
                }
            }
        });
        drop(consumer.pop());
        drop(consumer);
        source.join().expect("no panic");
        assert_eq!(dropped.get(), 3);
    });
}

/// What a message's function writes, seen by who waits for its sequence.
#[test]
fn who_sees_a_sequence_executed_sees_what_its_function_wrote() {
    explore(5, || {
        let written = Plain::new();
        let (producer, consumer) = ring::<Arc<Plain>>(2, u32::MAX);
        let target = thread::spawn(move || {
            let mut ran = 0;
            while ran < 1 {
                match consumer.pop() {
                    Some((cell, _running)) => {
                        // A nested pass ends while the function still runs.
                        consumer.publish();
                        cell.write(7);
                        ran += 1;
                    }
                    None => thread::yield_now(),
                }
            }
            consumer.publish();
        });
        let sequence = producer.push(written.clone()).ok().expect("space");
        while !producer.has_executed(sequence) {
            thread::yield_now();
        }
        assert_eq!(written.read(), 7);
        target.join().expect("no panic");
    });
}
