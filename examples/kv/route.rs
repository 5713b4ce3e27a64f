//! Where a command runs: on this core's shard at once, or in one message per other core.
//!
//! A batch is what one read brought. Commands on local keys run while the batch is read and append to its replies;
//! commands on other shards are copied into one [`Exchange`] per core, and the plan notes where their replies belong.
//! Every shard sees its part of the batch in the order of the requests, so a connection sees its own writes. Commands
//! over several shards are atomic on each shard alone: another connection may see an MSET done on one and not yet on
//! the next. What is asked of every core at once, DBSIZE, FLUSHALL and INFO, ends the batch and is sent by `ipiq::xcall`.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::command::{Command, ConnectionOp, Errand, KeyOp, Scan, ShardsOp, Verb};
use crate::info;
use crate::pubsub::{Publication, Subscriber};
use crate::reply;
use crate::resp::{Args, parse_integer};
use crate::session::Context;
use crate::shard::{Exchange, Shard, ShardOp, empty, split_cursor};
use crate::store::KeyHash;

/// From a key to its shard; the same on all cores, another at each start.
#[derive(Clone)]
pub(crate) struct Router {
    seed: RandomState,
    shards: usize,
}

impl Router {
    /// A router over `shards` shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self { seed: RandomState::default(), shards }
    }

    /// The shard of a key, and its hash.
    pub(crate) fn place(&self, key: &[u8]) -> (usize, KeyHash) {
        let hash = self.hash(key);
        (self.shard(hash), hash)
    }

    fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.seed.hash_one(key))
    }

    /// Maps the hash's high half, which no bucket uses, onto the shards.
    fn shard(&self, hash: KeyHash) -> usize {
        (((hash.0 >> 32) * self.shards as u64) >> 32) as usize
    }
}

/// What becomes of the connection after a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    /// Send what is there, then close.
    Close,
    /// Send what is there, then do this.
    Errand(Errand),
}

/// Where the next reply, or the next part of a merged one, comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// The local replies up to here.
    Local { end: usize },
    /// That shard's next reply.
    Remote { shard: usize },
    /// The count of that publication.
    Published { index: usize },
    /// One reply made of the next `parts` pieces.
    Merged { merge: Merge, parts: usize },
}

/// How the parts of a command over several shards become one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    /// Integers, added.
    Sum,
    /// `+OK`, or the first part that is not.
    AllOk,
    /// Arrays, joined, each element once.
    Union,
    /// How many elements that is.
    CountUnion,
}

/// Local replies above this many bytes are sent before the rest of the batch is read.
const FULL_BYTES: usize = 1 << 20;
/// As many requests to other shards end a batch: how long their replies are shows only when they come.
const FULL_REQUESTS: usize = 256;

/// The replies to one batch of one connection.
pub(crate) struct Batch {
    now_ms: i64,
    home: usize,
    /// Replies made on this core, or all of them after [`assemble`](Self::assemble).
    replies: Vec<u8>,
    /// Empty while every reply is local.
    plan: Vec<Piece>,
    /// How much of the local replies the plan has.
    planned: usize,
    exchanges: Vec<Option<Box<Exchange>>>,
    /// The shards whose exchange holds a request of this batch.
    involved: Vec<usize>,
    assembled: Vec<u8>,
    /// Requests filed for other shards.
    filed: usize,
    /// Commands run by the local shard.
    local_commands: u64,
    /// What the connection listens to.
    pub(crate) subscriber: Subscriber,
    /// Messages on their way to other cores, and the replies that tell how many got them.
    publications: Vec<(Arc<Publication>, Vec<u8>)>,
    /// The cores to ring for them.
    ring: Vec<usize>,
}

impl Batch {
    /// A batch of a connection that core `home` serves.
    pub(crate) fn new(home: usize, shards: usize) -> Self {
        Self {
            now_ms: 0,
            home,
            replies: Vec::new(),
            plan: Vec::new(),
            planned: 0,
            exchanges: (0..shards).map(|_| None).collect(),
            involved: Vec::new(),
            assembled: Vec::new(),
            filed: 0,
            local_commands: 0,
            subscriber: Subscriber::default(),
            publications: Vec::new(),
            ring: Vec::new(),
        }
    }

    /// Forgets the last batch and starts one at `now_ms`.
    pub(crate) fn begin(&mut self, now_ms: i64, shard: &mut Shard) {
        debug_assert_eq!(shard.index(), self.home);
        self.now_ms = now_ms;
        self.plan.clear();
        self.planned = 0;
        self.involved.clear();
        self.filed = 0;
        self.local_commands = 0;
        self.publications.clear();
        self.ring.clear();
        // What a subscriber was to get comes before the replies to what it asks now.
        self.subscriber.catch_up(&mut self.replies);
        shard.begin(now_ms);
    }

    /// Ends the local part of the batch.
    pub(crate) fn end(&mut self, shard: &mut Shard) {
        shard.end(self.local_commands);
    }

    /// Whether the replies should be sent before more commands are read.
    pub(crate) fn is_full(&self) -> bool {
        self.replies.len() >= FULL_BYTES || self.filed >= FULL_REQUESTS
    }

    /// The reply of a request that no shard sees.
    pub(crate) fn refuse(&mut self, text: &[u8]) {
        self.replies.push(b'-');
        self.replies.extend_from_slice(text);
        self.replies.extend_from_slice(b"\r\n");
    }

    /// Runs `command`, or files it for the shards that hold its keys.
    pub(crate) fn apply(&mut self, command: Command<'_>, context: &Context, shard: &mut Shard) -> Flow {
        let router = &context.router;
        self.local_commands += 1;
        match command {
            Command::Key { key, op } => {
                let hash = router.hash(key);
                match self.remote(router.shard(hash)) {
                    None => shard.run(hash, key, op, &mut self.replies),
                    Some(target) => self.send(target, ShardOp::Key { hash, key, op }),
                }
            }
            Command::Keys { verb, args } => self.apply_keys(verb, args, router, shard),
            Command::Shards(op) => self.apply_all(op, context, shard),
            Command::Scan(scan) => self.apply_scan(scan, router.shards, shard),
            Command::Connection(op) => return self.apply_connection(op, context, shard),
        }
        Flow::Continue
    }

    /// Whether replies wait for other shards, or for being merged.
    pub(crate) fn has_plan(&self) -> bool {
        !self.plan.is_empty()
    }

    /// The messages of this batch with the shards they go to; [`put_back`](Self::put_back) takes them again.
    pub(crate) fn take_exchanges(&mut self) -> impl Iterator<Item = (usize, Box<Exchange>)> {
        let exchanges = &mut self.exchanges;
        self.involved.iter().filter_map(|&shard| Some((shard, exchanges[shard].take()?)))
    }

    /// The cores for which messages were posted.
    pub(crate) fn cores_to_ring(&self) -> &[usize] {
        &self.ring
    }

    /// The messages whose deliveries are to be counted, each with the place of its reply.
    pub(crate) fn publications(&mut self) -> impl Iterator<Item = (&Publication, &mut Vec<u8>)> {
        self.publications.iter_mut().map(|(publication, reply)| (&**publication, reply))
    }

    /// Takes the exchange back that `shard` has run.
    pub(crate) fn put_back(&mut self, shard: usize, exchange: Box<Exchange>) {
        self.exchanges[shard] = Some(exchange);
    }

    /// Puts the replies of all shards into the order of the requests.
    pub(crate) fn assemble(&mut self) {
        if !self.has_plan() {
            return;
        }
        self.plan_local();
        let mut sources = Sources {
            plan: &self.plan,
            local: &self.replies,
            exchanges: &mut self.exchanges,
            publications: &self.publications,
        };
        let mut taken = 0;
        while let Some((&piece, rest)) = sources.plan.split_first() {
            match piece {
                Piece::Merged { merge, parts } => {
                    sources.plan = rest;
                    sources.merge(merge, parts, &mut taken, &mut self.assembled);
                }
                _ => {
                    let part = sources.next(&mut taken);
                    self.assembled.extend_from_slice(part);
                }
            }
        }
        std::mem::swap(&mut self.replies, &mut self.assembled);
        empty(&mut self.assembled);
        for &shard in &self.involved {
            if let Some(exchange) = &mut self.exchanges[shard] {
                exchange.clear(self.now_ms);
            }
        }
    }

    /// The bytes to send; what is put back by [`restore`](Self::restore) serves the next batch.
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Gives the sent buffer back.
    pub(crate) fn restore(&mut self, mut buffer: Vec<u8>) {
        empty(&mut buffer);
        self.replies = buffer;
    }

    fn remote(&self, shard: usize) -> Option<usize> {
        (shard != self.home).then_some(shard)
    }

    /// Files a request whose reply stands alone.
    fn send(&mut self, target: usize, op: ShardOp<&[u8]>) {
        self.local_commands -= 1;
        self.plan_local();
        self.plan.push(Piece::Remote { shard: target });
        self.file(target, op);
    }

    /// Files a request without planning its reply.
    fn file(&mut self, target: usize, op: ShardOp<&[u8]>) {
        let exchange = self.exchanges[target].get_or_insert_default();
        if !self.involved.contains(&target) {
            self.involved.push(target);
            exchange.clear(self.now_ms);
        }
        exchange.push(op);
        self.filed += 1;
    }

    /// Plans the local replies that the plan does not have yet.
    fn plan_local(&mut self) {
        if self.replies.len() > self.planned {
            self.planned = self.replies.len();
            self.plan.push(Piece::Local { end: self.planned });
        }
    }

    /// Starts a merged reply; its `parts` must be planned next.
    fn plan_merged(&mut self, merge: Merge, parts: usize) {
        self.plan_local();
        self.plan.push(Piece::Merged { merge, parts });
    }

    fn apply_keys(&mut self, verb: Verb, args: Args<'_>, router: &Router, shard: &mut Shard) {
        match verb {
            Verb::Get => {
                reply::array(&mut self.replies, args.len());
                for key in args.iter() {
                    self.run_part(key, KeyOp::Get, router, shard);
                }
            }
            Verb::Set => self.set_pairs(args, router, shard),
            Verb::Delete => self.sum(args, KeyOp::Delete, router, shard),
            Verb::Exists => self.sum(args, KeyOp::Exists, router, shard),
        }
    }

    /// One key of a command over several: runs it, or files it with its reply planned.
    fn run_part(&mut self, key: &[u8], op: KeyOp<&[u8]>, router: &Router, shard: &mut Shard) {
        let hash = router.hash(key);
        match self.remote(router.shard(hash)) {
            None => shard.run(hash, key, op, &mut self.replies),
            Some(target) => {
                self.plan_local();
                self.plan.push(Piece::Remote { shard: target });
                self.file(target, ShardOp::Key { hash, key, op });
            }
        }
    }

    fn sum(&mut self, keys: Args<'_>, op: KeyOp<&[u8]>, router: &Router, shard: &mut Shard) {
        if router.shards > 1 {
            self.plan_merged(Merge::Sum, keys.len());
            for key in keys.iter() {
                self.run_part(key, op, router, shard);
                self.plan_local();
            }
            return;
        }
        let start = self.replies.len();
        let mut sum = 0;
        for key in keys.iter() {
            shard.run(router.hash(key), key, op, &mut self.replies);
            sum += integer_reply(&self.replies[start..]);
            self.replies.truncate(start);
        }
        reply::integer(&mut self.replies, sum);
    }

    fn set_pairs(&mut self, args: Args<'_>, router: &Router, shard: &mut Shard) {
        if router.shards == 1 {
            let pairs = Pairs(args.iter()).map(|(key, value)| (router.hash(key), key, value));
            return self.set_local_pairs(pairs, shard);
        }
        let mut by_shard: Vec<Vec<Pair<'_>>> = Vec::new();
        by_shard.resize_with(router.shards, Vec::new);
        for (key, value) in Pairs(args.iter()) {
            let hash = router.hash(key);
            by_shard[router.shard(hash)].push((hash, key, value));
        }
        let parts = by_shard.iter().filter(|pairs| !pairs.is_empty()).count();
        let local_only = parts == 1 && !by_shard[self.home].is_empty();
        if !local_only {
            self.plan_merged(Merge::AllOk, parts);
        }
        for (target, pairs) in by_shard.iter().enumerate() {
            if pairs.is_empty() {
                continue;
            }
            if target == self.home {
                self.set_local_pairs(pairs.iter().copied(), shard);
                if !local_only {
                    self.plan_local();
                }
                continue;
            }
            self.plan.push(Piece::Remote { shard: target });
            self.file(target, ShardOp::SetPairs { pairs: pairs.len() });
            for &(hash, key, value) in pairs {
                self.file(target, ShardOp::Pair { hash, key, value });
            }
        }
    }

    fn set_local_pairs<'a>(&mut self, pairs: impl Iterator<Item = Pair<'a>> + Clone, shard: &mut Shard) {
        if shard.refuses_pairs(pairs.clone().map(|(_, key, value)| (key, value))) {
            return reply::error(&mut self.replies, reply::OUT_OF_MEMORY);
        }
        for (hash, key, value) in pairs {
            shard.set_plain(hash, key, value);
        }
        self.replies.extend_from_slice(reply::OK);
    }

    fn apply_all(&mut self, op: ShardsOp<&[u8]>, context: &Context, shard: &mut Shard) {
        let shards = context.router.shards;
        let merge = match op {
            ShardsOp::Channels { .. } => Merge::Union,
            ShardsOp::Subscribers { .. } => Merge::Sum,
            ShardsOp::Patterns => Merge::CountUnion,
        };
        if shards == 1 && merge != Merge::CountUnion {
            return shard.run_all(op, &mut self.replies);
        }
        self.plan_merged(merge, shards);
        for target in 0..shards {
            if target == self.home {
                shard.run_all(op, &mut self.replies);
                self.plan_local();
            } else {
                self.plan.push(Piece::Remote { shard: target });
                self.file(target, ShardOp::All(op));
            }
        }
    }

    fn apply_scan(&mut self, scan: Scan<&[u8]>, shards: usize, shard: &mut Shard) {
        let (_, target) = split_cursor(scan.cursor, shards);
        match self.remote(target) {
            None => shard.scan(scan, &mut self.replies),
            Some(target) => self.send(target, ShardOp::Scan(scan)),
        }
    }

    fn apply_connection(&mut self, op: ConnectionOp<'_>, context: &Context, shard: &mut Shard) -> Flow {
        let Context { facts, post, .. } = context;
        let out = &mut self.replies;
        match op {
            ConnectionOp::Ping(text) if self.subscriber.is_listening() => {
                reply::array(out, 2);
                reply::bulk(out, b"pong");
                reply::bulk(out, text.unwrap_or_default());
            }
            ConnectionOp::Ping(None) => reply::status(out, "PONG"),
            ConnectionOp::Ping(Some(text)) | ConnectionOp::Echo(text) => reply::bulk(out, text),
            ConnectionOp::Accepted => out.extend_from_slice(reply::OK),
            ConnectionOp::ConfigGet(patterns) => context.live.read(|settings| facts.config(patterns, settings, out)),
            ConnectionOp::Catalogue => info::catalogue(out),
            ConnectionOp::CatalogueCount => info::catalogue_count(out),
            ConnectionOp::CatalogueInfo(names) => info::catalogue_info(names, out),
            ConnectionOp::CatalogueDocs => reply::array(out, 0),
            ConnectionOp::Quit => {
                out.extend_from_slice(reply::OK);
                return Flow::Close;
            }
            ConnectionOp::CrossProtocol => return Flow::Close,
            ConnectionOp::LastSave => reply::integer(out, facts.snapshots.last_save_s() as i64),
            ConnectionOp::Subscribe { topic, names } => {
                shard.hub.subscribe(&mut self.subscriber, topic, names.iter(), out);
                post.set_wanted(self.home, true);
            }
            ConnectionOp::Unsubscribe { topic, names } => {
                shard.hub.unsubscribe(&mut self.subscriber, topic, names.iter(), out);
                post.set_wanted(self.home, !shard.hub.is_empty());
            }
            ConnectionOp::Reset => {
                self.leave(context, shard);
                reply::status(&mut self.replies, "RESET");
            }
            ConnectionOp::Publish { channel, message } => self.publish(channel, message, context, shard),
            ConnectionOp::CountSubscribers(channels) => {
                reply::array(out, 2 * channels.len());
                for channel in channels.iter() {
                    reply::bulk(&mut self.replies, channel);
                    self.apply_all(ShardsOp::Subscribers { channel }, context, shard);
                }
            }
            ConnectionOp::Errand(errand) => return Flow::Errand(errand),
        }
        Flow::Continue
    }

    /// Unsubscribes the connection from everything.
    pub(crate) fn leave(&mut self, context: &Context, shard: &mut Shard) {
        shard.hub.leave(&mut self.subscriber);
        context.post.set_wanted(self.home, !shard.hub.is_empty());
    }

    fn publish(&mut self, channel: &[u8], message: &[u8], context: &Context, shard: &mut Shard) {
        let here = shard.hub.publish(channel, message, self.now_ms);
        let ring = |core| {
            if !self.ring.contains(&core) {
                self.ring.push(core);
            }
        };
        match context.post.send(self.home, channel, message, here, ring) {
            None => reply::integer(&mut self.replies, here as i64),
            Some(publication) => {
                self.plan_local();
                self.plan.push(Piece::Published { index: self.publications.len() });
                self.publications.push((publication, Vec::new()));
                // Its message is held until it is counted, as a request for another shard is.
                self.filed += 1;
            }
        }
    }
}

/// A key of an MSET and its value.
type Pair<'a> = (KeyHash, &'a [u8], &'a [u8]);

/// Takes two items at a time.
#[derive(Clone)]
struct Pairs<I>(I);

impl<I: Iterator> Iterator for Pairs<I> {
    type Item = (I::Item, I::Item);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.0.next()?, self.0.next()?))
    }
}

/// What is left of a plan, with the replies it refers to.
struct Sources<'a> {
    plan: &'a [Piece],
    local: &'a [u8],
    exchanges: &'a mut [Option<Box<Exchange>>],
    publications: &'a [(Arc<Publication>, Vec<u8>)],
}

impl Sources<'_> {
    /// The next plain piece; `taken` counts the local bytes.
    fn next(&mut self, taken: &mut usize) -> &[u8] {
        let Some((piece, rest)) = self.plan.split_first() else {
            return &[];
        };
        self.plan = rest;
        match *piece {
            Piece::Local { end } => &self.local[std::mem::replace(taken, end)..end],
            Piece::Remote { shard } => self.exchanges[shard].as_mut().map_or(&[][..], |exchange| exchange.next_reply()),
            Piece::Published { index } => &self.publications[index].1,
            Piece::Merged { .. } => unreachable!("merges do not nest"),
        }
    }

    fn merge(&mut self, merge: Merge, parts: usize, taken: &mut usize, out: &mut Vec<u8>) {
        match merge {
            Merge::Sum => {
                let sum = (0..parts).map(|_| integer_reply(self.next(taken))).sum();
                reply::integer(out, sum);
            }
            Merge::AllOk => {
                let start = out.len();
                for _ in 0..parts {
                    let part = self.next(taken);
                    if out.len() == start && part != reply::OK {
                        out.extend_from_slice(part);
                    }
                }
                if out.len() == start {
                    out.extend_from_slice(reply::OK);
                }
            }
            Merge::Union | Merge::CountUnion => {
                let mut elements = BTreeSet::new();
                for _ in 0..parts {
                    elements.extend(bulks(self.next(taken)).map(<[u8]>::to_vec));
                }
                if merge == Merge::CountUnion {
                    return reply::integer(out, elements.len() as i64);
                }
                reply::array(out, elements.len());
                elements.iter().for_each(|element| reply::bulk(out, element));
            }
        }
    }
}

/// The contents of an array of bulk strings.
fn bulks(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let line = |rest: &[u8]| memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
    let mut rest = &array[line(array)..];
    std::iter::from_fn(move || {
        let header = line(rest);
        let length = integer_reply(rest.get(..header)?) as usize;
        let content = rest.get(header..header + length)?;
        rest = rest.get(header + length + 2..)?;
        Some(content)
    })
}

/// The number of a reply of the form `:n` or `*n`, or of a bulk string's header.
fn integer_reply(reply: &[u8]) -> i64 {
    let digits = reply.get(1..reply.len().saturating_sub(2));
    digits.and_then(parse_integer).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Refusal, Shutdown, parse};
    use crate::resp::Span;
    use crate::settings::Settings;
    use crate::shard::{Ledger, Stats};
    use std::ops::Add;

    /// Several shards on one thread; exchanges run where a server would send them.
    struct Rig {
        shards: Vec<Shard>,
        context: Context,
        batch: Batch,
    }

    impl Rig {
        fn new(shards: usize, home: usize) -> Self {
            Self::with_limit(shards, home, None)
        }

        fn with_limit(shards: usize, home: usize, limit_bytes: Option<usize>) -> Self {
            let ledger = Arc::new(Ledger::new(shards));
            let new = |index| {
                let mut shard = Shard::new(index, shards, Arc::clone(&ledger));
                shard.use_settings(&Settings { max_memory_bytes: limit_bytes, ..Settings::default() });
                shard
            };
            Self {
                shards: (0..shards).map(new).collect(),
                context: Context::of_test(shards),
                batch: Batch::new(home, shards),
            }
        }

        /// Sends all lines as one batch, or several where one is an errand to all shards.
        fn ask(&mut self, lines: &[&str]) -> String {
            let home = self.batch.home;
            let mut out = Vec::new();
            self.batch.begin(1000, &mut self.shards[home]);
            for line in lines {
                let (mut bytes, mut spans) = (Vec::new(), Vec::new());
                for word in line.split(' ') {
                    spans.push(Span::new(bytes.len(), bytes.len() + word.len()));
                    bytes.extend_from_slice(word.as_bytes());
                }
                match parse(Args::new(&bytes, &spans), 1000) {
                    Ok(command) => {
                        let shard = &mut self.shards[home];
                        if let Flow::Errand(Errand::Everywhere(asked)) = self.batch.apply(command, &self.context, shard)
                        {
                            self.end_batch(&mut out);
                            let figures = self.shards.iter_mut().map(|shard| shard.take_part(asked));
                            let figures = figures.fold(Stats::default(), Stats::add);
                            out.extend(self.context.answer(asked, figures));
                            self.batch.begin(1000, &mut self.shards[home]);
                        }
                    }
                    Err(Refusal(text)) => self.batch.refuse(&text),
                }
            }
            self.end_batch(&mut out);
            String::from_utf8(out).unwrap().replace("\r\n", " ").trim_end().to_owned()
        }

        fn end_batch(&mut self, out: &mut Vec<u8>) {
            let home = self.batch.home;
            self.batch.end(&mut self.shards[home]);
            let mut exchanges: Vec<_> = self.batch.take_exchanges().collect();
            for (target, exchange) in &mut exchanges {
                assert_ne!(*target, home);
                exchange.run(&mut self.shards[*target]);
            }
            let targets: BTreeSet<_> = exchanges.iter().map(|(target, _)| *target).collect();
            assert_eq!(targets.len(), exchanges.len(), "one message per core");
            for (target, exchange) in exchanges {
                self.batch.put_back(target, exchange);
            }
            self.batch.assemble();
            let sent = self.batch.take_replies();
            out.extend_from_slice(&sent);
            self.batch.restore(sent);
        }
    }

    #[test]
    fn replies_keep_the_order_of_requests_whatever_shards_they_come_from() {
        for shards in [1, 2, 3, 8] {
            for home in [0, shards - 1] {
                let mut rig = Rig::new(shards, home);
                let mut lines = Vec::new();
                let mut expected = Vec::new();
                for n in 0..50 {
                    lines.push(format!("set k{n} v{n}"));
                    expected.push("+OK".to_owned());
                    lines.push(format!("ping p{n}"));
                    expected.push(format!("${} p{n}", n.to_string().len() + 1));
                    lines.push(format!("get k{n}"));
                    expected.push(format!("${} v{n}", n.to_string().len() + 1));
                    lines.push("nonsense".to_owned());
                    expected.push("-ERR unknown command 'nonsense', with args beginning with: ".to_owned());
                }
                let lines: Vec<_> = lines.iter().map(String::as_str).collect();
                let observed = rig.ask(&lines);
                assert_eq!(observed, expected.join(" ").trim_end(), "{shards} shards");
            }
        }
    }

    #[test]
    fn commands_over_several_shards_merge() {
        for shards in [1, 2, 5] {
            let mut rig = Rig::new(shards, 0);
            let observed = rig.ask(&[
                "mset a 1 b 2 c 3 d 4 e 5 a 6",
                "mget a b x c d e a",
                "dbsize",
                "exists a b x a",
                "del a b x a",
                "dbsize",
                "incr n",
                "flushall",
                "dbsize",
                "mget n",
            ]);
            assert_eq!(
                observed, "+OK *7 $1 6 $1 2 $-1 $1 3 $1 4 $1 5 $1 6 :5 :3 :2 :3 :1 +OK :0 *1 $-1",
                "{shards} shards"
            );
        }
    }

    #[test]
    fn scan_meets_every_shard() {
        let mut rig = Rig::new(4, 1);
        for n in 0..100 {
            rig.ask(&[&format!("set key{n} v")]);
        }
        let (mut cursor, mut seen) = ("0".to_owned(), Vec::new());
        loop {
            let reply = rig.ask(&[&format!("scan {cursor} count 7")]);
            let mut words = reply.split(' ');
            cursor = words.nth(2).unwrap().to_owned();
            seen.extend(words.filter(|word| word.starts_with("key")).map(str::to_owned));
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), 100);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 100);
    }

    #[test]
    fn info_adds_all_shards() {
        for shards in [1, 3] {
            let mut rig = Rig::new(shards, 0);
            rig.ask(&["mset a 1 b 2 c 3 d 4", "expire a 10"]);
            let info = rig.ask(&["info keyspace"]);
            assert!(info.ends_with("# Keyspace db0:keys=4,expires=1,avg_ttl=0"), "{info}");
            assert!(rig.ask(&["info"]).contains(&format!("cores:{shards}")));
            assert_eq!(rig.ask(&["info nosuchsection"]), "$0");
        }
    }

    #[test]
    fn an_mset_above_the_limit_sets_nothing_on_the_shard_that_refuses() {
        let mut rig = Rig::with_limit(1, 0, Some(1000));
        let value = "x".repeat(600);
        let observed = rig.ask(&[&format!("mset a {value} b {value}"), "dbsize", "mset a 1 b 2"]);
        assert_eq!(observed, format!("-{} :0 +OK", reply::OUT_OF_MEMORY));
        let mut rig = Rig::with_limit(4, 0, Some(1000));
        let pairs: Vec<_> = (0..20).map(|n| format!("k{n} {value}")).collect();
        let observed = rig.ask(&[&format!("mset {}", pairs.join(" "))]);
        assert_eq!(observed, format!("-{}", reply::OUT_OF_MEMORY));
    }

    #[test]
    fn keys_spread_over_all_shards() {
        let router = Router::new(8);
        let mut counts = [0; 8];
        for n in 0..8000 {
            counts[router.shard(router.hash(format!("key:{n:012}").as_bytes()))] += 1;
        }
        assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
    }

    #[test]
    fn quit_and_http_close() {
        let mut rig = Rig::new(2, 0);
        let apply = |rig: &mut Rig, word: &str| {
            let spans = [Span::new(0, word.len())];
            let command = parse(Args::new(word.as_bytes(), &spans), 0).unwrap();
            rig.batch.apply(command, &rig.context, &mut rig.shards[0])
        };
        assert_eq!(apply(&mut rig, "ping"), Flow::Continue);
        assert_eq!(apply(&mut rig, "QUIT"), Flow::Close);
        assert_eq!(apply(&mut rig, "POST"), Flow::Close);
        assert_eq!(apply(&mut rig, "shutdown"), Flow::Errand(Errand::Shutdown(Shutdown::default())));
    }
}
