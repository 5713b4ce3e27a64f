//! The one place where a core waits: for I/O, timers and kicks together.

use std::sync::Arc;
use std::time::Duration;

use ipiq_driver::{Driver, Notifier};
use ipiq_fabric::Armed;
use ipiq_fabric::port::Idle;
use ipiq_linux::kick::Kick;

use crate::slices::Bell;

/// Sleeps in the driver's wait.
pub(crate) struct DriverIdle {
    pub(crate) driver: Driver,
    pub(crate) bell: Arc<Bell>,
}

impl Idle for DriverIdle {
    fn poll(&mut self) -> usize {
        // The loop comes here when it has woken, and every so often while it is awake.
        self.bell.ring();
        self.driver.poll()
    }

    fn park(&mut self, armed: &Armed<'_>, timeout_ns: Option<u64>) {
        self.wait(armed, timeout_ns);
    }
}

impl DriverIdle {
    /// Parks; returns the number of events.
    pub(crate) fn wait(&self, armed: &Armed<'_>, timeout_ns: Option<u64>) -> usize {
        if armed.is_kicked() {
            return 0;
        }
        self.driver.wait(timeout_ns.map(Duration::from_nanos)).unwrap_or_else(|error| {
            // Nothing is lost by not sleeping: the loop looks at everything again.
            tracing::warn!(%error, "the driver's wait failed");
            std::thread::yield_now();
            0
        })
    }
}

/// Ends a driver's wait.
pub(crate) struct DriverKick(pub(crate) Notifier);

impl Kick for DriverKick {
    fn kick(&self) {
        self.0.notify();
    }
}
