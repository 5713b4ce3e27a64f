//! The thread that watches over time slices and stalls; see the protocols: [`slice`](ipiq_fabric::slice), [`stalls`](crate::stalls).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle as ThreadHandle};
use std::time::{Duration, Instant};

use ipiq_fabric::slice::Progress;
use ipiq_fabric::{CoreId, Fabric};
use ipiq_linux::interrupt::Interrupts;

use crate::stalls::{Inspect, Seen, StallWatch, Stalls, Teller};

/// Looks per slice.
const LOOKS: u32 = 2;
/// The longest time between two looks while some core is awake: a class's slice or goal that is set meanwhile is seen at the next look.
const LONGEST_PERIOD: Duration = Duration::from_millis(100);
/// Looks that find all cores asleep before the watcher sleeps too: a core that wakes it pays a system call.
const PATIENCE: u32 = 8;

/// The watcher, as its runtime has it. Dropped, it ends; `join` waits for that.
pub(crate) struct Slices {
    bell: Arc<Bell>,
    thread: Option<ThreadHandle<()>>,
    teller: Option<Teller>,
}

/// How cores wake the watcher.
#[derive(Default)]
pub(crate) struct Bell {
    sleeps: AtomicBool,
    ended: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    /// By a core that is awake, when it has woken and now and then.
    #[inline]
    pub(crate) fn ring(&self) {
        // Relaxed: `doorbell` K5 has fenced. One that comes while the core is awake is heard at its next look.
        if self.sleeps.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let _ended = self.lock();
        self.sleeps.store(false, Ordering::Relaxed);
        self.rung.notify_all();
    }

    fn end(&self) {
        *self.lock() = true;
        self.rung.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to go on, after `period`.
    fn pause(&self, period: Duration) -> bool {
        let waited = self.rung.wait_timeout_while(self.lock(), period, |ended| !*ended);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether to go on, once a core has rung, unless one is awake already.
    fn sleep(&self, is_anyone_awake: impl Fn() -> bool) -> bool {
        self.sleeps.store(true, Ordering::Relaxed);
        // Pairs with the fence by which a core wakes (`doorbell` K5): its next ring sees `sleeps`, or this look sees it awake.
        fence(Ordering::SeqCst);
        if is_anyone_awake() {
            self.sleeps.store(false, Ordering::Relaxed);
            return true;
        }
        let asleep = |ended: &mut bool| !*ended && self.sleeps.load(Ordering::Relaxed);
        !*self.rung.wait_while(self.lock(), asleep).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slices {
    /// `None`: there is nothing to watch for.
    pub(crate) fn start(
        inspect: Arc<Inspect>,
        slice: Option<Duration>,
        stalls: Stalls,
        bell: Arc<Bell>,
        interrupts: Option<Arc<Interrupts>>,
    ) -> io::Result<Option<Self>> {
        let (stalls, teller) = StallWatch::start(stalls, &inspect, interrupts.clone())?.unzip();
        if slice.is_none() && stalls.is_none() {
            return Ok(None);
        }
        let watched = bell.clone();
        let watch = move || {
            if let Some(interrupts) = interrupts {
                interrupts.keep_out();
            }
            Watcher { inspect, slice, stalls }.run(&watched);
        };
        let thread = thread::Builder::new().name("ipiq-slices".into()).spawn(watch)?;
        Ok(Some(Self { bell, thread: Some(thread), teller }))
    }

    /// Ends the watcher and waits for its thread.
    pub(crate) fn join(mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the runtime would go on without slices.
            drop(thread.join());
        }
        self.teller.take().into_iter().for_each(Teller::join);
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        self.bell.end();
    }
}

struct Watcher {
    inspect: Arc<Inspect>,
    slice: Option<Duration>,
    stalls: Option<StallWatch>,
}

impl Watcher {
    fn run(mut self, bell: &Bell) {
        let mut idle_looks = 0;
        while bell.pause(self.period()) {
            idle_looks = if self.look(Instant::now()) { 0 } else { idle_looks + 1 };
            if idle_looks >= PATIENCE {
                if !bell.sleep(|| self.is_anyone_awake()) {
                    break;
                }
                idle_looks = 0;
            }
        }
        self.stalls.into_iter().for_each(StallWatch::end);
    }

    fn period(&self) -> Duration {
        let slice = self.slice.map(|slice| self.inspect.remote().shortest_turn_limit(slice) / LOOKS);
        let slice = slice.map(|period| period.min(LONGEST_PERIOD));
        let stall = self.stalls.as_ref().map(StallWatch::period);
        slice.into_iter().chain(stall).min().unwrap_or(Duration::MAX)
    }

    /// One look at every core. Returns whether any is awake.
    fn look(&mut self, now: Instant) -> bool {
        let inspect = self.inspect.clone();
        let mut turns = inspect.turns();
        for (index, seen) in turns.iter_mut().enumerate() {
            let core = CoreId::new(index);
            *seen = Seen::next(*seen, self.fabric().progress(core), now);
            let Some(seen) = seen else { continue };
            if let Some(slice) = self.slice
                && seen.age(now) >= inspect.remote().turn_limit(core, slice)
            {
                self.fabric().end_slice(core);
            }
            if let Some(stalls) = &mut self.stalls {
                stalls.look(core, seen, now);
            }
        }
        if let Some(stalls) = &mut self.stalls {
            stalls.collect(&mut turns, now);
        }
        turns.iter().any(Option::is_some)
    }

    fn is_anyone_awake(&self) -> bool {
        let awake = |index| matches!(self.fabric().progress(CoreId::new(index)), Progress::Turn(_));
        (0..self.fabric().cores()).any(awake)
    }

    fn fabric(&self) -> &Fabric {
        self.inspect.fabric()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_is_rung_while_its_watcher_sleeps_wakes_it() {
        let bell = Arc::new(Bell::default());
        let watcher = thread::spawn({
            let bell = bell.clone();
            move || bell.sleep(|| false)
        });
        while !watcher.is_finished() {
            bell.ring();
            thread::yield_now();
        }
        assert!(watcher.join().expect("no panic"), "go on");
    }

    #[test]
    fn the_end_comes_through_every_wait() {
        let bell = Bell::default();
        bell.end();
        assert!(!bell.pause(Duration::from_secs(3600)));
        assert!(!bell.sleep(|| false));
        assert!(bell.sleep(|| true), "it is seen at the next pause");
    }
}
