//! The small examples, run as a user would.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use fastrand::Rng;
use ipiq_suites::kv::Scratch;
use ipiq_suites::program::built;
use ipiq_suites::watchdog::watch;

fn example(name: &str, arguments: &[&str]) -> Output {
    Command::new(built("ipiq-examples", name)).args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn hello_greets_from_every_core() {
    let _watch = watch("hello");
    let output = example("hello", &[]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert!(lines[0].starts_with("hello, core 0") && lines[0].ends_with('!'), "{lines:?}");
    assert_eq!(lines.len() - 1, lines[0].matches("core").count());
}

#[test]
fn map_reduce_counts_what_a_simple_loop_counts() {
    let _watch = watch("map_reduce");
    let scratch = Scratch::new();
    let mut rng = Rng::with_seed(7);
    let mut expected: HashMap<String, u64> = HashMap::new();
    for file in 0..40 {
        let mut contents = String::new();
        // Some of them empty, one of them long.
        for _ in 0..if file == 7 { 50_000 } else { rng.usize(..200) * (file % 3) } {
            // Few frequent ones, many rare ones, with letters of two bytes.
            let word = format!("wört{}", rng.usize(..rng.clone().usize(1..400)));
            *expected.entry(word.clone()).or_default() += 1;
            let shown = if rng.bool() { word.to_uppercase() } else { word };
            contents += &shown;
            contents += *rng.choice(&[" ", "\n", ", ", "-"]).expect("four");
        }
        let folder = scratch.path().join(format!("folder {}", file % 4));
        fs::create_dir_all(&folder).expect("a place for files");
        fs::write(folder.join(format!("{file}.txt")), contents).expect("space");
    }
    let mut words: Vec<_> = expected.iter().collect();
    words.sort_by(|(word, count), (other, others)| (others, word).cmp(&(count, other)));
    let mut lines: Vec<_> = words[..20].iter().map(|(word, count)| format!("{count:>9} {word}")).collect();
    lines.push(format!("{:>9} different words", expected.len()));
    let directory = scratch.path().to_str().expect("text");
    for cores in ["1", "2", "5"] {
        let output = example("map_reduce", &["--top", "20", "--cores", cores, directory]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), lines, "{cores} cores");
    }
}

#[test]
fn map_reduce_says_what_it_cannot_read_and_counts_the_rest() {
    let _watch = watch("map_reduce, errors");
    let scratch = Scratch::new();
    let (there, missing) = (scratch.path().join("there"), scratch.path().join("missing"));
    fs::write(&there, "once").expect("space");
    let paths = [&missing, &there].map(|path| path.to_str().expect("text"));
    let output = example("map_reduce", &["--cores", "2", paths[0], paths[1]]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "        1 once\n        1 different words\n");
    assert!(text(&output.stderr).contains(&format!("error: {}: No such file", paths[0])), "{output:?}");
    let output = example("map_reduce", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("which files?") && text(&output.stderr).contains("Usage:"), "{output:?}");
}

/// What `jobs` says of each class after it was cancelled: shares, and parts of a thousand.
fn shares(output: &str) -> HashMap<&str, (u64, f64)> {
    let table = output.lines().skip_while(|line| !line.starts_with("class")).skip(1);
    let row = |line: &'_ str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<f64>().expect("a number");
        (number(words[1]) as u64, number(words[4]))
    };
    let rows = table.take_while(|line| !line.starts_with("jobs:"));
    rows.map(|line| (line.split_whitespace().next().expect("a name"), row(line))).collect()
}

#[test]
fn jobs_share_what_the_requests_leave_until_their_time_is_over() {
    let _watch = watch("jobs");
    let output = example("jobs", &["--cores", "1", "--seconds", "2", "--job", "large=600", "--job", "small=200"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.starts_with("jobs: running\njobs: the time is over\n"), "{said}");
    let shares = shares(said);
    assert_eq!(shares.len(), 3, "{said}");
    assert_eq!((shares["requests"].0, shares["large"].0, shares["small"].0), (1_000, 600, 200));
    // How exactly is another test's matter.
    assert!(shares["large"].1 > 1.5 * shares["small"].1, "{said}");
    let answered = said.lines().last().and_then(|line| line.strip_prefix("jobs: ")).expect("the last line");
    assert!(answered.ends_with(" requests answered") && !answered.starts_with("0 "), "{said}");
}

#[test]
fn jobs_are_cancelled_by_ctrl_c_and_a_job_that_makes_no_sense_is_refused() {
    let _watch = watch("jobs, cancelled");
    let mut command = Command::new(built("ipiq-examples", "jobs"));
    let mut child = command.args(["--cores", "2"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("text");
    assert_eq!(line, "jobs: running\n");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert!(rest.starts_with("jobs: cancelled by a signal\n"), "{rest}");
    assert!(shares(&rest).contains_key("index"), "{rest}");
    for (wrong, said) in [("index", "NAME=SHARES"), ("index=x", "invalid digit")] {
        let output = example("jobs", &["--job", wrong]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(said), "{output:?}");
    }
    let output = example("jobs", &["--seconds", "1", "--job", "requests=1"]);
    assert!(text(&output.stderr).contains("there is a scheduling class `requests` already"), "{output:?}");
}

/// A chat server, killed if the test fails.
struct Chat {
    child: Child,
    address: SocketAddr,
    output: BufReader<std::process::ChildStdout>,
}

impl Chat {
    fn start(cores: &str) -> Self {
        let mut command = Command::new(built("ipiq-examples", "chat"));
        command.args(["--bind", "127.0.0.1:0", "--cores", cores]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        let address = line.trim().strip_prefix("chat: listening on ").expect("its first line").parse();
        Self { child, address: address.expect("an address"), output }
    }

    fn enter(&self, name: &str) -> Client {
        let stream = TcpStream::connect(self.address).expect("it listens");
        let mut client = Client { lines: BufReader::new(stream.try_clone().expect("a descriptor")), stream };
        client.say(name);
        assert!(client.hear().starts_with("* welcome"));
        client
    }

    /// Its last words, after SIGTERM.
    fn end(mut self) -> String {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("text");
        assert!(self.child.wait().expect("it ends").success());
        rest
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Client {
    fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).expect("it is served");
    }

    /// The next line; empty at the end.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    fn hear_until(&mut self, last: impl Fn(&str) -> bool) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.hear());
            let line = heard.last().expect("just pushed");
            assert!(!line.is_empty(), "the stream ended after {heard:?}");
            if last(line) {
                return heard;
            }
        }
    }
}

#[test]
fn everybody_in_a_chat_room_hears_its_lines_in_the_same_order() {
    const LINES: usize = 60;
    let _watch = watch("chat");
    for cores in ["1", "3"] {
        let chat = Chat::start(cores);
        let rooms = ["red", "blue"];
        let mut clients: Vec<_> = (0..8)
            .map(|n| {
                let mut client = chat.enter(&format!("c{n}"));
                client.say(&format!("/join {}", rooms[n % 2]));
                client.hear_until(|line| line == format!("* c{n} joins {}", rooms[n % 2]));
                client
            })
            .collect();
        clients[0].say("/who");
        let who = clients[0].hear_until(|line| line.starts_with("* in"));
        assert_eq!(who.last().map(String::as_str), Some("* in red: c0, c2, c4, c6"));
        let talks = clients.into_iter().enumerate().map(|(n, mut client)| {
            thread::spawn(move || {
                let mut mouth = client.stream.try_clone().expect("a descriptor");
                let talk = thread::spawn(move || {
                    (0..LINES)
                        .for_each(|k| mouth.write_all(format!("{k} of c{n}\n").as_bytes()).expect("it is served"));
                });
                // All that four clients say.
                let mut heard = Vec::new();
                while heard.len() < 4 * LINES {
                    let line = client.hear();
                    assert!(!line.is_empty(), "the stream ended after {heard:?}");
                    if !line.starts_with('*') {
                        heard.push(line);
                    }
                }
                talk.join().expect("no panic");
                (client, heard)
            })
        });
        let talks: Vec<_> = talks.collect();
        let mut talked: Vec<_> = talks.into_iter().map(|talk| talk.join().expect("no panic")).collect();
        for (n, (_, heard)) in talked.iter().enumerate() {
            assert_eq!(*heard, talked[n % 2].1, "c{n}");
            // Each one's own lines in the order in which they were said.
            for speaker in (n % 2..8).step_by(2) {
                let own = heard.iter().filter_map(|line| line.strip_prefix(&format!("c{speaker}: ")));
                assert!(own.eq((0..LINES).map(|k| format!("{k} of c{speaker}")).collect::<Vec<_>>()), "{heard:?}");
            }
        }
        let (leaver, _) = &mut talked[0];
        leaver.say("/quit");
        assert_eq!(leaver.hear(), "", "the stream ends");
        let (other, _) = &mut talked[2];
        assert_eq!(other.hear(), "* c0 leaves red");
        assert_eq!(chat.end(), "chat: ended\n");
        assert_eq!(other.hear(), "", "the stream ends");
    }
}

#[test]
fn a_chat_client_that_sends_nonsense_is_told_or_leaves_and_nobody_else_notices() {
    let _watch = watch("chat, bad input");
    let chat = Chat::start("2");
    let mut calm = chat.enter("calm");
    calm.say("/join here");
    assert_eq!(calm.hear(), "* calm joins here");
    let mut wild = chat.enter("wild \u{7f}\0");
    for (said, heard) in [
        ("hello?", "* you are in no room: /join ROOM"),
        ("/join", "* which room? /join ROOM"),
        ("/dance", "* there is /join ROOM, /leave, /who, /quit"),
        ("/leave", ""),
        ("/who", "* you are in no room: /join ROOM"),
    ] {
        wild.say(said);
        if !heard.is_empty() {
            assert_eq!(wild.hear(), heard, "{said}");
        }
    }
    wild.stream.write_all(&[0xff, 0xfe, b'\n']).expect("it is served");
    assert_eq!(wild.hear(), "* you are in no room: /join ROOM");
    wild.stream.write_all(&[b'x'; 5000]).expect("it is served");
    let mut rest = Vec::new();
    // Ended, by the end of the stream or by a reset: it had not read all.
    let _ = wild.lines.read_to_end(&mut rest);
    calm.say("still here");
    assert_eq!(calm.hear(), "calm: still here");
    assert_eq!(chat.end(), "chat: ended\n");
}
