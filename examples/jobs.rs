//! Jobs in the background of requests, by shares, until they are cancelled.
//!
//! Each core answers a request every millisecond, in a class with many shares and a latency goal. What that leaves of the cores is shared by jobs, each in a class of its own, which compute for
//! as long as they are let: they ask now and then whether others should run, and that is all that they do about it. Ctrl-c, or the end of the time, cancels everything; then a table says
//! what each class has got.

mod cli;

use std::future::pending;
use std::hint::black_box;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use ipiq::classes::{ClassSpec, SchedulingClass};
use ipiq::{JoinSet, Runtime, signal, time};
use lexopt::prelude::*;

const HELP: &str = "\
jobs: requests, and jobs in their background, by shares

  --job NAME=SHARES   a job, as often as you like (default: index=300 and compress=100)
  --goal MS           how long a request should wait for the jobs, in milliseconds (default 2)
  --seconds N         when to cancel all (default: at ctrl-c)
  --cores N           cores (default: the CPUs of this process)
  -h, --help          print this
";

/// Between two requests of a core.
const PERIOD: Duration = Duration::from_millis(1);
/// Requests want little, and that at once.
const REQUEST_SHARES: u32 = 1_000;

/// Some microseconds of work.
fn work(seed: u64) -> u64 {
    (0..2_000).fold(black_box(seed), |hash, step| (hash ^ step).wrapping_mul(0x0100_0000_01b3))
}

/// Requests of one core.
async fn answer(answered: Arc<AtomicU64>) {
    let mut requests = time::interval(PERIOD);
    loop {
        requests.tick().await;
        black_box(work(1));
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// A job on one core. Cancelled, it is dropped where it awaits.
async fn compute() {
    let mut hash = 1;
    loop {
        hash = black_box(work(hash));
        // Without this it would keep the core for ever. Beside a class with a goal, it is told to give way in time for that.
        ipiq::yield_if_needed().await;
    }
}

/// Runs everything until it is to be cancelled.
async fn run(classes: Vec<SchedulingClass>, lasts: Option<Duration>) -> io::Result<u64> {
    let mut interrupted = signal::listen([signal::SIGINT, signal::SIGTERM])?;
    let answered = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for core in ipiq::cores() {
        let (requests, jobs) = classes.split_first().expect("requests are a class");
        let answered = answered.clone();
        tasks.insert(requests.spawn_on(core, move || answer(answered)));
        jobs.iter().for_each(|job| tasks.insert(job.spawn_on(core, compute)));
    }
    println!("jobs: running");
    let over = async {
        match lasts {
            Some(lasts) => time::sleep(lasts).await,
            None => pending().await,
        }
    };
    futures::select_biased! {
        _ = interrupted.recv().fuse() => println!("jobs: cancelled by a signal"),
        () = over.fuse() => println!("jobs: the time is over"),
    }
    // Each is dropped on its own core; this returns when all are gone.
    tasks.shutdown().await;
    Ok(answered.load(Ordering::Relaxed))
}

/// What each class got of the time for which several wanted a core, on all cores together.
fn print_shares(classes: &[SchedulingClass]) {
    let runs = |class: &SchedulingClass| -> (u64, u64) {
        let counters = ipiq::cores().map(|core| class.counters(core));
        counters.fold((0, 0), |(sum, longest), each| (sum + each.contended_ns, longest.max(each.longest_wait_ns)))
    };
    let all: u64 = classes.iter().map(|class| runs(class).0).sum();
    println!("{:<16} {:>6} {:>9} {:>6} {:>13}", "class", "shares", "got", "", "longest wait");
    for class in classes {
        let (got_ns, longest_ns) = runs(class);
        let (ms, percent) = (got_ns as f64 / 1e6, 100.0 * got_ns as f64 / all.max(1) as f64);
        let longest_ms = longest_ns as f64 / 1e6;
        println!("{:<16} {:>6} {ms:>6.0} ms {percent:>4.1} % {longest_ms:>10.1} ms", class.name(), class.shares());
    }
}

struct Flags {
    jobs: Vec<ClassSpec>,
    goal: Duration,
    lasts: Option<Duration>,
    cores: Option<usize>,
}

impl Flags {
    /// `None`: help is wanted.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut flags = Self { jobs: Vec::new(), goal: Duration::from_millis(2), lasts: None, cores: None };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("job") => flags.jobs.push(arguments.value()?.parse_with(job)?),
                Long("goal") => flags.goal = Duration::from_millis(arguments.value()?.parse()?),
                Long("seconds") => {
                    flags.lasts = Some(arguments.value()?.parse_with(|text| text.parse().map(Duration::from_secs))?);
                }
                Long("cores") => flags.cores = Some(arguments.value()?.parse()?),
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        if flags.jobs.is_empty() {
            flags.jobs = vec![ClassSpec::new("index").shares(300), ClassSpec::new("compress").shares(100)];
        }
        Ok(Some(flags))
    }
}

fn job(text: &str) -> Result<ClassSpec, String> {
    let (name, shares) = text.split_once('=').ok_or("a job is NAME=SHARES")?;
    let shares = shares.parse().map_err(|error| format!("{shares}: {error}"))?;
    Ok(ClassSpec::new(name.to_owned()).shares(shares))
}

fn main() -> ExitCode {
    let flags = match cli::flags(Flags::parse(), HELP) {
        Ok(flags) => flags,
        Err(end) => return end,
    };
    match serve(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(flags: Flags) -> Result<(), Box<dyn std::error::Error>> {
    let requests = ClassSpec::new("requests").shares(REQUEST_SHARES).latency_goal(flags.goal);
    let mut builder = Runtime::builder().scheduling_class(requests);
    builder = flags.jobs.into_iter().fold(builder, ipiq::Builder::scheduling_class);
    if let Some(cores) = flags.cores {
        builder = builder.cores(cores);
    }
    let runtime = builder.build()?;
    // The first one is the default class, which only starts the others here.
    let classes = runtime.handle().scheduling_classes().split_off(1);
    let answered = runtime.block_on(move || async move {
        let answered = run(classes.clone(), flags.lasts).await;
        print_shares(&classes);
        answered
    })?;
    println!("jobs: {answered} requests answered");
    Ok(())
}
