//! TCP on the calling core.
//!
//! A listener or stream belongs to the core on which it was made: it is not `Send`, and its I/O runs on that core's driver,
//! io_uring or epoll. Give each core a listener of its own on the same address ([`TcpListener::bind_each_core`]): the kernel spreads the
//! connections. To move a connection to another core, send its [`std::net::TcpStream`] there
//! ([`TcpStream::into_std`], [`TcpStream::from_std`]).
//!
//! Streams offer two families of calls. [`TcpStream::recv`] and [`TcpStream::send`] take a buffer that they own until the
//! kernel has answered, and hand it back with the result. The traits of `futures` (feature `futures-io`, on by default) and of
//! `tokio` (feature `tokio-io`) work on borrowed buffers; libraries written against them run unchanged.
//!
//! ```no_run
//! use ipiq::Runtime;
//! use ipiq::net::{BufResult, TcpListener, TcpStream};
//!
//! async fn echo(stream: TcpStream) -> std::io::Result<()> {
//!     let mut buf = Vec::with_capacity(4096);
//!     loop {
//!         let BufResult(received, bytes) = stream.recv(buf).await;
//!         if received? == 0 {
//!             return Ok(());
//!         }
//!         let BufResult(sent, bytes) = stream.send_all(bytes).await;
//!         sent?;
//!         buf = bytes;
//!     }
//! }
//!
//! let runtime = Runtime::builder().build()?;
//! runtime.block_on(|| async {
//!     let listener = TcpListener::bind("127.0.0.1:7777")?;
//!     for _ in 0..1000 {
//!         let (stream, _peer) = listener.accept().await?;
//!         drop(ipiq::spawn_local(echo(stream))); // Not waited for.
//!     }
//!     Ok::<(), std::io::Error>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The end of a server
//!
//! The runtime's [end in phases](crate::shutdown) ends the accepting, then waits for connections that hold the phase `drain` open, for as long as its limit says, and drops the others.
//!
//! ```
//! use std::io;
//!
//! use ipiq::net::{BufResult, TcpListener, TcpStream, is_shutdown};
//! use ipiq::{Runtime, shutdown};
//!
//! async fn accept(listener: TcpListener) -> io::Result<()> {
//!     loop {
//!         let stream = match listener.accept().await {
//!             Ok((stream, _peer)) => stream,
//!             Err(error) if is_shutdown(&error) => return Ok(()),
//!             Err(error) => return Err(error),
//!         };
//!         let open = shutdown::guard_named(shutdown::DRAIN, "connection");
//!         drop(ipiq::spawn_local(async move {
//!             let _open = open; // Until this task ends.
//!             serve(stream).await
//!         }));
//!     }
//! }
//!
//! async fn serve(stream: TcpStream) -> io::Result<()> {
//!     let BufResult(received, _bytes) = stream.recv(Vec::with_capacity(100)).await;
//!     received.map(drop)
//! }
//!
//! let runtime = Runtime::builder().cores(2).build()?;
//! runtime.handle().shutdown_on_signals()?; // Or when a command comes:
//! let client = runtime.block_on(|| async {
//!     let servers = TcpListener::bind_each_core("127.0.0.1:0", accept)?;
//!     std::net::TcpStream::connect(servers.local_addr())
//! })?;
//! let ending = runtime.handle().shutdown();
//! drop(client);
//! println!("{}", Runtime::wait(ending));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
mod each_core;
#[cfg(feature = "futures-io")]
mod futures_io;
mod listener;
mod split;
mod stream;
#[cfg(feature = "tokio-io")]
mod tokio_io;
#[cfg(any(feature = "futures-io", feature = "tokio-io"))]
mod write_methods;

pub use address::Address;
pub use each_core::EachCore;
pub use ipiq_driver::buf::{self, BufResult};
pub use listener::{ListenerBuilder, TcpListener, is_shutdown};
pub use split::{ReadHalf, WriteHalf};
pub use stream::TcpStream;
