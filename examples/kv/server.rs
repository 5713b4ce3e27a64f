//! The runtime's side: listeners, connections, limits, the end.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::ops::Add;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use compio_buf::{BufResult, IntoInner, IoBuf};
use futures::channel::oneshot;
use futures::future::{Either, join_all, select};
use ipiq::ipi::{Handler, TableFull};
use ipiq::net::{TcpListener, TcpStream};
use ipiq::{Call, CallError, CoreId, Handle, JoinError, time, xcall};

use crate::command::{Debug, Errand, Everywhere, Shutdown};
use crate::pubsub::{Arrival, Mailbox, Post};
use crate::session::{Context, Next, Session};
use crate::settings::{self, Changes};
use crate::shard::{Exchange, KeyList, Shard, Stats};
use crate::snapshot::{self, Loaded, Outgoing};
use crate::{autosave, reply};

/// How often expired keys are looked for while some key has a deadline.
const EXPIRE_PERIOD: Duration = Duration::from_millis(100);
/// How many entries one look visits before others run.
const EXPIRE_SLOTS: u32 = 16 << 10;
/// How long accepting rests after the first failure for want of descriptors or memory, and at most.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// What all cores share.
pub(crate) struct Server {
    pub(crate) context: Context,
    /// Batches that are sent to other cores only in part.
    pub(crate) outgoing: Outgoing,
    /// Has a core look into its post.
    doorbell: Handler,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    stopped: Mutex<Option<oneshot::Receiver<()>>>,
}

thread_local! {
    static SHARD: RefCell<Option<Shard>> = const { RefCell::new(None) };
    /// The version of the settings that the shard follows.
    static SEEN: Cell<Option<u64>> = const { Cell::new(None) };
    /// Whether this core's [`expire_keys`] runs.
    static EXPIRING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on this core's shard, under the settings of now, and starts the search for expired keys where there may be some.
pub(crate) fn with_shard<R>(f: impl FnOnce(&mut Shard) -> R) -> R {
    let (result, volatile) = SHARD.with_borrow_mut(|shard| {
        let shard = shard.as_mut().expect("every core has its shard before it serves");
        SEEN.with(|seen| settings::follow(seen, |settings| shard.use_settings(settings)));
        (f(shard), shard.has_volatile())
    });
    if volatile && !EXPIRING.replace(true) {
        drop(ipiq::spawn_local(expire_keys()));
    }
    result
}

/// Registers what delivers the messages posted for a core; however often it is triggered meanwhile, it delivers all once.
///
/// # Errors
///
/// Says why nothing can be registered.
pub(crate) fn deliver_when_triggered(runtime: &Handle, post: &Arc<Post>) -> Result<Handler, TableFull> {
    let post = Arc::clone(post);
    runtime.register_handler(move |core| {
        with_shard(|shard| post.deliver(core.index(), &shard.hub, now_ms()));
    })
}

/// The clock of keys' deadlines, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_millis() as i64)
}

impl Server {
    /// A server that listens nowhere yet.
    pub(crate) fn new(context: Context, doorbell: Handler) -> Arc<Self> {
        let (stop, stopped) = oneshot::channel();
        let outgoing = Outgoing::new(context.facts.cores);
        Arc::new(Self { context, outgoing, doorbell, stop: Mutex::new(Some(stop)), stopped: Mutex::new(Some(stopped)) })
    }

    /// Gives every core its shard, loads the snapshot, and gives every core its listener; afterwards all of them serve. Answers
    /// what was loaded.
    ///
    /// # Errors
    ///
    /// Says why the snapshot cannot be loaded, or a core not listen.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<Loaded, String> {
        // No connection may come before every shard is there.
        for_each_core(self, |server| async move {
            let (index, cores) = (ipiq::core_id().index(), ipiq::core_count());
            let shard = Shard::new(index, cores, Arc::clone(&server.context.facts.ledger));
            server.context.live.make_local();
            SHARD.set(Some(shard));
            Ok(())
        })
        .await?;
        let path = self.context.live.read(|settings| settings.snapshot_path());
        let loaded = snapshot::load(path, self.context.router.clone(), now_ms()).await?;
        self.context.facts.snapshots.set_loaded(loaded);
        for_each_core(self, |server| async move {
            with_shard(Shard::end_loading);
            let address = server.context.facts.address;
            let listener = listen(address).map_err(|error| cannot_listen(address, error))?;
            drop(ipiq::spawn_local(accept_connections(server, listener)));
            Ok(())
        })
        .await?;
        drop(ipiq::spawn_local(autosave::run(Arc::clone(self))));
        Ok(loaded)
    }

    /// Waits for the end, by SHUTDOWN or by a signal.
    pub(crate) async fn stopped(&self) {
        let stopped = self.stopped.lock();
        let stopped = stopped.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stopped) = stopped {
            // The sender lives as long as the server, so the only answer is that it was used.
            let _ = stopped.await;
        }
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
            snapshot::hold_batches(true).await?;
            let path = live.read(|settings| settings.snapshot_path());
            let outcome = snapshot::save(self, running, path).await;
            if !asked.force && outcome.is_err() {
                snapshot::hold_batches(false).await?;
                return outcome;
            }
        }
        self.stop();
        Ok(())
    }

    /// Changes settings, on every core before it returns.
    ///
    /// # Errors
    ///
    /// The reply that says why not.
    async fn configure(&self, changes: &Changes) -> Result<(), String> {
        let Context { live, facts, .. } = &self.context;
        live.change(changes, facts.protected_configs).await?;
        crate::raise_descriptor_limit(live.read(|settings| settings.max_clients));
        Ok(())
    }

    /// Has `core` deliver what was posted for it, between two of its polls.
    fn ring(&self, core: usize) {
        // A core that has left has no subscribers any more.
        let _ = self.doorbell.trigger(CoreId::new(core));
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
        let most = server.context.live.read(|settings| settings.max_clients);
        if facts.clients.fetch_add(1, Ordering::Relaxed) < most {
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
async fn serve(server: &Arc<Server>, stream: TcpStream) -> io::Result<()> {
    // Without it only the latency suffers.
    let _ = stream.set_nodelay(true);
    let context = &server.context;
    let mut session = Session::new(ipiq::core_id().index(), context.facts.cores);
    let outcome = answer(server, &mut session, &stream).await;
    with_shard(|shard| session.batch.leave(context, shard));
    outcome
}

async fn answer(server: &Arc<Server>, session: &mut Session, stream: &TcpStream) -> io::Result<()> {
    let context = &server.context;
    while receive(server, session, stream).await? {
        loop {
            server.outgoing.pass().await;
            let now_ms = now_ms();
            let next = with_shard(|shard| session.run(context, shard, now_ms));
            if session.batch.has_plan() {
                run_remotely(server, session).await?;
                session.batch.assemble();
            }
            send(server, session, stream).await?;
            match next {
                Next::Receive => break,
                Next::Run => {}
                Next::Close => return Ok(()),
                Next::Errand(errand) => match run_errand(server, errand).await {
                    Some(reply) => stream.send_all(reply).await.0?,
                    None => return Ok(()),
                },
            }
        }
    }
    Ok(())
}

/// Does what takes longer than a poll, and answers the reply; none where the connection ends with the server.
async fn run_errand(server: &Arc<Server>, errand: Errand) -> Option<Vec<u8>> {
    let mut done = "OK";
    let outcome = match errand {
        Errand::Everywhere(asked) => match ask_everywhere(server, asked).await {
            Ok(stats) => return Some(server.context.answer(asked, stats)),
            Err(error) => Err(format!("ERR {error}")),
        },
        Errand::Keys(pattern) => match find_keys(pattern).await {
            Ok(keys) => return Some(keys.reply()),
            Err(error) => Err(format!("ERR {error}")),
        },
        Errand::Debug(_) if !server.context.facts.debug_command => {
            Err("ERR DEBUG command not allowed. Start the server with --enable-debug-command to allow it.".into())
        }
        Errand::Debug(Debug::Sleep(time)) => {
            be_busy(time).await;
            Ok(())
        }
        Errand::Debug(Debug::Stall(time)) => {
            stall(time);
            Ok(())
        }
        Errand::Debug(Debug::Backtrace) => match backtrace_all_cores().await {
            Ok(text) => {
                let mut out = Vec::new();
                reply::bulk(&mut out, text.as_bytes());
                return Some(out);
            }
            Err(text) => Err(text),
        },
        Errand::Save => snapshot::save_now(server).await,
        Errand::BackgroundSave => {
            done = "Background saving started";
            snapshot::save_in_background(server).await
        }
        Errand::Configure(changes) => server.configure(&changes).await,
        Errand::Shutdown(asked) => match server.shut_down(asked).await {
            Ok(()) => return None,
            Err(text) => Err(format!("ERR Errors trying to SHUTDOWN: {text}")),
        },
    };
    let mut out = Vec::new();
    match outcome {
        Ok(()) => reply::status(&mut out, done),
        // It may quote a path, or what the client sent.
        Err(text) => reply::error(&mut out, text.replace(['\r', '\n'], " ")),
    }
    Some(out)
}

/// Asks all shards for their keys, each by a task that gives way when it is told to. A key that is there all the while is found, and once.
async fn find_keys(pattern: Vec<u8>) -> Result<KeyList, JoinError> {
    let pattern: Arc<[u8]> = pattern.into();
    let parts = xcall::low::broadcast(move || async move {
        let (mut keys, mut position, now_ms) = (KeyList::default(), 0, now_ms());
        while let Some(next) = with_shard(|shard| shard.find_keys(position, &pattern, now_ms, &mut keys)) {
            position = next;
            ipiq::yield_if_needed().await;
        }
        keys
    });
    parts.fold(KeyList::default(), KeyList::join).await
}

/// Keeps this core busy for `time`, and gives way whenever it is told to.
async fn be_busy(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
        ipiq::yield_if_needed().await;
    }
}

/// Keeps this core busy for `time`, and lets nobody else run.
#[inline(never)]
fn stall(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// What every core is in the middle of, as text. Finding names blocks a thread for a while: one of its own.
async fn backtrace_all_cores() -> Result<String, String> {
    let (done, text) = oneshot::channel();
    let handle = ipiq::handle();
    // An error: the client has gone, or the server ends.
    let ask = move || _ = done.send(handle.backtrace_all_cores().to_string());
    thread::Builder::new().name("kv-backtrace".into()).spawn(ask).map_err(|error| format!("ERR {error}"))?;
    text.await.map_err(|_| "ERR no answer".to_owned())
}

/// Asks all shards, each between two polls of its core, and adds their figures.
async fn ask_everywhere(server: &Server, asked: Everywhere) -> Result<Stats, CallError> {
    let writes = asked == Everywhere::Flush;
    if writes {
        server.outgoing.pass().await;
    }
    // A snapshot holds all of it, or nothing.
    let _divided = writes.then(|| server.outgoing.divide());
    let parts = xcall::high::broadcast(move || with_shard(|shard| shard.take_part(asked)));
    parts.fold(Stats::default(), Stats::add).await
}

/// Reads what is there; false at the end of the connection, or where it has been idle for too long.
async fn receive(server: &Server, session: &mut Session, stream: &TcpStream) -> io::Result<bool> {
    let input = session.lend_input();
    let received = input.len();
    let reading = stream.recv(input.slice(received..));
    let mailbox = session.batch.subscriber.mailbox().map(Rc::clone);
    let timeout_s = server.context.live.read(|settings| settings.timeout_s);
    let BufResult(result, input) = match mailbox {
        Some(mailbox) => receive_or_deliver(server, &mailbox, reading, stream).await?,
        None if timeout_s == 0 => reading.await,
        None => match time::timeout(Duration::from_secs(timeout_s), reading).await {
            Ok(read) => read,
            Err(_) => return Ok(false),
        },
    };
    let within_limit = session.return_input(input.into_inner());
    Ok(result? > 0 && within_limit)
}

/// Waits for a request of a subscriber, and sends the messages that come meanwhile.
async fn receive_or_deliver<R>(
    server: &Server,
    mailbox: &Mailbox,
    reading: impl Future<Output = R>,
    stream: &TcpStream,
) -> io::Result<R> {
    let mut reading = pin!(reading);
    loop {
        match select(reading.as_mut(), pin!(mailbox.arrival())).await {
            Either::Left((read, _)) => return Ok(read),
            Either::Right((Arrival::Overflow, _)) => return Err(too_slow(server, stream)),
            Either::Right((Arrival::Messages(messages), _)) => {
                send_unless_slow(server, mailbox, stream, messages).await?;
            }
        }
    }
}

async fn send(server: &Server, session: &mut Session, stream: &TcpStream) -> io::Result<()> {
    let replies = session.batch.take_replies();
    if replies.is_empty() {
        session.batch.restore(replies);
        return Ok(());
    }
    let replies = match session.batch.subscriber.mailbox() {
        Some(mailbox) => send_unless_slow(server, mailbox, stream, replies).await?,
        None => {
            let BufResult(result, replies) = stream.send_all(replies).await;
            result?;
            replies
        }
    };
    session.batch.restore(replies);
    Ok(())
}

/// Sends to a subscriber, until too many messages wait behind that.
async fn send_unless_slow(
    server: &Server,
    mailbox: &Mailbox,
    stream: &TcpStream,
    bytes: Vec<u8>,
) -> io::Result<Vec<u8>> {
    mailbox.set_on_the_way(bytes.len());
    match select(pin!(stream.send_all(bytes)), pin!(mailbox.overflow())).await {
        Either::Left((BufResult(result, bytes), _)) => {
            mailbox.set_on_the_way(0);
            result.map(|()| bytes)
        }
        Either::Right(_) => Err(too_slow(server, stream)),
    }
}

#[cold]
fn too_slow(server: &Server, stream: &TcpStream) -> io::Error {
    server.context.facts.too_slow.fetch_add(1, Ordering::Relaxed);
    let peer = stream.peer_addr().map_or_else(|_| "a subscriber".to_owned(), |peer| format!("subscriber {peer}"));
    eprintln!("kv: closed {peer}: it reads too slowly, see client-output-buffer-limit");
    io::Error::other("too slow")
}

/// Sends every other core its part of the batch, all before the first answer is awaited.
async fn run_remotely(server: &Arc<Server>, session: &mut Session) -> io::Result<()> {
    for &core in session.batch.cores_to_ring() {
        server.ring(core);
    }
    let calls: Vec<_> =
        session.batch.take_exchanges().map(|(target, exchange)| (target, send_to(target, exchange))).collect();
    // Where a ring is full, the rest goes out in a later poll, and no snapshot may come between.
    let _divided = calls.iter().any(|(_, call)| !call.is_sent()).then(|| server.outgoing.divide());
    let mut failed = None;
    for (target, call) in calls {
        match call.await {
            Ok(exchange) => session.batch.put_back(target, exchange),
            // What waits for space is sent all the same: a batch that failed on one shard is none that was sent in part.
            Err(error) => failed = failed.or(Some(io::Error::other(error.to_string()))),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    for (publication, reply) in session.batch.publications() {
        reply::integer(reply, publication.delivered().await as i64);
    }
    Ok(())
}

/// Asks `target` to run the exchange; sent at once, unless the way there is full.
fn send_to(target: usize, mut exchange: Box<Exchange>) -> Call<impl FnOnce() -> Box<Exchange> + Send, Box<Exchange>> {
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
