//! Numbered messages between two cores that fall asleep at random: none lost, none doubled, none overtaken.

use std::cell::Cell;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use fastrand::Rng;
use ipiq_fabric::{Config, CoreId, Fabric, SpaceWait};
use ipiq_linux::port::FenceChoice;
use ipiq_suites::alone::alone;
use ipiq_suites::cores::{FENCES, Seated, on_cores};
use ipiq_suites::scale::scaled;

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const CAPACITIES: [usize; 3] = [2, 16, 1024];
const LONGEST_BURST: u64 = 4_000;
const LONGEST_GAP_NS: u64 = 200_000;
/// A burst that waits for its last message to have been executed: one of so many.
const CHECKED_BURSTS: u64 = 4;
/// Messages that one core lets its overflow list grow by.
const LISTED: u64 = 64;

thread_local! {
    /// How many messages the calling core has received.
    static RECEIVED: Cell<u64> = const { Cell::new(0) };
}

fn receive(number: u64) {
    assert_eq!(number, RECEIVED.get(), "lost, doubled or overtaken");
    RECEIVED.set(number + 1);
}

/// How a burst is sent.
#[derive(Clone, Copy)]
enum Kind {
    Try,
    Passive,
    Listed,
    Blocking,
}

struct Side<'a, 'b> {
    seated: &'a mut Seated<'b>,
    peer: CoreId,
    random: Rng,
    sent: u64,
    total: u64,
}

impl Side<'_, '_> {
    fn burst(&mut self) {
        let kind = [Kind::Try, Kind::Passive, Kind::Listed, Kind::Blocking][self.random.u64(..4) as usize];
        let end = self.total.min(self.sent + 1 + self.random.u64(..LONGEST_BURST));
        let mut unserved = 0;
        while self.sent < end {
            if !self.send(kind) {
                self.await_space();
            }
            unserved += 1;
            if unserved == 64 {
                unserved = 0;
                self.seated.serve();
            }
        }
        self.seated.serve();
        if self.random.u64(..CHECKED_BURSTS) == 0 {
            // Nothing follows that could wake the peer, if what was sent did not.
            let last = self.seated.core.sequence(self.peer);
            self.seated.core.wait_executed(self.peer, last);
        }
    }

    fn send(&mut self, kind: Kind) -> bool {
        let (core, peer, number) = (&self.seated.core, self.peer, self.sent);
        let sent = match kind {
            Kind::Try => core.try_send(peer, move |_, _| receive(number)).is_ok(),
            Kind::Passive => core.try_send_passive(peer, move |_, _| receive(number)).is_ok(),
            Kind::Listed => {
                core.send_or_list(peer, move |_, _| receive(number));
                if number % LISTED == 0 {
                    while core.has_overflow() {
                        self.seated.serve();
                    }
                }
                true
            }
            Kind::Blocking => core.send(peer, move |_, _| receive(number)).is_ok(),
        };
        self.sent += u64::from(sent);
        sent
    }

    /// Waits as a future does; now and then it sleeps at once, mostly after a while.
    fn await_space(&mut self) {
        let turns = if self.random.u64(..256) == 0 { 0 } else { 2_000 };
        let cx = Context::from_waker(Waker::noop());
        let (mut wait, mut turn) = (SpaceWait::default(), 0);
        while self.seated.core.poll_space(self.peer, &mut wait, &cx).is_pending() {
            if self.seated.serve() > 0 {
                continue;
            }
            if turn < turns {
                self.seated.core.port().relax(turn);
                turn += 1;
            } else {
                self.seated.park(None);
            }
        }
        self.seated.core.end_wait(&mut wait);
    }

    /// Sends nothing for a while.
    fn gap(&mut self) {
        let end = Instant::now() + Duration::from_nanos(self.random.u64(..LONGEST_GAP_NS));
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if self.seated.serve() == 0 {
                self.seated.park(Some(left.as_nanos() as u64));
            }
        }
    }

    /// Sends nothing until something arrives: a sleep that only a kick ends.
    fn sleep(&mut self) {
        let before = RECEIVED.get();
        if before < self.total {
            self.seated.serve_until(|| RECEIVED.get() > before);
        }
    }
}

/// One core sleeps for random times between its bursts, the other until it is woken.
fn messages_arrive_in_order(fence: FenceChoice, capacity: usize, messages: u64, seed: u64) -> Fabric {
    let config = Config { cores: 2, ring_capacity: capacity, first_index: u32::MAX - messages as u32 / 2 };
    let sleeper = CoreId::new(seed as usize % 2);
    let fabric = on_cores(config, fence, |seated| {
        let own = seated.id();
        let random = Rng::with_seed(seed * 2 + own.index() as u64);
        let mut side = Side { seated, peer: if own == A { B } else { A }, random, sent: 0, total: messages };
        while side.sent < side.total {
            side.burst();
            if own == sleeper { side.sleep() } else { side.gap() }
        }
        seated.serve_until(|| RECEIVED.get() == messages);
        seated.serve_until_all_are_done();
        assert_eq!(RECEIVED.get(), messages);
    });
    for (source, target) in [(A, B), (B, A)] {
        let pair = fabric.pair_counters(source, target);
        assert_eq!((pair.sent, pair.received), (messages, messages), "{pair:?}");
        assert_eq!(pair.kicked + pair.avoided + pair.passive, pair.sent, "{pair:?}");
    }
    fabric
}

fn every_capacity(fence: FenceChoice) {
    let (mut parked, mut kicked) = (0, 0);
    for (seed, capacity) in CAPACITIES.into_iter().enumerate() {
        let start = Instant::now();
        let fabric = messages_arrive_in_order(fence, capacity, scaled(100_000, 10_000_000), seed as u64);
        println!("{fence:?} fence, {capacity} slots: {:.1?}", start.elapsed());
        for (source, target) in [(A, B), (B, A)] {
            let (pair, own) = (fabric.pair_counters(source, target), fabric.core_counters(target));
            (parked, kicked) = (parked + own.parked, kicked + pair.kicked);
            println!("  {source} to {target}: {pair:?}, which parked {} times", own.parked);
        }
    }
    assert!(parked > 0 && kicked > 0, "nobody ever slept");
}

#[test]
fn numbered_messages_between_sleepy_cores_asymmetric_fence() {
    alone("numbered_messages_between_sleepy_cores_asymmetric_fence", Duration::from_secs(180), || {
        every_capacity(FenceChoice::Auto);
    });
}

#[test]
fn numbered_messages_between_sleepy_cores_symmetric_fence() {
    alone("numbered_messages_between_sleepy_cores_symmetric_fence", Duration::from_secs(180), || {
        every_capacity(FenceChoice::Symmetric);
    });
}

#[test]
fn many_short_conversations_each_with_its_own_gaps() {
    alone("many_short_conversations_each_with_its_own_gaps", Duration::from_secs(120), || {
        for seed in 0..scaled(60, 600) {
            let capacity = CAPACITIES[seed as usize % CAPACITIES.len()];
            messages_arrive_in_order(FENCES[seed as usize / 3 % 2], capacity, 2_000 + seed, seed);
        }
    });
}
