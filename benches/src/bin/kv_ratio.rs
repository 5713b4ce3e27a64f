//! Requests per second of the `kv` example over those of `redis-server`, on the same CPU, in the same run.
//!
//! Both servers run with one core on the first CPU, one at a time; `redis-benchmark` loads them from the second CPU. Rounds are
//! interleaved; the table shows the median ratio and its spread.
//!
//! ```text
//! cargo build --release -p ipiq-examples --bin kv
//! cargo run --release -p ipiq-benches --bin kv_ratio -- [--rounds N] [--requests N] [--driver epoll|uring]…
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TESTS: &str = "get,set,incr,mset";

struct Flags {
    rounds: usize,
    requests: u64,
    drivers: Vec<String>,
}

/// A server that ends with its scope.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let flags = Flags::parse()?;
    let kv = kv_binary()?;
    // ratios[(driver, depth, command)], one per round.
    let mut ratios: BTreeMap<(String, u32, String), Vec<f64>> = BTreeMap::new();
    for round in 0..flags.rounds {
        for depth in [1, 16] {
            let requests = flags.requests * if depth == 1 { 1 } else { 8 };
            let redis = measure(&redis_command(), depth, requests)?;
            for driver in &flags.drivers {
                let ours = measure(&kv_command(&kv, driver), depth, requests)?;
                for (command, rate) in ours {
                    let Some(base) = redis.get(&command) else { continue };
                    eprintln!(
                        "round {round} {driver} -P {depth} {command}: {rate:.0} / {base:.0} = {:.2}",
                        rate / base
                    );
                    ratios.entry((driver.clone(), depth, command)).or_default().push(rate / base);
                }
            }
        }
    }
    println!("driver  -P  command            kv / redis   spread");
    for ((driver, depth, command), mut values) in ratios {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[0], values[values.len() - 1]);
        println!("{driver:<7} {depth:<3} {command:<18} {:<12.2} {low:.2}–{high:.2}", values[values.len() / 2]);
    }
    Ok(())
}

impl Flags {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let mut flags = Self { rounds: 5, requests: 100_000, drivers: Vec::new() };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("rounds") => flags.rounds = arguments.value()?.parse()?,
                Long("requests") => flags.requests = arguments.value()?.parse()?,
                Long("driver") => flags.drivers.push(arguments.value()?.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        if flags.drivers.is_empty() {
            flags.drivers = vec!["epoll".into(), "uring".into()];
        }
        Ok(flags)
    }
}

fn kv_binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let kv = own.with_file_name("kv");
    if kv.exists() {
        return Ok(kv);
    }
    Err(format!("{} is missing: run `cargo build --release -p ipiq-examples --bin kv`", kv.display()).into())
}

fn redis_command() -> Vec<String> {
    ["redis-server", "--save", "", "--appendonly", "no", "--daemonize", "no"].map(String::from).into()
}

fn kv_command(kv: &std::path::Path, driver: &str) -> Vec<String> {
    vec![kv.display().to_string(), "--cores".into(), "1".into(), "--driver".into(), driver.into()]
}

/// Requests per second of each command.
fn measure(server: &[String], depth: u32, requests: u64) -> Result<BTreeMap<String, f64>> {
    let server = start(server)?;
    let output = Command::new("taskset")
        .args(["-c", "1", "redis-benchmark", "-p", &server.port.to_string(), "-c", "50", "--csv", "-t", TESTS])
        .args(["-P", &depth.to_string(), "-n", &requests.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rates: BTreeMap<_, _> = text.lines().filter_map(rate).collect();
    if rates.is_empty() {
        return Err(
            format!("redis-benchmark printed no figure: {text}{}", String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    Ok(rates)
}

/// `"GET","123456.78",…` without its heading.
fn rate(line: &str) -> Option<(String, f64)> {
    let mut fields = line.trim_matches('"').split("\",\"");
    let name = fields.next()?.split(' ').next()?.to_owned();
    Some((name, fields.next()?.parse().ok()?))
}

/// Starts a server on the first CPU and waits until it accepts.
fn start(command: &[String]) -> Result<Server> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("taskset")
        .args(["-c", "0"])
        .args(command)
        .args(["--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let server = Server { child, port };
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if start.elapsed() > Duration::from_secs(5) {
            return Err(format!("{} did not listen within 5 s", command[0]).into());
        }
        std::thread::yield_now();
    }
    Ok(server)
}
