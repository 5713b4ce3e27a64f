//! Where the figures of a runtime are read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use ipiq_driver::{CountersReader, DriverCounters};
use ipiq_fabric::CoreId;
use ipiq_fabric::port::Clock;
use ipiq_linux::cpus::Cpus;
use ipiq_linux::placement::{Spot, WhyUnpinned};
use ipiq_linux::topology::Topology;

use crate::blocking::{BlockingLoad, BlockingReader};

/// One runtime's; nothing here keeps it running.
pub(crate) struct Instruments {
    started: Instant,
    /// That of the cores.
    clock: Arc<dyn Clock + Send + Sync>,
    blocking: BlockingReader,
    cores: Box<[OfCore]>,
    allowed: Cpus,
}

#[derive(Default)]
struct OfCore {
    driver: OnceLock<CountersReader>,
    /// `None`: it has not started.
    spot: Mutex<Option<Spot>>,
    /// Written by the watcher.
    stalls: AtomicU64,
}

impl OfCore {
    fn spot(&self) -> MutexGuard<'_, Option<Spot>> {
        // Nothing under the lock can panic half-way.
        self.spot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instruments {
    pub(crate) fn new(
        cores: usize,
        clock: Arc<dyn Clock + Send + Sync>,
        blocking: BlockingReader,
        allowed: Cpus,
    ) -> Self {
        let cores: Box<[_]> = (0..cores).map(|_| OfCore::default()).collect();
        Self { started: Instant::now(), clock, blocking, cores, allowed }
    }

    /// Once per core, before it runs.
    pub(crate) fn set_driver(&self, core: CoreId, counters: CountersReader) {
        // A core starts once.
        let _ = self.cores[core.index()].driver.set(counters);
    }

    pub(crate) fn count_stalls(&self, core: CoreId, stalls: u64) {
        self.cores[core.index()].stalls.fetch_add(stalls, Ordering::Relaxed);
    }

    /// In each life of a core, before it runs.
    pub(crate) fn set_spot(&self, core: CoreId, spot: Spot) {
        *self.cores[core.index()].spot() = Some(spot);
    }

    pub(crate) fn topology(&self) -> Topology {
        // Every core has said so before anybody has a handle.
        let spot = |core: &OfCore| core.spot().clone().unwrap_or(Spot::Anywhere(WhyUnpinned::Asked));
        Topology::new(self.allowed.clone(), self.cores.iter().map(spot).collect())
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn blocking(&self) -> BlockingLoad {
        self.blocking.read()
    }

    pub(super) fn driver(&self, core: CoreId) -> DriverCounters {
        self.cores[core.index()].driver.get().map(CountersReader::read).unwrap_or_default()
    }

    pub(super) fn stalls(&self, core: CoreId) -> u64 {
        self.cores[core.index()].stalls.load(Ordering::Relaxed)
    }
}
