//! Runs the same work on ipiq and its peers.
fn main() {}
