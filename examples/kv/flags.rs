//! The command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;

use ipiq::DriverKind;
use lexopt::prelude::*;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
kv: a RESP2 key-value server, one shard of the keys per core

  --port N          TCP port, 0 for a free one (default 6379)
  --bind ADDRESS    IP address to listen on (default 127.0.0.1)
  --cores N         cores, and shards of the keys (default: the CPUs of this process)
  --pin             demand a CPU of its own for each core, or end
  --driver NAME     auto, uring or epoll (default auto)
  --max-clients N   connections at a time (default 10000)
  --max-memory SIZE memory of all keys and values: bytes, or with k, kb, m, mb, g, gb (default: no limit)
";

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) address: SocketAddr,
    pub(crate) cores: usize,
    pub(crate) pin: bool,
    pub(crate) driver: DriverKind,
    pub(crate) max_clients: usize,
    pub(crate) max_memory_bytes: Option<usize>,
}

impl Flags {
    /// Reads the arguments of this process; `None` where help is asked for.
    pub(crate) fn from_env() -> Result<Option<Self>, lexopt::Error> {
        Self::read(lexopt::Parser::from_env())
    }

    fn read(mut parser: lexopt::Parser) -> Result<Option<Self>, lexopt::Error> {
        let mut flags = Self {
            address: (Ipv4Addr::LOCALHOST, 6379).into(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            pin: false,
            driver: DriverKind::Auto,
            max_clients: 10_000,
            max_memory_bytes: None,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Long("port") => flags.address.set_port(parser.value()?.parse()?),
                Long("bind") => flags.address.set_ip(parser.value()?.parse::<IpAddr>()?),
                Long("cores") => flags.cores = parser.value()?.parse_with(positive)?,
                Long("pin") => flags.pin = true,
                Long("driver") => flags.driver = parser.value()?.parse_with(driver)?,
                Long("max-clients") => flags.max_clients = parser.value()?.parse_with(positive)?,
                Long("max-memory") => flags.max_memory_bytes = parser.value()?.parse_with(size)?,
                Short('h') | Long("help") => return Ok(None),
                _ => return Err(argument.unexpected()),
            }
        }
        Ok(Some(flags))
    }
}

fn positive(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed"),
        Ok(number) => Ok(number),
        Err(_) => Err("not a number"),
    }
}

fn driver(text: &str) -> Result<DriverKind, &'static str> {
    match text {
        "auto" => Ok(DriverKind::Auto),
        "uring" => Ok(DriverKind::Uring),
        "epoll" => Ok(DriverKind::Epoll),
        _ => Err("choose auto, uring or epoll"),
    }
}

/// A size as in redis: `k` is 1000, `kb` is 1024; zero is no limit.
fn size(text: &str) -> Result<Option<usize>, &'static str> {
    const WRONG: &str = "not a size; examples are 1000000, 64mb, 2gb";
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: usize = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return Err(WRONG),
    };
    let number: usize = digits.parse().map_err(|_| WRONG)?;
    let bytes = number.checked_mul(unit).ok_or(WRONG)?;
    Ok((bytes > 0).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Flags>, String> {
        let words = ["kv"].into_iter().chain(line.split_ascii_whitespace());
        Flags::read(lexopt::Parser::from_iter(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_read() {
        let flags = read("--port 7 --bind ::1 --cores 3 --driver epoll --max-clients 9 --max-memory 2mb");
        let flags = flags.unwrap().unwrap();
        assert_eq!(flags.address.to_string(), "[::1]:7");
        assert_eq!((flags.cores, flags.max_clients), (3, 9));
        assert_eq!(flags.max_memory_bytes, Some(2 << 20));
        assert!(read("--help").unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            ("--cores 0", "at least 1 is needed"),
            ("--cores x", "not a number"),
            ("--driver kqueue", "choose auto, uring or epoll"),
            ("--max-memory 3x", "not a size"),
            ("--port 70000", "70000"),
            ("--nonsense", "--nonsense"),
        ] {
            let text = read(line).expect_err(line);
            assert!(text.contains(expected), "{line}: {text}");
        }
    }
}
