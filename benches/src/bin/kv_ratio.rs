//! The `kv` example against `redis-server`, on the same CPU, in the same run: requests per second, and CPU time per request.
//!
//! Both servers run with one core on the first CPU, one at a time; `redis-benchmark` loads them from the second CPU. Rounds are
//! interleaved; the table shows the median ratio and its spread. At `-P 1` the load itself takes most of the time, and both servers wait for
//! it: there the CPU time per request tells more.
//!
//! ```text
//! cargo build --release -p ipiq-examples --bin kv
//! cargo run --release -p ipiq-benches --bin kv_ratio -- [FLAGS]
//! ```
//!
//! `--help` lists the flags.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TESTS: [&str; 4] = ["get", "set", "incr", "mset"];

const USAGE: &str = "\
Compares the kv example with redis-server on the same CPU.

usage: kv_ratio [FLAGS]

  --rounds N       measure each ratio N times (default 5)
  --requests N     requests per measurement; eight times as many with -P 16 (default 100000)
  --driver D       only this driver: epoll or uring; may be repeated
  --command C      only this command: get, set, incr or mset; may be repeated
  --pipeline N     only this many requests under way per client: 1 or 16; may be repeated
  --json FILE      also write one JSON object per ratio and line
  --help           this text
";

struct Flags {
    rounds: usize,
    requests: u64,
    drivers: Vec<String>,
    commands: Vec<&'static str>,
    pipelines: Vec<u32>,
    json: Option<PathBuf>,
}

/// What a server made of one command.
#[derive(Clone, Copy)]
struct Served {
    per_second: f64,
    cpu_ns: f64,
}

/// Ours over theirs, one value per round.
#[derive(Default)]
struct Ratios {
    per_second: Vec<f64>,
    cpu: Vec<f64>,
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
    let mut json = flags.json.as_ref().map(File::create).transpose()?;
    let mut ratios: BTreeMap<(String, u32, &str), Ratios> = BTreeMap::new();
    for round in 0..flags.rounds {
        for &depth in &flags.pipelines {
            let requests = flags.requests * if depth == 1 { 1 } else { 8 };
            let redis = measure(&redis_command(), &flags.commands, depth, requests)?;
            for driver in &flags.drivers {
                let ours = measure(&kv_command(&kv, driver), &flags.commands, depth, requests)?;
                for ((command, ours), redis) in flags.commands.iter().copied().zip(ours).zip(&redis) {
                    let (per_second, cpu) = (ours.per_second / redis.per_second, ours.cpu_ns / redis.cpu_ns);
                    eprintln!(
                        "round {round} {driver} -P {depth} {command}: {:.0} / {:.0} = {per_second:.2} requests/s, {:.0} / {:.0} = {cpu:.2} ns of CPU",
                        ours.per_second, redis.per_second, ours.cpu_ns, redis.cpu_ns
                    );
                    if let Some(file) = &mut json {
                        let line = serde_json::json!({
                            "driver": driver, "pipeline": depth, "command": command, "round": round,
                            "kv_per_second": ours.per_second, "redis_per_second": redis.per_second, "per_second_ratio": per_second,
                            "kv_cpu_ns": ours.cpu_ns, "redis_cpu_ns": redis.cpu_ns, "cpu_ratio": cpu,
                        });
                        writeln!(file, "{line}")?;
                    }
                    let ratios = ratios.entry((driver.clone(), depth, command)).or_default();
                    ratios.per_second.push(per_second);
                    ratios.cpu.push(cpu);
                }
            }
        }
    }
    println!("kv / redis              requests per second    CPU time per request");
    println!("driver  -P  command     median  spread         median  spread");
    for ((driver, depth, command), ratios) in ratios {
        let (per_second, cpu) = (spread(ratios.per_second), spread(ratios.cpu));
        println!("{driver:<7} {depth:<3} {command:<11} {per_second:<22} {cpu}");
    }
    Ok(())
}

/// Median, least and most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:<7.2} {:.2}–{:.2}", values[values.len() / 2], values[0], values[values.len() - 1])
}

impl Flags {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let mut flags = Self {
            rounds: 5,
            requests: 100_000,
            drivers: Vec::new(),
            commands: Vec::new(),
            pipelines: Vec::new(),
            json: None,
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("rounds") => flags.rounds = arguments.value()?.parse()?,
                Long("requests") => flags.requests = arguments.value()?.parse()?,
                Long("driver") => {
                    flags.drivers.push(one_of(&["epoll", "uring"], &arguments.value()?.string()?)?.to_owned())
                }
                Long("command") => flags.commands.push(one_of(&TESTS, &arguments.value()?.string()?)?),
                Long("pipeline") => flags.pipelines.push(one_of(&["1", "16"], &arguments.value()?.string()?)?.parse()?),
                Long("json") => flags.json = Some(arguments.value()?.into()),
                Long("help") => {
                    print!("{USAGE}");
                    std::process::exit(0);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        if flags.drivers.is_empty() {
            flags.drivers = vec!["epoll".into(), "uring".into()];
        }
        if flags.commands.is_empty() {
            flags.commands = TESTS.into();
        }
        if flags.pipelines.is_empty() {
            flags.pipelines = vec![1, 16];
        }
        Ok(flags)
    }
}

fn one_of(known: &[&'static str], value: &str) -> Result<&'static str> {
    known
        .iter()
        .copied()
        .find(|&one| one == value)
        .ok_or_else(|| format!("`{value}` is none of: {}", known.join(", ")).into())
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

/// What the server makes of each of [`TESTS`].
fn measure(server: &[String], commands: &[&str], depth: u32, requests: u64) -> Result<Vec<Served>> {
    let server = start(server)?;
    commands.iter().map(|command| server.load(command, depth, requests)).collect()
}

impl Server {
    fn load(&self, command: &str, depth: u32, requests: u64) -> Result<Served> {
        let before = self.cpu_ns()?;
        let output = Command::new("taskset")
            .args(["-c", "1", "redis-benchmark", "-p", &self.port.to_string(), "-c", "50", "--csv", "-t", command])
            .args(["-P", &depth.to_string(), "-n", &requests.to_string()])
            .output()?;
        let cpu_ns = (self.cpu_ns()? - before) as f64 / requests as f64;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().find_map(rate) {
            Some(per_second) => Ok(Served { per_second, cpu_ns }),
            None => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("redis-benchmark printed no figure: {text}{said}").into())
            }
        }
    }

    /// Time on a CPU, in user space and in the kernel, of all threads so far.
    fn cpu_ns(&self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let times = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += times.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(sum)
    }
}

/// The second field of `"GET","123456.78",…`; none of the heading.
fn rate(line: &str) -> Option<f64> {
    line.split("\",\"").nth(1)?.parse().ok()
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
