//! Helpers shared by the suites.

pub mod kv;
pub mod program;
pub mod sandbox;
pub mod watchdog;
