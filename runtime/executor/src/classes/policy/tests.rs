//! The policy at a simulated clock.

use alloc::vec;
use alloc::vec::Vec;

use fastrand::Rng;

use super::*;

const POLLS: u32 = 32;
const MS: u64 = 1_000_000;

/// What a class of the simulation wants.
#[derive(Clone)]
struct Load {
    terms: Terms,
    ns_per_poll: u64,
    /// 0: it can always run. Otherwise it wakes so long after it had nothing to do any more.
    sleeps_ns: u64,
    /// Polls per wake-up.
    burst: u64,
    wakes_at: u64,
    left: u64,
    got_ns: u64,
    longest_wait_ns: u64,
}

fn busy(shares: u32) -> Load {
    let terms = Terms { shares, latency_goal_ns: None };
    let (wakes_at, left, got_ns, longest_wait_ns) = (0, 0, 0, 0);
    Load { terms, ns_per_poll: 10_000, sleeps_ns: 0, burst: 0, wakes_at, left, got_ns, longest_wait_ns }
}

impl Load {
    fn sleeping(mut self, sleeps_ns: u64, burst: u64) -> Self {
        (self.sleeps_ns, self.burst) = (sleeps_ns, burst);
        self
    }

    fn per_poll(mut self, ns: u64) -> Self {
        self.ns_per_poll = ns;
        self
    }

    fn goal(mut self, ns: u64) -> Self {
        self.terms.latency_goal_ns = Some(ns);
        self
    }

    fn is_runnable(&self) -> bool {
        self.sleeps_ns == 0 || self.left > 0
    }
}

/// One core with its clock.
struct Sim {
    fair: Fair,
    now_ns: u64,
    loads: Vec<Load>,
    longest_turn_ns: u64,
}

impl Sim {
    fn new(loads: Vec<Load>) -> Self {
        Self { fair: Fair::new(), now_ns: 5 * MS, loads, longest_turn_ns: 0 }
    }

    fn run(&mut self, for_ns: u64) {
        let end = self.now_ns + for_ns;
        while self.now_ns < end {
            self.turn();
        }
    }

    fn turn(&mut self) {
        let mut runnable = 0;
        for (class, load) in self.loads.iter_mut().enumerate() {
            if load.sleeps_ns > 0 && load.left == 0 && load.wakes_at <= self.now_ns {
                load.left = load.burst;
            }
            runnable |= u32::from(load.is_runnable()) << class;
        }
        match runnable.count_ones() {
            0 => self.now_ns = self.loads.iter().map(|load| load.wakes_at).min().expect("somebody"),
            1 => {
                let class = runnable.trailing_zeros() as usize;
                self.fair.runs_alone(class);
                self.run_class(class, POLLS);
            }
            _ => {
                let terms: Vec<_> = self.loads.iter().map(|load| load.terms).collect();
                let choice = self.fair.choose(runnable, self.now_ns, POLLS, |class| terms[class]);
                let class = choice.class;
                assert!(runnable & 1 << class != 0);
                let began_ns = self.now_ns;
                let polls = self.run_class(class, choice.polls);
                self.longest_turn_ns = self.longest_turn_ns.max(self.now_ns - began_ns);
                let load = &mut self.loads[class];
                load.longest_wait_ns = load.longest_wait_ns.max(choice.waited_ns);
                let is_runnable = load.is_runnable();
                self.fair.charge(Turn { class, began_ns, ended_ns: self.now_ns, polls, is_runnable });
            }
        }
    }

    fn run_class(&mut self, class: usize, budget: u32) -> u32 {
        let load = &mut self.loads[class];
        let polls = if load.sleeps_ns == 0 { u64::from(budget) } else { load.left.min(u64::from(budget)) };
        let took_ns = polls * load.ns_per_poll;
        self.now_ns += took_ns;
        load.got_ns += took_ns;
        load.left = load.left.saturating_sub(polls);
        load.wakes_at = self.now_ns + load.sleeps_ns;
        polls as u32
    }

    /// Parts of a thousand of what all got since the last time.
    fn parts(&mut self) -> Vec<u64> {
        let got: Vec<u64> = self.loads.iter_mut().map(|load| core::mem::take(&mut load.got_ns)).collect();
        let sum: u64 = got.iter().sum();
        got.iter().map(|got| got * 1_000 / sum).collect()
    }
}

fn assert_near(parts: &[u64], expected: &[u64]) {
    for (part, expected) in parts.iter().zip(expected) {
        assert!(part.abs_diff(*expected) * 20 <= *expected, "{parts:?}");
    }
}

#[test]
fn one_two_and_four_shares_get_theirs_in_each_second_whatever_a_poll_takes() {
    for ns_per_poll in [[1_000, 1_000, 1_000], [200, 50_000, 3_000], [4 * MS, 100, 20_000]] {
        let loads = [100, 200, 400].into_iter().zip(ns_per_poll).map(|(shares, ns)| busy(shares).per_poll(ns));
        let mut sim = Sim::new(loads.collect());
        for _ in 0..5 {
            sim.run(1_000 * MS);
            assert_near(&sim.parts(), &[143, 286, 571]);
        }
    }
}

#[test]
fn one_share_beside_a_thousand_gets_its_part_and_no_more() {
    let mut sim = Sim::new(vec![busy(1), busy(1_000)]);
    sim.run(100_000 * MS);
    let got = sim.loads[0].got_ns;
    assert!(got.abs_diff(100_000 * MS / 1_001) <= 2 * MS, "{got}");
}

#[test]
fn a_newcomer_runs_next_and_gets_its_share_from_then_on() {
    let mut sim = Sim::new(vec![busy(100), busy(100), busy(100).sleeping(5_000 * MS, u64::MAX)]);
    sim.loads[2].wakes_at = 5_000 * MS;
    sim.run(5_000 * MS);
    let _ = sim.parts();
    sim.run(1_000 * MS);
    assert_near(&sim.parts(), &[333, 333, 333]);
    assert!(sim.loads[2].longest_wait_ns <= 3 * sim.longest_turn_ns);
}

#[test]
fn a_sleeper_neither_saves_what_it_does_not_use_nor_loses_what_is_its() {
    // A tenth of what would be its share, and then all that it can get.
    let mut sim = Sim::new(vec![busy(100), busy(100).sleeping(19 * MS, 100)]);
    sim.run(2_000 * MS);
    let parts = sim.parts();
    assert!((44..=50).contains(&parts[1]), "{parts:?}");
    sim.loads[1].sleeps_ns = 0;
    sim.run(200 * MS);
    assert_near(&sim.parts(), &[500, 500]);
    // After seconds of sleep it holds up the other for no longer than a turn.
    sim.loads[1].sleeps_ns = 60_000 * MS;
    sim.loads[1].left = 0;
    sim.run(50_000 * MS);
    sim.loads[1].sleeps_ns = 0;
    sim.loads[0].longest_wait_ns = 0;
    sim.run(200 * MS);
    assert!(sim.loads[0].longest_wait_ns <= 2 * MS, "{}", sim.loads[0].longest_wait_ns);
}

#[test]
fn sleeping_for_an_instant_does_not_pay() {
    // It has nothing to do for a moment after each of its turns.
    let mut sim = Sim::new(vec![busy(1_000), busy(10).sleeping(1, 32)]);
    sim.run(5_000 * MS);
    let parts = sim.parts();
    assert!(parts[1] <= 11, "{parts:?}");
}

#[test]
fn uncontended_time_is_nobodys_debt() {
    // It sleeps for half of the time, and then wants two thirds of what it may have.
    let mut sim = Sim::new(vec![busy(100), busy(100).sleeping(10 * MS, 400)]);
    sim.run(3_000 * MS);
    assert!(sim.loads[1].longest_wait_ns <= 2 * MS, "{}", sim.loads[1].longest_wait_ns);
}

#[test]
fn shares_that_change_count_from_then_on() {
    let mut sim = Sim::new(vec![busy(1), busy(1_000)]);
    sim.run(3_000 * MS);
    let _ = sim.parts();
    sim.loads[0].terms.shares = 1_000;
    sim.run(500 * MS);
    assert_near(&sim.parts(), &[500, 500]);
    sim.loads[1].terms.shares = 250;
    sim.run(500 * MS);
    assert_near(&sim.parts(), &[800, 200]);
}

#[test]
fn a_goal_is_met_beside_many_within_its_share_and_starves_nobody() {
    // A millisecond of each thirty or so, in several turns: less than its share, which is a tenth. The others have polls of three milliseconds.
    let mut loads = vec![busy(100).goal(5 * MS).sleeping(27 * MS, 100)];
    loads.extend((0..9).map(|_| busy(100).per_poll(3 * MS)));
    let mut sim = Sim::new(loads.clone());
    sim.run(3_000 * MS);
    assert!(sim.loads[0].longest_wait_ns <= 8 * MS, "{}", sim.loads[0].longest_wait_ns);
    loads[0].terms.latency_goal_ns = None;
    let mut without = Sim::new(loads.clone());
    without.run(3_000 * MS);
    assert!(without.loads[0].longest_wait_ns > 20 * MS, "the goal makes a difference");
    // Greedy: its part is what its shares say, and ten milliseconds.
    loads[0] = busy(100).goal(MS);
    let mut greedy = Sim::new(loads);
    greedy.run(1_000 * MS);
    let got = greedy.loads[0].got_ns;
    assert!(got.abs_diff(100 * MS) <= 14 * MS, "{got}");
}

#[test]
fn a_newcomer_waits_for_a_turn_of_each_other_and_for_what_those_with_goals_may_borrow() {
    for goals in [0, 1, 3] {
        // Those with goals wake with the newcomer, and have borrowed nothing yet.
        let mut loads = vec![busy(100); 3];
        let woken = busy(100).sleeping(100 * MS, u64::MAX);
        loads.extend((0..goals).map(|_| woken.clone().goal(MS)));
        loads.push(woken);
        loads.iter_mut().for_each(|load| load.wakes_at = 100 * MS);
        let mut sim = Sim::new(loads);
        sim.run(300 * MS);
        let waited_ns = sim.loads[3 + goals].longest_wait_ns;
        let turns_ns = (3 + goals as u64) * sim.longest_turn_ns;
        assert!(waited_ns <= turns_ns + goals as u64 * BORROW_NS, "{waited_ns} beside {goals}");
        assert_eq!(waited_ns > turns_ns, goals > 0, "what they borrow comes before it: {waited_ns} beside {goals}");
    }
}

/// Classes that can always run, some with long polls and some with short ones, beside one with a goal that sleeps.
#[test]
fn shares_that_change_all_the_time_are_followed_within_the_bound() {
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let others = rng.usize(2..6);
        let mut sim = Sim::new((0..others).map(|_| busy(100).per_poll(10_u64.pow(rng.u32(3..7)))).collect());
        let goal = busy(rng.u32(1..=10_000)).goal(rng.u64(1..20) * MS);
        sim.loads.push(goal.sleeping(rng.u64(1..30 * MS), rng.u64(1..300)));
        for _ in 0..10 {
            for load in &mut sim.loads[..others] {
                load.terms.shares = 10_u32.pow(rng.u32(0..5));
            }
            // The debts of before, in the terms of now.
            sim.turn();
            let before: Vec<u64> = sim.loads.iter().map(|load| load.got_ns).collect();
            sim.run(rng.u64(1..300) * MS);
            // What each got, and what it may be apart by the proof, over its shares.
            let per_share = |load: usize, ns: u64| ns as f64 / f64::from(sim.loads[load].terms.shares);
            let got = |load: usize| per_share(load, sim.loads[load].got_ns - before[load]);
            let slack = |load: usize| per_share(load, 2 * sim.longest_turn_ns);
            for (a, b) in (0..others).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let apart = (got(a) - got(b)).abs();
                // And a thousandth of a millisecond for rounding.
                assert!(apart <= slack(a) + slack(b) + 1_000.0, "{a} and {b} are {apart} ns apart, seed {seed}");
            }
        }
    }
}

#[test]
fn with_a_clock_that_stands_still_polls_are_shared() {
    let mut sim = Sim::new(vec![busy(100).per_poll(0), busy(300).per_poll(0)]);
    let mut turns = [0_u32; 2];
    for _ in 0..4_000 {
        let terms: Vec<_> = sim.loads.iter().map(|load| load.terms).collect();
        let choice = sim.fair.choose(0b11, 7, POLLS, |class| terms[class]);
        turns[choice.class] += 1;
        let (class, polls) = (choice.class, choice.polls);
        sim.fair.charge(Turn { class, began_ns: 7, ended_ns: 7, polls, is_runnable: true });
    }
    assert!(turns[0].abs_diff(1_000) < 10, "{turns:?}");
}

#[test]
fn virtual_time_does_not_run_over_in_a_hundred_thousand_years() {
    const YEAR: u64 = 365 * 24 * 3_600 * 1_000 * MS;
    let mut fair = Fair::new();
    let terms = |class: usize| Terms { shares: [1, 2][class], latency_goal_ns: None };
    let mut turns = [0_u32; 2];
    for _ in 0..300_000 {
        let class = fair.choose(0b11, 0, POLLS, terms).class;
        turns[class] += 1;
        // Turns of a third of a year.
        fair.charge(Turn { class, began_ns: 0, ended_ns: YEAR / 3, polls: 1, is_runnable: true });
    }
    assert!(turns[0].abs_diff(100_000) < 10, "{turns:?}");
}

/// The proof's bounds, for random loads whose terms change in the middle.
#[test]
fn random_loads_keep_the_bounds() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let loads = (0..rng.usize(2..8)).map(|_| {
            let mut load = busy(10_u32.pow(rng.u32(0..5))).per_poll(10_u64.pow(rng.u32(2..7)));
            if rng.bool() {
                load = load.sleeping(rng.u64(1..50 * MS), rng.u64(1..200));
            }
            if rng.u8(..3) == 0 {
                load = load.goal(rng.u64(1..50) * MS);
            }
            load
        });
        let mut sim = Sim::new(loads.collect());
        for _ in 0..3 {
            check_leads(&mut sim);
            let changed = rng.usize(..sim.loads.len());
            sim.loads[changed].terms.shares = rng.u32(1..=10_000);
        }
    }
}

fn check_leads(sim: &mut Sim) {
    for _ in 0..2_000 {
        let before = sim.fair.floor;
        sim.turn();
        assert!(sim.fair.floor >= before, "the floor falls");
        for load in 0..sim.loads.len() {
            let account = &sim.fair.accounts[load];
            if account.shares != sim.loads[load].terms.shares {
                continue;
            }
            let borrowed = if sim.loads[load].terms.latency_goal_ns.is_some() { BORROW_NS } else { 0 };
            // One more for what rounding adds when shares change.
            let most = weighted(sim.longest_turn_ns + borrowed, account.shares) + 2;
            assert!(account.lead(sim.fair.floor) <= most, "class {load} is too far ahead");
        }
    }
}
