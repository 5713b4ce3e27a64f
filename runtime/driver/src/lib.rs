//! I/O for one core of a thread-per-core runtime: one interface, io_uring or epoll chosen at start.
//!
//! A [`Driver`] belongs to one thread. It polls no future: futures of this crate start operations and are
//! woken by [`Driver::poll`] and [`Driver::wait`], which the owner of the thread calls from its own loop.
//! [`Driver::wait`] is the one place that sleeps, and a [`Notifier`] ends that sleep from any thread.
//!
//! Two families of operations stand side by side on a [`Socket`]. Owned-buffer operations ([`Socket::recv`],
//! [`Socket::send`]) take a buffer of `compio-buf` and hand it back with the result; the buffer belongs to the
//! operation until the kernel has answered. Borrowed ones ([`Socket::poll_read`], [`Socket::poll_write`]) are
//! what the I/O traits of `futures` and `tokio` are built on.
//!
//! ```
//! use ipiq_driver::{Config, Driver};
//! use std::time::Duration;
//!
//! let driver = Driver::new(&Config::default())?;
//! let notifier = driver.notifier();
//! std::thread::spawn(move || notifier.notify()).join().unwrap();
//! driver.wait(Some(Duration::from_secs(30)))?; // returns at once
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The protocol between operations, their buffers and the kernel is described in [`ops`].

mod backend;
mod config;
mod counters;
mod driver;
mod error;
mod listen;
mod notifier;
pub mod ops;
mod readiness;
mod socket;
mod table;
#[cfg(feature = "tokio-io")]
mod tokio_io;

pub use config::{Config, DriverKind};
pub use counters::{CountersReader, DriverCounters};
pub use driver::Driver;
pub use error::DriverError;
pub use listen::ListenOptions;
pub use notifier::Notifier;
pub use socket::Socket;

pub use compio_buf as buf;
