#![doc = include_str!("README.md")]

mod lifecycle;
mod meter;
mod spin;

use ipiq_fabric::Served;
use ipiq_fabric::port::Idle;

use crate::Executor;
use crate::time::Look;
pub(crate) use lifecycle::Departure;
pub use lifecycle::{Admitted, LeaveError, Lifecycle, ReturnError};
use meter::Meter;
pub(crate) use spin::Spin;
pub use spin::SpinPolicy;

/// Messages of one source per tick.
const MESSAGE_BUDGET: u32 = 64;
/// Messages of foreign threads per tick.
const FOREIGN_BUDGET: u32 = 64;
/// Polls of tasks per tick.
const TASK_BUDGET: u32 = 32;
/// Polls, or idle ticks, between two looks at timers and I/O.
const CREDIT: u32 = 64;
/// Such looks between two at what other cores have not run yet.
const WATCH_LOOKS: u32 = 1024;

/// What the loop remembers between ticks.
struct Turn {
    credit: i64,
    /// Idle ticks in a row.
    idle_ticks: u32,
    /// Start of the gap, once it was worth a look at the clock.
    idle_since_ns: Option<u64>,
    /// Looks at timers and I/O.
    looks: u32,
    /// The last look at I/O found something.
    io_active: bool,
    /// The last look at timers left some that are due.
    timers_due: bool,
    /// What is to be done now is what timers woke in a gap.
    by_timers: bool,
    /// The last look found that the core is to end.
    ending: bool,
    meter: Meter,
}

impl Turn {
    fn new() -> Self {
        Self {
            credit: i64::from(CREDIT),
            idle_ticks: 0,
            idle_since_ns: None,
            looks: 0,
            io_active: false,
            timers_due: false,
            by_timers: false,
            ending: false,
            meter: Meter::new(),
        }
    }

    /// Counts an idle tick. Returns whether it is one of those in which an idle core looks outside.
    #[inline(always)]
    fn count_idle(&mut self) -> bool {
        // A core that never sleeps makes more of them in a row than the count holds, in an hour of a debug build.
        self.idle_ticks = self.idle_ticks.wrapping_add(1);
        self.idle_ticks.is_multiple_of(CREDIT) || self.io_active || self.timers_due
    }
}

impl Executor {
    /// Runs the core until its [`Remote`](crate::Remote) is told to stop, then shuts it down (E1 to E4); or until the core is asked to
    /// [leave](crate::Remote::leave): then it ends its tasks (D1 to D3), and leaves when this is dropped.
    ///
    /// # Panics
    ///
    /// If the calling thread runs a core already, and if this core has replicas already: the caller may be in the middle of a read of one, and
    /// the loop replaces their values.
    pub fn run(&self, idle: &mut dyn Idle) {
        assert!(!self.core().has_replicas(), "a core's replicas are made, and let go, inside its loop");
        let _entered = self.enter();
        let _accepting = self.core().accept_interrupts();
        let mut turn = Turn::new();
        self.counts().up.begin(self.now_ns());
        while !turn.ending {
            if turn.credit <= 0 {
                // [loop L4]
                turn.credit = i64::from(CREDIT);
                turn.by_timers &= self.look_outside(idle, &mut turn);
            }
            let worked = self.work();
            if worked > 0 {
                if !turn.by_timers {
                    self.end_gap(&mut turn);
                }
                turn.credit -= worked as i64;
            } else {
                self.idle_tick(idle, &mut turn);
            }
        }
        turn.meter.works(self.counts());
        if self.lifecycle.is_stopping() {
            self.shut_down();
        } else {
            self.leave();
        }
        self.tell();
        self.count_queued();
        self.counts().up.end(self.now_ns());
    }

    /// [loop L1] to [loop L3]. Returns how much was done. Called by the loop alone: nothing else is on the stack.
    #[inline(always)]
    fn work(&self) -> usize {
        // [xcall C1] before the safe point: a stop that executes what was sent finds no broadcast without its own part.
        let own = self.run_own_calls();
        // [loop L0]
        // SAFETY: 1. `run` is entered once per thread (`enter`), and calls this, itself or by `shut_down`, outside of polls and
        // drains. 2. the loop holds no reference from a task or a message, and when `run` began there was no replica to hold one of.
        let stopped = match unsafe { self.core().safe_point() } {
            Served::Nothing => 0,
            Served::Something => 1,
            // [loop L4] few polls may have taken long.
            Served::SliceOver => CREDIT as usize,
        };
        // [loop L1]
        let messages = self.core().drain(MESSAGE_BUDGET) + self.core().drain_foreign(FOREIGN_BUDGET);
        // [loop L2]
        let polls = self.run_tasks(TASK_BUDGET) as usize;
        // [loop L3]
        let moved = self.core().flush();
        (own + messages).div_ceil(4) + stopped + polls + moved
    }

    /// [loop L4]: timers, I/O and the end. Returns whether a timer fired, or more are due.
    fn look_outside(&self, idle: &mut dyn Idle, turn: &mut Turn) -> bool {
        let timers = if self.timers().is_empty() { Look::default() } else { self.timers().look(self.now_ns()) };
        turn.timers_due = timers.more;
        self.counts().timers_fired.add(u64::from(timers.fired));
        // After the timers, whose wake-ups fill the queue.
        self.tell();
        turn.io_active = idle.poll() > 0;
        turn.ending = self.lifecycle.is_ending(self.core().id());
        self.count_queued();
        turn.looks = turn.looks.wrapping_add(1);
        if turn.looks.is_multiple_of(WATCH_LOOKS) {
            // [loop L7]
            self.core().watch();
        }
        timers.fired > 0 || timers.more
    }

    fn end_gap(&self, turn: &mut Turn) {
        if turn.idle_ticks > 0 {
            self.core().set_resting(false);
            self.spin.short_gap();
            turn.meter.works(self.counts());
            turn.idle_ticks = 0;
            turn.idle_since_ns = None;
        }
    }

    /// [loop L5]
    #[inline(always)]
    fn idle_tick(&self, idle: &mut dyn Idle, turn: &mut Turn) {
        self.core().set_resting(true);
        turn.by_timers = false;
        if !turn.count_idle() && !self.spin.is_off() {
            return core::hint::spin_loop();
        }
        // [loop L5]
        turn.by_timers = self.look_outside(idle, turn);
        if turn.io_active {
            return self.end_gap(turn);
        }
        if turn.by_timers {
            turn.meter.works(self.counts());
            return self.core().set_resting(false);
        }
        turn.credit = i64::from(CREDIT);
        let now = self.now_ns();
        turn.meter.idles(self.counts(), now);
        let since = *turn.idle_since_ns.get_or_insert(now);
        // [loop L5]
        if self.spin.is_over(now - since) {
            self.sleep(idle, now, &mut turn.meter);
            self.core().set_resting(false);
            let woken = self.now_ns();
            turn.meter.wakes(self.counts(), woken);
            self.spin.gap(woken - since);
            turn.idle_ticks = 0;
            turn.idle_since_ns = None;
            // Look at what woke it, and at `stop`.
            turn.credit = 0;
        }
    }

    /// [loop L6]
    fn sleep(&self, idle: &mut dyn Idle, mut now: u64, meter: &mut Meter) {
        if self.spin.yields() {
            self.core().port().relax(u32::MAX);
            let before = core::mem::replace(&mut now, self.now_ns());
            meter.idles(self.counts(), now);
            if self.work() > 0 {
                return meter.works(self.counts());
            }
            self.spin.yielded_in_vain(now - before);
        }
        let timer = self.timers().sleep_ns(now);
        if timer == Some(0) {
            return;
        }
        // [loop L7]
        let watch = self.core().watch();
        let timeout = timer.into_iter().chain(watch).min();
        // [loop L6]
        let armed = self.core().arm(|| !self.has_runnable() && !self.lifecycle.is_ending(self.core().id()));
        if let Some(armed) = armed {
            meter.parks(self.counts());
            idle.park(&armed, timeout);
        }
    }

    /// [loop L0] to [loop L3], while others may need the CPU. `turn` counts rounds without work.
    fn serve(&self, turn: &mut u32) {
        if self.work() > 0 {
            *turn = 0;
        } else {
            self.core().port().relax(*turn);
            *turn = turn.saturating_add(1);
        }
    }

    fn shut_down(&self) {
        let mut turn = 0;
        self.cuts().start();
        self.cancel_all();
        while self.tasks().len() > 0 || self.has_runnable() {
            self.serve(&mut turn);
        }
        self.cuts().tell();
        // [loop E2]
        self.lifecycle.arrive(0);
        while !self.lifecycle.all_arrived(0) {
            self.serve(&mut turn);
        }
        // [loop E3]
        self.core().drain_all(u32::MAX);
        self.core().flush();
        while self.core().has_overflow() || self.has_runnable() {
            self.serve(&mut turn);
        }
        self.lifecycle.arrive(1);
        while !self.lifecycle.all_arrived(1) {
            self.serve(&mut turn);
        }
        // [loop E4]
        self.core().drain_all(u32::MAX);
        while self.core().drain_foreign(u32::MAX) > 0 || self.has_runnable() {
            self.run_what_is_here();
        }
    }

    /// Everything in the core's own queues, what that adds included.
    fn run_what_is_here(&self) {
        while self.has_runnable() {
            self.run_own_calls();
            self.run_tasks(u32::MAX);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_never_sleeps_looks_outside_for_ever() {
        let mut turn = Turn { idle_ticks: u32::MAX - 2 * CREDIT, ..Turn::new() };
        let looks = (0..4 * CREDIT).filter(|_| turn.count_idle()).count();
        assert_eq!(looks, 4);
    }
}
