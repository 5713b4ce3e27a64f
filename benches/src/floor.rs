//! What the machine itself takes for the least that any runtime must do.

use std::hint;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::futex;

use crate::drive::clock_ns;
use crate::machine::{CpuPair, pin};
use crate::stats::{Spread, Times};
use crate::work::PostPayload;

/// Round trips between two clock readings of the line's ping-pong.
const TRIPS_PER_BATCH: u32 = 512;

/// Turn that tells the target to stop.
const STOP: u32 = u32::MAX;

/// One cache line, alone on it and on the line that a prefetcher pairs it with.
#[repr(align(128))]
struct Line<T>(T);

/// Nanoseconds that a round trip of one cache line takes: one thread writes, the other sees it and
/// writes back. The median over batches, so that a preempted batch does not count.
#[must_use]
pub fn line_round_trip_ns(cpus: CpuPair, time: Duration) -> f64 {
    const STOP: u64 = u64::MAX;
    let line = Line(AtomicU64::new(0));
    let turn_after = |turn: u64| {
        loop {
            let next = line.0.load(Ordering::Acquire);
            if next != turn {
                return next;
            }
            hint::spin_loop();
        }
    };
    ping_pong(
        cpus,
        || {
            let mut turn = 0;
            loop {
                let asked = turn_after(turn);
                if asked == STOP {
                    break;
                }
                turn = asked + 1;
                line.0.store(turn, Ordering::Release);
            }
        },
        || {
            let mut batches = Vec::new();
            let mut turn = 0;
            let started = Instant::now();
            while started.elapsed() < time || batches.len() < 3 {
                let batch = Instant::now();
                for _ in 0..TRIPS_PER_BATCH {
                    line.0.store(turn + 1, Ordering::Release);
                    turn = turn_after(turn + 1);
                }
                batches.push(batch.elapsed().as_nanos() as f64 / f64::from(TRIPS_PER_BATCH));
            }
            line.0.store(STOP, Ordering::Release);
            Spread::of(batches).map_or(f64::NAN, |spread| spread.median)
        },
    )
}

/// Percentiles of the round trip of two threads that always sleep in a futex between their turns.
#[must_use]
pub fn futex_round_trips(cpus: CpuPair, time: Duration) -> Times {
    let to_target = Line(AtomicU32::new(0));
    let to_source = Line(AtomicU32::new(0));
    ping_pong(
        cpus,
        || {
            let mut turn = 0;
            loop {
                let next = sleep_while(&to_target.0, turn);
                if next == STOP {
                    break;
                }
                turn = next;
                wake_with(&to_source.0, turn);
            }
        },
        || {
            let mut times = Times::new();
            let mut turn = 0;
            let started = Instant::now();
            while started.elapsed() < time {
                let trip = Instant::now();
                wake_with(&to_target.0, turn + 1);
                turn = sleep_while(&to_source.0, turn);
                times.record(clock_ns(trip.elapsed()));
            }
            wake_with(&to_target.0, STOP);
            times
        },
    )
}

/// Percentiles of the time from coming to a [`Barrier`] to leaving it, of two threads that do nothing else.
#[must_use]
pub fn barrier_meetings(cpus: CpuPair, time: Duration) -> Times {
    let barrier = Barrier::new(2);
    // The meeting after which both leave; the barrier itself hands it over.
    let last = AtomicU64::new(u64::MAX);
    ping_pong(
        cpus,
        || {
            for meeting in 0.. {
                barrier.wait();
                if last.load(Ordering::Relaxed) == meeting {
                    break;
                }
            }
        },
        || {
            let mut times = Times::new();
            let started = Instant::now();
            for meeting in 0.. {
                let over = started.elapsed() >= time;
                if over {
                    last.store(meeting, Ordering::Relaxed);
                }
                let came = Instant::now();
                barrier.wait();
                times.record(clock_ns(came.elapsed()));
                if over {
                    break;
                }
            }
            times
        },
    )
}

/// Nanoseconds per item of one cache line through an index-based ring, one way, in chunks of `CHUNK`.
///
/// # Panics
///
/// When a chunk does not fit into the ring of 1024 items.
#[must_use]
pub fn ring_one_way_ns<const CHUNK: usize>(cpus: CpuPair, items: usize) -> f64 {
    #[derive(Clone, Copy, Default)]
    #[repr(align(64))]
    struct Item(PostPayload);

    const RING_ITEMS: usize = 1024;
    assert!(CHUNK <= RING_ITEMS, "a chunk of {CHUNK} does not fit into the ring");
    let chunks = items.div_ceil(CHUNK);
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Item>::new(RING_ITEMS);
    ping_pong(
        cpus,
        move || {
            for chunk in 0..chunks {
                let mut room = loop {
                    match producer.write_chunk(CHUNK) {
                        Ok(room) => break room,
                        Err(_) => hint::spin_loop(),
                    }
                };
                let (first, second) = room.as_mut_slices();
                for item in first.iter_mut().chain(second) {
                    item.0 = [chunk as u64; 6];
                }
                room.commit_all();
            }
        },
        move || {
            let started = Instant::now();
            let mut arrived = 0;
            for _ in 0..chunks {
                let filled = loop {
                    match consumer.read_chunk(CHUNK) {
                        Ok(filled) => break filled,
                        Err(_) => hint::spin_loop(),
                    }
                };
                let (first, second) = filled.as_slices();
                for item in first.iter().chain(second) {
                    hint::black_box(item.0);
                    arrived += 1;
                }
                filled.commit_all();
            }
            started.elapsed().as_nanos() as f64 / f64::from(hint::black_box(arrived))
        },
    )
}

/// Runs the target's side on the second CPU and the measuring side on the first.
fn ping_pong<T: Send>(cpus: CpuPair, target: impl FnOnce() + Send, source: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope.spawn(move || {
            pin(cpus[1]);
            target();
        });
        let measured = scope.spawn(move || {
            pin(cpus[0]);
            source()
        });
        measured.join().expect("a floor's thread panicked")
    })
}

fn sleep_while(word: &AtomicU32, old: u32) -> u32 {
    loop {
        let now = word.load(Ordering::Acquire);
        if now != old {
            return now;
        }
        // Interrupted, or changed before it slept: the load above tells.
        let _ = futex::wait(word, futex::Flags::PRIVATE, old, None);
    }
}

fn wake_with(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    futex::wake(word, futex::Flags::PRIVATE, 1).expect("a futex in our own memory can be woken");
}
