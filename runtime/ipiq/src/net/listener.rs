//! Accepting TCP connections.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use ipiq_driver::{ListenOptions, Socket};

use super::{Address, EachCore, TcpStream, each_core};
use crate::shutdown::{self, ACCEPTING, Board, PhaseBegin};

/// A TCP socket that accepts connections on the core that made it.
#[derive(Debug)]
pub struct TcpListener {
    socket: Socket,
    stop: Stop,
}

/// How a [`TcpListener`] is bound.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `bind`"]
pub struct ListenerBuilder {
    options: ListenOptions,
}

impl TcpListener {
    /// Listens on an address; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// What the system says, for example `AddrInUse`; `InvalidInput` for a text that is no address.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn bind(address: impl Address) -> io::Result<Self> {
        Self::builder().bind(address)
    }

    /// Listens on an address with every core of the caller's runtime, each with a listener of its own (`SO_REUSEPORT`), and runs on
    /// each core, as a task, what `serve` makes of the listener there. The kernel spreads the connections.
    ///
    /// ```
    /// use ipiq::net::{TcpListener, TcpStream};
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let servers = TcpListener::bind_each_core("127.0.0.1:0", accept)?;
    ///     TcpStream::connect(servers.local_addr()).await?;
    ///     Ok(())
    /// }
    ///
    /// async fn accept(listener: TcpListener) -> std::io::Result<()> {
    ///     loop {
    ///         let (stream, _peer) = listener.accept().await?;
    ///         drop(ipiq::spawn_local(serve(stream))); // Not waited for.
    ///     }
    /// }
    ///
    /// async fn serve(_stream: TcpStream) {
    ///     println!("{} has a connection", ipiq::core_id());
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind), before any task is spawned; what the system says when a core registers its listener is its task's outcome.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn bind_each_core<Serve, Fut, T>(address: impl Address, serve: Serve) -> io::Result<EachCore<T>>
    where
        Serve: Fn(Self) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = io::Result<T>> + 'static,
        T: Send + 'static,
    {
        Self::builder().bind_each_core(address, serve)
    }

    /// Sets options before binding.
    pub fn builder() -> ListenerBuilder {
        ListenerBuilder::default()
    }

    /// Takes over a listener made elsewhere, for example inherited from the process that started this one.
    ///
    /// # Errors
    ///
    /// What the system says when the socket is registered.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        let socket = crate::driver::current("TcpListener::from_std").attach(listener)?;
        Ok(Self { socket, stop: Stop::new("TcpListener::from_std") })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// `ConnectionAborted` concerns one connection: go on. When file descriptors or memory ran out, the connection stays
    /// in the queue: wait a while before the next call, which would fail as well. The listener survives all of them.
    ///
    /// From the beginning of the runtime's [end in phases](crate::shutdown) on, an error that [`is_shutdown`] knows: drop the listener.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (mut accept, mut stop) = (pin!(self.socket.accept()), pin!(self.stop.begin()));
        let accepted = poll_fn(|cx| {
            if self.stop.has_begun() {
                return Poll::Ready(Err(stopped()));
            }
            match accept.as_mut().poll(cx) {
                Poll::Pending => stop.as_mut().poll(cx).map(|_told| Err(stopped())),
                accepted => accepted,
            }
        });
        let (socket, peer) = accepted.await?;
        Ok((TcpStream::new(socket), peer))
    }

    /// The address listened on.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Whether an error of [`TcpListener::accept`] says that the runtime's [end in phases](crate::shutdown) has begun.
#[must_use]
pub fn is_shutdown(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

#[derive(Debug)]
struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the runtime is shutting down and accepts no more connections: drop the listener")
    }
}

impl std::error::Error for Stopped {}

fn stopped() -> io::Error {
    io::Error::other(Stopped)
}

/// When a listener stops to accept.
#[derive(Debug)]
struct Stop {
    board: Arc<Board>,
    bound_at: &'static Location<'static>,
}

impl Stop {
    #[track_caller]
    fn new(what: &str) -> Self {
        Self { board: shutdown::current(what), bound_at: Location::caller() }
    }

    fn has_begun(&self) -> bool {
        self.board.has_begun(ACCEPTING)
    }

    fn begin(&self) -> PhaseBegin {
        PhaseBegin::new(self.board.clone(), ACCEPTING, "accept".into(), self.bound_at)
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl ListenerBuilder {
    /// Whether several listeners, normally one per core, share the address (`SO_REUSEPORT`); each must ask for it. Off by
    /// default, so that two programs do not share a port by mistake. The kernel gives a connection to one of the listeners that
    /// are there when it comes; one that waits in the queue of a listener that is dropped is reset.
    ///
    /// ```
    /// use ipiq::CoreId;
    /// use ipiq::net::TcpListener;
    ///
    /// #[ipiq::main(cores = 2)]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let first = TcpListener::builder().reuse_port(true).bind("127.0.0.1:0")?;
    ///     let address = first.local_addr()?; // With the port that the system chose.
    ///     let second = ipiq::spawn_on(CoreId::new(1), move || async move {
    ///         let second = TcpListener::builder().reuse_port(true).bind(address)?;
    ///         second.local_addr()
    ///     });
    ///     assert_eq!(second.await??, address);
    ///     Ok(())
    /// }
    /// ```
    pub fn reuse_port(mut self, yes: bool) -> Self {
        self.options = self.options.reuse_port(yes);
        self
    }

    /// Connections that the kernel keeps ready for `accept`; 4096 by default, at most `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.options = self.options.backlog(connections);
        self
    }

    /// Whether an IPv6 listener refuses IPv4 peers; the system's default if not called.
    pub fn only_v6(mut self, yes: bool) -> Self {
        self.options = self.options.only_v6(yes);
        self
    }

    /// Listens on an address.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::bind`].
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn bind(self, address: impl Address) -> io::Result<TcpListener> {
        let socket = self.options.listen(&crate::driver::current("TcpListener::bind"), address.to_address()?)?;
        Ok(TcpListener { socket, stop: Stop::new("TcpListener::bind") })
    }

    /// As [`TcpListener::bind_each_core`], with these options.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::bind_each_core`].
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[track_caller]
    pub fn bind_each_core<Serve, Fut, T>(self, address: impl Address, serve: Serve) -> io::Result<EachCore<T>>
    where
        Serve: Fn(TcpListener) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = io::Result<T>> + 'static,
        T: Send + 'static,
    {
        each_core::bind(&self.options.reuse_port(true), address, &serve)
    }
}
