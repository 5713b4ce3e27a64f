//! The runtime's side: listeners, connections, limits, the end.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipiq::ipi::{Handler, TableFull};
use ipiq::net::{self, TcpListener};
use ipiq::sharded::Sharded;
use ipiq::shutdown::{self, DRAIN, PhaseBegin};
use ipiq::{CoreId, time};

use crate::command::Shutdown;
use crate::keyspace::{Keys, Keyspace, Seat, now_ms};
use crate::pubsub::Post;
use crate::session::Context;
use crate::settings::Changes;
use crate::shard::Shard;
use crate::snapshot::{self, Loaded, Outgoing};
use crate::{autosave, connection};

/// How long accepting rests after the first failure for want of descriptors or memory, and at most.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// What all cores share.
pub(crate) struct Server {
    pub(crate) context: Context,
    pub(crate) keys: Keys,
    /// Batches that are sent to other cores only in part.
    pub(crate) outgoing: Outgoing,
    /// Has a core look into its post.
    doorbell: Handler,
}

impl Server {
    /// Gives every core its part of the keys; the server listens nowhere yet.
    ///
    /// # Errors
    ///
    /// Says what cannot be had.
    pub(crate) async fn new(context: Context) -> Result<Arc<Self>, String> {
        let (live, ledger) = (context.live.clone(), Arc::clone(&context.facts.ledger));
        let keys = Sharded::start(move |keys| async move { Keyspace::new(keys, &live, &ledger) });
        let keys = keys.await.map_err(|error| error.to_string())?;
        let doorbell = deliver_when_triggered(&keys, &context.post).map_err(|error| error.to_string())?;
        let outgoing = Outgoing::new(context.facts.cores);
        Ok(Arc::new(Self { context, keys, outgoing, doorbell }))
    }

    /// Loads the snapshot, and gives every core its listener; afterwards all of them serve. Answers what was loaded.
    ///
    /// # Errors
    ///
    /// Says why the snapshot cannot be loaded, or a core not listen.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<Loaded, String> {
        let path = self.context.live.read(|settings| settings.snapshot_path());
        let loaded = snapshot::load(&self.keys, path, self.context.router.clone(), now_ms()).await?;
        self.context.facts.snapshots.set_loaded(loaded);
        let server = Arc::clone(self);
        let listening = self.keys.map_async(async move |keyspace: Seat| {
            keyspace.with(Shard::end_loading);
            let address = server.context.facts.address;
            let listener = listen(address).map_err(|error| cannot_listen(address, error))?;
            drop(ipiq::spawn_local(drain(shutdown::phase(DRAIN), server.keys.clone())));
            drop(ipiq::spawn_local(accept_connections(server, listener)));
            Ok(())
        });
        let listening = listening.await.map_err(|error| error.to_string())?;
        listening.into_iter().collect::<Result<(), String>>()?;
        crate::in_background(autosave::run(Arc::clone(self)));
        Ok(loaded)
    }

    /// Ends the server, after a snapshot where one is asked for.
    ///
    /// # Errors
    ///
    /// Says why the snapshot failed; the server then goes on, unless it is forced.
    pub(crate) async fn shut_down(self: &Arc<Self>, asked: Shutdown) -> Result<(), String> {
        let Context { live, facts, .. } = &self.context;
        let saves = asked.save.unwrap_or_else(|| live.read(|settings| !settings.save_points.is_empty()));
        if saves {
            // One that is being written is older than what is to be saved.
            let running = facts.snapshots.begin_when_idle().await;
            // What is answered from here on would be lost.
            snapshot::hold_batches(&self.keys, true).await?;
            let path = live.read(|settings| settings.snapshot_path());
            let outcome = snapshot::save(self, running, path).await;
            if !asked.force && outcome.is_err() {
                snapshot::hold_batches(&self.keys, false).await?;
                return outcome;
            }
        }
        drop(ipiq::handle().shutdown());
        Ok(())
    }

    /// Changes settings, on every core before it returns.
    ///
    /// # Errors
    ///
    /// The reply that says why not.
    pub(crate) async fn configure(&self, changes: &Changes) -> Result<(), String> {
        let Context { live, facts, .. } = &self.context;
        live.change(changes, facts.protected_configs).await?;
        crate::raise_descriptor_limit(live.read(|settings| settings.max_clients));
        Ok(())
    }

    /// Has `core` deliver what was posted for it, between two of its polls.
    pub(crate) fn ring(&self, core: usize) {
        // A core that has left has no subscribers any more.
        let _ = self.doorbell.trigger(CoreId::new(core));
    }
}

/// Registers what delivers the messages posted for a core; however often it is triggered meanwhile, it delivers all once.
fn deliver_when_triggered(keys: &Keys, post: &Arc<Post>) -> Result<Handler, TableFull> {
    let (keys, post, runtime) = (keys.clone(), Arc::clone(post), keys.handle());
    runtime.register_handler(move |core| {
        if let Some(keyspace) = keys.try_local() {
            keyspace.with(|shard| post.deliver(core.index(), &shard.hub, now_ms()));
        }
    })
}

/// The text of a failure to listen on `address`.
pub(crate) fn cannot_listen(address: SocketAddr, error: impl Display) -> String {
    format!("cannot listen on {address}: {error}; choose another --port or --bind")
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::builder().reuse_port(true).bind(address)
}

/// Lets the batches that have begun come to their end when the server ends, and none begin.
async fn drain(begin: PhaseBegin, keys: Keys) {
    let _open = begin.await;
    if let Some(keyspace) = keys.try_local() {
        keyspace.batches.close().await;
    }
}

/// Accepts this core's connections, until the server ends.
async fn accept_connections(server: Arc<Server>, listener: TcpListener) {
    let mut pause = LEAST_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                pause = LEAST_PAUSE;
                connection::admit(&server, stream);
            }
            Err(error) if net::is_shutdown(&error) => return,
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // The connections wait in the listener's queue until a descriptor is free.
                if pause == LEAST_PAUSE {
                    eprintln!("kv: cannot accept for now: {error}");
                }
                time::sleep(pause).await;
                pause = (2 * pause).min(MOST_PAUSE);
            }
        }
    }
}

/// Whether an accept failed for a connection that has gone away, not for want of something.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}
