//! A core that leaves with full rings owes nobody an answer.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fastrand::Rng;
use ipiq_fabric::call::PendingCall;
use ipiq_fabric::{Config, CoreId};
use ipiq_linux::port::FenceChoice;
use ipiq_suites::alone::alone;
use ipiq_suites::cores::{FENCES, Seated, on_cores};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const CALLERS: usize = 2;
const CALLS: u32 = 40;
const LEAVER: CoreId = CoreId::new(CALLERS);

thread_local! {
    /// Closures that have run on this core.
    static RAN: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn every_call_that_ran_is_answered_although_the_core_that_ran_it_leaves() {
    alone("every_call_that_ran_is_answered_although_the_core_that_ran_it_leaves", LIMIT, || {
        let mut overflowed = 0;
        for fence in FENCES {
            for seed in 0..scaled(200, 2_000) {
                overflowed += leave_amid_calls(fence, seed);
            }
        }
        assert!(overflowed > 0, "no answer ever waited in a list");
    });
}

/// Lets one core leave in the middle of the others' calls. Returns how many answers it had listed.
fn leave_amid_calls(fence: FenceChoice, seed: u64) -> u64 {
    let leave_after = Rng::with_seed(seed).u32(0..CALLERS as u32 * CALLS);
    let (ran, answered, gone) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let config = Config { cores: CALLERS + 1, ring_capacity: 2, first_index: u32::MAX - 3 };
    // Callers that look at nothing for a while: the answers pile up.
    let (away, left) = (AtomicBool::new(true), AtomicBool::new(false));
    let fabric = on_cores(config, fence, |seated| {
        if seated.id() == LEAVER {
            serve_calls(seated, leave_after, &away);
            ran.fetch_add(RAN.take(), Ordering::AcqRel);
            seated.leave();
            left.store(true, Ordering::Release);
            return;
        }
        let core = &seated.core;
        let number = |n| core.id().index() as u32 * CALLS + n;
        let call = |n| {
            let value = number(n);
            PendingCall::new(core, LEAVER, move || {
                RAN.set(RAN.get() + 1);
                value
            })
        };
        let mut calls: Vec<_> = (0..CALLS).map(|n| (n, call(n))).collect();
        let mut turn = 0;
        while !calls.is_empty() {
            if !away.load(Ordering::Acquire) || left.load(Ordering::Acquire) {
                seated.serve();
            } else {
                core.flush();
            }
            calls.retain_mut(|(n, call)| match call.poll(core, &mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(value)) => {
                    assert_eq!(value, number(*n));
                    answered.fetch_add(1, Ordering::AcqRel);
                    false
                }
                Poll::Ready(Err(error)) => {
                    assert!(error.is_gone(), "{error}");
                    gone.fetch_add(1, Ordering::AcqRel);
                    false
                }
                Poll::Pending => true,
            });
            core.port().relax(turn);
            turn += 1;
        }
        seated.serve_until_all_are_done();
    });
    let (ran, answered, gone) = (ran.into_inner(), answered.into_inner(), gone.into_inner());
    assert_eq!((answered, answered + gone), (ran, CALLERS as u32 * CALLS), "seed {seed}");
    (0..CALLERS).map(|caller| fabric.pair_counters(LEAVER, CoreId::new(caller)).overflowed).sum()
}

/// Runs calls until there were `enough`; lets the callers look when nothing comes any more.
fn serve_calls(seated: &mut Seated<'_>, enough: u32, away: &AtomicBool) {
    let mut idle = 0;
    while RAN.get() < enough {
        if seated.core.drain(1) + seated.core.flush() > 0 {
            idle = 0;
        } else {
            seated.core.port().relax(idle);
            idle += 1;
        }
        if idle > 200 {
            away.store(false, Ordering::Release);
        }
    }
}
