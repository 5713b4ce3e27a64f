//! Which class runs next: virtual time and latency goals. Knows no task, no queue and no clock.

use super::MAX_CLASSES;

/// Virtual time of a nanosecond of a class with one share.
const SCALE: u64 = 1024;
/// How far, in its own time, a class that is due may be ahead of its shares.
const BORROW_NS: u64 = 10_000_000;
/// How long a turn should take.
const TURN_NS: u64 = 1_000_000;

/// What a class is promised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) shares: u32,
    pub(super) latency_goal_ns: Option<u64>,
}

/// Who runs now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) class: usize,
    /// Polls for which it may run.
    pub(super) polls: u32,
    /// How long it was runnable and did not run.
    pub(super) waited_ns: u64,
}

/// A turn that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) class: usize,
    pub(super) began_ns: u64,
    pub(super) ended_ns: u64,
    pub(super) polls: u32,
    /// Its queue is not empty.
    pub(super) is_runnable: bool,
}

#[derive(Clone, Copy)]
struct Account {
    virtual_time: u128,
    /// By which it is charged; 0: it has not been runnable beside others yet.
    shares: u32,
    waits_since_ns: u64,
    /// In its last turn; before there was one, so many that it is a short one.
    ns_per_poll: u64,
}

impl Account {
    fn lead(&self, floor: u128) -> u128 {
        self.virtual_time.saturating_sub(floor)
    }
}

/// The accounts of one core.
pub(super) struct Fair {
    accounts: [Account; MAX_CLASSES],
    floor: u128,
    /// Those that were runnable and did not run, after the last contended turn.
    waiting: u32,
    /// Those that had uncontended turns since then.
    alone: u32,
    /// The end of that turn.
    last_ns: Option<u64>,
    last: usize,
}

impl Fair {
    pub(super) fn new() -> Self {
        let account = Account { virtual_time: 0, shares: 0, waits_since_ns: 0, ns_per_poll: TURN_NS };
        Self { accounts: [account; MAX_CLASSES], floor: 0, waiting: 0, alone: 0, last_ns: None, last: 0 }
    }

    /// `class` has a turn that is not contended.
    pub(super) fn runs_alone(&mut self, class: usize) {
        // [classes C3]
        self.alone |= 1 << class;
    }

    /// The class that runs now, of the two or more that are `runnable`: one bit each.
    pub(super) fn choose(
        &mut self,
        runnable: u32,
        now_ns: u64,
        most_polls: u32,
        terms: impl Fn(usize) -> Terms,
    ) -> Choice {
        self.settle(runnable, now_ns, &terms);
        // [classes C5]
        let class = self.due(runnable, now_ns, &terms).unwrap_or_else(|| self.least(runnable));
        let account = &self.accounts[class];
        // [classes C6]
        let polls = TURN_NS / account.ns_per_poll.max(1);
        self.waiting &= !(1 << class);
        self.last = class;
        Choice {
            class,
            polls: u32::try_from(polls).unwrap_or(u32::MAX).clamp(1, most_polls.max(1)),
            waited_ns: now_ns.saturating_sub(account.waits_since_ns),
        }
    }

    /// [classes C4]
    fn settle(&mut self, runnable: u32, now_ns: u64, terms: &impl Fn(usize) -> Terms) {
        if self.alone != 0 {
            // [classes C4]
            let passed_ns = self.last_ns.map_or(0, |last_ns| now_ns.saturating_sub(last_ns));
            let most = bits(self.alone).map(|class| terms(class).shares).max();
            self.floor += most.map_or(0, |shares| weighted(passed_ns, shares));
            (self.alone, self.waiting) = (0, 0);
        }
        for class in bits(runnable) {
            let account = &mut self.accounts[class];
            account.virtual_time = account.virtual_time.max(self.floor);
            if self.waiting & 1 << class == 0 {
                account.waits_since_ns = now_ns;
            }
            let shares = terms(class).shares;
            if account.shares != shares {
                let lead = account.lead(self.floor) * u128::from(account.shares) / u128::from(shares);
                (account.virtual_time, account.shares) = (self.floor + lead, shares);
            }
        }
        self.waiting = runnable;
        let least = bits(runnable).map(|class| self.accounts[class].virtual_time).min();
        self.floor = self.floor.max(least.unwrap_or(0));
    }

    /// The class whose goal is passed first, among those for which it matters now.
    fn due(&self, runnable: u32, now_ns: u64, terms: &impl Fn(usize) -> Terms) -> Option<usize> {
        let deadline = |class: usize| {
            let (account, goal_ns) = (&self.accounts[class], terms(class).latency_goal_ns?);
            let deadline_ns = account.waits_since_ns.saturating_add(goal_ns);
            let is_due = now_ns.saturating_add(TURN_NS) >= deadline_ns;
            let may_borrow = account.lead(self.floor) <= weighted(BORROW_NS, account.shares);
            (is_due && may_borrow).then_some((deadline_ns, class))
        };
        bits(runnable).filter_map(deadline).min().map(|(_, class)| class)
    }

    fn least(&self, runnable: u32) -> usize {
        // The first of equals: the next after the last.
        let after = |class: &usize| (*class + MAX_CLASSES - self.last - 1) % MAX_CLASSES;
        let least = bits(runnable).min_by_key(|class| (self.accounts[*class].virtual_time, after(class)));
        least.expect("some class is runnable")
    }

    /// Charges a turn of the class that was chosen last.
    pub(super) fn charge(&mut self, turn: Turn) {
        let account = &mut self.accounts[turn.class];
        let took_ns = turn.ended_ns.saturating_sub(turn.began_ns);
        // [classes C6]
        account.virtual_time += weighted(took_ns.max(u64::from(turn.polls)), account.shares);
        account.ns_per_poll = took_ns / u64::from(turn.polls.max(1));
        account.waits_since_ns = turn.ended_ns;
        if turn.is_runnable {
            self.waiting |= 1 << turn.class;
        }
        self.last_ns = Some(turn.ended_ns);
    }
}

/// `ns` of a class with `shares`, in virtual time.
fn weighted(ns: u64, shares: u32) -> u128 {
    // 64 bits hold half a year of one turn; a division of more is a function call.
    u128::from((ns.saturating_mul(SCALE) / u64::from(shares.max(1))).max(1))
}

/// The classes of a set, in ascending order.
pub(super) fn bits(set: u32) -> impl Iterator<Item = usize> {
    let next = |left: u32| (left != 0).then_some(left);
    core::iter::successors(next(set), move |left| next(left & (left - 1))).map(|left| left.trailing_zeros() as usize)
}

#[cfg(all(test, not(loom)))]
mod tests;
