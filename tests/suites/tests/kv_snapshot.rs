//! Snapshots of the `kv` example: what is saved is loaded, damage is refused, failures are told, and no snapshot holds half a command.
//!
//! `IPIQ_SNAPSHOTS` sets how many are taken under load; 200 with `IPIQ_STRESS=full`.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipiq_suites::kv::{Client, Kv, Scratch, request, wait_until};
use ipiq_suites::scale::scaled;

fn start_in(directory: &Path, arguments: &str) -> Kv {
    Kv::start(&format!("--dir {} {arguments}", directory.display()))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the directory is there");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort_unstable();
    names
}

/// The line `name:value` of INFO's section on snapshots.
fn told(client: &mut Client, name: &str) -> String {
    let info = client.ask("info persistence");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {info}")).to_owned()
}

fn number(client: &mut Client, name: &str) -> u64 {
    told(client, name).parse().expect("a number")
}

#[test]
fn what_is_saved_is_loaded_whatever_the_number_of_cores() {
    for driver in ["epoll", "auto"] {
        let directory = Scratch::new();
        for cores in [1, 3, 2, 5] {
            let kv = start_in(directory.path(), &format!("--cores {cores} --driver {driver}"));
            let mut client = kv.connect();
            if cores == 1 {
                for n in 0..2000 {
                    assert_eq!(client.ask(&format!("set key{n} {}", "v".repeat(n % 100))), "+OK");
                }
                client.send(&request(&[b"set", b"\0\r\n\xff", &vec![0xfe; 3 << 20]])).expect("it is sent");
                assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
                assert_eq!(client.ask("set far v pxat 4000000000000"), "+OK");
                assert_eq!(client.ask("set near v px 1"), "+OK");
            }
            assert_eq!(client.ask("dbsize"), if cores == 1 { ":2003" } else { ":2002" }, "{cores} cores");
            for n in (0..2000).step_by(7) {
                let length = n % 100;
                assert_eq!(
                    client.ask(&format!("get key{n}")),
                    format!("${length}\r\n{}", "v".repeat(length)).trim_end()
                );
            }
            assert_eq!(client.ask("pexpiretime far"), ":4000000000000");
            client.send(&request(&[b"get", b"\0\r\n\xff"])).expect("it is sent");
            let reply = client.reply().expect("a reply");
            assert_eq!(&reply[10..reply.len() - 2], vec![0xfe; 3 << 20]);
            wait_until("the near one has expired", || client.ask("exists near") == ":0");
            assert_eq!(client.ask("save"), "+OK");
            assert_eq!(number(&mut client, "rdb_changes_since_last_save"), 0);
            assert_eq!(names(directory.path()), ["dump.kv"]);
        }
    }
}

#[test]
fn an_entry_that_expires_before_it_is_loaded_is_left_out() {
    let directory = Scratch::new();
    let kv = start_in(directory.path(), "--cores 2");
    let mut client = kv.connect();
    assert_eq!(client.ask("mset a 1 b 2"), "+OK");
    assert_eq!(client.ask("set short v px 300"), "+OK");
    assert_eq!(client.ask("save"), "+OK");
    wait_until("it has expired", || client.ask("exists short") == ":0");
    let again = start_in(directory.path(), "--cores 1");
    let mut client = again.connect();
    assert_eq!(client.ask("dbsize"), ":2");
    assert_eq!(number(&mut client, "rdb_last_load_keys_loaded"), 2);
    assert_eq!(number(&mut client, "rdb_last_load_keys_expired"), 1);
}

#[test]
fn a_damaged_file_is_refused_with_the_place_and_nothing_is_served() {
    let directory = Scratch::new();
    let path = directory.path().join("dump.kv");
    {
        let kv = start_in(directory.path(), "--cores 2");
        let mut client = kv.connect();
        for n in 0..500 {
            assert_eq!(client.ask(&format!("set key{n} value{n}")), "+OK");
        }
        assert_eq!(client.ask("save"), "+OK");
    }
    let sound = fs::read(&path).expect("the file is there");
    let half = sound.len() / 2;
    for (damaged, expected) in [
        (sound[..half].to_vec(), format!("damaged at byte {half}")),
        (sound[..sound.len() - 1].to_vec(), format!("damaged at byte {}", sound.len() - 1)),
        (Vec::new(), "damaged at byte 0: this is no snapshot of kv".to_owned()),
        ([&sound[..], b"\0"].concat(), format!("damaged at byte {}", sound.len())),
        // In the first block's entries: where the second block begins depends on the keys' shards.
        (turned(&sound, 64), "the checksum of a block is wrong".to_owned()),
        (turned(&sound, 9), "damaged at byte 28".to_owned()),
        (turned(&sound, 33), "damaged at byte 32".to_owned()),
    ] {
        fs::write(&path, damaged).expect("it is written");
        for cores in [1, 2, 4] {
            let arguments = format!("--dir {} --cores {cores}", directory.path().display());
            let text = Kv::try_start(&arguments).err().unwrap_or_else(|| panic!("{expected}: it starts"));
            assert!(text.contains(&expected) && text.contains("dump.kv"), "{expected}: {text}");
            assert!(!text.contains("panicked"), "{text}");
        }
    }
    fs::write(&path, sound).expect("it is written");
    let kv = start_in(directory.path(), "--cores 3");
    let banner = kv.banner().join("\n");
    assert!(banner.contains("dump.kv, 500 keys loaded"), "{banner}");
    assert_eq!(kv.connect().ask("dbsize"), ":500");
}

fn turned(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut turned = bytes.to_vec();
    turned[at] ^= 4;
    turned
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_the_old_one_stays() {
    let directory = Scratch::new();
    let arguments = format!("--cores 2 --dir {}", directory.path().display());
    // In blocks of 512 bytes, or of 1024 where the shell is bash.
    let kv = Kv::start_limited("-f 200", &arguments);
    let mut client = kv.connect();
    assert_eq!(client.ask("set key value"), "+OK");
    assert_eq!(client.ask("save"), "+OK");
    let saved = number(&mut client, "rdb_last_save_time");
    let old = fs::read(directory.path().join("dump.kv")).expect("the file is there");
    for n in 0..500 {
        assert_eq!(client.ask(&format!("set key{n} {}", "v".repeat(1000))), "+OK");
    }
    let refusal = client.ask("save");
    assert!(refusal.starts_with("-ERR cannot write the snapshot: "), "{refusal}");
    assert_eq!(told(&mut client, "rdb_last_bgsave_status"), "err");
    assert!(told(&mut client, "snapshot_last_error").contains("cannot write"));
    assert_eq!(client.ask("bgsave"), "+Background saving started");
    wait_until("it has failed", || told(&mut client, "rdb_bgsave_in_progress") == "0");
    assert_eq!(told(&mut client, "rdb_last_bgsave_status"), "err");
    assert_eq!(number(&mut client, "rdb_last_save_time"), saved);
    assert_eq!(names(directory.path()), ["dump.kv"]);
    assert_eq!(fs::read(directory.path().join("dump.kv")).expect("the file is there"), old);
    kv.wait_for_error("no snapshot: cannot write");
    assert_eq!(client.ask("flushall"), "+OK");
    assert_eq!(client.ask("save"), "+OK");
    assert_eq!(told(&mut client, "rdb_last_bgsave_status"), "ok");
}

#[test]
fn a_directory_that_is_gone_is_told_before_anything_is_stopped() {
    let directory = Scratch::new();
    let kv = start_in(directory.path(), "--cores 2");
    let mut client = kv.connect();
    fs::remove_dir_all(directory.path()).expect("it is removed");
    for command in ["save", "bgsave"] {
        let refusal = client.ask(command);
        assert!(refusal.contains("No such file or directory"), "{refusal}");
    }
    assert_eq!(number(&mut client, "snapshot_stops"), 0);
    let refusal = client.ask("shutdown save");
    assert!(refusal.starts_with("-ERR Errors trying to SHUTDOWN"), "{refusal}");
    assert_eq!(client.ask("ping"), "+PONG");
}

#[test]
fn the_end_saves_where_it_is_asked_to() {
    for (save_points, end, saved) in [
        ("", "shutdown", false),
        ("", "shutdown nosave", false),
        ("", "shutdown save", true),
        ("3600 1", "shutdown", true),
        ("3600 1", "shutdown nosave", false),
        ("3600 1", "SIGTERM", true),
        ("3600 1", "SIGINT", true),
        ("", "SIGTERM", false),
    ] {
        let directory = Scratch::new();
        let mut kv = start_in(directory.path(), "--cores 2");
        let mut client = kv.connect();
        let points = request(&[b"config", b"set", b"save", save_points.as_bytes()]);
        client.send(&points).expect("it is sent");
        assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
        assert_eq!(client.ask("set key value"), "+OK");
        match end {
            "SIGTERM" => kv.signal(libc::SIGTERM),
            "SIGINT" => kv.signal(libc::SIGINT),
            command => {
                let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
                client.send(&request(&words)).expect("it is sent");
            }
        }
        assert_eq!(client.read_to_close(), b"", "{end}");
        assert!(ExitStatus::success(&kv.wait()), "{end}");
        assert_eq!(directory.path().join("dump.kv").exists(), saved, "{save_points:?}, {end}");
    }
}

#[test]
fn one_killed_while_it_writes_leaves_a_whole_file() {
    let directory = Scratch::new();
    let mut generation = 0;
    for round in 0..8 {
        let mut kv = start_in(directory.path(), "--cores 2");
        assert!(names(directory.path()).iter().all(|name| name == "dump.kv"), "{:?}", names(directory.path()));
        let mut client = kv.connect();
        if round > 0 {
            let keys: Vec<_> = (0..1000).map(|n| format!("key{n}")).collect();
            let reply = client.ask(&format!("mget {}", keys.join(" ")));
            let loaded: Vec<u64> = reply.lines().filter_map(|line| line.strip_prefix('g')?.parse().ok()).collect();
            assert_eq!(loaded.len(), 1000);
            assert!(loaded.iter().all(|&value| value == loaded[0]), "half a snapshot was loaded");
            assert!((generation - 1..=generation).contains(&loaded[0]), "{} after {generation}", loaded[0]);
        }
        let fill = |client: &mut Client, generation: u64| {
            let pairs: Vec<_> = (0..1000).map(|n| format!("key{n} g{generation}")).collect();
            assert_eq!(client.ask(&format!("mset {}", pairs.join(" "))), "+OK");
        };
        fill(&mut client, generation);
        assert_eq!(client.ask("save"), "+OK");
        generation += 1;
        fill(&mut client, generation);
        assert_eq!(client.ask("bgsave"), "+Background saving started");
        // At whatever the thread does by then; a little later each round.
        thread::sleep(Duration::from_micros(300 * round));
        kv.kill();
    }
}

#[test]
fn what_was_answered_before_the_end_is_saved() {
    for end in ["SHUTDOWN SAVE\r\n", "SIGTERM"] {
        let directory = Scratch::new();
        let mut kv = start_in(directory.path(), "--cores 3");
        let mut control = kv.connect();
        control.send(&request(&[b"config", b"set", b"save", b"3600 1"])).expect("it is sent");
        assert_eq!(control.reply().expect("a reply"), b"+OK\r\n");
        let clients: Vec<_> = (0..16).map(|_| kv.connect()).collect();
        let (answered, begun): (Vec<AtomicU64>, _) = ((0..16).map(|_| AtomicU64::new(0)).collect(), AtomicU64::new(0));
        thread::scope(|scope| {
            for (n, mut client) in clients.into_iter().enumerate() {
                let (answered, begun) = (&answered[n], &begun);
                scope.spawn(move || {
                    let bytes = format!("INCR counter{n}\r\n");
                    while client.send(bytes.as_bytes()).is_ok()
                        && let Ok(reply) = client.reply()
                    {
                        let count = String::from_utf8_lossy(&reply[1..]).trim_end().parse().expect("a number");
                        answered.store(count, Ordering::Relaxed);
                        if count == 100 {
                            begun.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            wait_until("all clients write", || begun.load(Ordering::Relaxed) == 16);
            match end {
                "SIGTERM" => kv.signal(libc::SIGTERM),
                command => control.send(command.as_bytes()).expect("it is sent"),
            }
        });
        assert!(ExitStatus::success(&kv.wait()), "{end}");
        let again = start_in(directory.path(), "--cores 2");
        let mut client = again.connect();
        for (n, answered) in answered.iter().enumerate() {
            let loaded = client.ask(&format!("incrby counter{n} 0"));
            let loaded: u64 = loaded[1..].parse().expect("a number");
            let answered = answered.load(Ordering::Relaxed);
            // A client has one increment under way whose answer it may not get.
            assert!((answered..=answered + 1).contains(&loaded), "{end}: {answered} answered, {loaded} loaded");
        }
    }
}

#[test]
fn the_end_gives_up_a_snapshot_that_is_being_written_and_leaves_no_file() {
    for end in ["shutdown nosave", "SIGTERM"] {
        let directory = Scratch::new();
        let mut kv = start_in(directory.path(), "--cores 2");
        let mut client = kv.connect();
        let value = vec![b'v'; 1 << 20];
        for n in 0..100 {
            client.send(&request(&[b"set", format!("key{n}").as_bytes(), &value])).expect("it is sent");
            assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
        }
        assert_eq!(client.ask("bgsave"), "+Background saving started");
        match end {
            "SIGTERM" => kv.signal(libc::SIGTERM),
            command => client.send(format!("{command}\r\n").as_bytes()).expect("it is sent"),
        }
        assert!(ExitStatus::success(&kv.wait()), "{end}");
        // It was either given up or, on a quick disk, finished.
        let left = names(directory.path());
        assert!(left.iter().all(|name| name == "dump.kv"), "{end}: {left:?}");
    }
}

#[test]
fn a_save_point_that_is_reached_saves() {
    let directory = Scratch::new();
    let kv = start_in(directory.path(), "--cores 3");
    let mut client = kv.connect();
    client.send(&request(&[b"config", b"set", b"save", b"1 3"])).expect("it is sent");
    assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
    assert_eq!(client.ask("mset a 1 b 2 c 3"), "+OK");
    wait_until("it saves", || number(&mut client, "rdb_saves") == 1);
    assert_eq!(number(&mut client, "rdb_changes_since_last_save"), 0);
    let again = start_in(directory.path(), "--cores 1");
    assert_eq!(again.connect().ask("mget a b c"), "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3");
}

#[test]
fn one_snapshot_runs_at_a_time_and_what_follows_it_is_not_in_it() {
    let directory = Scratch::new();
    let kv = start_in(directory.path(), "--cores 2");
    let mut client = kv.connect();
    let before = client.ask("lastsave");
    for n in 0..20_000 {
        client.send(format!("SET key{n} before\r\n").as_bytes()).expect("it is sent");
    }
    for _ in 0..20_000 {
        assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
    }
    // The second comes while the first is read: both stand in one pipeline.
    client.send(b"BGSAVE\r\nBGSAVE\r\nSAVE\r\nFLUSHALL\r\nSET key0 after\r\nSET new after\r\n").expect("it is sent");
    assert_eq!(client.reply().expect("a reply"), b"+Background saving started\r\n");
    for _ in 0..2 {
        let refusal = String::from_utf8(client.reply().expect("a reply")).expect("text");
        assert_eq!(refusal, "-ERR Background save already in progress\r\n");
    }
    for _ in 0..3 {
        assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
    }
    wait_until("it is written", || told(&mut client, "rdb_bgsave_in_progress") == "0");
    assert_eq!(told(&mut client, "rdb_last_bgsave_status"), "ok");
    assert!(client.ask("lastsave") >= before);
    let again = start_in(directory.path(), "--cores 3");
    let mut client = again.connect();
    assert_eq!(client.ask("dbsize"), ":20000");
    assert_eq!(client.ask("mget key0 key19999 new"), "*3\r\n$6\r\nbefore\r\n$6\r\nbefore\r\n$-1");
}

#[test]
fn no_snapshot_holds_half_an_mset() {
    snapshots_under_transfers("--cores 4", 50, 1);
}

/// Some messages of an MSET then wait for space, and are sent by a later poll.

#[test]
fn no_snapshot_holds_half_an_mset_where_rings_are_full() {
    let repeated = snapshots_under_transfers("--cores 4 --ring-capacity 2", 50, 4);
    assert!(repeated > 0, "no stop met an MSET that was sent in part");
}

/// Clients move amounts between keys of their own, which lie on all shards, each time by one MSET. Answers how many stops were repeated.
fn snapshots_under_transfers(arguments: &str, clients: usize, pipeline: u64) -> u64 {
    const KEYS: usize = 8;
    const TOTAL: u64 = 1_000_000;
    let snapshots = std::env::var("IPIQ_SNAPSHOTS").ok().and_then(|count| count.parse().ok());
    let snapshots: usize = snapshots.unwrap_or_else(|| scaled(12, 200));
    let directory = Scratch::new();
    let kv = start_in(directory.path(), arguments);
    let (ended, transfers) = (AtomicBool::new(false), AtomicU64::new(0));
    let transfer = |client: usize, round: u64| {
        let share = TOTAL / KEYS as u64;
        let mut words = vec![b"mset".to_vec()];
        for key in 0..KEYS as u64 {
            // The sum of all is the same in each round, and so is the number in front.
            let moved = (round * 31 + client as u64) % share;
            let amount = if key % 2 == 0 { share - moved } else { share + moved };
            words.push(format!("account:{client}:{key}").into_bytes());
            words.push(format!("{round} {amount}").into_bytes());
        }
        request(&words.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let mut control = kv.connect();
    for client in 0..clients {
        control.send(&transfer(client, 0)).expect("it is sent");
        assert_eq!(control.reply().expect("a reply"), b"+OK\r\n");
    }
    thread::scope(|scope| {
        for number in 0..clients {
            let mut client = kv.connect();
            let (ended, transfers) = (&ended, &transfers);
            scope.spawn(move || {
                let mut round = 1;
                while !ended.load(Ordering::Relaxed) {
                    let bytes: Vec<_> = (round..round + pipeline).flat_map(|round| transfer(number, round)).collect();
                    client.send(&bytes).expect("it is sent");
                    for _ in 0..pipeline {
                        assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
                    }
                    round += pipeline;
                    transfers.fetch_add(pipeline, Ordering::Relaxed);
                }
            });
        }
        for number in 0..snapshots {
            let before = transfers.load(Ordering::Relaxed);
            assert_eq!(control.ask("save"), "+OK");
            let kept = directory.path().join(number.to_string());
            fs::create_dir(&kept).expect("a directory");
            fs::rename(directory.path().join("dump.kv"), kept.join("dump.kv")).expect("the file is there");
            wait_until("the clients go on", || transfers.load(Ordering::Relaxed) > before);
        }
        ended.store(true, Ordering::Relaxed);
    });
    let repeated = number(&mut control, "snapshot_stops_repeated");
    println!(
        "{snapshots} snapshots during {} transfers, {repeated} stops repeated; the stops in µs: p50 {}, p99 {}, longest {}",
        transfers.load(Ordering::Relaxed),
        number(&mut control, "snapshot_stop_p50_usec"),
        number(&mut control, "snapshot_stop_p99_usec"),
        number(&mut control, "snapshot_stop_max_usec"),
    );
    drop(kv);
    let mut rounds_seen = 0;
    for snapshot in 0..snapshots {
        let kv = start_in(&directory.path().join(snapshot.to_string()), &format!("--cores {}", 1 + snapshot % 3));
        let mut reader = kv.connect();
        for client in 0..clients {
            let keys: Vec<_> = (0..KEYS).map(|key| format!("account:{client}:{key}")).collect();
            let reply = reader.ask(&format!("mget {}", keys.join(" ")));
            let values: Vec<(u64, u64)> = reply
                .lines()
                .filter_map(|line| line.split_once(' '))
                .map(|(round, amount)| (round.parse().expect("a round"), amount.parse().expect("an amount")))
                .collect();
            assert_eq!(values.len(), KEYS, "snapshot {snapshot}: {reply}");
            assert!(values.iter().all(|(round, _)| *round == values[0].0), "snapshot {snapshot}: {values:?}");
            assert_eq!(values.iter().map(|(_, amount)| amount).sum::<u64>(), TOTAL, "snapshot {snapshot}");
            rounds_seen = rounds_seen.max(values[0].0);
        }
    }
    assert!(rounds_seen > 0, "no transfer was in a snapshot");
    repeated
}

#[test]
fn a_snapshot_keeps_no_more_than_what_changes() {
    let directory = Scratch::new();
    let kv = start_in(directory.path(), "--cores 2");
    let mut client = kv.connect();
    let value = "v".repeat(10_000);
    for n in 0..2000 {
        assert_eq!(client.ask(&format!("set key{n} {value}")), "+OK");
    }
    assert_eq!(client.ask("save"), "+OK");
    assert_eq!(number(&mut client, "rdb_last_cow_size"), 0, "nothing has changed meanwhile");
    assert!(number(&mut client, "snapshot_last_bytes") > 20_000_000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(now - number(&mut client, "rdb_last_save_time") < 60);
}
