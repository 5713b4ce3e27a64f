//! A listener on every core.

use std::io;
use std::net::SocketAddr;
use std::panic::Location;

use ipiq_driver::ListenOptions;
use ipiq_executor::JoinHandle;

use super::{Address, TcpListener};
use crate::Cores;
use crate::current::{on_core, spawn_on_at};

/// The tasks of [`TcpListener::bind_each_core`], one per core.
///
/// Dropping it detaches them: they go on until they end or the runtime does.
#[derive(Debug)]
pub struct EachCore<T> {
    address: SocketAddr,
    tasks: Vec<JoinHandle<io::Result<T>>>,
}

impl<T> EachCore<T> {
    /// The address that all of them listen on, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Aborts every task; each drops its listener, and its handle resolves to "cancelled". Connections that were not accepted yet are reset; those that were
    /// go on as tasks of their own: [the end of a server](super#the-end-of-a-server).
    pub fn abort(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// The tasks' handles, in the order of the cores.
    #[must_use]
    pub fn into_handles(self) -> Vec<JoinHandle<io::Result<T>>> {
        self.tasks
    }
}

/// Every socket listens before the first task is spawned: an address that is taken is an error here, and nothing is left of it.
#[track_caller]
pub(super) fn bind<Serve, Fut, T>(
    options: &ListenOptions,
    address: impl Address,
    serve: &Serve,
) -> io::Result<EachCore<T>>
where
    Serve: Fn(TcpListener) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = io::Result<T>> + 'static,
    T: Send + 'static,
{
    let cores = on_core("TcpListener::bind_each_core", |executor| Cores::first(executor.core().cores()));
    let mut address = address.to_address()?;
    let mut sockets = Vec::with_capacity(cores.len());
    for _ in cores.clone() {
        let socket = std::net::TcpListener::from(options.bind(address)?);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    let spawned_at = Location::caller();
    let spawn = |(core, socket)| {
        let serve = serve.clone();
        spawn_on_at(spawned_at, core, move || async move { serve(TcpListener::from_std(socket)?).await })
    };
    Ok(EachCore { address, tasks: cores.zip(sockets).map(spawn).collect() })
}
