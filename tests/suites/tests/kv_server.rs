//! The `kv` example under redis's own clients, bad input and exhausted limits.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ipiq_suites::kv::{Client, Kv, Scratch, binary, free_port, request, wait_until};
use socket2::SockRef;

/// Starts kv on `driver`; none where this machine refuses io_uring.
fn start_on(driver: &str, arguments: &str) -> Option<Kv> {
    match Kv::try_start(&format!("--driver {driver} {arguments}")) {
        Ok(kv) => {
            let banner = kv.banner().join("\n");
            assert!(banner.contains("driver: "), "{banner}");
            Some(kv)
        }
        Err(text) if driver == "uring" && text.contains("io_uring") => {
            println!("skipped, io_uring is refused here: {text}");
            None
        }
        Err(text) => panic!("kv on {driver}: {text}"),
    }
}

fn run_benchmark(driver: &str) {
    for cores in [1, 2, 8] {
        let Some(kv) = start_on(driver, &format!("--cores {cores}")) else {
            return;
        };
        for pipeline in ["1", "16"] {
            let port = kv.address().port().to_string();
            let output = Command::new("redis-benchmark")
                .args(["-p", &port, "-c", "50", "-n", "4000", "-P", pipeline, "-q"])
                .args(["-t", "ping,set,get,incr,mset", "-r", "1000"])
                .output()
                .expect("redis-benchmark not found: run `cargo xtask setup`");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{cores} cores: {text}");
            assert!(!text.contains("rror"), "{cores} cores: {text}");
            assert_eq!(text.matches("requests per second").count(), 6, "{text}");
        }
        let mut client = kv.connect();
        assert_eq!(client.ask("strlen key:000000000001"), ":3");
    }
}

#[test]
fn redis_benchmark_runs_through_on_epoll() {
    run_benchmark("epoll");
}

#[test]
fn redis_benchmark_runs_through_on_uring() {
    run_benchmark("uring");
}

#[test]
fn redis_cli_talks_to_it() {
    let kv = Kv::start("--cores 2");
    let port = kv.address().port().to_string();
    let ask = |words: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output();
        let output = output.expect("redis-cli not found: run `cargo xtask setup`");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    assert_eq!(ask(&["set", "greeting", "good morning"]), "OK");
    assert_eq!(ask(&["get", "greeting"]), "good morning");
    assert_eq!(ask(&["--scan"]), "greeting");
    assert!(ask(&["info", "server"]).contains("cores:2"));
    let cores = ask(&["info", "cores"]);
    assert!(cores.contains("core0:busy_usec=") && cores.contains("core1:busy_usec="), "{cores}");
    assert!(cores.contains("core0_to_core1:sent=") && cores.contains("core1_to_core0:sent="), "{cores}");
    assert!(ask(&["command", "count"]).parse::<u32>().expect("a number") > 30);
}

#[test]
fn what_is_asked_of_all_cores_keeps_its_place_in_a_pipeline() {
    for cores in [1, 3] {
        let kv = Kv::start(&format!("--cores {cores}"));
        let mut client = kv.connect();
        for _ in 0..50 {
            let requests = "MSET a 1 b 2 c 3 d 4 e 5\r\nDBSIZE\r\nEXPIRE a 100\r\nINFO keyspace\r\nDEL a b x\r\nDBSIZE\r\n\
                            FLUSHALL\r\nDBSIZE\r\nMGET c d e\r\nSET x y\r\nDBSIZE\r\nFLUSHDB\r\nGET x\r\n";
            client.send(requests.as_bytes()).expect("it is sent");
            let replies = (0..13).map(|_| String::from_utf8(client.reply().expect("a reply")).expect("text"));
            let replies = replies.collect::<String>().replace("\r\n", " ");
            assert_eq!(
                replies,
                "+OK :5 :1 $44 # Keyspace db0:keys=5,expires=1,avg_ttl=0  :2 :3 +OK :0 *3 $-1 $-1 $-1 +OK :1 +OK $-1 ",
                "{cores} cores"
            );
        }
    }
}

#[test]
fn the_banner_tells_address_cores_driver_and_fence() {
    let kv = Kv::start("--cores 2 --driver epoll --max-clients 5 --max-memory 1mb");
    let banner = kv.banner().join("\n");
    assert!(kv.banner()[0].ends_with(&kv.address().to_string()), "{banner}");
    for expected in ["cores: 2 on CPUs ", "driver: epoll", "fence: ", "5 clients", "1048576 bytes"] {
        assert!(banner.contains(expected), "{expected:?} in {banner}");
    }
}

#[test]
fn wrong_flags_and_a_taken_port_are_named() {
    let taken = Kv::start("--cores 1");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let other = listener.local_addr().expect("an address").port();
    for (arguments, expected) in [
        ("--cores 0".to_owned(), "--cores 0: at least 1"),
        ("--max-memory 1x".to_owned(), "--max-memory 1x: "),
        ("--dir /no/such/directory".to_owned(), "--dir /no/such/directory: "),
        ("--nonsense".to_owned(), "--nonsense"),
        ("--cores 200 --pin".to_owned(), "CPU"),
        ("--driver nonsense".to_owned(), "auto, uring or epoll"),
        (format!("--port {}", taken.address().port()), "in use"),
        (format!("--port {other}"), "in use"),
        ("--bind 192.0.2.1".to_owned(), "cannot listen"),
    ] {
        let text = Kv::try_start(&arguments).err().unwrap_or_else(|| panic!("{arguments} starts"));
        assert!(text.contains(expected), "{arguments}: {text}");
        assert!(!text.contains("panicked"), "{arguments}: {text}");
    }
    assert_eq!(taken.connect().ask("ping"), "+PONG");
}

#[test]
fn version_and_help_are_printed() {
    for (flag, expected) in [("--version", "kv "), ("-V", "kv "), ("--help", "--dbfilename"), ("-h", "--save")] {
        let output = Command::new(binary()).arg(flag).output().expect("kv starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(expected), "{flag}: {text}");
    }
}

#[test]
fn a_setting_holds_on_every_core_when_its_change_is_answered() {
    let kv = Kv::start("--cores 4");
    let mut clients: Vec<_> = (0..24).map(|_| kv.connect()).collect();
    let mut control = kv.connect();
    for round in 0..30 {
        for (limit, expected) in [("1", "-OOM command"), ("0", "+OK")] {
            assert_eq!(control.ask(&format!("config set maxmemory {limit}")), "+OK");
            for (n, client) in clients.iter_mut().enumerate() {
                let reply = client.ask(&format!("set key{n}:{round} value"));
                assert!(reply.starts_with(expected), "maxmemory {limit}, client {n}: {reply}");
                let told = client.ask("config get maxmemory");
                assert!(told.ends_with(&format!("$1\r\n{limit}")), "{told}");
            }
        }
    }
    assert_eq!(control.ask("config set maxclients 26"), "+OK");
    let mut last = kv.connect();
    assert_eq!(last.ask("ping"), "+PONG");
    assert_eq!(kv.connect().read_to_close(), b"-ERR max number of clients reached\r\n");
    assert!(control.ask("info clients").contains("maxclients:26"));
}

#[test]
fn settings_changed_by_several_clients_at_once_lose_nothing() {
    let kv = Kv::start("--cores 4");
    thread::scope(|scope| {
        for name in ["maxmemory", "timeout", "maxclients"] {
            let mut client = kv.connect();
            scope.spawn(move || {
                for value in 1000..1100 {
                    assert_eq!(client.ask(&format!("config set {name} {value}")), "+OK");
                    let told = client.ask(&format!("config get {name}"));
                    assert!(told.ends_with(&value.to_string()), "{name} {value}: {told}");
                }
            });
        }
    });
    let mut client = kv.connect();
    for name in ["maxmemory", "timeout", "maxclients"] {
        let told = client.ask(&format!("config get {name}"));
        assert!(told.ends_with("1099"), "{told}");
    }
}

#[test]
fn where_files_are_written_is_changed_only_where_the_command_line_allows_it() {
    let closed = Kv::start("--cores 2");
    let mut client = closed.connect();
    let refusal = client.ask("config set dir /");
    assert!(refusal.ends_with("can't set protected config"), "{refusal}");
    let kv = Kv::start("--cores 2 --enable-protected-configs");
    let directory = Scratch::new();
    let mut client = kv.connect();
    let path = directory.path().display().to_string();
    assert_eq!(client.ask(&format!("config set dir {path} dbfilename other.kv")), "+OK");
    assert_eq!(client.ask("save"), "+OK");
    assert!(directory.path().join("other.kv").exists());
    assert!(client.ask("config get dir").ends_with(&path));
}

/// How often another client is answered before the answer to `slow` comes.
fn answers_during(kv: &Kv, slow: &str) -> (String, usize) {
    let (mut client, mut other) = (kv.connect(), kv.connect());
    thread::scope(|scope| {
        let slow = scope.spawn(move || client.ask(slow));
        let mut answers = 0;
        while !slow.is_finished() {
            assert_eq!(other.ask("ping"), "+PONG");
            answers += 1;
        }
        (slow.join().expect("no panic"), answers)
    })
}

#[test]
fn a_slow_command_gives_way_to_others() {
    let closed = Kv::start("--cores 1");
    let refusal = closed.connect().ask("debug sleep 1");
    assert!(refusal.starts_with("-ERR DEBUG command not allowed"), "{refusal}");
    let kv = Kv::start("--cores 1 --enable-debug-command");
    let (reply, answers) = answers_during(&kv, "debug sleep 1.5");
    assert_eq!(reply, "+OK");
    assert!(answers >= 10, "{answers} answers in 1.5 s");
    let mut client = kv.connect();
    for wrong in ["debug sleep x", "debug sleep -1", "debug sleep", "debug nonsense"] {
        assert!(client.ask(wrong).starts_with("-ERR "), "{wrong}");
    }
}

#[test]
fn a_command_that_keeps_its_core_is_told_of_on_standard_error() {
    let kv = Kv::start("--cores 2 --enable-debug-command --stall-limit 50");
    let mut client = kv.connect();
    // The machine may be too busy to look in time.
    let watchdog = std::time::Instant::now();
    while !kv.has_reported(|line| line.ends_with("stall")) {
        assert!(watchdog.elapsed() < ipiq_suites::kv::WATCHDOG, "it is not told of");
        assert_eq!(client.ask("debug stall 200"), "+OK");
    }
    for wrong in ["debug stall x", "debug stall -1", "debug stall", "debug backtrace 1"] {
        assert!(client.ask(wrong).starts_with("-ERR "), "{wrong}");
    }
    let closed = Kv::start("--cores 1 --stall-limit 0");
    assert!(closed.connect().ask("debug backtrace").starts_with("-ERR DEBUG command not allowed"));
}

#[test]
fn an_operator_learns_what_every_core_is_doing() {
    let kv = Kv::start("--cores 1 --enable-debug-command");
    let (mut client, mut other) = (kv.connect(), kv.connect());
    assert!(client.ask("debug backtrace").contains("core 0 is "));
    let found = AtomicBool::new(false);
    thread::scope(|scope| {
        let found = &found;
        // Until it is found: the first names take long, and the machine may be busy.
        let slow = scope.spawn(move || {
            while !found.load(Ordering::Relaxed) {
                assert_eq!(client.ask("debug sleep 0.5"), "+OK");
            }
        });
        let watchdog = std::time::Instant::now();
        while !other.ask("debug backtrace").contains("kv/errand.rs:") && !slow.is_finished() {
            if watchdog.elapsed() > ipiq_suites::kv::WATCHDOG {
                found.store(true, Ordering::Relaxed);
                panic!("core 0 was busy all the while");
            }
        }
        found.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_is_under_way_is_answered_before_the_end() {
    for end in ["SIGTERM", "shutdown nosave"] {
        let mut kv = Kv::start("--cores 2 --enable-debug-command");
        let [mut busy, mut idle, mut subscriber, mut operator] = [(); 4].map(|()| kv.connect());
        assert_eq!(idle.ask("set key value"), "+OK");
        subscriber.ask("subscribe begun");
        busy.send(b"publish begun now\r\ndebug sleep 1\r\nset key other\r\n").expect("sent");
        subscriber.reply().expect("the batch has begun");
        match end {
            "SIGTERM" => kv.signal(libc::SIGTERM),
            command => operator.send(format!("{command}\r\n").as_bytes()).expect("sent"),
        }
        // The command that runs is answered; those behind it are not run.
        assert_eq!(String::from_utf8(busy.read_to_close()).expect("text"), ":1\r\n+OK\r\n", "{end}");
        assert_eq!(idle.read_to_close(), b"", "{end}");
        assert!(kv.wait().success(), "{end}");
        assert!(!kv.has_reported(|line| line.starts_with("kv: ")), "{end}");
    }
}

#[test]
fn who_does_not_read_its_replies_holds_up_the_end_for_a_while_only() {
    let mut kv = Kv::start("--cores 1");
    let (mut deaf, mut client) = (kv.connect(), kv.connect());
    assert_eq!(client.ask(&format!("set key {}", "v".repeat(1 << 20))), "+OK");
    // More than sockets hold.
    deaf.send("get key\r\n".repeat(64).as_bytes()).expect("sent");
    assert_eq!(deaf.socket().peek(&mut [0]).expect("replies are on their way"), 1);
    kv.signal(libc::SIGTERM);
    kv.wait_for_error("kv: drain: cut after 5.");
    assert!(kv.wait().success());
}

#[test]
fn keys_over_a_large_shard_finds_all_and_gives_way_to_others() {
    const BATCHES: usize = 400;
    const KEYS: usize = 1000;
    let kv = Kv::start("--cores 1");
    let mut client = kv.connect();
    for batch in 0..BATCHES {
        let pairs: String = (0..KEYS).map(|key| format!(" key:{batch}:{key} v")).collect();
        assert_eq!(client.ask(&format!("mset{pairs}")), "+OK");
    }
    let (reply, answers) = answers_during(&kv, "keys key:*");
    assert_eq!(reply.split("\r\n").next(), Some(&format!("*{}", BATCHES * KEYS)[..]));
    println!("{answers} answers meanwhile");
    assert!(answers >= 2, "{answers} answers meanwhile");
}

#[test]
fn idle_clients_are_closed_and_subscribers_are_not() {
    let kv = Kv::start("--cores 2 --timeout 1");
    let mut idle: Vec<_> = (0..4).map(|_| kv.connect()).collect();
    let mut subscriber = kv.connect();
    subscriber.ask("subscribe news");
    for client in &mut idle {
        assert_eq!(client.read_to_close(), b"");
    }
    let mut client = kv.connect();
    wait_until("they are forgotten", || client.ask("info clients").contains("connected_clients:2\r\n"));
    assert_eq!(client.ask("publish news hello"), ":1");
    assert!(subscriber.reply().expect("a message").ends_with(b"$5\r\nhello\r\n"));
}

#[test]
fn of_two_that_start_at_once_on_one_port_one_gets_it() {
    for _ in 0..5 {
        let arguments = format!("--cores 2 --port {}", free_port());
        let starts = [(); 4].map(|()| {
            let arguments = arguments.clone();
            thread::spawn(move || Kv::try_start(&arguments))
        });
        let outcomes = starts.map(|start| start.join().expect("it ends"));
        let started = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(started, 1, "on one port");
        for text in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert!(text.contains("in use"), "{text}");
        }
    }
}

#[test]
fn requests_that_arrive_byte_by_byte_are_answered() {
    let kv = Kv::start("--cores 2");
    let mut client = kv.connect();
    let mut bytes = Vec::new();
    for n in 0..10 {
        bytes.extend(request(&[b"set", format!("key{n}").as_bytes(), b"a\r\nb"]));
        bytes.extend_from_slice(format!("get key{n}\r\n").as_bytes());
    }
    for byte in bytes {
        client.send(&[byte]).expect("the connection stands");
    }
    for _ in 0..10 {
        assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
        assert_eq!(client.reply().expect("a reply"), b"$4\r\na\r\nb\r\n");
    }
}

#[test]
fn oversized_and_malformed_requests_are_refused_and_closed() {
    let kv = Kv::start("--cores 2");
    let digits = "1".repeat(65_536);
    for (input, reason) in [
        (format!("{digits}1"), "too big inline request"),
        (format!("*{digits}"), "too big mbulk count string"),
        (format!("*1\r\n${digits}"), "too big bulk count string"),
        ("*1048577\r\n".to_owned(), "invalid multibulk length"),
        ("*x\r\n".to_owned(), "invalid multibulk length"),
        ("*1\r\n$536870913\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$-1\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n%4\r\n".to_owned(), "expected '$', got '%'"),
        ("get 'a\r\n".to_owned(), "unbalanced quotes in request"),
    ] {
        let mut client = kv.connect();
        client.send(b"PING\r\n").expect("the connection stands");
        assert_eq!(client.reply().expect("a reply"), b"+PONG\r\n");
        client.send(input.as_bytes()).expect("the connection stands");
        let rest = String::from_utf8(client.read_to_close()).expect("text");
        assert_eq!(rest, format!("-ERR Protocol error: {reason}\r\n"));
    }
    assert_eq!(kv.connect().ask("ping"), "+PONG");
}

#[test]
fn a_long_value_passes_whole() {
    let kv = Kv::start("--cores 2");
    let mut client = kv.connect();
    let value: Vec<u8> = (0..32 << 20).map(|n: u32| (n % 251) as u8).collect();
    // Two keys, so that both the local and the remote way are taken by some.
    for key in [&b"a"[..], b"b", b"c", b"d"] {
        client.send(&request(&[b"set", key, &value])).expect("it is sent");
        assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
        client.send(&request(&[b"get", key])).expect("it is sent");
        let reply = client.reply().expect("a reply");
        assert!(reply.ends_with(b"\r\n") && reply[11..reply.len() - 2] == value);
        assert_eq!(client.ask(&format!("del {}", key.escape_ascii())), ":1");
    }
}

#[test]
fn connections_that_vanish_in_the_middle_of_a_request_leave_nothing() {
    let kv = Kv::start("--cores 2");
    let part = request(&[b"set", b"key", &[b'x'; 5000]]);
    for wave in 0..40 {
        let clients: Vec<_> = (0..250).map(|_| kv.connect()).collect();
        for (n, mut client) in clients.into_iter().enumerate() {
            let cut = (wave * 250 + n) % part.len();
            client.send(&part[..cut]).expect("the connection stands");
            if n % 2 == 0 {
                // The close becomes a reset.
                SockRef::from(client.socket()).set_linger(Some(Duration::ZERO)).expect("linger");
            }
        }
    }
    let mut client = kv.connect();
    wait_until("the vanished are forgotten", || client.ask("info clients").contains("connected_clients:1\r\n"));
    assert_eq!(client.ask("dbsize"), ":0");
    assert!(client.ask("info stats").contains("total_connections_received:10001\r\n"));
}

#[test]
fn clients_above_the_limit_are_told_and_places_become_free() {
    let kv = Kv::start("--cores 2 --max-clients 10");
    let mut clients: Vec<_> = (0..10).map(|_| kv.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("ping"), "+PONG");
    }
    for _ in 0..20 {
        let refusal = kv.connect().read_to_close();
        assert_eq!(refusal, b"-ERR max number of clients reached\r\n");
    }
    assert!(clients[0].ask("info stats").contains("rejected_connections:20\r\n"));
    clients.truncate(9);
    wait_until("a place is free", || {
        let mut client = kv.connect();
        client.send(b"PING\r\n").is_ok() && client.reply().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
}

#[test]
fn accepting_rests_without_descriptors_and_goes_on_with_them() {
    let kv = Kv::start_limited("-n 64", "--cores 2");
    let mut served: Vec<_> = (0..20).map(|_| kv.connect()).collect();
    for client in &mut served {
        assert_eq!(client.ask("ping"), "+PONG");
    }
    let mut waiting: Vec<_> = (0..80).map(|_| kv.connect()).collect();
    kv.wait_for_error("cannot accept for now");
    for client in &mut served {
        assert_eq!(client.ask("ping"), "+PONG");
    }
    drop(served);
    // Every one is served once those before it have gone.
    while let Some(mut client) = waiting.pop() {
        if waiting.len() < 30 {
            assert_eq!(client.ask("ping"), "+PONG");
        }
    }
}

#[test]
fn counters_that_all_connections_raise_lose_nothing() {
    let kv = Kv::start("--cores 4");
    let clients: Vec<_> = (0..16).map(|_| kv.connect()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                for round in 0..100 {
                    let mut bytes = Vec::new();
                    for n in 0..20 {
                        bytes.extend_from_slice(format!("INCRBY counter{n} {round}\r\n").as_bytes());
                    }
                    client.send(&bytes).expect("it is sent");
                    for _ in 0..20 {
                        assert_eq!(client.reply().expect("a reply")[0], b':');
                    }
                }
            });
        }
    });
    let mut client = kv.connect();
    for n in 0..20 {
        assert_eq!(client.ask(&format!("get counter{n}")), "$5\r\n79200");
    }
}

#[test]
fn a_reader_that_does_not_read_stops_nobody_and_is_held_back() {
    let kv = Kv::start("--cores 1");
    let mut slow = kv.connect();
    let value = vec![b'x'; 1 << 20];
    slow.send(&request(&[b"set", b"large", &value])).expect("it is sent");
    assert_eq!(slow.reply().expect("a reply"), b"+OK\r\n");
    let gets = 300;
    slow.send(&b"GET large\r\n".repeat(gets)).expect("it is sent");
    let mut other = kv.connect();
    for n in 0..1000 {
        assert_eq!(other.ask(&format!("incr counter{}", n % 7)), format!(":{}", n / 7 + 1));
    }
    let resident_kib = resident_kib(&kv);
    assert!(resident_kib < 64 << 10, "{resident_kib} KiB hold unsent replies");
    for _ in 0..gets {
        assert_eq!(slow.reply().expect("a reply").len(), value.len() + 12);
    }
    assert_eq!(slow.ask("ping"), "+PONG");
}

#[test]
fn writes_above_the_memory_limit_are_refused_until_there_is_room() {
    let kv = Kv::start("--cores 2 --max-memory 1mb");
    let mut client = kv.connect();
    let value = "x".repeat(10_000);
    let mut accepted = 0;
    let refusal = loop {
        let reply = client.ask(&format!("set key{accepted} {value}"));
        if reply != "+OK" {
            break reply;
        }
        accepted += 1;
        assert!(accepted < 200, "the limit is never reached");
    };
    assert_eq!(refusal, "-OOM command not allowed when used memory > 'maxmemory'.");
    assert!(accepted > 90, "only {accepted} values fit");
    assert_eq!(client.ask("strlen key0"), ":10000");
    assert_eq!(client.ask(&format!("mset a {value} b {value}")), refusal);
    assert_eq!(client.ask("del key0 key1 key2"), ":3");
    assert_eq!(client.ask(&format!("set key0 {value}")), "+OK");
}

#[test]
fn keys_nobody_asks_for_expire() {
    let kv = Kv::start("--cores 2");
    let mut client = kv.connect();
    for n in 0..1000 {
        assert_eq!(client.ask(&format!("set key{n} v px 1")), "+OK");
    }
    wait_until("all have expired", || client.ask("dbsize") == ":0");
    assert!(client.ask("info stats").contains("expired_keys:1000"));
}

#[test]
fn what_nobody_waits_for_runs_behind_the_requests() {
    let directory = Scratch::new();
    let kv = Kv::start(&format!("--cores 2 --dir {}", directory.path().display()));
    let mut client = kv.connect();
    let polls = |client: &mut Client, class: &str| {
        let info = client.ask("info classes");
        [0, 1].map(|core| {
            let line = info.lines().find_map(|line| line.strip_prefix(&format!("{class}_core{core}:")));
            let polls = line.and_then(|line| line.split(',').find_map(|figure| figure.strip_prefix("polls=")));
            polls.and_then(|polls| polls.parse::<u64>().ok()).unwrap_or_else(|| panic!("{class} on {core} in {info}"))
        })
    };
    assert!(client.ask("info classes").contains("background_core1:shares=20,run_usec="));
    // Keys of both cores that expire,
    for n in 0..100 {
        assert_eq!(client.ask(&format!("set key{n} v px 1")), "+OK");
    }
    wait_until("all have expired", || client.ask("dbsize") == ":0");
    let expired = polls(&mut client, "background");
    assert!(expired.iter().all(|polls| *polls > 0), "{expired:?}");
    // and a snapshot that is read on both.
    assert_eq!(client.ask("bgsave"), "+Background saving started");
    wait_until("it is written", || client.ask("info persistence").contains("rdb_bgsave_in_progress:0"));
    assert!(client.ask("info persistence").contains("rdb_last_bgsave_status:ok"));
    let read = polls(&mut client, "background");
    assert!(expired.iter().zip(&read).all(|(before, after)| before < after), "{expired:?} {read:?}");
    assert!(polls(&mut client, "default").iter().any(|polls| *polls > 100));
}

#[test]
fn shutdown_ends_it_and_frees_the_port() {
    for driver in ["epoll", "uring"] {
        let Some(mut kv) = start_on(driver, "--cores 2") else {
            continue;
        };
        let mut idle = kv.connect();
        assert_eq!(idle.ask("set key value"), "+OK");
        let mut client = kv.connect();
        client.send(b"SHUTDOWN NOSAVE\r\n").expect("it is sent");
        assert_eq!(client.read_to_close(), b"");
        assert_eq!(idle.read_to_close(), b"");
        assert!(ExitStatus::success(&kv.wait()));
        drop(TcpListener::bind(kv.address()).expect("nobody listens there"));
    }
}

#[test]
fn one_that_was_killed_can_be_started_again_at_once() {
    for driver in ["epoll", "uring"] {
        let Some(mut kv) = start_on(driver, "--cores 2") else {
            continue;
        };
        let clients: Vec<_> = (0..500).map(|_| kv.connect()).collect();
        kv.kill();
        let again = Kv::start(&format!("--port {}", kv.address().port()));
        assert_eq!(again.connect().ask("ping"), "+PONG");
        drop(clients);
    }
}

#[test]
fn quit_answers_and_closes() {
    let kv = Kv::start("--cores 1");
    let mut client: Client = kv.connect();
    client.send(b"QUIT\r\nSET key value\r\n").expect("it is sent");
    assert_eq!(client.read_to_close(), b"+OK\r\n");
    assert_eq!(kv.connect().ask("exists key"), ":0");
}

fn resident_kib(kv: &Kv) -> usize {
    let mut status = String::new();
    std::fs::File::open(format!("/proc/{}/status", kv.id()))
        .and_then(|mut file| file.read_to_string(&mut status))
        .expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok());
    kib.expect("VmHWM in KiB")
}
