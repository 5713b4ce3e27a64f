//! Stops of sets of cores: by the fabric on threads of its own, and by the runtime.

mod fabric;
mod pause;
mod storm;
mod weak;

use std::sync::atomic::{AtomicU64, Ordering};

/// Adds, for those that count at once.
fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
