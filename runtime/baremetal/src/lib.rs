//! The fabric's port to bare x86-64.
#![no_std]
