//! Where the figures of a runtime are read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ipiq_driver::{CountersReader, DriverCounters};
use ipiq_fabric::CoreId;
use ipiq_fabric::port::Clock;

use crate::blocking::{BlockingLoad, BlockingReader};

/// One runtime's; nothing here keeps it running.
pub(crate) struct Instruments {
    started: Instant,
    /// That of the cores.
    clock: Arc<dyn Clock + Send + Sync>,
    blocking: BlockingReader,
    cores: Box<[OfCore]>,
}

#[derive(Default)]
struct OfCore {
    driver: OnceLock<CountersReader>,
    /// Written by the watcher.
    stalls: AtomicU64,
}

impl Instruments {
    pub(crate) fn new(cores: usize, clock: Arc<dyn Clock + Send + Sync>, blocking: BlockingReader) -> Self {
        let cores = (0..cores).map(|_| OfCore::default()).collect();
        Self { started: Instant::now(), clock, blocking, cores }
    }

    /// Once per core, before it runs.
    pub(crate) fn set_driver(&self, core: CoreId, counters: CountersReader) {
        // A core starts once.
        let _ = self.cores[core.index()].driver.set(counters);
    }

    pub(crate) fn count_stalls(&self, core: CoreId, stalls: u64) {
        self.cores[core.index()].stalls.fetch_add(stalls, Ordering::Relaxed);
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
