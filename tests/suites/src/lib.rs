//! Helpers shared by the suites.

pub mod program;
pub mod sandbox;
pub mod watchdog;
