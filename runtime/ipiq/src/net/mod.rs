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
//! [`EachCore::abort`] ends the accepting. Connections are tasks of your own: give each something to drop when it ends, wait until all of it is gone, or for
//! as long as you like, and let the runtime end, which drops the others.
//!
//! ```
//! use std::io;
//! use std::time::Duration;
//!
//! use futures::StreamExt;
//! use futures::channel::mpsc;
//! use ipiq::net::{BufResult, TcpListener, TcpStream};
//! use ipiq::time;
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Nobody sends: it ends when the last sender is dropped.
//!     let (open, mut all_ended) = mpsc::channel::<()>(0);
//!     let servers = TcpListener::bind_each_core("127.0.0.1:0", move |listener| accept(listener, open.clone()))?;
//!     let client = TcpStream::connect(servers.local_addr()).await?;
//!
//!     // When a command comes, or a thread that waits for a signal tells so by a channel:
//!     servers.abort();
//!     for acceptor in servers.into_handles() {
//!         assert!(acceptor.await.is_err_and(|error| error.is_cancelled()));
//!     }
//!     drop(client);
//!     if time::timeout(Duration::from_secs(10), all_ended.next()).await.is_err() {
//!         eprintln!("some connections are cut");
//!     }
//!     Ok(())
//! }
//!
//! async fn accept(listener: TcpListener, open: mpsc::Sender<()>) -> io::Result<()> {
//!     loop {
//!         let (stream, _peer) = listener.accept().await?;
//!         let open = open.clone();
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
pub use listener::{ListenerBuilder, TcpListener};
pub use split::{ReadHalf, WriteHalf};
pub use stream::TcpStream;
