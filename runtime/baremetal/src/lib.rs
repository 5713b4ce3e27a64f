//! The fabric's port to x86-64 without an operating system: cores wake each other by inter-processor interrupts.
//!
//! This crate is the port alone: it assumes cores that run in 64-bit mode with interrupts off, local APICs that are enabled, and
//! a handler for the kick's vector that acknowledges and returns. Starting the cores is the kernel's business.
//!
//! | Module | What it does |
//! |---|---|
//! | [`apic`] | sends an interrupt to another core, through memory or registers |
//! | [`port`] | the fabric's [`Port`](ipiq_fabric::port::Port) |
//! | [`idle`] | sleeps in `hlt` |
//! | [`clock`] | the time-stamp counter as a clock |
//!
//! Interrupts stay off but for the one instruction pair in [`idle`]: an interrupt that comes earlier stays pending in the
//! APIC, and ends the `hlt` at once. So no kick is lost between arming and sleeping.
#![no_std]
#![cfg(target_arch = "x86_64")]

extern crate alloc;

pub mod apic;
pub mod clock;
pub mod idle;
pub mod port;
