//! Helpers shared by the suites.

pub mod must_not_compile;
pub mod kv;
pub mod program;
pub mod sandbox;
pub mod watchdog;

/// The examples of the project's README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
