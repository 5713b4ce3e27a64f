//! One core's queues of tasks that can run, and its turns.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};

use async_task::Runnable;

use super::MAX_CLASSES;
use super::policy::{Fair, Turn, bits};
use crate::Executor;
use crate::prefetch::prefetch;
use crate::task::Meta;

/// How many tasks ahead of the next one a task's lines are asked for: a long queue no longer lies in a cache, and the atomic operations of a
/// first poll do not overlap with its misses.
const AHEAD: usize = 4;

/// Tasks of one class, oldest first.
type Queue = RefCell<VecDeque<Runnable<Meta>>>;

/// The queues of a core.
pub(crate) struct Queues {
    queues: [Queue; MAX_CLASSES],
    /// Only the default class has ever had tasks here, and the core does not end: nothing else is looked at.
    is_plain: Cell<bool>,
    /// Classes beside the default one whose queue is not empty.
    runnable: Cell<u32>,
    /// Classes beside the default one that have had tasks here.
    used: Cell<u32>,
    fair: RefCell<Fair>,
}

impl Queues {
    pub(crate) fn new() -> Self {
        Self {
            queues: [const { RefCell::new(VecDeque::new()) }; MAX_CLASSES],
            is_plain: Cell::new(true),
            runnable: Cell::new(0),
            used: Cell::new(0),
            fair: RefCell::new(Fair::new()),
        }
    }

    #[inline(always)]
    fn of_default(&self) -> &Queue {
        &self.queues[0]
    }

    /// Classes whose queue is not empty.
    fn runnable(&self) -> u32 {
        self.runnable.get() | u32::from(!self.of_default().borrow().is_empty())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runnable() == 0
    }

    fn len(&self, class: usize) -> usize {
        self.queues[class].borrow().len()
    }

    /// How many tasks can run.
    #[inline(always)]
    pub(crate) fn ready(&self) -> usize {
        if self.is_plain.get() { self.len(0) } else { bits(self.used.get() | 1).map(|class| self.len(class)).sum() }
    }

    /// From now on every turn looks whether the core ends.
    pub(crate) fn close(&self) {
        self.is_plain.set(false);
    }
}

impl Executor {
    /// [classes C2]
    #[inline(always)]
    pub(crate) fn enqueue(&self, runnable: Runnable<Meta>) {
        // [classes C2]
        if runnable.metadata().class() == 0 {
            self.queues().of_default().borrow_mut().push_back(runnable);
        } else {
            self.enqueue_in_class(runnable);
        }
    }

    #[inline(never)]
    fn enqueue_in_class(&self, runnable: Runnable<Meta>) {
        let (queues, class) = (self.queues(), usize::from(runnable.metadata().class()));
        queues.queues[class].borrow_mut().push_back(runnable);
        queues.runnable.set(queues.runnable.get() | 1 << class);
        if queues.used.get() & 1 << class == 0 {
            queues.used.set(queues.used.get() | 1 << class);
            queues.is_plain.set(false);
            self.classes().set_used(queues.used.get());
        }
    }

    /// One turn: polls up to `budget` tasks of one class, fewer if something waits for a safe point. Returns how many it polled.
    #[inline(always)]
    pub(crate) fn run_tasks(&self, budget: u32) -> u32 {
        let polled =
            if self.queues().is_plain.get() { self.run_queue(0, budget, |_| ()) } else { self.run_some_class(budget) };
        self.activity().polls_nothing(polled as usize + self.queues().ready());
        polled
    }

    #[inline(never)]
    fn run_some_class(&self, budget: u32) -> u32 {
        let runnable = self.queues().runnable();
        if self.core().is_closing() {
            // [loop E1] shares matter no more.
            return bits(runnable).map(|class| self.run_class(class, budget, Meta::cancel)).sum();
        }
        // [classes C3]
        match runnable.count_ones() {
            0 => 0,
            1 => {
                let class = runnable.trailing_zeros() as usize;
                self.queues().fair.borrow_mut().runs_alone(class);
                self.run_class(class, budget, |_| ())
            }
            _ => self.run_contended(runnable, budget),
        }
    }

    /// [classes C3] to [classes C6]
    fn run_contended(&self, runnable: u32, budget: u32) -> u32 {
        let began_ns = self.now_ns();
        let table = self.remote().classes();
        let terms = |class| {
            let terms = table.get(class).expect("a class that has tasks is in the table");
            terms.policy()
        };
        let choice = self.queues().fair.borrow_mut().choose(runnable, began_ns, budget, terms);
        let class = choice.class;
        let polls = self.run_class(class, choice.polls, |_| ());
        let ended_ns = self.now_ns();
        let left = self.queues().len(class);
        let turn = Turn { class, began_ns, ended_ns, polls, is_runnable: left > 0 };
        self.queues().fair.borrow_mut().charge(turn);
        self.classes().contended(class, polls, choice.waited_ns, ended_ns.saturating_sub(began_ns));
        self.classes().queued(class, left);
        polls
    }

    fn run_class(&self, class: usize, budget: u32, before: impl Fn(&Meta)) -> u32 {
        self.classes().set_running(class);
        // [classes C1]
        let outside = self.core().tag();
        self.core().set_tag(class as u8);
        let polls = self.run_queue(class, budget, before);
        self.core().set_tag(outside);
        let queues = self.queues();
        if class > 0 && queues.len(class) == 0 {
            queues.runnable.set(queues.runnable.get() & !(1 << class));
        }
        polls
    }

    /// [loop L2]
    #[inline(always)]
    fn run_queue(&self, class: usize, budget: u32, before: impl Fn(&Meta)) -> u32 {
        let queue = &self.queues().queues[class];
        let (mut left, mut begun) = (budget, 0);
        while left > 0 {
            let Some(runnable) = next_runnable(queue) else { break };
            left -= 1;
            before(runnable.metadata());
            begun += u64::from(self.poll(runnable));
            if self.core().wants_safe_point() {
                break;
            }
        }
        self.count_polls(budget - left, begun);
        self.classes().polled(class, budget - left);
        budget - left
    }

    /// Tells how many tasks can run.
    pub(crate) fn count_queued(&self) {
        let queues = self.queues();
        bits(queues.used.get() | 1).for_each(|class| self.classes().queued(class, queues.len(class)));
    }
}

#[inline(always)]
fn next_runnable(queue: &Queue) -> Option<Runnable<Meta>> {
    let mut queue = queue.borrow_mut();
    let next = queue.pop_front()?;
    if let Some(later) = queue.get(AHEAD) {
        prefetch(later.metadata());
    }
    Some(next)
}
