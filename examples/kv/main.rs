//! A sharded key-value server.
mod command;
mod glob;
mod reply;
mod resp;
mod shard;
mod store;
fn main() {}
