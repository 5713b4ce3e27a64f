#![doc = include_str!("README.md")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipiq_fabric::Armed;
use ipiq_fabric::port::Idle;

/// Ends the current or the next sleep of one core.
///
/// Called by any thread, inside wakers: it must not allocate, block or lose a kick.
pub trait Kick: Send + Sync {
    /// Makes the core's current or next wait return.
    fn kick(&self);
}

/// The word of a core that sleeps in a futex.
#[derive(Debug, Default)]
pub struct FutexWord {
    token: AtomicU32,
}

impl Kick for FutexWord {
    fn kick(&self) {
        // [kick Q1] release: pairs with W1 and W3; what the kicker published is visible to the woken core.
        if self.token.swap(1, Ordering::Release) == 0 {
            // [kick Q2]
            futex_wake(&self.token);
        }
    }
}

/// Sleeps in a futex: for cores without I/O.
#[derive(Debug, Default)]
pub struct FutexIdle {
    word: Arc<FutexWord>,
}

impl FutexIdle {
    /// What ends this core's sleeps.
    #[must_use]
    pub fn kicker(&self) -> Arc<FutexWord> {
        self.word.clone()
    }

    /// Sleeps until kicked, or for `timeout_ns`.
    pub fn wait(&self, timeout_ns: Option<u64>) {
        // [kick W1]
        if self.word.token.swap(0, Ordering::Acquire) == 0 {
            // [kick W2]
            futex_wait(&self.word.token, timeout_ns);
            // [kick W3]
            self.word.token.swap(0, Ordering::Acquire);
        }
    }
}

impl Idle for FutexIdle {
    fn poll(&mut self) -> usize {
        0
    }

    fn park(&mut self, armed: &Armed<'_>, timeout_ns: Option<u64>) {
        if !armed.is_kicked() {
            self.wait(timeout_ns);
        }
    }
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: 1. the word is valid; the kernel only uses its address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

/// Sleeps while `word` is 0. Returns at any time: the caller looks again.
fn futex_wait(word: &AtomicU32, timeout_ns: Option<u64>) {
    let timeout = timeout_ns.map(|ns| libc::timespec {
        tv_sec: libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: 1. the word and the timeout outlive the call. 2. a null timeout means none.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 0, timeout) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_kick_before_the_wait_is_kept() {
        let idle = FutexIdle::default();
        idle.kicker().kick();
        idle.wait(None);
    }

    #[test]
    fn a_wait_ends_at_its_timeout() {
        let start = Instant::now();
        FutexIdle::default().wait(Some(2_000_000));
        assert!(start.elapsed() >= Duration::from_millis(2));
    }

    /// A wait that takes this long has lost its kick.
    const LOST: Duration = Duration::from_secs(20);

    fn wait_for_kick(idle: &FutexIdle) {
        let start = Instant::now();
        idle.wait(Some(LOST.as_nanos() as u64));
        assert!(start.elapsed() < LOST, "a kick was lost");
    }

    #[test]
    fn kicks_coalesce_and_leave_nothing_behind_once_seen() {
        let idle = FutexIdle::default();
        idle.kicker().kick();
        idle.kicker().kick();
        wait_for_kick(&idle);
        let start = Instant::now();
        idle.wait(Some(2_000_000));
        assert!(start.elapsed() >= Duration::from_millis(2));
    }

    #[test]
    fn a_kick_ends_a_wait_that_has_begun() {
        let idle = FutexIdle::default();
        let kicker = idle.kicker();
        let (tell, told) = std::sync::mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            tell.send(std::fs::read_link("/proc/thread-self").expect("proc is mounted")).expect("a listener");
            wait_for_kick(&idle);
        });
        let status = std::path::Path::new("/proc").join(told.recv().expect("a thread")).join("status");
        let start = Instant::now();
        while !std::fs::read_to_string(&status).expect("it lives").contains("State:\tS") {
            assert!(start.elapsed() < LOST, "it never slept");
        }
        kicker.kick();
        sleeper.join().expect("no panic");
    }

    #[test]
    fn no_kick_of_many_is_lost() {
        const ROUNDS: u32 = 100_000;
        let (ping, pong) = (FutexIdle::default(), FutexIdle::default());
        let (kick_ping, kick_pong) = (ping.kicker(), pong.kicker());
        let asked = Arc::new(AtomicU32::new(0));
        let answered = Arc::new(AtomicU32::new(0));
        let other = std::thread::spawn({
            let (asked, answered) = (asked.clone(), answered.clone());
            move || {
                for round in 1..=ROUNDS {
                    while asked.load(Ordering::Acquire) < round {
                        wait_for_kick(&pong);
                    }
                    answered.store(round, Ordering::Release);
                    kick_ping.kick();
                }
            }
        });
        for round in 1..=ROUNDS {
            asked.store(round, Ordering::Release);
            kick_pong.kick();
            while answered.load(Ordering::Acquire) < round {
                wait_for_kick(&ping);
            }
        }
        other.join().expect("no panic");
    }
}
