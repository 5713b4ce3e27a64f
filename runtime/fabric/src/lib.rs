//! How cores talk: one FIFO per pair of cores, a doorbell, calls.
#![no_std]
