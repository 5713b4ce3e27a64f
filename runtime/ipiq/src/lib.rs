//! A thread-per-core async runtime.
#![forbid(unsafe_code)]
