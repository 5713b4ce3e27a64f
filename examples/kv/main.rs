//! A sharded key-value server.
mod command;
mod glob;
mod info;
mod reply;
mod resp;
mod route;
mod session;
mod shard;
mod store;
fn main() {}
