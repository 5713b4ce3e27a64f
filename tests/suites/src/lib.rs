//! Helpers shared by the suites.

pub mod alone;
pub mod cores;
pub mod faults;
pub mod had;
pub mod homebound;
pub mod kv;
pub mod must_not_compile;
pub mod process;
pub mod program;
pub mod runtimes;
pub mod sandbox;
pub mod scale;
pub mod watchdog;

/// The examples of the project's README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
