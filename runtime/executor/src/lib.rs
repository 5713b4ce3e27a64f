//! What one core runs: tasks, timers and the core loop.
#![no_std]
