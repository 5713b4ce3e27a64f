//! The attribute macros of ipiq.
