//! The kinds of runtime on which every scenario must hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ipiq::{Builder, DriverKind, FenceChoice, Runtime};

use crate::watchdog::with_watchdog;

/// The drivers that this machine allows.
#[must_use]
pub fn drivers() -> Vec<DriverKind> {
    let allowed = |&driver: &DriverKind| Runtime::builder().cores(1).driver(driver).build().is_ok();
    [DriverKind::Uring, DriverKind::Epoll].into_iter().filter(allowed).collect()
}

/// Runs `scenario` with a builder for every allowed driver and both fences.
pub fn each_kind(scenario: impl Fn(Builder)) {
    for driver in drivers() {
        for fence in [FenceChoice::Auto, FenceChoice::Symmetric] {
            scenario(Runtime::builder().driver(driver).fence(fence));
        }
    }
}

/// Runs `scenario` on core 0 of three, `rounds` times on every kind of runtime, each time until no token of its census is alive; under a watchdog.
///
/// # Panics
///
/// If the scenario does.
pub fn on_three_cores<Fut: Future<Output = ()> + 'static>(what: &str, rounds: usize, scenario: fn(Census) -> Fut) {
    with_watchdog(what, Duration::from_secs(120), || {
        each_kind(|builder| {
            let runtime = builder.cores(3).ring_capacity(4).build().expect("a runtime");
            for _ in 0..rounds {
                let census = Census::default();
                let theirs = census.clone();
                runtime.block_on(move || scenario(theirs));
                while census.alive() > 0 {
                    thread::yield_now();
                }
            }
        });
    });
}

/// Counts how many of its tokens are alive.
#[derive(Clone, Debug, Default)]
pub struct Census {
    alive: Arc<AtomicUsize>,
}

impl Census {
    /// A token that counts until it is dropped.
    #[must_use]
    pub fn token(&self) -> Token {
        self.alive.fetch_add(1, Ordering::AcqRel);
        Token(self.alive.clone())
    }

    /// How many tokens are alive.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }
}

/// Counted by its [`Census`] while it lives.
#[derive(Debug)]
pub struct Token(Arc<AtomicUsize>);

impl Drop for Token {
    fn drop(&mut self) {
        assert!(self.0.fetch_sub(1, Ordering::AcqRel) > 0, "dropped twice");
    }
}
