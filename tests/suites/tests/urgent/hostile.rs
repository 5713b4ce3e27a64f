//! Handlers that interrupt what must not be disturbed.
//!
//! Under the address sanitizer, with a nightly compiler:
//!
//! ```sh
//! RUSTFLAGS=-Zsanitizer=address cargo +nightly test --target x86_64-unknown-linux-gnu --target-dir target/asan -p ipiq-suites --test urgent hostile
//! ```
//!
//! with `IPIQ_STRESS=full` for longer, and `IPIQ_STRESS=most` for ten minutes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipiq::urgent::critical;
use ipiq::{Runtime, ipi};
use ipiq_suites::alone::alone;
use ipiq_suites::scale::scaled_up_to;
use ipiq_suites::watchdog::watch;

use super::*;

thread_local! {
    static BORROWED: RefCell<BTreeMap<u64, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// What one core and the handler on it share: equal outside of critical sections.
#[derive(Default)]
struct Pair {
    low: AtomicU64,
    high: AtomicU64,
}

impl Pair {
    fn raise(&self) {
        critical(|| {
            let next = self.low.load(Ordering::Relaxed) + 1;
            self.low.store(next, Ordering::Relaxed);
            std::hint::black_box(());
            self.high.store(next, Ordering::Relaxed);
        });
    }

    fn is_torn(&self) -> bool {
        self.low.load(Ordering::Relaxed) != self.high.load(Ordering::Relaxed)
    }
}

/// Everything that a handler may not do, done by the code that it interrupts.
fn exercise(round: u64, shared: &Mutex<u64>, pair: &Pair) {
    let text = format!("{round} and {:?}", vec![round; (round % 50) as usize]);
    BORROWED.with_borrow_mut(|map| {
        map.insert(round % 64, text.clone());
        pair.raise();
        assert!(map.len() <= 64 && map.values().all(|text| text.ends_with(']')));
    });
    *shared.lock().expect("not poisoned") += 1;
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let held = vec![text; 3];
        critical(|| pair.raise());
        if held.len() == 3 {
            resume_unwind(Box::new(held));
        }
    }));
    let payload = unwound.expect_err("it panics").downcast::<Vec<String>>().expect("its payload");
    assert_eq!(payload.len(), 3);
    let found = format!("{}", std::backtrace::Backtrace::disabled());
    assert!(!found.is_empty());
}

#[test]
fn what_a_handler_interrupts_goes_on_as_if_nothing_had_been() {
    let triggers = scaled_up_to(1_000, 20_000, 200_000);
    let _watchdog = watch("a core that does everything while it is interrupted");
    let runtime = two_cores(Runtime::builder());
    let (told, pair, torn) = (Told::default(), Arc::new(Pair::default()), Arc::new(AtomicU64::new(0)));
    let handler = register(&runtime.handle(), {
        let (told, pair, torn) = (told.clone(), pair.clone(), torn.clone());
        move |_| {
            torn.fetch_add(u64::from(pair.is_torn()), Ordering::Relaxed);
            told.seen.store(told.written.load(Ordering::Relaxed), Ordering::Release);
        }
    });
    let shared = Arc::new(Mutex::new(0));
    let (stuck, changed, locked) = (told.clone(), pair.clone(), shared.clone());
    let task = runtime.handle().spawn_on(B, move || async move {
        let mut rounds = 0;
        while stuck.seen() < triggers {
            rounds += 1;
            exercise(rounds, &locked, &changed);
        }
        rounds
    });
    runtime.block_on(move || async move {
        let mut random = fastrand::Rng::with_seed(11);
        for n in 1..=triggers {
            (0..random.u32(0..2_000)).for_each(|_| std::hint::spin_loop());
            told.tell(&handler, B, n);
        }
    });
    let rounds = Runtime::wait(task).expect("nothing went wrong");
    assert_eq!(*shared.lock().expect("not poisoned"), rounds);
    assert_eq!((torn.load(Ordering::Relaxed), pair.low.load(Ordering::Relaxed)), (0, 2 * rounds));
}

/// What else a handler may not do: large blocks and small ones, prints, locks that others hold, panics with their messages, and names of the stack's functions.
struct Everything {
    random: fastrand::Rng,
    kept: Vec<Vec<u8>>,
    sink: std::fs::File,
    shared: Arc<Mutex<Vec<u64>>>,
    rounds: u64,
}

impl Everything {
    fn new(seed: u64, shared: Arc<Mutex<Vec<u64>>>) -> Self {
        let sink = std::fs::File::options().write(true).open("/dev/null").expect("it is there");
        Self { random: fastrand::Rng::with_seed(seed), kept: Vec::new(), sink, shared, rounds: 0 }
    }

    fn round(&mut self) {
        self.rounds += 1;
        self.allocate();
        self.print();
        self.lock();
        self.panic();
        if self.rounds.is_multiple_of(256) {
            find_names();
        }
    }

    /// Each block holds one byte all over, also after it has grown.
    fn allocate(&mut self) {
        let byte = self.rounds as u8;
        let size = 1 << self.random.u32(0..if self.rounds.is_multiple_of(64) { 20 } else { 12 });
        let mut block = vec![byte; size];
        block.resize(2 * size, byte);
        self.kept.push(block);
        if self.kept.len() > 32 {
            let block = self.kept.swap_remove(self.random.usize(0..32));
            assert!(block.iter().all(|byte| *byte == block[0]));
        }
    }

    fn print(&mut self) {
        writeln!(self.sink, "{} {:>10.3} {:?}", self.rounds, self.rounds as f64 / 7.0, self.kept.last().map(Vec::len))
            .expect("it takes everything");
        // The lock and the buffer of the true output, but no text.
        print!("");
        std::io::stdout().flush().expect("it is open");
    }

    fn lock(&mut self) {
        let mut shared = self.shared.lock().expect("not poisoned");
        let last = shared.last().copied().unwrap_or(0);
        shared.push(last + 1);
        if shared.len() > 100 {
            assert!(shared.windows(2).all(|pair| pair[0] + 1 == pair[1]));
            shared.drain(..99);
        }
    }

    fn panic(&mut self) {
        let round = self.rounds;
        let held = self.kept.last().cloned();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _dropped = held;
            panic!("round {round}");
        }));
        let text = unwound.expect_err("it panics").downcast::<String>().expect("a message");
        assert_eq!(*text, format!("round {round}"));
    }
}

#[inline(never)]
fn find_names() {
    let found = std::backtrace::Backtrace::force_capture().to_string();
    assert!(found.contains("find_names"), "{found}");
}

/// As long as ten minutes at `most`.
#[test]
fn loops_of_everything_go_on_while_triggers_arrive() {
    let lasts = Duration::from_millis(scaled_up_to(500, 6_000, 600_000));
    alone("hostile::loops_of_everything_go_on_while_triggers_arrive", lasts + Duration::from_secs(300), || {
        // The messages of panics that are caught are not for the test's output.
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.to_string().contains("\nround ") {
                others(info);
            }
        }));
        let runtime = two_cores(Runtime::builder());
        let (told, over, shared) =
            (Told::default(), Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let handler = told.handler(&runtime.handle());
        let (stop, locked) = (over.clone(), shared.clone());
        let task = runtime.handle().spawn_on(B, move || async move {
            let mut everything = Everything::new(3, locked);
            while !stop.load(Ordering::Relaxed) {
                everything.round();
            }
            everything.rounds
        });
        // Its locks and its memory are contended for.
        let (stop, locked) = (over.clone(), shared.clone());
        let other = std::thread::spawn(move || {
            let mut everything = Everything::new(4, locked);
            while !stop.load(Ordering::Relaxed) {
                everything.round();
                std::thread::yield_now();
            }
        });
        let triggers = runtime.block_on(move || async move {
            let (mut random, begun, mut n) = (fastrand::Rng::with_seed(5), Instant::now(), 0);
            while begun.elapsed() < lasts {
                n += 1;
                (0..random.u32(0..5_000)).for_each(|_| std::hint::spin_loop());
                told.tell(&handler, B, n);
            }
            over.store(true, Ordering::Relaxed);
            n
        });
        let rounds = Runtime::wait(task).expect("nothing went wrong");
        other.join().expect("nothing went wrong");
        let counters = runtime.handle().core_counters(B);
        println!("{rounds} rounds, {triggers} triggers, {} interrupts", counters.interrupts_sent);
        assert!(rounds > 0 && counters.urgent_run >= triggers && counters.interrupts_refused == 0, "{counters:?}");
    });
}

/// Triggers from a thread of their own hit every line of the loop, the allocator, the driver and the fabric, both ways.
#[test]
fn the_runtime_itself_goes_on_under_interrupts() {
    let calls = scaled_up_to(5_000, 100_000, 1_000_000);
    let _watchdog = watch("a runtime under interrupts");
    let runtime = two_cores(Runtime::builder());
    let (told, over) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let handler = told.handler(&runtime.handle());
    std::thread::scope(|scope| {
        let (seen, stop) = (told.clone(), over.clone());
        let fire = scope.spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                seen.written.store(n, Ordering::Relaxed);
                assert_eq!(handler.trigger_all(), Ok(2));
                std::thread::yield_now();
            }
            while seen.seen() < n {
                std::thread::yield_now();
            }
        });
        runtime.block_on(move || async move {
            let bells = ipi::Doorbell::new();
            for n in 0..calls {
                assert_eq!(ipiq::call_on(B, move || vec![n; 3].len()).await.expect("it lives"), 3);
                if n % 16 == 0 {
                    let there = bells.clone();
                    let heard = ipiq::spawn_on(B, move || async move { there.notified().await });
                    bells.ring(B);
                    heard.await.expect("it was rung");
                    ipiq::time::sleep(Duration::from_micros(n % 100)).await;
                }
            }
        });
        over.store(true, Ordering::Relaxed);
        fire.join().expect("no panic");
    });
    let counters = runtime.handle().core_counters(A);
    assert!(counters.urgent_run > 0 && counters.interrupts_refused == 0, "{counters:?}");
}
