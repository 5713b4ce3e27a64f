//! One connection on its core: requests in, batches run here and elsewhere, replies out.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use compio_buf::{BufResult, IntoInner, IoBuf};
use futures::future::{Either, select};
use ipiq::net::TcpStream;
use ipiq::{CoreId, time};

use crate::errand;
use crate::keyspace::{Seat, now_ms};
use crate::pubsub::{Arrival, Mailbox};
use crate::reply;
use crate::server::Server;
use crate::session::{Next, Session};
use crate::shard::Exchange;

/// Serves the connection, or tells it that there are too many.
pub(crate) fn admit(server: &Arc<Server>, stream: TcpStream) {
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
    let mut session = Session::new(ipiq::core_id().index(), server.context.facts.cores);
    let outcome = serve_session(server, &mut session, &stream).await;
    if let Some(keyspace) = server.keys.try_local() {
        keyspace.with(|shard| session.batch.leave(&server.context, shard));
    }
    outcome
}

async fn serve_session(server: &Arc<Server>, session: &mut Session, stream: &TcpStream) -> io::Result<()> {
    while receive(server, session, stream).await? {
        // A connection that waits for requests uses no keys, so that it does not hold up the end.
        let Some(keyspace) = server.keys.try_local() else { break };
        let Some(_running) = keyspace.batches.begin().await else { break };
        if !answer(server, &keyspace, session, stream).await? {
            break;
        }
    }
    Ok(())
}

/// Answers what one read brought; false where the connection ends after that.
async fn answer(server: &Arc<Server>, keyspace: &Seat, session: &mut Session, stream: &TcpStream) -> io::Result<bool> {
    let context = &server.context;
    loop {
        let now_ms = now_ms();
        let next = keyspace.with(|shard| session.run(context, shard, now_ms));
        if session.batch.has_plan() {
            run_remotely(server, session).await?;
            session.batch.assemble();
        }
        send(server, session, stream).await?;
        match next {
            Next::Receive => return Ok(true),
            Next::Run => {}
            Next::Close => return Ok(false),
            Next::Errand(errand) => match errand::run(server, keyspace, errand).await {
                Some(reply) => stream.send_all(reply).await.0?,
                None => return Ok(false),
            },
        }
        // What was held back meanwhile comes first.
        if !keyspace.batches.pass().await {
            return Ok(false);
        }
    }
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
    let send = |(target, mut exchange): (usize, Box<Exchange>)| {
        // Sent at once, unless the way there is full.
        let call = server.keys.on(CoreId::new(target)).call(move |keyspace| {
            keyspace.with(|shard| exchange.run(shard));
            exchange
        });
        (target, call)
    };
    let calls: Vec<_> = session.batch.take_exchanges().map(send).collect();
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
