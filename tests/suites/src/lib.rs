//! Helpers shared by the suites.

pub mod must_not_compile;
pub mod program;
pub mod sandbox;
pub mod watchdog;
