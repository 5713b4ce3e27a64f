//! Loading a file at the start.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::PathBuf;
use std::thread;

use futures::channel::{mpsc, oneshot};
use futures::executor::block_on;
use futures::future::join_all;
use futures::sink::SinkExt;
use futures::stream::StreamExt;
use ipiq::CoreId;

use super::format::{Damage, Reader};
use super::status::Loaded;
use super::writer::remove_leftovers;
use crate::keyspace::{Keys, Keyspace, Seat};
use crate::route::Router;
use crate::store::{Deadline, Entry, KeyHash};

/// How many bytes of entries travel to a shard at a time, and how many such portions wait there.
const PORTION_BYTES: usize = 256 << 10;
const WAITING_PORTIONS: usize = 2;

/// Loads the file at `path` into the shards of all cores, which must be empty; nothing where there is no such file.
///
/// # Errors
///
/// Says what is wrong with the file. Some of it may have been loaded by then, so the server must not start.
pub(crate) async fn load(keys: &Keys, path: PathBuf, router: Router, now_ms: i64) -> Result<Loaded, String> {
    let named = |text: String| format!("cannot load {}: {text}", path.display());
    remove_leftovers(&path);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::default()),
        Err(error) => return Err(named(error.to_string())),
    };
    let (senders, shards): (Vec<_>, Vec<_>) = (0..ipiq::core_count()).map(|_| mpsc::channel(WAITING_PORTIONS)).unzip();
    let (done, outcome) = oneshot::channel();
    let reading = thread::Builder::new().name("kv-load".to_owned()).spawn(move || {
        // Nobody waits for it only when the runtime has ended.
        let _ = done.send(read(file, &router, now_ms, senders));
    });
    reading.map_err(|error| named(error.to_string()))?;
    let filling = shards.into_iter().enumerate().map(|(core, portions)| {
        keys.on(CoreId::new(core)).spawn(async move |keyspace: Seat| fill(&keyspace, portions).await)
    });
    for filled in join_all(filling).await {
        filled.map_err(|error| format!("a core failed while loading: {error}"))?;
    }
    match outcome.await {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(damage)) => Err(named(format!("{damage}; move the file away to start without it"))),
        Err(_) => Err(named("the reading thread has ended early".to_owned())),
    }
}

/// Takes what is routed to this core's shard.
async fn fill(keyspace: &Keyspace, mut portions: mpsc::Receiver<Portion>) {
    while let Some(portion) = portions.next().await {
        keyspace.with(|shard| portion.for_each(|hash, entry| shard.load(hash, entry)));
        // The next portion may wait already, and others must run too.
        ipiq::yield_now().await;
    }
}

/// Some entries of one shard.
#[derive(Default)]
struct Portion {
    bytes: Vec<u8>,
    entries: Vec<(KeyHash, usize, usize, Deadline)>,
}

impl Portion {
    fn push(&mut self, hash: KeyHash, entry: Entry<'_>) {
        self.bytes.extend_from_slice(entry.key);
        self.bytes.extend_from_slice(entry.value);
        self.entries.push((hash, entry.key.len(), entry.value.len(), entry.deadline));
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<(KeyHash, usize, usize, Deadline)>()
    }

    fn for_each(&self, mut visit: impl FnMut(KeyHash, Entry<'_>)) {
        let mut rest = &self.bytes[..];
        for &(hash, key_len, value_len, deadline) in &self.entries {
            let (key, behind) = rest.split_at(key_len);
            let (value, behind) = behind.split_at(value_len);
            rest = behind;
            visit(hash, Entry { key, value, deadline });
        }
    }
}

fn read(file: File, router: &Router, now_ms: i64, mut shards: Vec<mpsc::Sender<Portion>>) -> Result<Loaded, Damage> {
    let mut reader = Reader::new(BufReader::with_capacity(PORTION_BYTES, file))?;
    let mut loaded = Loaded::default();
    let mut portions: Vec<Portion> = shards.iter().map(|_| Portion::default()).collect();
    loop {
        let more = reader.next_block(|entry| {
            if entry.deadline.is_some_and(|deadline| now_ms > deadline.get()) {
                loaded.expired += 1;
                return;
            }
            loaded.keys += 1;
            let (shard, hash) = router.place(entry.key);
            portions[shard].push(hash, entry);
        })?;
        for (portion, shard) in portions.iter_mut().zip(&mut shards) {
            if portion.len() >= PORTION_BYTES || (!more && portion.len() > 0) {
                // A core that is gone is reported by its task.
                let _ = block_on(shard.send(std::mem::take(portion)));
            }
        }
        if !more {
            return Ok(loaded);
        }
    }
}
