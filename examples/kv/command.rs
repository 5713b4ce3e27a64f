//! From an argument vector to a typed command, or to redis's error text.

use std::time::Duration;

use crate::pubsub::Topic;
use crate::reply::{NOT_AN_INTEGER, SYNTAX};
use crate::resp::{Args, parse_integer};
use crate::settings::Changes;

/// A request that is refused before any shard sees it: the reply's text without its leading `-`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) Vec<u8>);

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

/// A whole command, borrowed from the connection's buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// One key, so one shard.
    Key { key: &'a [u8], op: KeyOp<&'a [u8]> },
    /// Several keys, answered in their order or as a sum.
    Keys { verb: Verb, args: Args<'a> },
    /// Every shard.
    Shards(ShardsOp<&'a [u8]>),
    /// The one shard that the cursor names.
    Scan(Scan<&'a [u8]>),
    /// No shard at all.
    Connection(ConnectionOp<'a>),
}

/// What is done to one key. `B` is how its bytes are held: borrowed, or as spans of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOp<B> {
    Get,
    GetDel,
    GetSet { value: B },
    Set { value: B, options: SetOptions },
    SetNx { value: B },
    Add { delta: i64 },
    Append { suffix: B },
    Strlen,
    Delete,
    Exists,
    Expire(Expire),
    Ttl(TtlUnit),
    Persist,
    Type,
}

impl<B> KeyOp<B> {
    /// The same operation on bytes held in another way.
    pub(crate) fn map<C>(self, hold: impl FnOnce(B) -> C) -> KeyOp<C> {
        match self {
            Self::GetSet { value } => KeyOp::GetSet { value: hold(value) },
            Self::Set { value, options } => KeyOp::Set { value: hold(value), options },
            Self::SetNx { value } => KeyOp::SetNx { value: hold(value) },
            Self::Append { suffix } => KeyOp::Append { suffix: hold(suffix) },
            Self::Get => KeyOp::Get,
            Self::GetDel => KeyOp::GetDel,
            Self::Add { delta } => KeyOp::Add { delta },
            Self::Strlen => KeyOp::Strlen,
            Self::Delete => KeyOp::Delete,
            Self::Exists => KeyOp::Exists,
            Self::Expire(expire) => KeyOp::Expire(expire),
            Self::Ttl(unit) => KeyOp::Ttl(unit),
            Self::Persist => KeyOp::Persist,
            Self::Type => KeyOp::Type,
        }
    }
}

/// A command over several keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Set,
    Delete,
    Exists,
}

/// A command over every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShardsOp<B> {
    /// The channels that somebody listens to.
    Channels { pattern: Option<B> },
    /// How many listen to a channel.
    Subscribers { channel: B },
    /// The patterns that somebody listens to.
    Patterns,
}

impl<B> ShardsOp<B> {
    /// The same operation on bytes held in another way.
    pub(crate) fn map<C>(self, hold: impl FnOnce(B) -> C) -> ShardsOp<C> {
        match self {
            Self::Channels { pattern } => ShardsOp::Channels { pattern: pattern.map(hold) },
            Self::Subscribers { channel } => ShardsOp::Subscribers { channel: hold(channel) },
            Self::Patterns => ShardsOp::Patterns,
        }
    }
}

/// The sections that an INFO asks for, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sections(u8);

impl Sections {
    /// The sections' names in the order they are told.
    pub(crate) const NAMES: [&str; 8] =
        ["server", "clients", "memory", "persistence", "stats", "cores", "classes", "keyspace"];

    /// Those named in `args`, all where none is named.
    fn of(args: Args<'_>) -> Self {
        if args.len() == 0 {
            return Self(u8::MAX);
        }
        let bits = args.iter().map(|name| {
            let name = name.to_ascii_lowercase();
            if matches!(&name[..], b"all" | b"default" | b"everything") {
                return u8::MAX;
            }
            let index = Self::NAMES.iter().position(|n| n.as_bytes() == name);
            index.map_or(0, |index| 1 << index)
        });
        Self(bits.fold(0, |all, bit| all | bit))
    }

    /// Whether the section `name` is among them.
    pub(crate) fn has(self, name: &str) -> bool {
        let index = Self::NAMES.iter().position(|known| *known == name);
        index.is_some_and(|index| self.0 & 1 << index != 0)
    }
}

/// One step of a SCAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan<B> {
    pub(crate) cursor: u64,
    pub(crate) pattern: Option<B>,
    pub(crate) count: u64,
    /// False where a type other than strings is asked for.
    pub(crate) strings: bool,
}

impl<B> Scan<B> {
    /// The same step on bytes held in another way.
    pub(crate) fn map<C>(self, hold: impl FnOnce(B) -> C) -> Scan<C> {
        Scan { cursor: self.cursor, pattern: self.pattern.map(hold), count: self.count, strings: self.strings }
    }
}

/// What a connection answers by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionOp<'a> {
    Ping(Option<&'a [u8]>),
    Echo(&'a [u8]),
    /// SELECT of the only database, CLIENT SETINFO.
    Accepted,
    ConfigGet(Args<'a>),
    Catalogue,
    CatalogueCount,
    CatalogueInfo(Args<'a>),
    CatalogueDocs,
    LastSave,
    Subscribe {
        topic: Topic,
        names: Args<'a>,
    },
    /// From all where none is named.
    Unsubscribe {
        topic: Topic,
        names: Args<'a>,
    },
    Publish {
        channel: &'a [u8],
        message: &'a [u8],
    },
    /// PUBSUB NUMSUB.
    CountSubscribers(Args<'a>),
    Reset,
    Quit,
    /// What takes longer than a poll.
    Errand(Errand),
    /// An HTTP request, answered by closing.
    CrossProtocol,
}

/// What a connection does between two batches, since it has to wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    Everywhere(Everywhere),
    /// KEYS of this pattern.
    Keys(Vec<u8>),
    Debug(Debug),
    Save,
    /// BGSAVE: answered once the moment is taken.
    BackgroundSave,
    /// CONFIG SET.
    Configure(Changes),
    Shutdown(Shutdown),
}

/// What is asked of this process itself, by who looks for faults in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Debug {
    /// SLEEP: the core is busy for so long, and gives way whenever it is told to.
    Sleep(Duration),
    /// STALL: the same, and does not.
    Stall(Duration),
    /// BACKTRACE: what every core is in the middle of.
    Backtrace,
}

/// What is asked of all cores at once, and answered by their figures together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Everywhere {
    /// DBSIZE.
    Size,
    /// FLUSHALL, FLUSHDB.
    Flush,
    Info(Sections),
}

impl<'a> From<Everywhere> for Command<'a> {
    fn from(asked: Everywhere) -> Self {
        Command::Connection(ConnectionOp::Errand(Errand::Everywhere(asked)))
    }
}

/// The options of SHUTDOWN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shutdown {
    /// Whether to save first; where nothing is said, if there are save points.
    pub(crate) save: Option<bool>,
    /// End also where that fails.
    pub(crate) force: bool,
}

/// When a key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    #[default]
    Any,
    Absent,
    Present,
}

/// What a SET makes of the key's deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lifetime {
    #[default]
    Forever,
    Keep,
    /// Milliseconds since the Unix epoch, positive.
    Until(i64),
}

/// The options of SET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetOptions {
    pub(crate) presence: Presence,
    pub(crate) lifetime: Lifetime,
    /// Answer the old value.
    pub(crate) get: bool,
}

/// EXPIRE and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expire {
    /// Milliseconds since the Unix epoch; may lie in the past.
    pub(crate) deadline_ms: i64,
    pub(crate) only_if_none: bool,
    pub(crate) only_if_some: bool,
    pub(crate) only_if_later: bool,
    pub(crate) only_if_earlier: bool,
}

/// How a deadline is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TtlUnit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

impl PartialEq for Args<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Args<'_> {}

impl std::fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::escape_ascii)).finish()
    }
}

/// Commands and their arity as redis counts it: the name included, negative for a minimum.
///
/// Behind it the positions of the keys: first, last and step.
pub(crate) const CATALOGUE: &[(&str, i64, bool, [i64; 3])] = &[
    ("append", 3, true, [1, 1, 1]),
    ("bgsave", -1, false, [0, 0, 0]),
    ("client", -2, false, [0, 0, 0]),
    ("command", -1, false, [0, 0, 0]),
    ("config", -2, false, [0, 0, 0]),
    ("dbsize", 1, false, [0, 0, 0]),
    ("debug", -2, false, [0, 0, 0]),
    ("decr", 2, true, [1, 1, 1]),
    ("decrby", 3, true, [1, 1, 1]),
    ("del", -2, true, [1, -1, 1]),
    ("echo", 2, false, [0, 0, 0]),
    ("exists", -2, false, [1, -1, 1]),
    ("expire", -3, true, [1, 1, 1]),
    ("expireat", -3, true, [1, 1, 1]),
    ("expiretime", 2, false, [1, 1, 1]),
    ("flushall", -1, true, [0, 0, 0]),
    ("flushdb", -1, true, [0, 0, 0]),
    ("get", 2, false, [1, 1, 1]),
    ("getdel", 2, true, [1, 1, 1]),
    ("getset", 3, true, [1, 1, 1]),
    ("incr", 2, true, [1, 1, 1]),
    ("incrby", 3, true, [1, 1, 1]),
    ("info", -1, false, [0, 0, 0]),
    ("keys", 2, false, [0, 0, 0]),
    ("lastsave", 1, false, [0, 0, 0]),
    ("mget", -2, false, [1, -1, 1]),
    ("mset", -3, true, [1, -1, 2]),
    ("persist", 2, true, [1, 1, 1]),
    ("pexpire", -3, true, [1, 1, 1]),
    ("pexpireat", -3, true, [1, 1, 1]),
    ("pexpiretime", 2, false, [1, 1, 1]),
    ("ping", -1, false, [0, 0, 0]),
    ("psetex", 4, true, [1, 1, 1]),
    ("psubscribe", -2, false, [0, 0, 0]),
    ("pttl", 2, false, [1, 1, 1]),
    ("publish", 3, false, [0, 0, 0]),
    ("pubsub", -2, false, [0, 0, 0]),
    ("punsubscribe", -1, false, [0, 0, 0]),
    ("quit", -1, false, [0, 0, 0]),
    ("reset", 1, false, [0, 0, 0]),
    ("save", 1, false, [0, 0, 0]),
    ("scan", -2, false, [0, 0, 0]),
    ("select", 2, false, [0, 0, 0]),
    ("set", -3, true, [1, 1, 1]),
    ("setex", 4, true, [1, 1, 1]),
    ("setnx", 3, true, [1, 1, 1]),
    ("shutdown", -1, false, [0, 0, 0]),
    ("strlen", 2, false, [1, 1, 1]),
    ("subscribe", -2, false, [0, 0, 0]),
    ("ttl", 2, false, [1, 1, 1]),
    ("type", 2, false, [1, 1, 1]),
    ("unlink", -2, true, [1, -1, 1]),
    ("unsubscribe", -1, false, [0, 0, 0]),
];

/// A command's name in one word, letters in lower case; longer names become the one that no command has.
const fn name_word(name: &[u8]) -> u128 {
    if name.len() > 16 {
        return 0;
    }
    let mut word = 0;
    let mut at = 0;
    while at < name.len() {
        // Sets the bit that tells the cases of a letter apart. No byte but a letter turns into one.
        word |= ((name[at] | 0x20) as u128) << (8 * at);
        at += 1;
    }
    word
}

macro_rules! names {
    ($($name:ident = $text:literal;)*) => {
        $(const $name: u128 = name_word($text);)*
    };
}

names! {
    APPEND = b"append"; CLIENT = b"client"; COMMAND = b"command"; CONFIG = b"config"; DBSIZE = b"dbsize";
    DEBUG = b"debug"; DECR = b"decr"; DECRBY = b"decrby"; DEL = b"del"; ECHO = b"echo"; EXISTS = b"exists"; EXPIRE = b"expire";
    EXPIREAT = b"expireat"; EXPIRETIME = b"expiretime"; FLUSHALL = b"flushall"; FLUSHDB = b"flushdb"; GET = b"get";
    GETDEL = b"getdel"; GETSET = b"getset"; HOST = b"host:"; INCR = b"incr"; INCRBY = b"incrby"; INFO = b"info";
    KEYS = b"keys"; MGET = b"mget"; MSET = b"mset"; PERSIST = b"persist"; PEXPIRE = b"pexpire";
    PEXPIREAT = b"pexpireat"; PEXPIRETIME = b"pexpiretime"; PING = b"ping"; POST = b"post"; PSETEX = b"psetex";
    BGSAVE = b"bgsave"; LASTSAVE = b"lastsave"; PSUBSCRIBE = b"psubscribe"; PUBLISH = b"publish"; PUBSUB = b"pubsub";
    PUNSUBSCRIBE = b"punsubscribe"; RESET = b"reset"; SAVE = b"save"; SUBSCRIBE = b"subscribe";
    UNSUBSCRIBE = b"unsubscribe";
    PTTL = b"pttl"; QUIT = b"quit"; SCAN = b"scan"; SELECT = b"select"; SET = b"set"; SETEX = b"setex";
    SETNX = b"setnx"; SHUTDOWN = b"shutdown"; STRLEN = b"strlen"; TTL = b"ttl"; TYPE = b"type"; UNLINK = b"unlink";
}

/// Reads the request in `args`, which has at least its name; `now_ms` turns relative lifetimes into deadlines.
pub(crate) fn parse<'a>(args: Args<'a>, now_ms: i64) -> Result<Command<'a>, Refusal> {
    let name = args.get(0).unwrap_or_default();
    let word = name_word(name);
    let count = args.len();
    let arg = |index: usize| args.get(index).unwrap_or_default();
    let key = |op| Ok(Command::Key { key: arg(1), op });
    let connection = |op| Ok(Command::Connection(op));
    match (word, count) {
        (GET, 2) => key(KeyOp::Get),
        (SET, 3) => key(KeyOp::Set { value: arg(2), options: SetOptions::default() }),
        (SET, 4..) => key(KeyOp::Set { value: arg(2), options: set_options(args.from(3), now_ms)? }),
        (INCR, 2) => key(KeyOp::Add { delta: 1 }),
        (DECR, 2) => key(KeyOp::Add { delta: -1 }),
        (INCRBY, 3) => key(KeyOp::Add { delta: integer(arg(2))? }),
        (DECRBY, 3) => key(KeyOp::Add { delta: integer(arg(2))?.checked_neg().ok_or("ERR decrement would overflow")? }),
        (MGET, 2..) => keys(Verb::Get, args),
        (MSET, 3..) if count % 2 == 1 => keys(Verb::Set, args),
        (DEL | UNLINK, 2..) => keys(Verb::Delete, args),
        (EXISTS, 2..) => keys(Verb::Exists, args),
        (GETDEL, 2) => key(KeyOp::GetDel),
        (GETSET, 3) => key(KeyOp::GetSet { value: arg(2) }),
        (SETNX, 3) => key(KeyOp::SetNx { value: arg(2) }),
        (SETEX, 4) => key(set_for("setex", Clock::SECONDS, arg(2), arg(3), now_ms)?),
        (PSETEX, 4) => key(set_for("psetex", Clock::MILLISECONDS, arg(2), arg(3), now_ms)?),
        (APPEND, 3) => key(KeyOp::Append { suffix: arg(2) }),
        (STRLEN, 2) => key(KeyOp::Strlen),
        (EXPIRE, 3..) => key(expire("expire", Clock::SECONDS, args, now_ms)?),
        (PEXPIRE, 3..) => key(expire("pexpire", Clock::MILLISECONDS, args, now_ms)?),
        (EXPIREAT, 3..) => key(expire("expireat", Clock::UNIX_SECONDS, args, now_ms)?),
        (PEXPIREAT, 3..) => key(expire("pexpireat", Clock::UNIX_MILLISECONDS, args, now_ms)?),
        (TTL, 2) => key(KeyOp::Ttl(TtlUnit::Seconds)),
        (PTTL, 2) => key(KeyOp::Ttl(TtlUnit::Milliseconds)),
        (EXPIRETIME, 2) => key(KeyOp::Ttl(TtlUnit::UnixSeconds)),
        (PEXPIRETIME, 2) => key(KeyOp::Ttl(TtlUnit::UnixMilliseconds)),
        (PERSIST, 2) => key(KeyOp::Persist),
        (TYPE, 2) => key(KeyOp::Type),
        (KEYS, 2) => connection(ConnectionOp::Errand(Errand::Keys(arg(1).to_vec()))),
        (DEBUG, 2..) => debug(args),
        (DBSIZE, 1) => Ok(Everywhere::Size.into()),
        (FLUSHALL | FLUSHDB, _) => flush(args),
        (INFO, _) => Ok(Everywhere::Info(Sections::of(args.from(1))).into()),
        (SCAN, 2..) => scan(args).map(Command::Scan),
        (PING, 1 | 2) => connection(ConnectionOp::Ping(args.get(1))),
        (ECHO, 2) => connection(ConnectionOp::Echo(arg(1))),
        (SELECT, 2) => select(arg(1)),
        (CLIENT, 2..) => client(args),
        (CONFIG, 2..) => config(args),
        (COMMAND, _) => catalogue(args),
        (SAVE, 1) => connection(ConnectionOp::Errand(Errand::Save)),
        (BGSAVE, _) => bgsave(args.from(1)),
        (LASTSAVE, 1) => connection(ConnectionOp::LastSave),
        (PUBLISH, 3) => connection(ConnectionOp::Publish { channel: arg(1), message: arg(2) }),
        (SUBSCRIBE, 2..) => connection(ConnectionOp::Subscribe { topic: Topic::Channel, names: args.from(1) }),
        (PSUBSCRIBE, 2..) => connection(ConnectionOp::Subscribe { topic: Topic::Pattern, names: args.from(1) }),
        (UNSUBSCRIBE, _) => connection(ConnectionOp::Unsubscribe { topic: Topic::Channel, names: args.from(1) }),
        (PUNSUBSCRIBE, _) => connection(ConnectionOp::Unsubscribe { topic: Topic::Pattern, names: args.from(1) }),
        (PUBSUB, 2..) => pubsub(args),
        (RESET, 1) => connection(ConnectionOp::Reset),
        (QUIT, _) => connection(ConnectionOp::Quit),
        (SHUTDOWN, _) => shutdown(args.from(1)),
        (POST | HOST, _) => connection(ConnectionOp::CrossProtocol),
        _ => Err(unknown_or_arity(name, args)),
    }
}

fn keys(verb: Verb, args: Args<'_>) -> Result<Command<'_>, Refusal> {
    let (key, single) = (args.get(1).unwrap_or_default(), args.len() == 2);
    Ok(match verb {
        Verb::Delete if single => Command::Key { key, op: KeyOp::Delete },
        Verb::Exists if single => Command::Key { key, op: KeyOp::Exists },
        _ => Command::Keys { verb, args: args.from(1) },
    })
}

fn integer(text: &[u8]) -> Result<i64, Refusal> {
    parse_integer(text).ok_or_else(|| NOT_AN_INTEGER.into())
}

/// How a lifetime argument is meant.
#[derive(Clone, Copy)]
struct Clock {
    seconds: bool,
    absolute: bool,
}

impl Clock {
    const SECONDS: Self = Self::new(true, false);
    const MILLISECONDS: Self = Self::new(false, false);
    const UNIX_SECONDS: Self = Self::new(true, true);
    const UNIX_MILLISECONDS: Self = Self::new(false, true);

    const fn new(seconds: bool, absolute: bool) -> Self {
        Self { seconds, absolute }
    }

    /// The deadline that `amount` means, in milliseconds since the epoch; `None` where it does not fit.
    fn deadline_ms(self, amount: i64, now_ms: i64) -> Option<i64> {
        let amount_ms = if self.seconds { amount.checked_mul(1000)? } else { amount };
        if self.absolute { Some(amount_ms) } else { amount_ms.checked_add(now_ms) }
    }
}

fn invalid_expire(command: &str) -> Refusal {
    format!("ERR invalid expire time in '{command}' command").into()
}

/// The deadline of a SET: positive amounts only.
fn set_deadline(command: &str, clock: Clock, amount: &[u8], now_ms: i64) -> Result<i64, Refusal> {
    let amount = integer(amount)?;
    if amount <= 0 {
        return Err(invalid_expire(command));
    }
    clock.deadline_ms(amount, now_ms).ok_or_else(|| invalid_expire(command))
}

fn set_for<'a>(
    command: &str,
    clock: Clock,
    amount: &[u8],
    value: &'a [u8],
    now_ms: i64,
) -> Result<KeyOp<&'a [u8]>, Refusal> {
    let deadline_ms = set_deadline(command, clock, amount, now_ms)?;
    let options = SetOptions { lifetime: Lifetime::Until(deadline_ms), ..SetOptions::default() };
    Ok(KeyOp::Set { value, options })
}

fn set_options(options: Args<'_>, now_ms: i64) -> Result<SetOptions, Refusal> {
    let mut parsed = SetOptions::default();
    let mut keep = false;
    // An option may be given again, another of its group may not.
    let mut lifetime: Option<(u8, Clock, &[u8])> = None;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("nx") && parsed.presence != Presence::Present {
            parsed.presence = Presence::Absent;
        } else if is("xx") && parsed.presence != Presence::Absent {
            parsed.presence = Presence::Present;
        } else if is("get") {
            parsed.get = true;
        } else if is("keepttl") && lifetime.is_none() {
            keep = true;
        } else {
            let (group, clock) = lifetime_option(option).ok_or(SYNTAX)?;
            if keep || lifetime.is_some_and(|(given, ..)| given != group) {
                return Err(SYNTAX.into());
            }
            let amount = options.next().ok_or(SYNTAX)?;
            lifetime = Some((group, clock, amount));
        }
    }
    parsed.lifetime = match lifetime {
        Some((_, clock, amount)) => Lifetime::Until(set_deadline("set", clock, amount, now_ms)?),
        None if keep => Lifetime::Keep,
        None => Lifetime::Forever,
    };
    Ok(parsed)
}

fn lifetime_option(option: &[u8]) -> Option<(u8, Clock)> {
    let options = [
        ("ex", Clock::SECONDS),
        ("px", Clock::MILLISECONDS),
        ("exat", Clock::UNIX_SECONDS),
        ("pxat", Clock::UNIX_MILLISECONDS),
    ];
    (0u8..)
        .zip(options)
        .find(|(_, (name, _))| option.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(group, (_, clock))| (group, clock))
}

fn expire<'a>(command: &str, clock: Clock, args: Args<'a>, now_ms: i64) -> Result<KeyOp<&'a [u8]>, Refusal> {
    let mut parsed = Expire {
        deadline_ms: 0,
        only_if_none: false,
        only_if_some: false,
        only_if_later: false,
        only_if_earlier: false,
    };
    for option in args.from(3).iter() {
        match name_word(option).to_le_bytes() {
            [b'n', b'x', 0, ..] => parsed.only_if_none = true,
            [b'x', b'x', 0, ..] => parsed.only_if_some = true,
            [b'g', b't', 0, ..] => parsed.only_if_later = true,
            [b'l', b't', 0, ..] => parsed.only_if_earlier = true,
            _ => return Err(quoted(&[b"ERR Unsupported option ", c_string(option)])),
        }
    }
    if parsed.only_if_none && (parsed.only_if_some || parsed.only_if_later || parsed.only_if_earlier) {
        let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
        return Err(text.into());
    }
    if parsed.only_if_later && parsed.only_if_earlier {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let amount = integer(args.get(2).unwrap_or_default())?;
    parsed.deadline_ms = clock.deadline_ms(amount, now_ms).ok_or_else(|| invalid_expire(command))?;
    Ok(KeyOp::Expire(parsed))
}

fn flush(args: Args<'_>) -> Result<Command<'_>, Refusal> {
    let accepted = match args.len() {
        1 => true,
        2 => args.get(1).is_some_and(|mode| mode.eq_ignore_ascii_case(b"sync") || mode.eq_ignore_ascii_case(b"async")),
        _ => false,
    };
    if !accepted {
        return Err(SYNTAX.into());
    }
    Ok(Everywhere::Flush.into())
}

fn scan(args: Args<'_>) -> Result<Scan<&[u8]>, Refusal> {
    let mut parsed = Scan {
        cursor: cursor(args.get(1).unwrap_or_default()).ok_or("ERR invalid cursor")?,
        pattern: None,
        count: 10,
        strings: true,
    };
    let mut options = args.from(2).iter();
    while let Some(option) = options.next() {
        let value = options.next().ok_or(SYNTAX)?;
        if option.eq_ignore_ascii_case(b"count") {
            let count = integer(value)?;
            if count < 1 {
                return Err(SYNTAX.into());
            }
            parsed.count = count.unsigned_abs();
        } else if option.eq_ignore_ascii_case(b"match") {
            parsed.pattern = (value != b"*").then_some(value);
        } else if option.eq_ignore_ascii_case(b"type") {
            parsed.strings = value.eq_ignore_ascii_case(b"string");
        } else {
            return Err(SYNTAX.into());
        }
    }
    Ok(parsed)
}

/// A SCAN cursor as C's `strtoul` reads it: a sign wraps, nothing is zero.
fn cursor(text: &[u8]) -> Option<u64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] if !digits.is_empty() => (true, digits),
        [b'+', digits @ ..] if !digits.is_empty() => (false, digits),
        digits => (false, digits),
    };
    let value = digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })?;
    Some(if negative { value.wrapping_neg() } else { value })
}

fn select(index: &[u8]) -> Result<Command<'_>, Refusal> {
    let index = i32::try_from(integer(index)?).map_err(|_| {
        let (least, most) = (i32::MIN, i32::MAX);
        format!("ERR value is out of range, value must between {least} and {most}")
    })?;
    if index != 0 {
        return Err("ERR DB index is out of range".into());
    }
    Ok(Command::Connection(ConnectionOp::Accepted))
}

fn client(args: Args<'_>) -> Result<Command<'_>, Refusal> {
    let subcommand = args.get(1).unwrap_or_default();
    if !subcommand.eq_ignore_ascii_case(b"setinfo") {
        return Err(unknown_subcommand(subcommand, "CLIENT"));
    }
    if args.len() != 4 {
        return Err(wrong_arity("client|setinfo"));
    }
    let attribute = args.get(2).unwrap_or_default();
    let known = [&b"lib-name"[..], b"lib-ver"].iter().any(|name| attribute.eq_ignore_ascii_case(name));
    if !known {
        return Err(quoted(&[b"ERR Unrecognized option '", c_string(attribute), b"'"]));
    }
    Ok(Command::Connection(ConnectionOp::Accepted))
}

fn config(args: Args<'_>) -> Result<Command<'_>, Refusal> {
    let subcommand = args.get(1).unwrap_or_default();
    match &subcommand.to_ascii_lowercase()[..] {
        b"get" if args.len() < 3 => Err(wrong_arity("config|get")),
        b"get" => Ok(Command::Connection(ConnectionOp::ConfigGet(args.from(2)))),
        b"set" if args.len() < 4 => Err(wrong_arity("config|set")),
        b"set" if args.len() % 2 == 1 => Err(SYNTAX.into()),
        b"set" => {
            let words: Vec<String> =
                args.from(2).iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            let changes = words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            Ok(Command::Connection(ConnectionOp::Errand(Errand::Configure(changes))))
        }
        _ => Err(unknown_subcommand(subcommand, "CONFIG")),
    }
}

fn debug(args: Args<'_>) -> Result<Command<'_>, Refusal> {
    let subcommand = args.get(1).unwrap_or_default();
    let asked = match (&subcommand.to_ascii_lowercase()[..], args.get(2)) {
        (b"sleep", Some(seconds)) if args.len() == 3 => {
            let seconds: Option<f64> = str::from_utf8(seconds).ok().and_then(|text| text.parse().ok());
            let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            Debug::Sleep(time.ok_or("ERR value is not a valid float")?)
        }
        (b"stall", Some(ms)) if args.len() == 3 => {
            let ms = str::from_utf8(ms).ok().and_then(|text| text.parse().ok());
            Debug::Stall(Duration::from_millis(ms.ok_or(NOT_AN_INTEGER)?))
        }
        (b"backtrace", None) => Debug::Backtrace,
        _ => return Err(unknown_subcommand(subcommand, "DEBUG")),
    };
    Ok(Command::Connection(ConnectionOp::Errand(Errand::Debug(asked))))
}

fn catalogue(args: Args<'_>) -> Result<Command<'_>, Refusal> {
    let Some(subcommand) = args.get(1) else {
        return Ok(Command::Connection(ConnectionOp::Catalogue));
    };
    let op = match &subcommand.to_ascii_lowercase()[..] {
        b"count" if args.len() == 2 => ConnectionOp::CatalogueCount,
        b"count" => return Err(wrong_arity("command|count")),
        b"info" => ConnectionOp::CatalogueInfo(args.from(2)),
        b"docs" => ConnectionOp::CatalogueDocs,
        _ => return Err(unknown_subcommand(subcommand, "COMMAND")),
    };
    Ok(Command::Connection(op))
}

fn bgsave(options: Args<'_>) -> Result<Command<'_>, Refusal> {
    match options.get(0) {
        None => {}
        // Nothing but another snapshot holds one up here, so there is nothing to be scheduled behind.
        Some(option) if options.len() == 1 && option.eq_ignore_ascii_case(b"schedule") => {}
        Some(_) => return Err(SYNTAX.into()),
    }
    Ok(Command::Connection(ConnectionOp::Errand(Errand::BackgroundSave)))
}

fn pubsub(args: Args<'_>) -> Result<Command<'_>, Refusal> {
    let subcommand = args.get(1).unwrap_or_default();
    match &subcommand.to_ascii_lowercase()[..] {
        b"channels" if args.len() <= 3 => Ok(Command::Shards(ShardsOp::Channels { pattern: args.get(2) })),
        b"channels" => {
            let shown = clip(c_string(subcommand), 128);
            Err(quoted(&[b"ERR unknown subcommand or wrong number of arguments for '", shown, b"'. Try PUBSUB HELP."]))
        }
        b"numsub" => Ok(Command::Connection(ConnectionOp::CountSubscribers(args.from(2)))),
        b"numpat" if args.len() == 2 => Ok(Command::Shards(ShardsOp::Patterns)),
        b"numpat" => Err(wrong_arity("pubsub|numpat")),
        _ => Err(unknown_subcommand(subcommand, "PUBSUB")),
    }
}

fn shutdown(options: Args<'_>) -> Result<Command<'_>, Refusal> {
    let mut parsed = Shutdown::default();
    for option in options.iter() {
        match &option.to_ascii_lowercase()[..] {
            b"save" if parsed.save != Some(false) => parsed.save = Some(true),
            b"nosave" if parsed.save != Some(true) => parsed.save = Some(false),
            b"force" => parsed.force = true,
            // There is no replica to wait for.
            b"now" => {}
            _ => return Err(SYNTAX.into()),
        }
    }
    Ok(Command::Connection(ConnectionOp::Errand(Errand::Shutdown(parsed))))
}

/// The refusal of a command while the connection listens to channels or patterns; `None` for those that are allowed.
pub(crate) fn refuse_while_listening(args: Args<'_>) -> Option<Refusal> {
    let name = args.get(0).unwrap_or_default();
    if matches!(name_word(name), SUBSCRIBE | PSUBSCRIBE | UNSUBSCRIBE | PUNSUBSCRIBE | PING | QUIT | RESET) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let Some((known, arity, ..)) = CATALOGUE.iter().find(|(known, ..)| known.as_bytes() == lower) else {
        return Some(unknown_command(name, args));
    };
    let count = args.len() as i64;
    if !fits(*arity, count) {
        return Some(wrong_arity(known));
    }
    let mut full = (*known).to_owned();
    if let ("client" | "command" | "config" | "pubsub", Some(subcommand)) = (*known, args.get(1)) {
        let lower = String::from_utf8_lossy(subcommand).to_ascii_lowercase();
        full = format!("{known}|{lower}");
        match SUBCOMMANDS.iter().find(|(name, _)| *name == full) {
            None => return Some(unknown_subcommand(subcommand, &known.to_ascii_uppercase())),
            Some((_, arity)) if !fits(*arity, count) => return Some(wrong_arity(&full)),
            Some(_) => {}
        }
    }
    Some(
        format!(
            "ERR Can't execute '{full}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
             this context"
        )
        .into(),
    )
}

/// Whether a command with so many words has an arity as [`CATALOGUE`] counts it.
fn fits(arity: i64, count: i64) -> bool {
    if arity < 0 { count >= -arity } else { count == arity }
}

/// The subcommands there are, with their arity.
const SUBCOMMANDS: &[(&str, i64)] = &[
    ("client|setinfo", 4),
    ("command|count", 2),
    ("command|docs", -2),
    ("command|info", -2),
    ("config|get", -3),
    ("config|set", -4),
    ("pubsub|channels", -2),
    ("pubsub|numpat", 2),
    ("pubsub|numsub", -2),
];

/// The refusal of a command that [`parse`] did not take: of its argument count, or of its name.
#[cold]
fn unknown_or_arity(name: &[u8], args: Args<'_>) -> Refusal {
    let lower = name.to_ascii_lowercase();
    match CATALOGUE.iter().find(|(known, ..)| known.as_bytes() == lower) {
        Some((known, ..)) => wrong_arity(known),
        None => unknown_command(name, args),
    }
}

fn wrong_arity(command: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{command}' command").into()
}

fn unknown_subcommand(subcommand: &[u8], command: &str) -> Refusal {
    let shown = clip(c_string(subcommand), 128);
    quoted(&[b"ERR unknown subcommand '", shown, b"'. Try ", command.as_bytes(), b" HELP."])
}

/// Quotes the arguments until 128 bytes are shown.
fn unknown_command(name: &[u8], args: Args<'_>) -> Refusal {
    let mut preview = Vec::new();
    for arg in args.from(1).iter() {
        if preview.len() >= 128 {
            break;
        }
        let shown = clip(c_string(arg), 128 - preview.len());
        preview.extend_from_slice(&[b"'", shown, b"' "].concat());
    }
    quoted(&[b"ERR unknown command '", clip(c_string(name), 128), b"', with args beginning with: ", &preview])
}

/// Joins the parts of a text that quotes its input, line breaks turned into spaces.
fn quoted(parts: &[&[u8]]) -> Refusal {
    let mut text = parts.concat();
    for byte in &mut text {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    Refusal(text)
}

/// The bytes before the first zero byte: redis formats its messages through C strings.
fn c_string(bytes: &[u8]) -> &[u8] {
    clip(bytes, memchr::memchr(0, bytes).unwrap_or(bytes.len()))
}

fn clip(bytes: &[u8], most: usize) -> &[u8] {
    &bytes[..bytes.len().min(most)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Span;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn observed(line: &str) -> Result<String, String> {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for word in line.split(' ') {
            spans.push(Span::new(bytes.len(), bytes.len() + word.len()));
            bytes.extend_from_slice(word.as_bytes());
        }
        match parse(Args::new(&bytes, &spans), NOW_MS) {
            Ok(command) => Ok(format!("{command:?}")),
            Err(Refusal(text)) => Err(String::from_utf8_lossy(&text).into_owned()),
        }
    }

    fn refused(line: &str) -> String {
        observed(line).expect_err(line)
    }

    #[test]
    fn every_catalogued_command_checks_its_arity() {
        for (name, arity, ..) in CATALOGUE {
            let least = usize::try_from(arity.abs()).unwrap();
            let words = |count: usize| [&[*name][..], &vec!["1"; count - 1][..]].concat().join(" ");
            let expected = format!("ERR wrong number of arguments for '{name}' command");
            if least > 1 {
                assert_eq!(refused(&words(least - 1)), expected);
            }
            if *arity > 0 {
                assert_eq!(refused(&words(least + 1)), expected);
            }
            if let Err(text) = observed(&words(least)) {
                assert!(!text.starts_with("ERR unknown command"), "{name}: {text}");
            }
        }
    }

    #[test]
    fn names_ignore_case_and_nothing_else() {
        assert!(observed("gEt k").is_ok());
        assert!(refused("get\0 k").starts_with("ERR unknown command 'get'"));
        assert!(refused("GET_ k").starts_with("ERR unknown command 'GET_'"));
        assert!(refused("averyveryverylongname").starts_with("ERR unknown command"));
    }

    #[test]
    fn an_unknown_command_previews_its_arguments() {
        assert_eq!(refused("foo a b"), "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
        let long = "a".repeat(100);
        assert_eq!(
            refused(&format!("foo {long} {long} c")),
            format!("ERR unknown command 'foo', with args beginning with: '{long}' '{}' ", &long[..25])
        );
        assert_eq!(refused("fo\r\no a\0b"), "ERR unknown command 'fo  o', with args beginning with: 'a' ");
    }

    #[test]
    fn set_options_follow_redis() {
        let lifetime = |text: &str| observed(&format!("set k v {text}")).unwrap();
        assert!(lifetime("ex 10").contains(&format!("Until({})", NOW_MS + 10_000)));
        assert!(lifetime("PX 10").contains(&format!("Until({})", NOW_MS + 10)));
        assert!(lifetime("exat 10").contains("Until(10000)"));
        assert!(lifetime("pxat 10").contains("Until(10)"));
        assert!(lifetime("ex 10 ex 20").contains(&format!("Until({})", NOW_MS + 20_000)));
        assert!(lifetime("keepttl nx get").contains("Keep"));
        for options in ["nx xx", "xx nx", "ex", "ex 10 px 10", "keepttl ex 1", "ex 1 keepttl", "foo", "nx foo"] {
            assert_eq!(refused(&format!("set k v {options}")), SYNTAX, "{options}");
        }
        for options in ["ex 0", "px -1", "ex 9223372036854775807", "px 9223372036854775807"] {
            assert_eq!(refused(&format!("set k v {options}")), "ERR invalid expire time in 'set' command", "{options}");
        }
        assert_eq!(refused("set k v ex 1x"), NOT_AN_INTEGER);
        assert_eq!(refused("setex k 0 v"), "ERR invalid expire time in 'setex' command");
    }

    #[test]
    fn expire_options_follow_redis() {
        assert!(observed("expire k -1 xx gt").is_ok());
        assert_eq!(refused("expire k 1 foo"), "ERR Unsupported option foo");
        assert_eq!(refused("expire k x nx gt"), "ERR NX and XX, GT or LT options at the same time are not compatible");
        assert_eq!(refused("expire k x gt lt"), "ERR GT and LT options at the same time are not compatible");
        assert_eq!(refused("expire k x"), NOT_AN_INTEGER);
        assert_eq!(refused("pexpire k 9223372036854775807"), "ERR invalid expire time in 'pexpire' command");
    }

    #[test]
    fn scan_arguments_follow_redis() {
        assert!(observed("scan 0 match a* count 5 type STRING").is_ok());
        assert!(observed("scan -1").is_ok());
        for line in ["scan a", "scan -", "scan 1x", "scan 99999999999999999999999"] {
            assert_eq!(refused(line), "ERR invalid cursor", "{line}");
        }
        for line in ["scan 0 count 0", "scan 0 foo", "scan 0 foo 1", "scan 0 match"] {
            assert_eq!(refused(line), SYNTAX, "{line}");
        }
        assert_eq!(refused("scan 0 count a"), NOT_AN_INTEGER);
    }

    #[test]
    fn containers_name_their_unknown_subcommands() {
        assert_eq!(refused("config foo"), "ERR unknown subcommand 'foo'. Try CONFIG HELP.");
        assert_eq!(refused("config get"), "ERR wrong number of arguments for 'config|get' command");
        assert_eq!(refused("shutdown foo"), SYNTAX);
        assert_eq!(refused("select 1"), "ERR DB index is out of range");
        assert_eq!(refused("flushall foo"), SYNTAX);
        assert_eq!(refused("decrby k -9223372036854775808"), "ERR decrement would overflow");
    }
}
