//! Handlers that interrupt what must not be disturbed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ipiq::urgent::critical;
use ipiq::{Runtime, ipi};
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
                    ipiq::time::sleep(std::time::Duration::from_micros(n % 100)).await;
                }
            }
        });
        over.store(true, Ordering::Relaxed);
        fire.join().expect("no panic");
    });
    let counters = runtime.handle().core_counters(A);
    assert!(counters.urgent_run > 0 && counters.interrupts_refused == 0, "{counters:?}");
}
