//! Stopping cores, from tasks and from other threads.

mod pausing;
mod plan;

pub use pausing::{Pausing, RemotePausing};
pub use plan::{Pause, PauseError, PauseTimes, Paused};
