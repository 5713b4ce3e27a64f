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
//! A connection that awaits the phase beside its next request holds it only until what it is at is answered, and one that is idle ends at once.
//!
//! ```
//! use std::io;
//! use std::pin::pin;
//!
//! use futures::future::{Either, select};
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
//!         drop(ipiq::spawn_local(serve(stream))); // Not waited for.
//!     }
//! }
//!
//! async fn serve(stream: TcpStream) -> io::Result<()> {
//!     // From its first poll on the phase waits for this task.
//!     let mut drain = pin!(shutdown::phase(shutdown::DRAIN));
//!     loop {
//!         let request = pin!(stream.recv(Vec::with_capacity(100)));
//!         let (received, request) = match select(request, drain.as_mut()).await {
//!             Either::Left((BufResult(received, request), _)) => (received?, request),
//!             Either::Right((_open, _)) => return Ok(()), // Idle.
//!         };
//!         if received == 0 {
//!             return Ok(());
//!         }
//!         let BufResult(sent, _request) = stream.send_all(request).await;
//!         sent?;
//!     }
//! }
//!
//! let runtime = Runtime::builder().cores(2).build()?;
//! runtime.handle().shutdown_on_signals()?; // Or when a command comes:
//! let client = runtime.block_on(|| async {
//!     let servers = TcpListener::bind_each_core("127.0.0.1:0", accept)?;
//!     std::net::TcpStream::connect(servers.local_addr())
//! })?;
//! let report = Runtime::wait(runtime.handle().shutdown());
//! assert!(report.phase(shutdown::DRAIN).unwrap().is_clean(), "{report}");
//! # drop(client);
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
pub use ipiq_driver::buf;
/// What an operation of [`net`](self) brings: its result, and the buffer, which is given back in any case. Take both by the pattern `let BufResult(result, buf) = ...`, or
/// by `let (result, buf) = ....into()`.
///
/// A buffer belongs to the operation from its call on. If its future is dropped, the buffer is dropped when the kernel has let go of it, and does not come back.
///
/// It is the type of the crate `compio-buf`, whose documentation goes on:
#[doc(inline)]
pub use ipiq_driver::buf::BufResult;
pub use listener::{ListenerBuilder, TcpListener, is_shutdown};
pub use split::{ReadHalf, WriteHalf};
pub use stream::TcpStream;
