#![doc = include_str!("README.md")]

mod cut;
mod format;
mod load;
mod status;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use futures::channel::mpsc;
use futures::sink::SinkExt;

pub(crate) use cut::{Outgoing, hold_batches};
pub(crate) use format::Block;
pub(crate) use load::load;
pub(crate) use status::{Age, Loaded, Running, Status};
pub(crate) use writer::wait_for_writers;

use crate::keyspace::{Keys, Keyspace, Seat};
use crate::server::Server;
use crate::store::CutProgress;
use cut::Taken;
use format::Header;
use status::Saved;
use writer::{Piece, Writer};

/// The refusal of a snapshot while one is running, as redis words it.
const IN_PROGRESS: &str = "ERR Background save already in progress";

/// A snapshot whose moment has been taken and whose file is being written.
struct Begun {
    keys: Keys,
    writer: Writer,
    changes: u64,
}

/// Opens the file and takes the moment: everything that ran before this returns is part of the snapshot.
///
/// # Errors
///
/// Says why the file cannot be created, or the cores not be stopped.
async fn begin(server: &Arc<Server>, path: PathBuf) -> Result<Begun, String> {
    let shown = path.display().to_string();
    let mut writer = Writer::start(path).await.map_err(|error| format!("cannot write {shown}: {error}"))?;
    match cut::take(server).await {
        Ok(Taken { taken_ms, changes }) => {
            let header = Header { shards: ipiq::core_count() as u32, taken_ms };
            // A writer that has failed by now says so at the end.
            let _ = writer.pieces.send(Piece::Header(header)).await;
            Ok(Begun { keys: server.keys.clone(), writer, changes })
        }
        Err(text) => {
            // Shards that were cut before the failure go on as if nothing had been asked.
            read_all(&server.keys, None).await?;
            Err(text)
        }
    }
}

impl Begun {
    /// Reads all shards into the file and waits until it is on the disk.
    ///
    /// # Errors
    ///
    /// Says why it could not be written; the file of before is then untouched.
    async fn finish(self) -> Result<Saved, String> {
        let Writer { pieces, outcome } = self.writer;
        let kept_bytes = read_all(&self.keys, Some(pieces)).await?;
        let outcome = outcome.await.unwrap_or_else(|_| Err(writer::ended()));
        let written = outcome.map_err(|error| format!("cannot write the snapshot: {error}"))?;
        Ok(Saved { bytes: written.bytes, kept_bytes, changes: self.changes })
    }
}

/// Reads the cut of every shard on its core, into `pieces` or into nothing; answers the bytes kept for it meanwhile.
async fn read_all(keys: &Keys, pieces: Option<mpsc::Sender<Piece>>) -> Result<u64, String> {
    let read = keys.map_async(async move |keyspace: Seat| read_shard(&keyspace, pieces).await).await;
    let kept_bytes = read.map_err(|error| format!("a core failed while it was read: {error}"))?;
    Ok(kept_bytes.iter().sum())
}

/// Reads this core's shard. A writer that has failed takes no more, but the rest is read all the same: until then every
/// change costs memory.
async fn read_shard(keyspace: &Keyspace, mut pieces: Option<mpsc::Sender<Piece>>) -> u64 {
    loop {
        let (block, progress) = keyspace.with(|shard| shard.read_snapshot());
        if let Some(open) = pieces.as_mut().filter(|_| !block.is_empty())
            && open.send(Piece::Block(block)).await.is_err()
        {
            pieces = None;
        }
        if let CutProgress::Done { kept_bytes } = progress {
            if let Some(mut open) = pieces {
                // A writer that has failed says so itself.
                let _ = open.send(Piece::End { shard: ipiq::core_id().index() }).await;
            }
            return kept_bytes;
        }
        ipiq::yield_now().await;
    }
}

/// Takes a snapshot from its beginning to its end.
///
/// # Errors
///
/// Says why there is none.
pub(crate) async fn save(server: &Arc<Server>, running: Running, path: PathBuf) -> Result<(), String> {
    let outcome = match begin(server, path).await {
        Ok(begun) => begun.finish().await,
        Err(text) => Err(text),
    };
    end(running, &outcome);
    outcome.map(drop)
}

/// SAVE: answers when the file is on the disk.
///
/// # Errors
///
/// The reply, where there is no file.
pub(crate) async fn save_now(server: &Arc<Server>) -> Result<(), String> {
    let running = server.context.facts.snapshots.begin().ok_or(IN_PROGRESS)?;
    let path = server.context.live.read(|settings| settings.snapshot_path());
    save(server, running, path).await.map_err(|text| format!("ERR {text}"))
}

/// BGSAVE: answers when the file is open and the moment taken; the rest goes on by itself.
///
/// # Errors
///
/// The reply, where it does not come so far.
pub(crate) async fn save_in_background(server: &Arc<Server>) -> Result<(), String> {
    let running = server.context.facts.snapshots.begin().ok_or(IN_PROGRESS)?;
    let path = server.context.live.read(|settings| settings.snapshot_path());
    match begin(server, path).await {
        Ok(begun) => {
            crate::in_background(async move { end(running, &begun.finish().await) });
            Ok(())
        }
        Err(text) => {
            let outcome = Err(text);
            end(running, &outcome);
            outcome.map(|_: Saved| ()).map_err(|text| format!("ERR {text}"))
        }
    }
}

fn end(running: Running, outcome: &Result<Saved, String>) {
    if let Err(text) = outcome {
        eprintln!("kv: no snapshot: {text}");
    }
    running.end(outcome);
}
