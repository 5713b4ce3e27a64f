//! I/O for thread-per-core runtimes.
