//! What takes longer than a poll.

use std::ops::Add;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use ipiq::sharded::ShardError;

use crate::command::{Debug, Errand, Everywhere};
use crate::keyspace::{Keys, Keyspace, Seat, now_ms};
use crate::reply;
use crate::server::Server;
use crate::shard::{KeyList, Stats};
use crate::snapshot;

/// Does `errand`, and answers the reply; none where the connection ends with the server.
pub(crate) async fn run(server: &Arc<Server>, keyspace: &Seat, errand: Errand) -> Option<Vec<u8>> {
    let mut done = "OK";
    let outcome = match errand {
        Errand::Everywhere(asked) => match ask_everywhere(server, keyspace, asked).await {
            Ok(stats) => return Some(server.context.answer(asked, stats)),
            Err(error) => Err(format!("ERR {error}")),
        },
        Errand::Keys(pattern) => match find_keys(&server.keys, pattern).await {
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
async fn find_keys(keys: &Keys, pattern: Vec<u8>) -> Result<KeyList, ShardError> {
    let pattern: Arc<[u8]> = pattern.into();
    let parts = keys.map_async(async move |keyspace: Seat| {
        let (mut found, mut position, now_ms) = (KeyList::default(), 0, now_ms());
        while let Some(next) = keyspace.with(|shard| shard.find_keys(position, &pattern, now_ms, &mut found)) {
            position = next;
            ipiq::yield_if_needed().await;
        }
        found
    });
    Ok(parts.await?.into_iter().fold(KeyList::default(), KeyList::join))
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
async fn ask_everywhere(server: &Server, keyspace: &Seat, asked: Everywhere) -> Result<Stats, ShardError> {
    let writes = asked == Everywhere::Flush;
    if writes {
        // Where the server ends it is as good before as after what is saved.
        keyspace.batches.pass().await;
    }
    // A snapshot holds all of it, or nothing.
    let _divided = writes.then(|| server.outgoing.divide());
    let take_part = move |keyspace: &Keyspace| keyspace.with(|shard| shard.take_part(asked));
    server.keys.map_reduce(take_part, Stats::default(), Stats::add).await
}
