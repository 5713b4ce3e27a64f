#![doc = include_str!("README.md")]

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipiq_executor::{Executor, with_current};
use ipiq_fabric::port::{Clock, Idle};
use ipiq_fabric::{Armed, CoreId};
use ipiq_linux::interrupt::critical;
use ipiq_linux::kick::Kick;
use ipiq_linux::port::LinuxPort;

use crate::idle::DriverIdle;

thread_local! {
    static CLOCK: RefCell<Option<Arc<PausedClock>>> = const { RefCell::new(None) };
}

/// The clock of the calling core, if it is such a one.
pub(crate) fn current() -> Option<Arc<PausedClock>> {
    CLOCK.with_borrow(Clone::clone)
}

/// The time of a runtime in a test.
pub(crate) struct PausedClock {
    now_ns: AtomicU64,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    cores: Vec<Sleeper>,
    asleep: usize,
    /// A round is under way in which nothing has happened.
    quiet: bool,
}

#[derive(Clone, Default)]
struct Sleeper {
    /// What ends its wait; it cannot sleep before it is there.
    notifier: Option<Arc<dyn Kick>>,
    asleep: bool,
    roused: bool,
    timer_ns: Option<u64>,
    /// It sleeps no more, and nobody waits for that.
    out: bool,
}

impl Clock for PausedClock {
    fn now_ns(&self) -> u64 {
        // Relaxed: who is roused for a new time takes the lock, or is kicked, after it was set.
        self.now_ns.load(Ordering::Relaxed)
    }

    fn grid_ns(&self) -> u64 {
        1
    }
}

impl PausedClock {
    pub(crate) fn new(cores: usize) -> Self {
        let cores = std::iter::repeat_with(Sleeper::default).take(cores).collect();
        Self { now_ns: AtomicU64::new(0), state: Mutex::new(State { cores, asleep: 0, quiet: false }) }
    }

    pub(crate) fn set_notifier(&self, core: CoreId, notifier: Arc<dyn Kick>) {
        self.with_state(|state| state.cores[core.index()].notifier = Some(notifier));
    }

    /// [paused P5]
    pub(crate) fn advance(&self, by: Duration) {
        let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.with_state(|state| {
            // One before the last: what never comes does not come.
            let now_ns = self.now_ns().saturating_add(by_ns).min(u64::MAX - 1);
            self.now_ns.store(now_ns, Ordering::Relaxed);
            // [paused P5]
            state.quiet = false;
            state.rouse_all();
        });
    }

    /// Runs `f` with the lock. No urgent handler comes in between on this thread: one that triggers another kicks, which takes the lock too.
    fn with_state<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        critical(|| f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Whether `core` is to wait; it has `worked` since the last time, or not.
    fn fall_asleep(&self, core: CoreId, timeout_ns: Option<u64>, worked: bool) -> bool {
        self.with_state(|state| {
            // [paused P4]
            state.quiet &= !worked;
            // [paused P1]
            let sleeper = &mut state.cores[core.index()];
            sleeper.timer_ns = timeout_ns.map(|timeout_ns| self.now_ns().saturating_add(timeout_ns));
            if sleeper.roused {
                return false;
            }
            if state.asleep + 1 == state.present() {
                self.all_are_asleep(state);
            }
            let sleeper = &mut state.cores[core.index()];
            sleeper.asleep = !sleeper.roused;
            let falls_asleep = sleeper.asleep;
            state.asleep += usize::from(falls_asleep);
            falls_asleep
        })
    }

    fn all_are_asleep(&self, state: &mut State) {
        if !state.quiet {
            // [paused P2]
            state.quiet = true;
            return state.rouse_all();
        }
        // [paused P3]
        let Some(earliest_ns) = state.cores.iter().filter_map(|core| core.timer_ns).min() else { return };
        state.quiet = false;
        self.now_ns.store(earliest_ns.max(self.now_ns()), Ordering::Relaxed);
        for core in 0..state.cores.len() {
            if state.cores[core].timer_ns == Some(earliest_ns) {
                state.rouse(core);
            }
        }
    }

    /// [paused P7]
    pub(crate) fn come_back(&self, core: CoreId) {
        // [paused P7]
        self.with_state(|state| {
            state.quiet = false;
            state.cores[core.index()].out = false;
        });
    }

    /// [paused P6]
    pub(crate) fn leave(&self, core: CoreId) {
        self.with_state(|state| {
            // [paused P6]
            let notifier = state.cores[core.index()].notifier.take();
            state.cores[core.index()] = Sleeper { out: true, notifier, ..Sleeper::default() };
            state.quiet = false;
            if state.asleep > 0 && state.asleep == state.present() {
                self.all_are_asleep(state);
            }
        });
    }

    fn something_happened(&self) {
        // [paused P4]
        self.with_state(|state| state.quiet = false);
    }

    /// After `core` has waited, or has not; `events` of I/O came meanwhile.
    fn wake(&self, core: CoreId, events: usize) {
        self.with_state(|state| {
            let by_itself = state.set_awake(core.index());
            state.cores[core.index()].roused = false;
            if by_itself || events > 0 {
                // [paused P4]
                state.quiet = false;
            }
        });
    }
}

impl State {
    /// How many cores have not left.
    fn present(&self) -> usize {
        self.cores.iter().filter(|core| !core.out).count()
    }

    fn rouse_all(&mut self) {
        (0..self.cores.len()).for_each(|core| self.rouse(core));
    }

    /// From here on it counts as awake, although its thread has yet to run. One that is awake is not notified: its next wait would end by itself.
    fn rouse(&mut self, core: usize) {
        let was_asleep = self.set_awake(core);
        let sleeper = &mut self.cores[core];
        sleeper.roused = true;
        if let Some(notifier) = sleeper.notifier.as_ref().filter(|_| was_asleep) {
            notifier.kick();
        }
    }

    /// Returns whether it was asleep.
    fn set_awake(&mut self, core: usize) -> bool {
        let was_asleep = std::mem::take(&mut self.cores[core].asleep);
        self.asleep -= usize::from(was_asleep);
        was_asleep
    }
}

/// Ends a wait of a core with such a clock.
pub(crate) struct PausedKick {
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) core: CoreId,
}

impl Kick for PausedKick {
    fn kick(&self) {
        self.clock.with_state(|state| {
            // [paused P4]
            state.quiet = false;
            state.rouse(self.core.index());
        });
    }
}

/// Sleeps in the driver's wait; the clock goes on when all do.
pub(crate) struct PausedIdle {
    idle: DriverIdle,
    clock: Arc<PausedClock>,
    core: CoreId,
    /// When it last fell asleep.
    done: Done,
}

/// How much a core has done of what others than I/O and its timers may have caused.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Done {
    polls: u64,
    foreign_messages: u64,
    handlers: u64,
}

impl Done {
    fn so_far(executor: &Executor) -> Self {
        let counters = executor.remote().fabric().core_counters(executor.core().id());
        Self { polls: executor.polls(), foreign_messages: counters.foreign_received, handlers: counters.handlers_run }
    }
}

impl PausedIdle {
    /// For the calling thread, which runs `core`.
    pub(crate) fn new(idle: DriverIdle, clock: Arc<PausedClock>, core: CoreId) -> Self {
        CLOCK.set(Some(clock.clone()));
        Self { idle, clock, core, done: Done::default() }
    }
}

impl Drop for PausedIdle {
    fn drop(&mut self) {
        self.clock.leave(self.core);
        CLOCK.set(None);
    }
}

impl Idle for PausedIdle {
    fn poll(&mut self) -> usize {
        let events = self.idle.poll();
        if events > 0 {
            self.clock.something_happened();
        }
        events
    }

    fn park(&mut self, armed: &Armed<'_>, timeout_ns: Option<u64>) {
        let done = with_current(LinuxPort::thread(), Done::so_far).unwrap_or_default();
        let worked = std::mem::replace(&mut self.done, done) != done;
        let waits = self.clock.fall_asleep(self.core, timeout_ns, worked);
        let events = if waits { self.idle.wait(armed, None) } else { 0 };
        self.clock.wake(self.core, events);
    }
}
