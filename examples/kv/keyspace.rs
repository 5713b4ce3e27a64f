//! What a core has of the keys, and what goes with them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipiq::sharded::{self, Sharded};
use ipiq::{Local, time};

use crate::settings::{Live, Settings};
use crate::shard::{Ledger, Shard};

/// How often expired keys are looked for while some key has a deadline.
const EXPIRE_PERIOD: Duration = Duration::from_millis(100);
/// How many entries one look visits before others run.
const EXPIRE_SLOTS: u32 = 16 << 10;

/// All keys: a part for every core.
pub(crate) type Keys = Sharded<Keyspace>;
/// This core's part, in use.
pub(crate) type Seat = sharded::Shard<Keyspace>;

/// One core's part of the keys.
pub(crate) struct Keyspace {
    shard: RefCell<Shard>,
    settings: Local<Settings>,
    /// The version of the settings that the shard follows.
    followed: Cell<Option<u64>>,
    /// Whether [`expire`] runs.
    expiring: Cell<bool>,
    pub(crate) batches: Batches,
    /// For what runs by itself, and must not hold up the end.
    keys: Keys,
}

impl Keyspace {
    /// The calling core's part of `keys`, which are being made.
    pub(crate) fn new(keys: Keys, live: &Live, ledger: &Arc<Ledger>) -> Self {
        Self {
            shard: RefCell::new(Shard::new(ipiq::core_id().index(), ipiq::core_count(), Arc::clone(ledger))),
            settings: live.local(),
            followed: Cell::new(None),
            expiring: Cell::new(false),
            batches: Batches::default(),
            keys,
        }
    }

    /// Runs `f` on the shard, under the settings of now, and starts the search for expired keys where there may be some.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Shard) -> R) -> R {
        let mut shard = self.shard.borrow_mut();
        let version = Some(self.settings.version());
        if self.followed.replace(version) != version {
            self.settings.read(|settings| shard.use_settings(settings));
        }
        let result = f(&mut shard);
        if shard.has_volatile() && !self.expiring.replace(true) {
            crate::in_background(expire(self.keys.clone()));
        }
        result
    }
}

/// The clock of keys' deadlines, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_millis() as i64)
}

/// Removes this core's expired keys from time to time, until no key has a deadline or there are no keys.
async fn expire(keys: Keys) {
    loop {
        time::sleep(EXPIRE_PERIOD).await;
        let Some(keyspace) = keys.try_local() else { return };
        while keyspace.with(|shard| shard.expire_cycle(now_ms(), EXPIRE_SLOTS)) {
            ipiq::yield_now().await;
        }
        if !keyspace.with(|shard| shard.has_volatile()) {
            keyspace.expiring.set(false);
            return;
        }
    }
}

/// The batches of this core's connections.
#[derive(Default)]
pub(crate) struct Batches {
    /// How many want those to wait that have not begun.
    holds: Cell<u32>,
    /// Whether none begins any more.
    closed: Cell<bool>,
    running: Cell<usize>,
    /// Who waits for any of these to change.
    waiting: RefCell<Vec<Waker>>,
}

/// A batch that has begun.
pub(crate) struct Running<'a>(&'a Batches);

impl Batches {
    /// One more, or one fewer, wants batches to wait.
    pub(crate) fn hold(&self, hold: bool) {
        let holds = self.holds.get();
        self.holds.set(if hold { holds + 1 } else { holds - 1 });
        self.wake();
    }

    /// Begins a batch, once nobody wants it to wait; none where no batch begins any more.
    pub(crate) async fn begin(&self) -> Option<Running<'_>> {
        if !self.pass().await {
            return None;
        }
        self.running.set(self.running.get() + 1);
        Some(Running(self))
    }

    /// Waits while batches are held; false where none begins any more.
    pub(crate) async fn pass(&self) -> bool {
        if self.holds.get() > 0 {
            self.until(|| self.holds.get() == 0 || self.closed.get()).await;
        }
        !self.closed.get()
    }

    /// Lets no batch begin from now on, and waits for those that have begun.
    pub(crate) async fn close(&self) {
        self.closed.set(true);
        self.wake();
        self.until(|| self.running.get() == 0).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        poll_fn(|cx| {
            if holds() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn wake(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        if self.0.closed.get() {
            self.0.wake();
        }
    }
}
