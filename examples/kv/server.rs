//! The runtime's side: listeners, connections, limits, the end.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use compio_buf::{BufResult, IntoInner, IoBuf};
use futures::channel::oneshot;
use futures::future::join_all;
use ipiq::net::{TcpListener, TcpStream};
use ipiq::{CallError, CoreId, time};

use crate::reply;
use crate::session::{Context, Next, Session};
use crate::shard::{Exchange, Ledger, Shard};

/// How often expired keys are looked for while some key has a deadline.
const EXPIRE_PERIOD: Duration = Duration::from_millis(100);
/// How many entries one look visits before others run.
const EXPIRE_SLOTS: u32 = 16 << 10;
/// How long accepting rests after the first failure for want of descriptors or memory, and at most.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// What all cores share.
pub(crate) struct Server {
    context: Context,
    ledger: Arc<Ledger>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    stopped: Mutex<Option<oneshot::Receiver<()>>>,
}

thread_local! {
    static SHARD: RefCell<Option<Shard>> = const { RefCell::new(None) };
    /// Whether this core's [`expire_keys`] runs.
    static EXPIRING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on this core's shard, and starts the search for expired keys where there may be some.
fn with_shard<R>(f: impl FnOnce(&mut Shard) -> R) -> R {
    let (result, volatile) = SHARD.with_borrow_mut(|shard| {
        let shard = shard.as_mut().expect("every core has its shard before it serves");
        (f(shard), shard.has_volatile())
    });
    if volatile && !EXPIRING.replace(true) {
        drop(ipiq::spawn_local(expire_keys()));
    }
    result
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_millis() as i64)
}

impl Server {
    /// A server that listens nowhere yet.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let (stop, stopped) = oneshot::channel();
        let facts = &context.facts;
        let ledger = Arc::new(Ledger::new(facts.cores, facts.max_memory_bytes));
        Arc::new(Self { context, ledger, stop: Mutex::new(Some(stop)), stopped: Mutex::new(Some(stopped)) })
    }

    /// Gives every core its shard and its listener; afterwards all of them serve.
    ///
    /// # Errors
    ///
    /// Says why a core cannot listen.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<(), String> {
        // No connection may come before every shard is there.
        for_each_core(self, |server| async move {
            let (index, cores) = (ipiq::core_id().index(), ipiq::core_count());
            let shard = Shard::new(index, cores, Arc::clone(&server.ledger));
            SHARD.set(Some(shard));
            Ok(())
        })
        .await?;
        for_each_core(self, |server| async move {
            let address = server.context.facts.address;
            let listener = listen(address).map_err(|error| cannot_listen(address, error))?;
            drop(ipiq::spawn_local(accept_connections(server, listener)));
            Ok(())
        })
        .await
    }

    /// Waits for SHUTDOWN.
    pub(crate) async fn stopped(&self) {
        let stopped = self.stopped.lock();
        let stopped = stopped.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stopped) = stopped {
            // The sender lives as long as the server, so the only answer is that it was used.
            let _ = stopped.await;
        }
    }

    fn stop(&self) {
        let stop = self.stop.lock();
        if let Some(stop) = stop.unwrap_or_else(PoisonError::into_inner).take() {
            // A server that has ended already needs no second word.
            let _ = stop.send(());
        }
    }
}

/// The text of a failure to listen on `address`.
pub(crate) fn cannot_listen(address: SocketAddr, error: impl Display) -> String {
    format!("cannot listen on {address}: {error}; choose another --port or --bind")
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::builder().reuse_port(true).bind(address)
}

/// Runs `f` on every core and waits for all.
async fn for_each_core<Fut>(
    server: &Arc<Server>,
    f: impl Fn(Arc<Server>) -> Fut + Copy + Send + 'static,
) -> Result<(), String>
where
    Fut: Future<Output = Result<(), String>> + 'static,
{
    let started = (0..ipiq::core_count()).map(|core| {
        let server = Arc::clone(server);
        ipiq::spawn_on(CoreId::new(core), move || f(server))
    });
    for outcome in join_all(started).await {
        outcome.map_err(|error| format!("a core failed: {error}"))??;
    }
    Ok(())
}

/// Accepts this core's connections, for ever.
async fn accept_connections(server: Arc<Server>, listener: TcpListener) {
    let mut pause = LEAST_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                pause = LEAST_PAUSE;
                admit(&server, stream);
            }
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

/// Serves the connection, or tells it that there are too many.
fn admit(server: &Arc<Server>, stream: TcpStream) {
    match Admission::new(server) {
        Some(admission) => drop(ipiq::spawn_local(async move {
            // What a connection fails of ends it alone; there is nobody left to tell.
            let _ = serve(&admission.0, stream).await;
        })),
        None => drop(ipiq::spawn_local(async move {
            // A peer that is gone needs no answer.
            let _ = stream.send_all(reply::TOO_MANY_CLIENTS).await;
        })),
    }
}

/// A place among the connections that are allowed at a time.
struct Admission(Arc<Server>);

impl Admission {
    fn new(server: &Arc<Server>) -> Option<Self> {
        let facts = &server.context.facts;
        facts.accepted.fetch_add(1, Ordering::Relaxed);
        let admission = Self(Arc::clone(server));
        if facts.clients.fetch_add(1, Ordering::Relaxed) < facts.max_clients {
            return Some(admission);
        }
        facts.refused.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.context.facts.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers one connection's requests until it ends.
///
/// A peer that does not read its replies stops being read from: the next receive comes after the send.
async fn serve(server: &Server, stream: TcpStream) -> io::Result<()> {
    // Without it only the latency suffers.
    let _ = stream.set_nodelay(true);
    let context = &server.context;
    let mut session = Session::new(ipiq::core_id().index(), context.facts.cores);
    while receive(&mut session, &stream).await? {
        loop {
            let now_ms = now_ms();
            let next = with_shard(|shard| session.run(context, shard, now_ms));
            if session.batch.has_plan() {
                run_remotely(&mut session).await?;
                session.batch.assemble(&context.facts);
            }
            send(&mut session, &stream).await?;
            match next {
                Next::Receive => break,
                Next::Run => {}
                Next::Close => return Ok(()),
                Next::Shutdown => {
                    server.stop();
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Reads what is there; false at the end of the connection.
async fn receive(session: &mut Session, stream: &TcpStream) -> io::Result<bool> {
    let input = session.lend_input();
    let received = input.len();
    let BufResult(result, input) = stream.recv(input.slice(received..)).await;
    let within_limit = session.return_input(input.into_inner());
    Ok(result? > 0 && within_limit)
}

async fn send(session: &mut Session, stream: &TcpStream) -> io::Result<()> {
    let replies = session.batch.take_replies();
    if replies.is_empty() {
        session.batch.restore(replies);
        return Ok(());
    }
    let BufResult(result, replies) = stream.send_all(replies).await;
    session.batch.restore(replies);
    result.map(drop)
}

/// Sends every other core its part of the batch, all before the first answer is awaited.
async fn run_remotely(session: &mut Session) -> io::Result<()> {
    let calls: Vec<_> =
        session.batch.take_exchanges().map(|(target, exchange)| (target, send_to(target, exchange))).collect();
    for (target, call) in calls {
        let exchange = call.await.map_err(|error| io::Error::other(error.to_string()))?;
        session.batch.put_back(target, exchange);
    }
    Ok(())
}

/// Asks `target` to run the exchange; sent at once, unless the way there is full.
fn send_to(target: usize, mut exchange: Box<Exchange>) -> impl Future<Output = Result<Box<Exchange>, CallError>> {
    ipiq::call_on(CoreId::new(target), move || {
        with_shard(|shard| exchange.run(shard));
        exchange
    })
}

/// Removes this core's expired keys from time to time, until no key has a deadline.
async fn expire_keys() {
    loop {
        time::sleep(EXPIRE_PERIOD).await;
        while with_shard(|shard| shard.expire_cycle(now_ms(), EXPIRE_SLOTS)) {
            ipiq::yield_now().await;
        }
        if !with_shard(|shard| shard.has_volatile()) {
            EXPIRING.set(false);
            return;
        }
    }
}
