//! The `kv` example answers random commands as redis-server 7.0 does, byte for byte.
//!
//! `IPIQ_SEED` repeats a run, `IPIQ_COMMANDS` sets how many commands each scenario sends.

use std::collections::{BTreeSet, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ipiq_suites::kv::{Client, Kv, Redis, WATCHDOG, request};

#[test]
fn one_core_on_epoll_answers_as_redis() {
    compare_random_commands("--cores 1 --driver epoll");
}

#[test]
fn three_cores_on_the_default_driver_answer_as_redis() {
    compare_random_commands("--cores 3");
}

#[test]
fn mangled_requests_are_answered_as_by_redis() {
    let mut rng = seeded();
    let (kv, redis) = (Kv::start("--cores 2"), Redis::start());
    for round in 0..commands() / 50 {
        let input = mangled(&mut rng);
        let [observed, expected] = [kv.address(), redis.address()].map(|address| {
            let mut client = Client::connect(address);
            client.send(&input).expect("a new connection takes a short request");
            client.finish_sending();
            client.read_to_close()
        });
        assert_eq!(
            observed.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "round {round}: {}",
            input.escape_ascii()
        );
    }
}

fn seeded() -> Rng {
    let seed = std::env::var("IPIQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("IPIQ_SEED={seed}");
    Rng::with_seed(seed)
}

fn commands() -> usize {
    std::env::var("IPIQ_COMMANDS").ok().and_then(|count| count.parse().ok()).unwrap_or(100_000)
}

/// How two replies to the same command compare.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Exact,
    /// Arrays in any order.
    Unordered,
    /// Integers that count down with the time.
    Within(i64),
}

struct Step {
    words: Vec<Vec<u8>>,
    compare: Compare,
}

/// Both servers, asked the same.
struct Pair {
    kv: Client,
    redis: Client,
    /// The last commands, for the message of a failure.
    recent: VecDeque<String>,
    asked: usize,
}

fn compare_random_commands(arguments: &str) {
    let mut rng = seeded();
    let (kv, redis) = (Kv::start(arguments), Redis::start());
    let mut pair = Pair { kv: kv.connect(), redis: redis.connect(), recent: VecDeque::new(), asked: 0 };
    let mut generator = Generator { rng: rng.fork(), lifetimes: 0 };
    let total = commands();
    while pair.asked < total {
        match rng.u32(0..400) {
            0 => pair.expire_round(&mut rng),
            1..=8 => pair.scan_round(&mut generator),
            roll => {
                // Most of the commands go in pipelines, some of them long.
                let length = match roll % 20 {
                    0 => rng.usize(300..700),
                    1..=10 => 1,
                    _ => rng.usize(2..80),
                };
                let mut steps = Vec::new();
                while steps.len() < length {
                    generator.push_steps(&mut steps);
                }
                pair.exchange(&steps, &mut rng);
            }
        }
    }
}

impl Pair {
    /// Sends all steps at once, the bytes cut at a random place, and compares the replies.
    fn exchange(&mut self, steps: &[Step], rng: &mut Rng) {
        let mut bytes = Vec::new();
        for step in steps {
            let words: Vec<_> = step.words.iter().map(Vec::as_slice).collect();
            if rng.u32(0..20) == 0 && !words[0].is_empty() {
                bytes.extend_from_slice(&inline(&words));
            } else {
                bytes.extend_from_slice(&request(&words));
            }
        }
        let cut = rng.usize(..=bytes.len());
        for client in [&mut self.kv, &mut self.redis] {
            client.send(&bytes[..cut]).expect("the request is sent");
            client.send(&bytes[cut..]).expect("the request is sent");
        }
        for step in steps {
            self.asked += 1;
            if self.recent.len() == 30 {
                self.recent.pop_front();
            }
            self.recent.push_back(shown(&step.words));
            self.compare(step.compare);
        }
    }

    fn compare(&mut self, compare: Compare) {
        let [observed, expected] = [&mut self.kv, &mut self.redis].map(|client| {
            client
                .reply()
                .map_err(|error| error.to_string())
                .unwrap_or_else(|error| format!("no reply: {error}").into_bytes())
        });
        let same = match compare {
            Compare::Exact => observed == expected,
            Compare::Unordered => elements(&observed) == elements(&expected),
            Compare::Within(slack) => match (integer(&observed), integer(&expected)) {
                (Some(observed), Some(expected)) if observed >= 0 && expected >= 0 => {
                    observed.abs_diff(expected) <= slack.unsigned_abs()
                }
                _ => observed == expected,
            },
        };
        assert!(
            same,
            "command {} is answered otherwise ({compare:?})\n   kv: {}\nredis: {}\nthe last commands:\n{}",
            self.asked,
            observed.escape_ascii(),
            expected.escape_ascii(),
            self.recent.make_contiguous().join("\n")
        );
    }

    fn ask(&mut self, line: &str, compare: Compare, rng: &mut Rng) {
        let words = line.split(' ').map(|word| word.as_bytes().to_vec());
        let step = Step { words: words.collect(), compare };
        self.exchange(&[step], rng);
    }

    /// Lets some keys die, waits until both servers say so, and compares what is left.
    fn expire_round(&mut self, rng: &mut Rng) {
        let keys = rng.usize(1..10);
        for n in 0..keys {
            self.ask(&format!("set short{n} v"), Compare::Exact, rng);
            let lifetime_ms = rng.u32(1..30);
            let line = match rng.u32(0..3) {
                0 => format!("pexpire short{n} {lifetime_ms}"),
                1 => format!("set short{n} w px {lifetime_ms}"),
                _ => format!("psetex short{n} {lifetime_ms} w"),
            };
            self.ask(&line, Compare::Exact, rng);
        }
        for client in [&mut self.kv, &mut self.redis] {
            let deadline = Instant::now() + WATCHDOG;
            for n in 0..keys {
                while client.ask(&format!("exists short{n}")) != ":0" {
                    assert!(Instant::now() < deadline, "short{n} does not expire");
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        for n in 0..keys {
            for command in ["get", "ttl", "persist", "incr", "del"] {
                self.ask(&format!("{command} short{n}"), Compare::Exact, rng);
            }
        }
        self.ask("dbsize", Compare::Exact, rng);
    }

    /// Scans both from the start to the end; the keys are the same, though the steps are not.
    fn scan_round(&mut self, generator: &mut Generator) {
        let mut options = String::new();
        if generator.rng.bool() {
            options += [" match k*", " match *1*", " match nothing", " match k?"][generator.rng.usize(..4)];
        }
        if generator.rng.bool() {
            options += &format!(" count {}", generator.rng.u32(1..30));
        }
        let [observed, expected] = [&mut self.kv, &mut self.redis].map(|client| {
            let mut keys = BTreeSet::new();
            let mut cursor = "0".to_owned();
            let deadline = Instant::now() + WATCHDOG;
            loop {
                assert!(Instant::now() < deadline, "the scan does not end");
                let words = format!("scan {cursor}{options}");
                let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
                client.send(&request(&words)).expect("the request is sent");
                let reply = client.reply().expect("a reply comes");
                let mut parts = elements(&reply);
                cursor = String::from_utf8(body(&parts.remove(0)).to_vec()).expect("digits");
                keys.extend(elements(&parts.remove(0)));
                if cursor == "0" {
                    break keys;
                }
            }
        });
        assert_eq!(observed, expected, "scan 0{options}");
        self.asked += 1;
    }
}

fn shown(words: &[Vec<u8>]) -> String {
    let words = words.iter().map(|word| {
        let shown = &word[..word.len().min(60)];
        format!("'{}'", shown.escape_ascii())
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The same request as an inline command, every argument quoted.
fn inline(words: &[&[u8]]) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        line.push(b'"');
        for byte in *word {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' => line.push(*byte),
                _ => line.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            }
        }
        line.extend_from_slice(b"\" ");
    }
    line.extend_from_slice(b"\r\n");
    line
}

fn integer(reply: &[u8]) -> Option<i64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The bytes of a bulk string.
fn body(bulk: &[u8]) -> &[u8] {
    let start = bulk.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    bulk[start..].strip_suffix(b"\r\n").unwrap_or_default()
}

/// The elements of an array reply, raw and sorted by nothing but their place, or sorted where all are bulk strings.
fn elements(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = reply;
    let line = take_line(&mut rest);
    if line.first() != Some(&b'*') {
        return vec![reply.to_vec()];
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let start = rest;
        skip_reply(&mut rest);
        found.push(start[..start.len() - rest.len()].to_vec());
    }
    if found.iter().all(|element| element.first() == Some(&b'$')) {
        found.sort();
    }
    found
}

fn take_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a whole reply");
    let (line, tail) = rest.split_at(end);
    *rest = &tail[2..];
    line
}

fn skip_reply(rest: &mut &[u8]) {
    let line = take_line(rest);
    let number = std::str::from_utf8(&line[1..]).ok().and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0);
    match line[0] {
        b'$' if number >= 0 => *rest = &rest[number as usize + 2..],
        b'*' => (0..number).for_each(|_| skip_reply(rest)),
        _ => {}
    }
}

/// Random commands over few keys, many of them wrong.
struct Generator {
    rng: Rng,
    lifetimes: u64,
}

impl Generator {
    /// Adds one command, or a few that belong together.
    fn push_steps(&mut self, steps: &mut Vec<Step>) {
        let roll = self.rng.u32(0..100);
        let (words, compare) = match roll {
            0..=11 => (self.words("get", &[Self::key]), Compare::Exact),
            12..=29 => (self.set(), Compare::Exact),
            30..=33 => (self.keyed_many("mget"), Compare::Exact),
            34..=37 => (self.mset(), Compare::Exact),
            38..=41 => (self.keyed_many("del"), Compare::Exact),
            42..=44 => (self.keyed_many("exists"), Compare::Exact),
            45..=52 => (self.arithmetic(), Compare::Exact),
            53..=56 => (self.words("append", &[Self::key, Self::value]), Compare::Exact),
            57..=59 => (self.words("strlen", &[Self::key]), Compare::Exact),
            60..=67 => (self.expire(), Compare::Exact),
            68..=71 => return self.push_ttl(steps),
            72..=73 => (self.words("persist", &[Self::key]), Compare::Exact),
            74..=75 => (self.words("type", &[Self::key]), Compare::Exact),
            76..=78 => (self.words("getdel", &[Self::key]), Compare::Exact),
            79 => (self.words("getset", &[Self::key, Self::value]), Compare::Exact),
            80 => (self.words("setnx", &[Self::key, Self::value]), Compare::Exact),
            81 => (words(&["keys", self.pattern()]), Compare::Unordered),
            82 => (words(&["dbsize"]), Compare::Exact),
            83 => (self.flush(), Compare::Exact),
            84 => (self.connection(), Compare::Exact),
            85 => return self.push_listening(steps),
            86 => return self.push_already_expired(steps),
            87..=91 => (self.wrong_count(), Compare::Exact),
            92..=94 => (self.unknown(), Compare::Exact),
            _ => (self.wrong_words(), Compare::Exact),
        };
        steps.push(Step { words, compare });
    }

    fn words(&mut self, command: &str, parts: &[fn(&mut Self) -> Vec<u8>]) -> Vec<Vec<u8>> {
        let mut all = vec![self.cased(command)];
        all.extend(parts.iter().map(|part| part(self)));
        all
    }

    fn cased(&mut self, command: &str) -> Vec<u8> {
        match self.rng.u32(0..3) {
            0 => command.to_ascii_uppercase().into_bytes(),
            _ => command.as_bytes().to_vec(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        match self.rng.u32(0..30) {
            0 => Vec::new(),
            1 => b"\0bin\r\nkey\xff".to_vec(),
            2 => vec![b'L'; 300],
            n => format!("k{n}").into_bytes(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.u32(0..12) {
            0 => Vec::new(),
            1 => b"\r\n$3\r\n\0\xff".to_vec(),
            2 => self.number(),
            3 => vec![b'v'; self.rng.usize(..70)],
            4 if self.rng.u32(0..10) == 0 => vec![b'w'; self.rng.usize(..40_000)],
            _ => self.rng.i64(-1000..1000).to_string().into_bytes(),
        }
    }

    /// An integer or something that nearly is one.
    fn number(&mut self) -> Vec<u8> {
        let texts = [
            "0",
            "1",
            "-1",
            "10",
            "-0",
            "01",
            "+1",
            " 1",
            "1 ",
            "1.5",
            "",
            "abc",
            "1e3",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
            "9223372036854775",
            "2147483648",
        ];
        texts[self.rng.usize(..texts.len())].as_bytes().to_vec()
    }

    /// A lifetime far from its end, never the same within a run, so that which of two is later is never close.
    fn lifetime_s(&mut self) -> u64 {
        self.lifetimes += 1;
        1000 + 10 * (self.lifetimes * 7919 % 100_003)
    }

    fn set(&mut self) -> Vec<Vec<u8>> {
        if self.rng.u32(0..20) == 0 {
            let (command, lifetime) = match self.rng.bool() {
                true => ("setex", self.lifetime_s()),
                false => ("psetex", 1000 * self.lifetime_s()),
            };
            let mut set = self.words(command, &[Self::key]);
            set.extend([lifetime.to_string().into_bytes(), self.value()]);
            return set;
        }
        let mut set = self.words("set", &[Self::key, Self::value]);
        while self.rng.u32(0..3) == 0 {
            let option = ["ex", "px", "nx", "xx", "get", "keepttl", "exat", "pxat", "bad"][self.rng.usize(..9)];
            set.push(self.cased(option));
            let lifetime = match option {
                "ex" => self.lifetime_s(),
                "px" => 1000 * self.lifetime_s(),
                "exat" => 4_000_000_000 + self.lifetime_s(),
                "pxat" => 4_000_000_000_000 + self.lifetime_s(),
                _ => continue,
            };
            set.push(match self.rng.u32(0..6) {
                // The largest one is refused by all but PXAT, and then EXPIRETIME overflows in redis.
                0 if option != "pxat" => self.hostile_lifetime(),
                _ => lifetime.to_string().into_bytes(),
            });
        }
        set
    }

    /// A lifetime that is refused: none that would be accepted and short.
    fn hostile_lifetime(&mut self) -> Vec<u8> {
        let texts = ["0", "-1", "abc", "", "9223372036854775807", "01", "99999999999999999999"];
        texts[self.rng.usize(..texts.len())].as_bytes().to_vec()
    }

    fn keyed_many(&mut self, command: &str) -> Vec<Vec<u8>> {
        let mut many = self.words(command, &[]);
        for _ in 0..self.rng.usize(1..12) {
            many.push(self.key());
        }
        many
    }

    fn mset(&mut self) -> Vec<Vec<u8>> {
        let mut many = self.words("mset", &[]);
        for _ in 0..self.rng.usize(1..8) {
            many.extend([self.key(), self.value()]);
        }
        many
    }

    fn arithmetic(&mut self) -> Vec<Vec<u8>> {
        match self.rng.u32(0..4) {
            0 => self.words("incr", &[Self::key]),
            1 => self.words("decr", &[Self::key]),
            2 => self.words("incrby", &[Self::key, Self::number]),
            _ => self.words("decrby", &[Self::key, Self::number]),
        }
    }

    fn expire(&mut self) -> Vec<Vec<u8>> {
        let lifetime_s = self.lifetime_s();
        let (command, lifetime) = [
            ("expire", lifetime_s),
            ("pexpire", 1000 * lifetime_s),
            ("expireat", 4_000_000_000 + lifetime_s),
            ("pexpireat", 4_000_000_000_000 + lifetime_s),
        ][self.rng.usize(..4)];
        let mut expire = self.words(command, &[Self::key]);
        expire.push(match self.rng.u32(0..8) {
            0 if command != "pexpireat" => {
                ["0", "-1", "abc", "9223372036854775807", "-9223372036854775808", "", "9223372036854775", "-100"]
                    [self.rng.usize(..8)]
                .as_bytes()
                .to_vec()
            }
            _ => lifetime.to_string().into_bytes(),
        });
        while self.rng.u32(0..3) == 0 {
            let flag = ["nx", "xx", "gt", "lt", "bad"][self.rng.usize(..5)];
            expire.push(self.cased(flag));
        }
        expire
    }

    fn push_ttl(&mut self, steps: &mut Vec<Step>) {
        let (command, slack) =
            [("ttl", 2), ("pttl", 2000), ("expiretime", 2), ("pexpiretime", 2000)][self.rng.usize(..4)];
        steps.push(Step { words: self.words(command, &[Self::key]), compare: Compare::Within(slack) });
    }

    /// A key set with a deadline that is past, and the read that makes both forget it.
    fn push_already_expired(&mut self, steps: &mut Vec<Step>) {
        let mut set = self.words("set", &[Self::key, Self::value]);
        set.extend(words(&["pxat", "1"]));
        let get = vec![b"get".to_vec(), set[1].clone()];
        for words in [set, get] {
            steps.push(Step { words, compare: Compare::Exact });
        }
    }

    fn pattern(&mut self) -> &'static str {
        ["*", "k*", "k?", "k[1-3]", "k[^1]*", "?", "", "\\k1", "[", "k[1", "*\n*", "k1*2"][self.rng.usize(..12)]
    }

    fn flush(&mut self) -> Vec<Vec<u8>> {
        let lines: [&[&str]; 5] = [
            &["flushall"],
            &["flushall", "sync"],
            &["flushdb", "ASYNC"],
            &["flushall", "bad"],
            &["flushall", "sync", "sync"],
        ];
        words(lines[self.rng.usize(..5)])
    }

    fn connection(&mut self) -> Vec<Vec<u8>> {
        let lines: [&[&str]; 47] = [
            &["ping"],
            &["PING", "a b"],
            &["echo", ""],
            &["echo", "x\r\ny"],
            &["select", "0"],
            &["select", "1"],
            &["select", "-1"],
            &["select", "x"],
            &["select", "99999999999"],
            &["config", "get", "maxmemory"],
            &["config", "get", "proto-max-bulk-len"],
            &["config", "get", "SAVE"],
            &["config", "get", "nothing"],
            &["info", "nosuchsection"],
            &["config", "get", "maxmemory", "maxmemory"],
            &["config", "get", "TIMEOUT"],
            &["config", "get", "client-output-buffer-limi[st]"],
            &["config", "set", "maxmemory", "1gb"],
            &["config", "set", "MAXMEMORY", "0"],
            &["config", "set", "timeout", "100", "maxmemory", "2gb"],
            &["config", "set", "timeout", "0"],
            &["config", "set", "timeout", "-1"],
            &["config", "set", "timeout", "x"],
            &["config", "set", "timeout", "5", "maxmemory", "x"],
            &["config", "set", "timeout", "1", "timeout", "2"],
            &["config", "set", "maxclients", "0"],
            &["config", "set", "maxclients", "10000"],
            &["config", "set", "save", "1"],
            &["config", "set", "save", "a b"],
            &["config", "set", "save", ""],
            &["config", "set", "dir", "/"],
            &["config", "set", "dbfilename", "x"],
            &["config", "set", "databases", "2"],
            &["config", "set", "nosuch", "1"],
            &["config", "set", "nosuch"],
            &["config", "set", "timeout", "1", "x"],
            &["config", "set", "client-output-buffer-limit", "pubsub 1"],
            &["config", "set", "client-output-buffer-limit", "nobody 1 2 3"],
            &["config", "set", "client-output-buffer-limit", "pubsub 16mb 4mb 30"],
            &["publish", "nobody", "message"],
            &["pubsub", "channels"],
            &["pubsub", "numsub", "a", "b"],
            &["pubsub", "numsub"],
            &["pubsub", "numpat"],
            &["unsubscribe", "a"],
            &["punsubscribe"],
            &["reset"],
        ];
        words(lines[self.rng.usize(..lines.len())])
    }

    /// A subscription, commands that are allowed then and commands that are not, and its end.
    fn push_listening(&mut self, steps: &mut Vec<Step>) {
        let mut push = |words| steps.push(Step { words, compare: Compare::Exact });
        let name = ["a", "\r\n", "", "a*"][self.rng.usize(..4)];
        let (begin, end) = [("subscribe", "unsubscribe"), ("psubscribe", "PUNSUBSCRIBE")][self.rng.usize(..2)];
        push(words(&[begin, name]));
        for _ in 0..self.rng.usize(..6) {
            push(match self.rng.u32(0..6) {
                0 => words(&["ping"]),
                1 => words(&["ping", "a\r\nb"]),
                2 => self.wrong_count(),
                3 => self.unknown(),
                4 => self.wrong_words(),
                _ => self.keyed_many("mget"),
            });
        }
        push(match self.rng.u32(0..3) {
            0 => words(&["reset"]),
            1 => words(&[end]),
            _ => words(&[end, name]),
        });
    }

    /// A known command with a random number of arguments, most of them too many or too few.
    fn wrong_count(&mut self) -> Vec<Vec<u8>> {
        let commands = [
            ("ping", 3..5),
            ("echo", 1..5),
            ("get", 1..5),
            ("set", 1..3),
            ("getdel", 1..4),
            ("mget", 1..2),
            ("mset", 1..3),
            ("del", 1..2),
            ("exists", 1..2),
            ("incr", 1..5),
            ("decr", 1..5),
            ("incrby", 1..3),
            ("append", 1..3),
            ("strlen", 1..5),
            ("expire", 1..3),
            ("pexpire", 1..3),
            ("ttl", 1..5),
            ("pttl", 3..5),
            ("persist", 3..5),
            ("type", 3..5),
            ("keys", 3..5),
            ("scan", 1..2),
            ("dbsize", 2..4),
            ("config", 1..3),
            ("client", 1..2),
            ("select", 3..5),
            ("setex", 1..4),
            ("setnx", 1..3),
            ("publish", 1..3),
            ("subscribe", 1..2),
            ("psubscribe", 1..2),
            ("pubsub", 1..2),
            ("reset", 2..4),
        ];
        let (command, counts) = &commands[self.rng.usize(..commands.len())];
        let mut wrong = self.words(command, &[]);
        let count = self.rng.usize(counts.clone());
        wrong.resize(count.max(1), b"1".to_vec());
        wrong
    }

    fn unknown(&mut self) -> Vec<Vec<u8>> {
        let name = ["nonsense", "", "fo\r\no", "a\"b"][self.rng.usize(..4)];
        let mut unknown = words(&[name]);
        if self.rng.u32(0..5) == 0 {
            unknown[0] = vec![b'x'; 200];
        }
        for _ in 0..self.rng.usize(..6) {
            unknown.push(self.value());
        }
        unknown
    }

    fn wrong_words(&mut self) -> Vec<Vec<u8>> {
        let lines: [&[&str]; 22] = [
            &["save", "x"],
            &["bgsave", "x"],
            &["bgsave", "schedule", "x"],
            &["lastsave", "x"],
            &["shutdown", "save", "nosave"],
            &["pubsub", "bad"],
            &["pubsub", "channels", "a", "b"],
            &["pubsub", "numpat", "x"],
            &["scan", "abc"],
            &["scan", " 0"],
            &["scan", "0", "count"],
            &["scan", "0", "count", "0"],
            &["scan", "0", "count", "abc"],
            &["scan", "0", "bad", "1"],
            &["scan", "0", "match", "nothing", "count", "100000", "x"],
            &["config", "bad"],
            &["config", "bad", "x\r\ny"],
            &["client", "bad"],
            &["command", "bad"],
            &["command", "count", "1"],
            &["shutdown", "bad"],
            &["scan", "99999999999999999999999999"],
        ];
        words(lines[self.rng.usize(..lines.len())])
    }
}

fn words(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A short pipeline with some bytes replaced, inserted, left out or cut off.
fn mangled(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..5) {
        let words: [&[&[u8]]; 5] = [
            &[b"PING"],
            &[b"ECHO", b"good morning"],
            &[b"SET", b"key", b"value\r\n"],
            &[b"GET", b"key"],
            &[b"ECHO", &[b'x'; 100]],
        ];
        let words = words[rng.usize(..5)];
        match rng.u32(0..4) {
            0 => bytes.extend_from_slice(&inline(words)),
            _ => bytes.extend_from_slice(&request(words)),
        }
    }
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len());
        let byte = b"*$\r\n01-9a \"'\\x\0\xff"[rng.usize(..16)];
        match rng.u32(0..4) {
            0 => bytes.insert(at, byte),
            1 if bytes.len() > 1 => {
                bytes.remove(at);
            }
            2 => bytes.truncate(at.max(1)),
            _ => bytes[at] = byte,
        }
    }
    bytes
}
