//! Publish and subscribe of the `kv` example: as redis answers, across cores, and with subscribers that do not read.
//!
//! `IPIQ_SEED` repeats a run.

use std::net::SocketAddr;
use std::thread;

use fastrand::Rng;
use ipiq_suites::kv::{Client, Kv, Redis, request, wait_until};

#[test]
fn one_core_answers_as_redis() {
    compare_with_redis("--cores 1");
}

#[test]
fn three_cores_answer_as_redis() {
    compare_with_redis("--cores 3");
}

/// Subscribers and a publisher on one server.
struct Party {
    subscribers: Vec<Client>,
    publisher: Client,
}

impl Party {
    fn join(address: SocketAddr) -> Self {
        Self { subscribers: (0..6).map(|_| Client::connect(address)).collect(), publisher: Client::connect(address) }
    }

    /// Sends `line` and a PING behind it, and answers all that comes before the PING's reply, sorted from `unordered` on.
    fn tell(&mut self, who: usize, line: &str) -> Vec<String> {
        let subscriber = &mut self.subscribers[who];
        let mut bytes = Vec::new();
        for line in [line, "ping fence"].into_iter().filter(|line| !line.is_empty()) {
            bytes.extend(request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
        }
        subscriber.send(&bytes).expect("it is sent");
        let mut replies = Vec::new();
        loop {
            let reply = subscriber.reply().expect("a reply");
            if reply.ends_with(b"$5\r\nfence\r\n") || reply.ends_with(b"$4\r\npong\r\n$5\r\nfence\r\n") {
                replies.push(reply.escape_ascii().to_string());
                return replies;
            }
            replies.push(reply.escape_ascii().to_string());
        }
    }
}

fn compare_with_redis(arguments: &str) {
    let seed = std::env::var("IPIQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("IPIQ_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let (kv, redis) = (Kv::start(arguments), Redis::start());
    let mut parties = [kv.address(), redis.address()].map(Party::join);
    let mut history = Vec::new();
    for step in 0..3000 {
        let who = rng.usize(..6);
        let line = match rng.u32(0..20) {
            0..5 => format!("subscribe {}", channels(&mut rng)),
            5..8 => format!("unsubscribe {}", channels(&mut rng)),
            8..10 => format!("psubscribe {}", patterns(&mut rng)),
            10..12 => format!("punsubscribe {}", patterns(&mut rng)),
            12 => ["unsubscribe", "punsubscribe", "reset"][rng.usize(..3)].to_owned(),
            13 => wrong(&mut rng),
            _ => String::new(),
        };
        history.push(format!("{who}: {line}"));
        let question = match rng.u32(0..10) {
            0 => "pubsub channels".to_owned(),
            1 => format!("pubsub channels {}", patterns(&mut rng).split(' ').next().expect("a word")),
            2 => format!("pubsub numsub {}", channels(&mut rng)),
            3 => "pubsub numpat".to_owned(),
            _ => format!("publish {} message{step}", channels(&mut rng).split(' ').next().expect("a word")),
        };
        history.push(question.clone());
        let [observed, expected] = &mut parties;
        // Redis unsubscribes from all in an order of its own, and matches patterns in one too.
        let sorted = |mut replies: Vec<String>| {
            replies.sort_unstable();
            replies
        };
        let context = || format!("seed {seed}, the last:\n{}", history[history.len().saturating_sub(30)..].join("\n"));
        let [told, meant] = [&mut *observed, &mut *expected].map(|party| party.tell(who, &line));
        match &line[..] {
            "unsubscribe" | "punsubscribe" => assert_eq!(named(&told), named(&meant), "{}", context()),
            _ => assert_eq!(told, meant, "{}", context()),
        }
        let [told, meant] = [&mut *observed, &mut *expected].map(|party| party.publisher.ask(&question));
        if question.starts_with("pubsub channels") {
            assert_eq!(sorted(lines(&told)), sorted(lines(&meant)), "{}", context());
        } else {
            assert_eq!(told, meant, "{}", context());
        }
        if question.starts_with("publish") {
            for who in 0..6 {
                let [told, meant] = [&mut *observed, &mut *expected].map(|party| party.tell(who, ""));
                assert_eq!(sorted(told), sorted(meant), "subscriber {who}, {}", context());
            }
        }
    }
}

/// Confirmations without their counts, sorted: the names come in an order of the server's.
fn named(replies: &[String]) -> Vec<String> {
    let mut names: Vec<_> =
        replies.iter().map(|reply| reply.rsplit_once(':').map_or(reply.clone(), |(name, _)| name.to_owned())).collect();
    names.sort_unstable();
    names
}

fn lines(reply: &str) -> Vec<String> {
    reply.lines().map(str::to_owned).collect()
}

fn channels(rng: &mut Rng) -> String {
    let words: Vec<_> = (0..rng.usize(1..4)).map(|_| format!("news{}", rng.u32(0..5))).collect();
    words.join(" ")
}

fn patterns(rng: &mut Rng) -> String {
    let all = ["*", "news*", "news?", "news[1-3]", "*4", "nothing"];
    let words: Vec<_> = (0..rng.usize(1..3)).map(|_| all[rng.usize(..all.len())]).collect();
    words.join(" ")
}

/// What a subscriber may not do, or nobody.
fn wrong(rng: &mut Rng) -> String {
    let lines = [
        "get k",
        "get",
        "GET a b",
        "set k v",
        "subscribe",
        "psubscribe",
        "publish a",
        "publish news1 m x",
        "config get nothing",
        "config get",
        "CONFIG SET timeout x",
        "config bad",
        "pubsub",
        "pubsub numpat x",
        "pubsub bad",
        "pubsub channels a b",
        "command bad",
        "nonsense",
        "ping a b",
        "ping",
        "reset x",
        "mget",
        "dbsize x",
        "select 5",
        "echo x",
    ];
    lines[rng.usize(..lines.len())].to_owned()
}

#[test]
fn each_subscriber_gets_each_publishers_messages_in_their_order() {
    const MESSAGES: usize = 2000;
    let kv = Kv::start("--cores 4");
    let mut subscribers: Vec<_> = (0..8).map(|_| kv.connect()).collect();
    for (n, subscriber) in subscribers.iter_mut().enumerate() {
        let line = if n % 2 == 0 { "subscribe news" } else { "psubscribe n*" };
        subscriber.ask(line);
    }
    thread::scope(|scope| {
        for publisher in 0..4 {
            let mut client = kv.connect();
            scope.spawn(move || {
                for pipeline in 0..MESSAGES / 20 {
                    let mut bytes = Vec::new();
                    for n in 0..20 {
                        let message = format!("{publisher} {}", 20 * pipeline + n);
                        bytes.extend(request(&[b"publish", b"news", message.as_bytes()]));
                    }
                    client.send(&bytes).expect("it is sent");
                    for _ in 0..20 {
                        assert_eq!(client.reply().expect("a reply"), b":8\r\n");
                    }
                }
            });
        }
        for (n, subscriber) in subscribers.iter_mut().enumerate() {
            scope.spawn(move || {
                let mut next = [0; 4];
                for _ in 0..4 * MESSAGES {
                    let reply = String::from_utf8(subscriber.reply().expect("a message")).expect("text");
                    let mut words = reply.trim_end().rsplit("\r\n").next().expect("a message").split(' ');
                    let publisher: usize = words.next().and_then(|word| word.parse().ok()).expect("a publisher");
                    let number: usize = words.next().and_then(|word| word.parse().ok()).expect("a number");
                    assert_eq!(number, next[publisher], "subscriber {n}, publisher {publisher}");
                    next[publisher] += 1;
                }
            });
        }
    });
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_the_others_are_not() {
    for arguments in ["--cores 1 --driver epoll", "--cores 4"] {
        let kv = Kv::start(arguments);
        let mut publisher = kv.connect();
        assert_eq!(publisher.ask("config set timeout 0"), "+OK");
        let limit = request(&[b"config", b"set", b"client-output-buffer-limit", b"pubsub 1mb 0 0"]);
        publisher.send(&limit).expect("it is sent");
        assert_eq!(publisher.reply().expect("a reply"), b"+OK\r\n");
        let (mut slow, mut quick) = (kv.connect(), kv.connect());
        slow.ask("subscribe news");
        quick.ask("subscribe news");
        let message = vec![b'm'; 100_000];
        let mut receivers = Vec::new();
        // The system's own buffers take some megabytes first.
        while receivers.last() != Some(&b':') && receivers.len() < 10_000 {
            publisher.send(&request(&[b"publish", b"news", &message])).expect("it is sent");
            let reply = publisher.reply().expect("a reply");
            assert!(quick.reply().expect("a message").len() > message.len());
            receivers.push(reply[1]);
            if reply == b":1\r\n" {
                receivers.push(b':');
            }
        }
        assert_eq!(receivers.last(), Some(&b':'), "the slow one is never closed");
        kv.wait_for_error("it reads too slowly");
        let info = publisher.ask("info stats");
        assert!(info.contains("client_output_buffer_limit_disconnections:1"), "{info}");
        assert!(slow.read_to_close().len() < 100 << 20);
    }
}

#[test]
fn a_subscriber_that_goes_is_forgotten_on_every_core() {
    let kv = Kv::start("--cores 4");
    let mut subscribers: Vec<_> = (0..40).map(|_| kv.connect()).collect();
    for subscriber in &mut subscribers {
        subscriber.ask("subscribe news");
        subscriber.ask("psubscribe n*");
    }
    let mut client = kv.connect();
    assert_eq!(client.ask("publish news m"), ":80");
    assert_eq!(client.ask("pubsub numpat"), ":1");
    assert_eq!(client.ask("pubsub numsub news"), "*2\r\n$4\r\nnews\r\n:40");
    drop(subscribers);
    wait_until("all are forgotten", || client.ask("publish news m") == ":0");
    assert_eq!(client.ask("pubsub channels"), "*0");
    assert_eq!(client.ask("pubsub numpat"), ":0");
}

#[test]
fn a_message_sent_to_all_from_a_pipeline_is_counted_in_place() {
    let kv = Kv::start("--cores 3");
    let mut subscribers: Vec<_> = (0..12).map(|_| kv.connect()).collect();
    for subscriber in &mut subscribers {
        subscriber.ask("subscribe a");
    }
    let mut client = kv.connect();
    client.send(b"SET k 1\r\nPUBLISH a x\r\nINCR k\r\nPUBLISH b x\r\nPUBLISH a y\r\nMGET k k\r\n").expect("it is sent");
    for expected in ["+OK\r\n", ":12\r\n", ":2\r\n", ":0\r\n", ":12\r\n", "*2\r\n$1\r\n2\r\n$1\r\n2\r\n"] {
        assert_eq!(String::from_utf8(client.reply().expect("a reply")).expect("text"), expected);
    }
}
