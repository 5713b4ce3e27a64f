//! The thread that watches over time slices; see the [protocol](ipiq_fabric::slice).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle as ThreadHandle};
use std::time::{Duration, Instant};

use ipiq_fabric::slice::Progress;
use ipiq_fabric::{CoreId, Fabric};
use ipiq_linux::interrupt::Interrupts;

/// Looks per slice.
const LOOKS: u32 = 2;
/// Looks that find all cores asleep before the watcher sleeps too: a core that wakes it pays a system call.
const PATIENCE: u32 = 8;

/// The watcher, as its runtime has it. Dropped, it ends; `join` waits for that.
pub(crate) struct Slices {
    bell: Arc<Bell>,
    thread: Option<ThreadHandle<()>>,
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
    pub(crate) fn start(
        fabric: Fabric,
        slice: Duration,
        bell: Arc<Bell>,
        interrupts: Option<Arc<Interrupts>>,
    ) -> io::Result<Self> {
        let watched = bell.clone();
        let watch = move || {
            if let Some(interrupts) = interrupts {
                interrupts.keep_out();
            }
            Watcher::new(fabric, slice).run(&watched);
        };
        let thread = thread::Builder::new().name("ipiq-slices".into()).spawn(watch)?;
        Ok(Self { bell, thread: Some(thread) })
    }

    /// Ends the watcher and waits for its thread.
    pub(crate) fn join(mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the runtime would go on without slices.
            drop(thread.join());
        }
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        self.bell.end();
    }
}

struct Watcher {
    fabric: Fabric,
    slice: Duration,
    /// Each core's turn, and when it was first seen.
    turns: Vec<Option<(u64, Instant)>>,
}

impl Watcher {
    fn new(fabric: Fabric, slice: Duration) -> Self {
        let turns = vec![None; fabric.cores()];
        Self { fabric, slice, turns }
    }

    fn run(mut self, bell: &Bell) {
        let mut idle_looks = 0;
        while bell.pause(self.slice / LOOKS) {
            idle_looks = if self.look(Instant::now()) { 0 } else { idle_looks + 1 };
            if idle_looks >= PATIENCE {
                if !bell.sleep(|| self.is_anyone_awake()) {
                    return;
                }
                idle_looks = 0;
            }
        }
    }

    /// One look at every core. Returns whether any is awake.
    fn look(&mut self, now: Instant) -> bool {
        for (index, seen) in self.turns.iter_mut().enumerate() {
            let core = CoreId::new(index);
            *seen = match (self.fabric.progress(core), *seen) {
                (Progress::Turn(turn), Some((same, since))) if turn == same => {
                    if now - since >= self.slice {
                        self.fabric.end_slice(core);
                    }
                    Some((turn, since))
                }
                (Progress::Turn(turn), _) => Some((turn, now)),
                _ => None,
            };
        }
        self.turns.iter().any(Option::is_some)
    }

    fn is_anyone_awake(&self) -> bool {
        (0..self.fabric.cores()).any(|index| matches!(self.fabric.progress(CoreId::new(index)), Progress::Turn(_)))
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
