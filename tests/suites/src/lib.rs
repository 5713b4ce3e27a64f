//! Helpers shared by the suites.

pub mod alone;
pub mod cores;
pub mod process;
pub mod program;
pub mod random;
pub mod runtimes;
pub mod sandbox;
pub mod scale;
pub mod watchdog;
