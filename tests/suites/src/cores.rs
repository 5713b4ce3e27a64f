//! A fabric on Linux threads that sleep in a futex.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ipiq_fabric::port::{FenceKind, Idle};
use ipiq_fabric::watch::Watch;
use ipiq_fabric::{Config, Core, CoreId, Fabric, Served};
use ipiq_linux::kick::FutexIdle;
use ipiq_linux::membarrier::Pinned;
use ipiq_linux::port::{FenceChoice, LinuxPort};
use ipiq_linux::{cpus, pin};

use crate::faults::FaultyPort;

/// Both variants of the fences.
pub const FENCES: [FenceChoice; 2] = [FenceChoice::Auto, FenceChoice::Symmetric];

/// A core on its thread.
pub struct Seated<'a> {
    /// Its endpoint.
    pub core: Core,
    /// What it belongs to.
    pub fabric: Fabric,
    idle: FutexIdle,
    left: &'a AtomicUsize,
    cores: usize,
}

/// Runs `body` on one thread per core of a new fabric, each pinned to the next CPU; returns the fabric when all have ended. A panic on a
/// core aborts the process: the others would wait for it.
///
/// # Panics
///
/// If the fabric or its threads cannot be had.
pub fn on_cores(config: Config, fence: FenceChoice, body: impl Fn(&mut Seated<'_>) + Sync) -> Fabric {
    let port = FaultyPort::new(LinuxPort::new(config.cores, fence));
    on_faulty_cores(config, &port, Watch::default(), |seated| {
        let symmetric = seated.fabric.fence_kind() == FenceKind::Symmetric;
        assert_eq!(symmetric, fence == FenceChoice::Symmetric, "membarrier is refused");
        body(seated);
    })
}

/// As [`on_cores`], on a machine that may be told to have faults, with a watch.
///
/// # Panics
///
/// As [`on_cores`].
pub fn on_faulty_cores(
    config: Config,
    port: &Arc<FaultyPort>,
    watch: Watch,
    body: impl Fn(&mut Seated<'_>) + Sync,
) -> Fabric {
    let cores = config.cores;
    let (fabric, seats) = Fabric::with_watch(config, port.clone(), watch).expect("a valid configuration");
    let cpus = cpus::allowed().cpus;
    let left = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seat in seats {
            let idle = FutexIdle::default();
            port.port().set_kicker(seat.id(), idle.kicker());
            let cpu = cpus[seat.id().index() % cpus.len()];
            let (body, left, fabric) = (&body, &left, fabric.clone());
            scope.spawn(move || {
                let _guard = AbortOnPanic;
                pin::pin_current(cpu).expect("an allowed CPU");
                port.port().set_pinned(seat.id(), Pinned::current().expect("a pinned thread"));
                body(&mut Seated { core: seat.enter(), fabric, idle, left, cores });
            });
        }
    });
    fabric
}

impl Seated<'_> {
    /// The core's id.
    #[must_use]
    pub fn id(&self) -> CoreId {
        self.core.id()
    }

    /// One tick: the safe point, messages, the flush. Returns how much there was. Not inside a function of a message.
    pub fn serve(&self) -> usize {
        // SAFETY: 1. scenarios call this from their bodies, not from messages. 2. none of them holds anything over it.
        let served = unsafe { self.core.safe_point() };
        let stopped = usize::from(served != Served::Nothing);
        stopped + self.core.drain(64) + self.core.drain_foreign(64) + self.core.flush()
    }

    /// Sleeps until kicked, or for `timeout_ns`, unless there is something to do.
    pub fn park(&mut self, timeout_ns: Option<u64>) {
        if let Some(armed) = self.core.arm(|| true) {
            self.idle.park(&armed, timeout_ns);
        }
    }

    /// Serves, and sleeps when there is nothing to do, until `done` holds. Who makes it hold must send this core something.
    pub fn serve_until(&mut self, done: impl Fn() -> bool) {
        while !done() {
            if self.serve() == 0 {
                self.park(None);
            }
        }
    }

    /// Tells the others that this core leaves, which it does when its `Seated` is dropped.
    pub fn leave(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    /// Serves until every core has come here and what this one sent is in the rings.
    pub fn serve_until_all_are_done(&mut self) {
        while self.core.has_overflow() {
            self.serve();
        }
        self.left.fetch_add(1, Ordering::AcqRel);
        let mut turn = 0;
        while self.left.load(Ordering::Acquire) < self.cores {
            turn = if self.serve() == 0 { turn + 1 } else { 0 };
            self.core.port().relax(turn);
        }
        self.core.drain_all(u32::MAX);
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
