//! Helpers shared by the suites.

pub mod kv;
