//! A sharded key-value server.
fn main() {}
