//! Stops whose plan, functions and results lie on the stack of their lead: small enough for Miri.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use std::boxed::Box;
use std::panic::resume_unwind;
use std::thread;

use super::{CpuSync, Lead};
use crate::port::Clock;
use crate::sync::{AtomicU64, Ordering};
use crate::tests::cores_of;
use crate::tests::machine::{Awake, Script};
use crate::{Config, Core, CoreId, CoreSet, Fabric, Seat, catch};

const ROUNDS: u64 = if cfg!(miri) { 3 } else { 300 };
const CORES: usize = 3;

struct Noon;

impl Clock for Noon {
    fn now_ns(&self) -> u64 {
        12
    }
}

/// A panic of one core ends the others' loops, too.
struct EndsAll(Arc<AtomicU64>);

impl Drop for EndsAll {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(CORES as u64, Ordering::Release);
        }
    }
}

/// Every core leads `ROUNDS` times; each lead uses what `lead` puts on the stack.
fn all_lead(lead: impl Fn(&Lead<'_>) + Clone + Send + 'static) {
    let over = Arc::new(AtomicU64::new(0));
    let run = |seat: Seat| {
        let (over, lead) = (over.clone(), lead.clone());
        move || {
            let core = seat.enter();
            let _ends = EndsAll(over.clone());
            let led = alloc::rc::Rc::new(Cell::new(0));
            for _ in 0..ROUNDS {
                let (lead, led, over) = (lead.clone(), led.clone(), over.clone());
                core.lead(move |here| {
                    // Its panic would reach nobody.
                    let _ends = EndsAll(over);
                    lead(here);
                    led.set(led.get() + 1);
                });
            }
            let mut told = false;
            while over.load(Ordering::Acquire) < CORES as u64 {
                // SAFETY: 1. and 2. this is the loop; nothing else is on the stack.
                unsafe { core.safe_point() };
                core.drain(64);
                core.flush();
                if led.get() == ROUNDS && !told {
                    told = true;
                    over.fetch_add(1, Ordering::AcqRel);
                }
                thread::yield_now();
            }
            assert_eq!(led.get(), ROUNDS);
        }
    };
    let threads: Vec<_> = cores_of(CORES).into_iter().map(|seat| thread::spawn(run(seat))).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn what_a_stop_uses_may_go_as_soon_as_it_has_returned() {
    all_lead(|lead| {
        let ran = Box::new(AtomicU64::new(0));
        let text = Box::new([7_u64; 8]);
        let each = |core: &Core| {
            ran.fetch_add(text[core.id().index()], Ordering::Relaxed);
        };
        let plan = CpuSync {
            set: CoreSet::first(CORES),
            each: Some(&each),
            drain: lead.core().id().index() == 1,
            deadline_ns: None,
            clock: &Noon,
        };
        let seen = lead.cpusync(&plan, |held| {
            held.on_each(&each).expect("no panic");
            ran.load(Ordering::Relaxed)
        });
        let cores = CORES as u64;
        assert_eq!(seen.expect("no limit").0, 7 * cores);
        lead.quick(&CoreSet::first(CORES), &each).expect("no panic");
        assert_eq!(ran.load(Ordering::Relaxed), 3 * 7 * cores);
        drop((ran, text));
    });
}

#[test]
fn a_stop_that_gives_up_leaves_nothing_of_it_behind() {
    all_lead(|lead| {
        let text = Box::new([7_u64; 8]);
        let each = |_: &Core| assert_eq!(text[0], 7);
        let late =
            CpuSync { set: CoreSet::first(CORES), each: Some(&each), drain: false, deadline_ns: Some(0), clock: &Noon };
        // It may be early enough, if all answer at once.
        if let Err(error) = lead.cpusync(&late, |_| ()) {
            assert!(error.is_timeout(), "{error}");
        }
        drop(text);
    });
}

#[test]
fn a_panic_that_nobody_took_because_a_message_unwound_the_lead_is_not_the_next_stops() {
    all_lead(|lead| {
        let home = lead.core().id();
        let other: CoreSet = [CoreId::new((home.index() + 1) % CORES)].into_iter().collect();
        let unwound = Arc::new(AtomicU64::new(0));
        // Its message runs while the lead waits for it; it panics after that.
        let each = |core: &Core| {
            let begun = unwound.clone();
            let unwind = move |_: &Core, _: CoreId| {
                begun.store(1, Ordering::Release);
                resume_unwind(Box::new("of the message"));
            };
            core.try_send(home, unwind).map_err(drop).expect("space");
            while unwound.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            resume_unwind(Box::new("of the function"));
        };
        let message = catch(|| lead.quick(&other, &each)).expect_err("the message's");
        assert_eq!(message.downcast_ref(), Some(&"of the message"));
        lead.quick(&other, &|_| ()).expect("nothing of the one before");
        let again = lead.quick(&other, &|_| resume_unwind(Box::new("again"))).expect_err("its own");
        assert_eq!(again.downcast_ref(), Some(&"again"));
    });
}

/// Counts the turns of waits in which there was nothing to do.
#[derive(Default)]
struct Turns(AtomicU64);

impl Script for Turns {
    fn relax(&self, _turn: u32) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_stop_of_cores_that_left_before_it_turns_for_nobody() {
    let port = Arc::new(Awake(Turns::default()));
    let config = Config { cores: CORES, ..Config::default() };
    let (_fabric, seats) = Fabric::new(config, port.clone()).expect("a valid configuration");
    let mut cores: Vec<_> = seats.into_iter().map(Seat::enter).collect();
    cores.truncate(1);
    let (core, led) = (&cores[0], alloc::rc::Rc::new(Cell::new(false)));
    let (turned, done) = (port.0.0.load(Ordering::Relaxed), led.clone());
    core.lead(move |lead| {
        let all = CoreSet::first(CORES);
        for drain in [false, true] {
            let plan = CpuSync { set: all, each: Some(&|_| ()), drain, deadline_ns: None, clock: &Noon };
            let inner = CpuSync { each: None, ..plan };
            let stopped = lead.cpusync(&plan, |held| {
                assert_eq!(held.cores().len(), 1);
                held.cpusync(&inner, |held| held.cores().len()).expect("no limit").0
            });
            assert_eq!(stopped.expect("no limit").0, 1);
        }
        lead.quick(&all, &|_| ()).expect("no panic");
        done.set(true);
    });
    // SAFETY: 1. and 2. nothing else is on the stack.
    unsafe { core.safe_point() };
    assert!(led.get());
    assert_eq!(port.0.0.load(Ordering::Relaxed), turned);
}
