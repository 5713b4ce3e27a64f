//! What one core does to its keys, and the message in which another core asks for it.

use std::num::NonZeroI64;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::command::{Everywhere, Expire, KeyOp, Lifetime, Presence, Scan, SetOptions, ShardsOp, TtlUnit};
use crate::glob;
use crate::pubsub::Hub;
use crate::reply;
use crate::resp::{MAX_BULK_BYTES, Span, parse_integer};
use crate::settings::Settings;
use crate::snapshot::Block;
use crate::store::{CutProgress, Deadline, Entry, Found, KeyHash, Store};

/// How much memory each shard holds, for the limit that all keep together.
pub(crate) struct Ledger {
    accounts: Vec<Account>,
}

/// One shard's figures, alone on their lines: its core writes them, every core may read them.
#[repr(align(128))]
#[derive(Default)]
struct Account {
    used_bytes: AtomicUsize,
    changes: AtomicU64,
}

impl Ledger {
    /// A ledger of `shards` empty shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self { accounts: (0..shards).map(|_| Account::default()).collect() }
    }

    /// What all shards but `shard` use.
    ///
    /// The sum is no snapshot: batches that run at the same time on several cores may together pass the limit by what
    /// they write. An exact limit would take one shared counter per write.
    fn used_by_others(&self, shard: usize) -> usize {
        let others = self.accounts.iter().enumerate();
        let others = others.filter(|(index, _)| *index != shard);
        others.map(|(_, account)| account.used_bytes.load(Ordering::Relaxed)).sum()
    }

    /// How often keys of all shards were changed since the start, batches that run now aside.
    pub(crate) fn changes(&self) -> u64 {
        self.accounts.iter().map(|account| account.changes.load(Ordering::Relaxed)).sum()
    }
}

/// Figures of one shard for INFO, or of all after adding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) keys: u64,
    pub(crate) volatile: u64,
    pub(crate) expired: u64,
    pub(crate) used_bytes: u64,
    pub(crate) commands: u64,
}

impl Add for Stats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            volatile: self.volatile + other.volatile,
            expired: self.expired + other.expired,
            used_bytes: self.used_bytes + other.used_bytes,
            commands: self.commands + other.commands,
        }
    }
}

/// Keys that were found, as elements of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyList {
    count: usize,
    bulks: Vec<u8>,
}

impl KeyList {
    fn push(&mut self, key: &[u8]) {
        self.count += 1;
        reply::bulk(&mut self.bulks, key);
    }

    /// The keys of both.
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.count += other.count;
        self.bulks.extend_from_slice(&other.bulks);
        self
    }

    /// The whole reply.
    pub(crate) fn reply(&self) -> Vec<u8> {
        let mut out = Vec::new();
        reply::array(&mut out, self.count);
        out.extend_from_slice(&self.bulks);
        out
    }
}

/// One core's part of the keys.
pub(crate) struct Shard {
    index: usize,
    shards: usize,
    store: Store,
    ledger: Arc<Ledger>,
    /// Who listens on this core.
    pub(crate) hub: Hub,
    limit_bytes: Option<usize>,
    /// Read once per batch, as the clock.
    used_by_others: usize,
    now_ms: i64,
    commands: u64,
}

impl Shard {
    /// The empty shard `index` of `shards`.
    pub(crate) fn new(index: usize, shards: usize, ledger: Arc<Ledger>) -> Self {
        Self {
            index,
            shards,
            store: Store::new(),
            ledger,
            hub: Hub::default(),
            limit_bytes: None,
            used_by_others: 0,
            now_ms: 0,
            commands: 0,
        }
    }

    /// This shard's number.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Follows the settings from now on.
    pub(crate) fn use_settings(&mut self, settings: &Settings) {
        self.limit_bytes = settings.max_memory_bytes;
        self.hub.set_limit(settings.subscriber_limit);
    }

    /// Starts a batch at `now_ms`: all its commands see one clock.
    pub(crate) fn begin(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        if self.limit_bytes.is_some() {
            self.used_by_others = self.ledger.used_by_others(self.index);
        }
    }

    /// Ends a batch of `commands` and tells the other shards what this one uses.
    pub(crate) fn end(&mut self, commands: u64) {
        self.commands += commands;
        let account = &self.ledger.accounts[self.index];
        account.changes.store(self.store.changes(), Ordering::Relaxed);
        account.used_bytes.store(self.store.used_bytes(), Ordering::Relaxed);
    }

    /// Takes in an entry of a snapshot.
    pub(crate) fn load(&mut self, hash: KeyHash, entry: Entry<'_>) {
        match self.store.find(hash, entry.key, 0) {
            None => self.store.insert(hash, entry.key, entry.value, entry.deadline),
            Some(found) => {
                self.store.set_value(found, entry.value);
                self.store.set_deadline(found, entry.deadline);
            }
        }
    }

    /// Ends the loading: what came is no change.
    pub(crate) fn end_loading(&mut self) {
        self.store.forget_changes();
        self.end(0);
    }

    /// Takes the shard's part of a snapshot as of `now_ms`, in constant time; false where one is being read.
    #[must_use]
    pub(crate) fn begin_snapshot(&mut self, now_ms: i64) -> bool {
        self.store.begin_cut(now_ms)
    }

    /// Reads the next block of the snapshot, one that takes some tens of microseconds.
    pub(crate) fn read_snapshot(&mut self) -> (Block, CutProgress) {
        const MOST_SLOTS: u32 = 1024;
        const BLOCK_BYTES: usize = 32 << 10;
        let mut block = Block::new(self.index, BLOCK_BYTES);
        let progress = self.store.read_cut(MOST_SLOTS, |entry| {
            block.push(entry);
            block.len() < BLOCK_BYTES
        });
        (block, progress)
    }

    /// Whether keys wait for a deadline.
    pub(crate) fn has_volatile(&self) -> bool {
        self.store.volatile() > 0
    }

    /// Removes expired keys nobody asks for: goes on while at least a tenth of what it looks at has expired, and
    /// answers whether it stopped because it had looked at `most_slots`.
    pub(crate) fn expire_cycle(&mut self, now_ms: i64, most_slots: u32) -> bool {
        const STEP: u32 = 512;
        let round = self.store.slots().min(most_slots);
        let mut looked = 0;
        while looked < round && self.store.volatile() > 0 {
            let removed = self.store.expire_some(now_ms, STEP);
            looked += STEP;
            if looked >= 4 * STEP && removed < STEP / 10 {
                break;
            }
        }
        self.end(0);
        looked >= most_slots
    }

    /// Runs `op` on `key` and appends its reply.
    pub(crate) fn run(&mut self, hash: KeyHash, key: &[u8], op: KeyOp<&[u8]>, out: &mut Vec<u8>) {
        let found = self.store.find(hash, key, self.now_ms);
        match op {
            KeyOp::Get => reply::optional_bulk(out, found.map(|found| self.store.value(found))),
            KeyOp::Set { value, options } => self.set(hash, key, found, value, options, out),
            KeyOp::SetNx { value } => self.set_nx(hash, key, found, value, out),
            KeyOp::GetSet { value } => {
                let options = SetOptions { get: true, ..SetOptions::default() };
                self.set(hash, key, found, value, options, out);
            }
            KeyOp::GetDel => {
                reply::optional_bulk(out, found.map(|found| self.store.value(found)));
                self.remove(found);
            }
            KeyOp::Add { delta } => self.add(hash, key, found, delta, out),
            KeyOp::Append { suffix } => self.append(hash, key, found, suffix, out),
            KeyOp::Strlen => {
                let length = found.map_or(0, |found| self.store.value(found).len());
                reply::integer(out, length as i64);
            }
            KeyOp::Delete => reply::integer(out, self.remove(found)),
            KeyOp::Exists => reply::integer(out, i64::from(found.is_some())),
            KeyOp::Expire(expire) => reply::integer(out, self.expire(found, expire)),
            KeyOp::Ttl(unit) => reply::integer(out, self.ttl(found, unit)),
            KeyOp::Persist => {
                let had = found.filter(|&found| self.store.deadline(found).is_some());
                if let Some(found) = had {
                    self.store.set_deadline(found, None);
                }
                reply::integer(out, i64::from(had.is_some()));
            }
            KeyOp::Type => reply::status(out, if found.is_some() { "string" } else { "none" }),
        }
    }

    /// Whether adding these pairs would pass the memory limit, none of them being there yet.
    pub(crate) fn refuses_pairs<'a>(&self, pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> bool {
        if self.limit_bytes.is_none() {
            return false;
        }
        let growth = pairs.map(|(key, value)| Store::entry_bytes(key.len(), value.len()));
        self.refuses(growth.sum())
    }

    /// Sets one key of an MSET, without a reply.
    pub(crate) fn set_plain(&mut self, hash: KeyHash, key: &[u8], value: &[u8]) {
        let found = self.store.find(hash, key, self.now_ms);
        self.put(hash, key, found, value, Lifetime::Forever);
    }

    /// Appends this shard's part of a command over all shards.
    pub(crate) fn run_all(&mut self, op: ShardsOp<&[u8]>, out: &mut Vec<u8>) {
        match op {
            ShardsOp::Channels { pattern } => self.hub.channels(pattern, out),
            ShardsOp::Subscribers { channel } => self.hub.subscribers(channel, out),
            ShardsOp::Patterns => self.hub.patterns(out),
        }
    }

    /// Appends the reply to a SCAN whose cursor names this shard.
    pub(crate) fn scan(&self, scan: Scan<&[u8]>, out: &mut Vec<u8>) {
        let (position, _) = split_cursor(scan.cursor, self.shards);
        let mut found = Vec::new();
        let mut length = 0;
        let next = self.store.walk(position, scan.count, self.now_ms, |key| {
            let wanted = scan.pattern.is_none_or(|pattern| glob::matches(pattern, key));
            if wanted && scan.strings {
                length += 1;
                reply::bulk(&mut found, key);
            }
        });
        let cursor = match next {
            Some(position) => join_cursor(position, self.index, self.shards),
            None if self.index + 1 < self.shards => join_cursor(0, self.index + 1, self.shards),
            None => 0,
        };
        reply::array(out, 2);
        reply::bulk(out, itoa::Buffer::new().format(cursor).as_bytes());
        reply::array(out, length);
        out.extend_from_slice(&found);
    }

    /// The next step of a KEYS from `position` on, one that takes some microseconds; answers where to go on, or `None` at the end.
    pub(crate) fn find_keys(&self, position: u64, pattern: &[u8], now_ms: i64, keys: &mut KeyList) -> Option<u64> {
        const STEP: u64 = 128;
        self.store.walk(position, STEP, now_ms, |key| {
            if pattern == b"*" || glob::matches(pattern, key) {
                keys.push(key);
            }
        })
    }

    /// This shard's part of what is asked of all, and its figures after that.
    pub(crate) fn take_part(&mut self, asked: Everywhere) -> Stats {
        if asked == Everywhere::Flush {
            self.store.clear();
            self.end(0);
        }
        Stats {
            keys: self.store.len() as u64,
            volatile: self.store.volatile() as u64,
            expired: self.store.expired(),
            used_bytes: self.store.used_bytes() as u64,
            commands: self.commands,
        }
    }

    fn set(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        found: Option<Found>,
        value: &[u8],
        options: SetOptions,
        out: &mut Vec<u8>,
    ) {
        if self.refuses(self.growth(key, found, value.len())) {
            return reply::error(out, reply::OUT_OF_MEMORY);
        }
        if options.get {
            reply::optional_bulk(out, found.map(|found| self.store.value(found)));
        }
        let allowed = match options.presence {
            Presence::Any => true,
            Presence::Absent => found.is_none(),
            Presence::Present => found.is_some(),
        };
        if allowed {
            self.put(hash, key, found, value, options.lifetime);
        }
        if !options.get {
            out.extend_from_slice(if allowed { reply::OK } else { reply::NULL });
        }
    }

    fn set_nx(&mut self, hash: KeyHash, key: &[u8], found: Option<Found>, value: &[u8], out: &mut Vec<u8>) {
        if found.is_none() {
            if self.refuses(self.growth(key, found, value.len())) {
                return reply::error(out, reply::OUT_OF_MEMORY);
            }
            self.put(hash, key, found, value, Lifetime::Forever);
        }
        reply::integer(out, i64::from(found.is_none()));
    }

    fn put(&mut self, hash: KeyHash, key: &[u8], found: Option<Found>, value: &[u8], lifetime: Lifetime) {
        let deadline = match lifetime {
            Lifetime::Forever | Lifetime::Keep => None,
            Lifetime::Until(deadline_ms) => deadline(deadline_ms),
        };
        let Some(found) = found else {
            return self.store.insert(hash, key, value, deadline);
        };
        self.store.set_value(found, value);
        if lifetime != Lifetime::Keep {
            self.store.set_deadline(found, deadline);
        }
    }

    fn add(&mut self, hash: KeyHash, key: &[u8], found: Option<Found>, delta: i64, out: &mut Vec<u8>) {
        let value = match found {
            None => Some(0),
            Some(found) => parse_integer(self.store.value(found)),
        };
        let Some(value) = value else {
            return reply::error(out, reply::NOT_AN_INTEGER);
        };
        let Some(sum) = value.checked_add(delta) else {
            return reply::error(out, reply::OVERFLOW);
        };
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(sum).as_bytes();
        if self.refuses(self.growth(key, found, digits.len())) {
            return reply::error(out, reply::OUT_OF_MEMORY);
        }
        self.put(hash, key, found, digits, Lifetime::Keep);
        reply::integer(out, sum);
    }

    fn append(&mut self, hash: KeyHash, key: &[u8], found: Option<Found>, suffix: &[u8], out: &mut Vec<u8>) {
        let length = found.map_or(0, |found| self.store.value(found).len()) + suffix.len();
        if length > MAX_BULK_BYTES {
            return reply::error(out, reply::TOO_LONG);
        }
        // Buffers that are appended to grow to powers of two.
        let room = (key.len() + length).next_power_of_two() - key.len();
        if self.refuses(self.growth(key, found, room)) {
            return reply::error(out, reply::OUT_OF_MEMORY);
        }
        match found {
            Some(found) => {
                self.store.append(found, suffix);
            }
            None => self.store.insert(hash, key, suffix, None),
        }
        reply::integer(out, length as i64);
    }

    fn remove(&mut self, found: Option<Found>) -> i64 {
        let Some(found) = found else { return 0 };
        self.store.remove(found);
        1
    }

    fn expire(&mut self, found: Option<Found>, expire: Expire) -> i64 {
        let Some(found) = found else { return 0 };
        let current = self.store.deadline(found).map(NonZeroI64::get);
        let wanted = expire.deadline_ms;
        let refused = (expire.only_if_none && current.is_some())
            || (expire.only_if_some && current.is_none())
            || (expire.only_if_later && current.is_none_or(|current| wanted <= current))
            || (expire.only_if_earlier && current.is_some_and(|current| wanted >= current));
        if refused {
            return 0;
        }
        if wanted <= self.now_ms {
            self.store.remove(found);
        } else {
            self.store.set_deadline(found, deadline(wanted));
        }
        1
    }

    fn ttl(&self, found: Option<Found>, unit: TtlUnit) -> i64 {
        let Some(found) = found else { return -2 };
        let Some(deadline) = self.store.deadline(found) else {
            return -1;
        };
        let left_ms = deadline.get().saturating_sub(self.now_ms).max(0);
        match unit {
            TtlUnit::Seconds => left_ms.saturating_add(500) / 1000,
            TtlUnit::Milliseconds => left_ms,
            TtlUnit::UnixSeconds => deadline.get().saturating_add(500) / 1000,
            TtlUnit::UnixMilliseconds => deadline.get(),
        }
    }

    fn growth(&self, key: &[u8], found: Option<Found>, value_len: usize) -> usize {
        match found {
            Some(found) => self.store.growth(found, value_len),
            None => Store::entry_bytes(key.len(), value_len),
        }
    }

    fn refuses(&self, growth: usize) -> bool {
        self.limit_bytes
            .is_some_and(|limit| growth > 0 && self.store.used_bytes() + self.used_by_others + growth > limit)
    }
}

/// Deadlines that are kept lie in the future of a clock that is past 1970, so they are never zero.
fn deadline(deadline_ms: i64) -> Deadline {
    NonZeroI64::new(deadline_ms)
}

/// A SCAN cursor's position and shard; cursor 0 is the start of shard 0.
pub(crate) fn split_cursor(cursor: u64, shards: usize) -> (u64, usize) {
    let shards = shards as u64;
    (cursor / shards, (cursor % shards) as usize)
}

fn join_cursor(position: u64, shard: usize, shards: usize) -> u64 {
    position * shards as u64 + shard as u64
}

/// One thing asked of a shard; a reply each, except where noted.
#[derive(Clone, Copy)]
pub(crate) enum ShardOp<B> {
    Key {
        hash: KeyHash,
        key: B,
        op: KeyOp<B>,
    },
    /// Sets the pairs of the next `pairs` entries, which have no reply of their own: all or, out of memory, none.
    SetPairs {
        pairs: usize,
    },
    Pair {
        hash: KeyHash,
        key: B,
        value: B,
    },
    All(ShardsOp<B>),
    Scan(Scan<B>),
}

/// One connection's batch for one other core: the requests on the way there, the replies on the way back.
///
/// It runs between two polls of the target, so no other connection's commands come in between. Its buffers are used
/// again by the connection's next batch.
#[derive(Default)]
pub(crate) struct Exchange {
    now_ms: i64,
    bytes: Vec<u8>,
    ops: Vec<ShardOp<Span>>,
    replies: Vec<u8>,
    /// Where each reply ends.
    ends: Vec<usize>,
    /// The reply that [`next_reply`](Self::next_reply) takes next.
    taken: usize,
}

/// Empties a buffer for its next use; what is large goes back to the allocator, so that idle connections hold little.
pub(crate) fn empty(buffer: &mut Vec<u8>) {
    const KEPT_BYTES: usize = 64 << 10;
    buffer.clear();
    buffer.shrink_to(KEPT_BYTES);
}

impl Exchange {
    /// Empties it for a batch at `now_ms`.
    pub(crate) fn clear(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.ops.clear();
        self.ends.clear();
        self.taken = 0;
        empty(&mut self.bytes);
        empty(&mut self.replies);
    }

    /// Adds a request, its bytes copied.
    pub(crate) fn push(&mut self, op: ShardOp<&[u8]>) {
        let bytes = &mut self.bytes;
        let mut hold = |part: &[u8]| {
            let start = bytes.len();
            bytes.extend_from_slice(part);
            Span::new(start, bytes.len())
        };
        let op = match op {
            ShardOp::Key { hash, key, op } => ShardOp::Key { hash, key: hold(key), op: op.map(hold) },
            ShardOp::SetPairs { pairs } => ShardOp::SetPairs { pairs },
            ShardOp::Pair { hash, key, value } => ShardOp::Pair { hash, key: hold(key), value: hold(value) },
            ShardOp::All(op) => ShardOp::All(op.map(hold)),
            ShardOp::Scan(scan) => ShardOp::Scan(scan.map(hold)),
        };
        self.ops.push(op);
    }

    /// Runs all requests on `shard`, in order.
    pub(crate) fn run(&mut self, shard: &mut Shard) {
        shard.begin(self.now_ms);
        let (bytes, replies) = (&self.bytes[..], &mut self.replies);
        let mut ops = self.ops.iter();
        while let Some(op) = ops.next() {
            match *op {
                ShardOp::Key { hash, key, op } => {
                    shard.run(hash, key.of(bytes), op.map(|span| span.of(bytes)), replies);
                }
                ShardOp::SetPairs { pairs } => {
                    let (pairs, rest) = ops.as_slice().split_at(pairs);
                    ops = rest.iter();
                    set_pairs(shard, bytes, pairs, replies);
                }
                ShardOp::Pair { .. } => unreachable!("pairs follow their SetPairs"),
                ShardOp::All(op) => shard.run_all(op.map(|span| span.of(bytes)), replies),
                ShardOp::Scan(scan) => shard.scan(scan.map(|span| span.of(bytes)), replies),
            }
            self.ends.push(replies.len());
        }
        shard.end(self.ends.len() as u64);
    }

    /// The next reply that was not taken yet.
    pub(crate) fn next_reply(&mut self) -> &[u8] {
        let start = match self.taken {
            0 => 0,
            taken => self.ends[taken - 1],
        };
        let end = self.ends[self.taken];
        self.taken += 1;
        &self.replies[start..end]
    }
}

fn set_pairs(shard: &mut Shard, bytes: &[u8], pairs: &[ShardOp<Span>], replies: &mut Vec<u8>) {
    let pairs = pairs.iter().filter_map(|pair| match *pair {
        ShardOp::Pair { hash, key, value } => Some((hash, key.of(bytes), value.of(bytes))),
        _ => None,
    });
    if shard.refuses_pairs(pairs.clone().map(|(_, key, value)| (key, value))) {
        return reply::error(replies, reply::OUT_OF_MEMORY);
    }
    for (hash, key, value) in pairs {
        shard.set_plain(hash, key, value);
    }
    replies.extend_from_slice(reply::OK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, ConnectionOp, Errand, parse};
    use crate::resp::Args;
    use crate::session::Context;

    /// A shard alone, driven by lines of words, under a clock of its own.
    struct Rig {
        shard: Shard,
        now_ms: i64,
    }

    impl Rig {
        fn new() -> Self {
            Self::with_limit(None)
        }

        fn with_limit(limit_bytes: Option<usize>) -> Self {
            let mut shard = Shard::new(0, 1, Arc::new(Ledger::new(1)));
            shard.use_settings(&Settings { max_memory_bytes: limit_bytes, ..Settings::default() });
            Self { shard, now_ms: 1_000_000 }
        }

        fn ask(&mut self, line: &str) -> String {
            let (mut bytes, mut spans) = (Vec::new(), Vec::new());
            for word in line.split(' ') {
                spans.push(Span::new(bytes.len(), bytes.len() + word.len()));
                bytes.extend_from_slice(word.as_bytes());
            }
            let mut out = Vec::new();
            self.shard.begin(self.now_ms);
            match parse(Args::new(&bytes, &spans), self.now_ms) {
                Ok(Command::Key { key, op }) => {
                    let hash = KeyHash(key.iter().map(|&byte| u64::from(byte)).sum());
                    self.shard.run(hash, key, op, &mut out);
                }
                Ok(Command::Shards(op)) => self.shard.run_all(op, &mut out),
                Ok(Command::Scan(scan)) => self.shard.scan(scan, &mut out),
                Ok(Command::Connection(ConnectionOp::Errand(Errand::Everywhere(asked)))) => {
                    out = Context::of_test(1).answer(asked, self.shard.take_part(asked));
                }
                other => panic!("{line}: {other:?}"),
            }
            self.shard.end(1);
            String::from_utf8(out).unwrap().replace("\r\n", " ").trim_end().to_owned()
        }

        /// As KEYS does, in all its steps.
        fn keys(&self, pattern: &[u8]) -> Vec<String> {
            let (mut keys, mut position) = (KeyList::default(), 0);
            while let Some(next) = self.shard.find_keys(position, pattern, self.now_ms, &mut keys) {
                position = next;
            }
            let reply = String::from_utf8(keys.reply()).expect("text");
            let words: Vec<_> = reply.split("\r\n").map(str::to_owned).collect();
            assert_eq!(words[0], format!("*{}", (words.len() - 2) / 2));
            words[2..].iter().step_by(2).cloned().collect()
        }

        fn scenario(&mut self, steps: &[(&str, &str)]) {
            for (line, expected) in steps {
                assert_eq!(self.ask(line), *expected, "{line}");
            }
        }
    }

    #[test]
    fn set_answers_by_its_options() {
        Rig::new().scenario(&[
            ("set k a xx", "$-1"),
            ("set k a nx", "+OK"),
            ("set k b nx", "$-1"),
            ("set k b nx get", "$1 a"),
            ("set k b get", "$1 a"),
            ("set m c get", "$-1"),
            ("get m", "$1 c"),
            ("getset m d", "$1 c"),
            ("setnx m e", ":0"),
            ("setnx n e", ":1"),
            ("getdel m", "$1 d"),
            ("getdel m", "$-1"),
            ("del n", ":1"),
            ("del n", ":0"),
            ("exists k", ":1"),
            ("type k", "+string"),
            ("type n", "+none"),
            ("dbsize", ":1"),
            ("flushall", "+OK"),
            ("dbsize", ":0"),
        ]);
    }

    #[test]
    fn counters_refuse_text_and_overflow() {
        Rig::new().scenario(&[
            ("incr n", ":1"),
            ("incrby n 41", ":42"),
            ("decrby n 43", ":-1"),
            ("decr n", ":-2"),
            ("get n", "$2 -2"),
            ("set n 9223372036854775807", "+OK"),
            ("incr n", "-ERR increment or decrement would overflow"),
            ("set n 01", "+OK"),
            ("incr n", "-ERR value is not an integer or out of range"),
            ("append n 2", ":3"),
            ("strlen n", ":3"),
            ("strlen none", ":0"),
            ("append new x", ":1"),
            ("get new", "$1 x"),
        ]);
    }

    #[test]
    fn lifetimes_follow_the_clock() {
        let mut rig = Rig::new();
        rig.scenario(&[
            ("set k v px 1500", "+OK"),
            ("pttl k", ":1500"),
            ("ttl k", ":2"),
            ("pexpiretime k", ":1001500"),
            ("set k w keepttl", "+OK"),
            ("pttl k", ":1500"),
            ("append k x", ":2"),
            ("pttl k", ":1500"),
        ]);
        rig.now_ms += 1500;
        rig.scenario(&[("get k", "$2 wx"), ("pttl k", ":0")]);
        rig.now_ms += 1;
        rig.scenario(&[("get k", "$-1"), ("ttl k", ":-2"), ("persist k", ":0")]);
        rig.scenario(&[
            ("set k v ex 5", "+OK"),
            ("persist k", ":1"),
            ("ttl k", ":-1"),
            ("set k v", "+OK"),
            ("expire k 5 xx", ":0"),
            ("expire k 5 gt", ":0"),
            ("expire k 5 lt", ":1"),
            ("expire k 5 nx", ":0"),
            ("expire k 4 gt", ":0"),
            ("expire k 6 gt", ":1"),
            ("expire k 7 lt", ":0"),
            ("set k v", "+OK"),
            ("ttl k", ":-1"),
            ("expire k -1", ":1"),
            ("exists k", ":0"),
            ("set p v pxat 1", "+OK"),
            ("get p", "$-1"),
        ]);
    }

    #[test]
    fn keys_finds_each_key_of_its_pattern_once_in_many_steps() {
        let mut rig = Rig::new();
        for n in 0..1000 {
            rig.ask(&format!("set key{n} v"));
            rig.ask(&format!("set other{n} v px {}", 1 + n % 2 * 1000));
        }
        rig.now_ms += 5;
        let sorted = |mut keys: Vec<String>| {
            keys.sort();
            keys
        };
        let expected = |name: &str, step| sorted((0..1000).rev().step_by(step).map(|n| format!("{name}{n}")).collect());
        assert_eq!(sorted(rig.keys(b"key*")), expected("key", 1));
        assert_eq!(sorted(rig.keys(b"other*")), expected("other", 2), "half of them have expired");
        assert_eq!(rig.keys(b"*").len(), 1500);
    }

    #[test]
    fn the_cycle_removes_what_has_expired() {
        let mut rig = Rig::new();
        for n in 0..5000 {
            rig.ask(&format!("set k{n} v px {}", if n % 2 == 0 { 10 } else { 1000 }));
        }
        rig.now_ms += 11;
        for _ in 0..20 {
            rig.shard.expire_cycle(rig.now_ms, 1 << 20);
        }
        assert_eq!(rig.ask("dbsize"), ":2500");
        rig.now_ms += 1000;
        assert!(rig.keys(b"*").is_empty());
        for _ in 0..20 {
            rig.shard.expire_cycle(rig.now_ms, 1 << 20);
        }
        assert_eq!(rig.ask("dbsize"), ":0");
        assert!(!rig.shard.has_volatile());
    }

    #[test]
    fn writes_above_the_limit_are_refused_and_others_go_on() {
        let mut rig = Rig::with_limit(Some(10_000));
        let refusal = format!("-{}", reply::OUT_OF_MEMORY);
        let large = "x".repeat(9000);
        rig.scenario(&[
            (&format!("set a {large}"), "+OK"),
            (&format!("set b {large}"), &refusal),
            (&format!("append a {large}"), &refusal),
            ("set a small", "+OK"),
            (&format!("set b {large}"), "+OK"),
            ("get a", "$5 small"),
            ("incr a", "-ERR value is not an integer or out of range"),
            ("del b", ":1"),
            ("incr n", ":1"),
        ]);
        let mut accepted = 0;
        while rig.ask(&format!("set key{accepted} v")) == "+OK" {
            accepted += 1;
            assert!(accepted < 1000);
        }
        rig.scenario(&[("incr n", ":2"), ("incr other", &refusal), ("get key0", "$1 v")]);
    }

    #[test]
    fn a_scan_ends_and_meets_every_key() {
        let mut rig = Rig::new();
        for n in 0..100 {
            rig.ask(&format!("set key{n} v"));
        }
        let (mut cursor, mut keys) = ("0".to_owned(), 0);
        loop {
            let reply = rig.ask(&format!("scan {cursor} match key*"));
            let mut words = reply.split(' ');
            cursor = words.nth(2).unwrap().to_owned();
            keys += words.filter(|word| word.starts_with("key")).count();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(keys, 100);
        rig.scenario(&[
            ("scan 0 count 1000 match nokey", "*2 $1 0 *0"),
            ("scan 0 count 1000 type list", "*2 $1 0 *0"),
            ("scan 99999999", "*2 $1 0 *0"),
        ]);
    }
}
