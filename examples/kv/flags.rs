//! The command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use ipiq::DriverKind;
use lexopt::prelude::*;

use crate::settings::{Refused, Settings};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
kv: a RESP2 key-value server, one shard of the keys per core

  --port N             TCP port, 0 for a free one (default 6379)
  --bind ADDRESS       IP address to listen on (default 127.0.0.1)
  --cores N            cores, and shards of the keys (default: the CPUs of this process)
  --pin                demand a CPU of its own for each core, or end
  --ring-capacity N    messages that fit on the way from one core to another, a power of two (default 1024)
  --driver NAME        auto, uring or epoll (default auto)
  --max-clients N      connections at a time (default 10000)
  --max-memory SIZE    memory of all keys and values: bytes, or with k, kb, m, mb, g, gb (default: no limit)
  --timeout SECONDS    close clients that are idle for so long, 0 for never (default 0)
  --dir PATH           where snapshots are written, and loaded from at the start (default: the working directory)
  --dbfilename NAME    the snapshot's file there (default dump.kv)
  --save 'S C ...'     take a snapshot once C changes are S seconds old, and at the end (default: never)
  --enable-protected-configs
                       let CONFIG SET change dir and dbfilename
  --stall-limit MS     tell on standard error where a core is that is in one command for longer, 0: do not (default 1000)
  --enable-debug-command
                       obey DEBUG SLEEP SECONDS and DEBUG STALL MS, which keep a core busy, and DEBUG BACKTRACE
  -h, --help           print this
  -V, --version        print the version
";

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) address: SocketAddr,
    pub(crate) cores: usize,
    pub(crate) pin: bool,
    pub(crate) driver: DriverKind,
    pub(crate) ring_capacity: usize,
    pub(crate) protected_configs: bool,
    pub(crate) debug_command: bool,
    pub(crate) stall_limit: Option<Duration>,
    pub(crate) settings: Settings,
}

/// What a command line asks for.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Serve(Flags),
    Help,
    Version,
}

impl Flags {
    /// Reads the arguments of this process.
    ///
    /// # Errors
    ///
    /// Names the flag that is wrong, and how.
    pub(crate) fn from_env() -> Result<Asked, String> {
        Self::read(lexopt::Parser::from_env())
    }

    fn read(mut parser: lexopt::Parser) -> Result<Asked, String> {
        let mut flags = Self {
            address: (Ipv4Addr::LOCALHOST, 6379).into(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            pin: false,
            driver: DriverKind::Auto,
            ring_capacity: 1024,
            protected_configs: false,
            debug_command: false,
            stall_limit: Some(Duration::from_secs(1)),
            settings: Settings::default(),
        };
        while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
            let name = match argument {
                Short('h') => "help".to_owned(),
                Short('V') => "version".to_owned(),
                Long(name) => name.to_owned(),
                _ => return Err(argument.unexpected().to_string()),
            };
            match &name[..] {
                "help" => return Ok(Asked::Help),
                "version" => return Ok(Asked::Version),
                "pin" => flags.pin = true,
                "enable-protected-configs" => flags.protected_configs = true,
                "enable-debug-command" => flags.debug_command = true,
                _ => flags.take(&name, &mut parser)?,
            }
        }
        Ok(Asked::Serve(flags))
    }

    /// Reads the value of the flag `name`.
    fn take(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<(), String> {
        let setting = match name {
            "max-clients" => "maxclients",
            "max-memory" => "maxmemory",
            "timeout" | "dir" | "dbfilename" | "save" => name,
            "port" | "bind" | "cores" | "driver" | "ring-capacity" | "stall-limit" => "",
            _ => return Err(format!("there is no flag --{name}")),
        };
        let value = parser.value().and_then(|value| value.string()).map_err(|error| format!("--{name}: {error}"))?;
        let outcome = match name {
            "port" => value.parse().map(|port| self.address.set_port(port)).map_err(|_| "not a port".to_owned()),
            "bind" => {
                let ip: Result<IpAddr, _> = value.parse();
                ip.map(|ip| self.address.set_ip(ip)).map_err(|error| error.to_string())
            }
            "cores" => positive(&value).map(|cores| self.cores = cores),
            "ring-capacity" => positive(&value).map(|messages| self.ring_capacity = messages),
            "stall-limit" => milliseconds(&value).map(|limit| self.stall_limit = limit),
            "driver" => driver(&value).map(|driver| self.driver = driver),
            _ => self.settings.set(setting, &value).map_err(|refused| match refused {
                Refused::Wrong(reason) => reason,
                Refused::Unknown => "not a setting".to_owned(),
            }),
        };
        outcome.map_err(|reason| format!("--{name} {value}: {reason}"))
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("not a number".to_owned()),
    }
}

/// `None`: 0.
fn milliseconds(text: &str) -> Result<Option<Duration>, String> {
    let number: u64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Ok((number > 0).then(|| Duration::from_millis(number)))
}

fn driver(text: &str) -> Result<DriverKind, String> {
    match text {
        "auto" => Ok(DriverKind::Auto),
        "uring" => Ok(DriverKind::Uring),
        "epoll" => Ok(DriverKind::Epoll),
        _ => Err("choose auto, uring or epoll".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Asked, String> {
        let words = ["kv"].into_iter().chain(line.split_ascii_whitespace());
        Flags::read(lexopt::Parser::from_iter(words))
    }

    #[test]
    fn flags_are_read() {
        let line =
            "--port 7 --bind ::1 --cores 3 --driver epoll --max-clients 9 --max-memory 2mb --dir / --dbfilename x";
        let Ok(Asked::Serve(flags)) = read(line) else { panic!("{line} is refused") };
        assert_eq!(flags.address.to_string(), "[::1]:7");
        assert_eq!((flags.cores, flags.settings.max_clients), (3, 9));
        assert_eq!(flags.settings.max_memory_bytes, Some(2 << 20));
        assert_eq!(flags.settings.snapshot_path().to_str(), Some("/x"));
        assert!(matches!(read("--help"), Ok(Asked::Help)));
        assert!(matches!(read("-V"), Ok(Asked::Version)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_flag() {
        for (line, expected) in [
            ("--cores 0", "--cores 0: at least 1 is needed"),
            ("--cores x", "--cores x: not a number"),
            ("--cores", "--cores: "),
            ("--driver kqueue", "--driver kqueue: choose auto, uring or epoll"),
            ("--stall-limit x", "--stall-limit x: not a number"),
            ("--max-memory 3x", "--max-memory 3x: argument must be a memory value"),
            ("--max-clients 0", "--max-clients 0: argument must be between 1"),
            ("--port 70000", "--port 70000: not a port"),
            ("--bind nowhere", "--bind nowhere: "),
            ("--dir /no/such/directory", "--dir /no/such/directory: No such file"),
            ("--dbfilename a/b", "--dbfilename a/b: "),
            ("--save 1", "--save 1: Invalid save parameters"),
            ("--nonsense", "there is no flag --nonsense"),
            ("-x", "-x"),
            ("word", "word"),
        ] {
            let text = read(line).expect_err(line);
            assert!(text.contains(expected), "{line}: {text}");
        }
    }
}
