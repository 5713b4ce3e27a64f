//! The key-value server, as a user starts it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use ipiq_suites::program::{Running, built};
use ipiq_suites::sandbox::refusing;

use crate::{IO_URING, MEMBARRIER, forbidden, unknown};

/// Starts kv on two cores and a free port, and reads its banner, whose last line is about limits.
fn started(program: &std::path::Path) -> (Running, Vec<String>) {
    let mut kv = Running::start(Command::new(program).args(["--port", "0", "--cores", "2"]));
    let banner = kv.lines_until(|line| line.starts_with("limits:"));
    (kv, banner)
}

fn line<'a>(banner: &'a [String], start: &str) -> &'a str {
    let found = banner.iter().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line {start} in {banner:#?}"))
}

/// Keys of both shards are set and read back.
fn it_serves(banner: &[String]) {
    let address = line(banner, "kv ").rsplit(' ').next().expect("an address");
    let stream = TcpStream::connect(address).expect("kv listens");
    let mut replies = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut ask = |request: String| {
        (&stream).write_all(request.as_bytes()).expect("sent");
        let mut reply = String::new();
        replies.read_line(&mut reply).expect("a reply");
        reply
    };
    for i in 0..64 {
        assert_eq!(ask(format!("*3\r\n$3\r\nSET\r\n$2\r\n{i:02}\r\n$1\r\nx\r\n")), "+OK\r\n");
    }
    assert_eq!(ask("*1\r\n$6\r\nDBSIZE\r\n".to_owned()), ":64\r\n");
}

#[test]
fn everything_forbidden_is_told_in_the_banner_and_it_serves() {
    let program = built("ipiq-examples", "kv");
    let test = "kv::everything_forbidden_is_told_in_the_banner_and_it_serves";
    refusing(test, &[forbidden(MEMBARRIER), forbidden(IO_URING)], || {
        let (_kv, banner) = started(&program);
        let driver = line(&banner, "driver:");
        assert!(driver.contains("epoll") && driver.contains("seccomp"), "{driver}");
        let fence = line(&banner, "fence:");
        assert!(fence.contains("membarrier is refused"), "{fence}");
        it_serves(&banner);
    });
}

#[test]
fn io_uring_unknown_is_told_in_the_banner_and_it_serves() {
    let program = built("ipiq-examples", "kv");
    refusing("kv::io_uring_unknown_is_told_in_the_banner_and_it_serves", &[unknown(IO_URING)], || {
        let (_kv, banner) = started(&program);
        let driver = line(&banner, "driver:");
        assert!(driver.contains("epoll") && driver.contains("the kernel lacks it"), "{driver}");
        it_serves(&banner);
    });
}
