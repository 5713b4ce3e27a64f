//! The one moment of a snapshot, on all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ipiq::{Pause, Paused};

use crate::keyspace::{Keys, now_ms};
use crate::server::Server;

/// How long the cores may take to stand still before the snapshot is given up.
const LIMIT: Duration = Duration::from_secs(5);

/// Batches whose messages one poll could not send all, for a ring was full: between its parts no snapshot may be cut.
pub(crate) struct Outgoing {
    divided: Vec<Divisions>,
}

/// How many batches of one core are divided now, alone on its lines. Written by that core only.
#[repr(align(128))]
#[derive(Default)]
struct Divisions(AtomicUsize);

/// A batch of which a part is sent.
pub(crate) struct Divided<'a>(&'a AtomicUsize);

impl Outgoing {
    pub(crate) fn new(cores: usize) -> Self {
        Self { divided: (0..cores).map(|_| Divisions::default()).collect() }
    }

    /// Says that a batch of this core is sent in part, until the guard is dropped on this core.
    #[cold]
    pub(crate) fn divide(&self) -> Divided<'_> {
        let count = &self.divided[ipiq::core_id().index()].0;
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Divided(count)
    }

    fn any(&self) -> bool {
        self.divided.iter().any(|count| count.0.load(Ordering::Relaxed) > 0)
    }
}

impl Drop for Divided<'_> {
    fn drop(&mut self) {
        self.0.store(self.0.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }
}

/// The moment of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) taken_ms: i64,
    /// How often keys were changed before.
    pub(super) changes: u64,
}

/// Takes the cut of every shard at one moment, between two polls of each core.
///
/// # Errors
///
/// Says why the cores were not stopped. Some shards may have been cut all the same.
pub(super) async fn take(server: &Arc<Server>) -> Result<Taken, String> {
    if let Some(taken) = stop(server).await? {
        return Ok(taken);
    }
    // Batches are divided: let those end, and none begin.
    hold_batches(&server.keys, true).await?;
    let outcome = loop {
        while server.outgoing.any() {
            ipiq::yield_now().await;
        }
        match stop(server).await {
            Ok(None) => {}
            Ok(Some(taken)) => break Ok(taken),
            Err(text) => break Err(text),
        }
    };
    hold_batches(&server.keys, false).await?;
    outcome
}

/// Has every core hold batches that have not begun, or go on with them once nobody wants them held.
///
/// # Errors
///
/// Says that a core is gone.
pub(crate) async fn hold_batches(keys: &Keys, hold: bool) -> Result<(), String> {
    keys.map(move |keyspace| keyspace.batches.hold(hold))
        .await
        .map(drop)
        .map_err(|error| format!("a core is gone: {error}"))
}

/// Stops all cores and cuts their shards; none where a batch was divided.
async fn stop(server: &Arc<Server>) -> Result<Option<Taken>, String> {
    let stopped = Arc::clone(server);
    let outcome = ipiq::pause(Pause::all().drain().timeout(LIMIT), move |paused| cut_shards(&stopped, paused)).await;
    let (taken, times) = outcome.map_err(|error| format!("the cores were not stopped: {error}"))?;
    server.context.facts.snapshots.add_stop(times.total, taken == Ok(None));
    taken
}

/// The body of the stop: every core stands between two polls, and what was sent has been executed.
fn cut_shards(server: &Server, paused: &Paused<'_>) -> Result<Option<Taken>, String> {
    if server.outgoing.any() {
        return Ok(None);
    }
    let taken_ms = now_ms();
    let refused = AtomicBool::new(paused.cores().len() < server.context.facts.cores);
    let cut = paused.on_each(|| {
        let keyspace = server.keys.try_local();
        if !keyspace.is_some_and(|keyspace| keyspace.with(|shard| shard.begin_snapshot(taken_ms))) {
            refused.store(true, Ordering::Relaxed);
        }
    });
    cut.map_err(|error| format!("a shard was not cut: {error}"))?;
    if refused.into_inner() {
        return Err("a shard was not cut: its core is gone, or another snapshot is being read".to_owned());
    }
    Ok(Some(Taken { taken_ms, changes: server.context.facts.ledger.changes() }))
}
