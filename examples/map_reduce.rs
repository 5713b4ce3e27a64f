//! Counts words in files: every core reads and counts, then each adds up the words that are its own.
//!
//! Three steps, as in every map-reduce. *Map*: a core takes the next file, has it read by a thread that may block, and counts its words. *Shuffle*: each word has one core,
//! by its hash; every core sends each other one the counts of the words that are that one's. *Reduce*: every core sorts its own words, and core 0 merges the firsts of all.
//! Meanwhile a task asks every core how far it is.

mod cli;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipiq::sharded::{JumpHash, Route, Shard, ShardError, Sharded};
use ipiq::{Runtime, time};
use lexopt::prelude::*;

const HELP: &str = "\
map_reduce: the most frequent words of files

Usage: map_reduce [OPTIONS] PATH...     files, or directories with all that is below them

  --top N       how many words to print (default 10)
  --cores N     cores that count (default: the CPUs of this process)
  --quiet       no progress
  -h, --help    print this
";

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);
/// Words counted between two looks whether others should run.
const BATCH: usize = 1024;

type Counts = HashMap<String, u64>;

/// What one core counts.
struct Counter {
    peers: Sharded<Counter>,
    route: JumpHash,
    files: Cell<u64>,
    bytes: Cell<u64>,
    /// Of the files that this core has read.
    found: RefCell<Counts>,
    /// Of the words that are this core's, in all files.
    own: RefCell<Counts>,
    errors: RefCell<Vec<String>>,
}

impl Counter {
    /// Reads and counts files until none is left.
    async fn map(&self, files: &[PathBuf], next: &AtomicUsize) {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)).cloned() {
            let shown = path.display().to_string();
            match ipiq::spawn_blocking(move || fs::read(path)).await {
                Ok(Ok(text)) => {
                    self.count(&String::from_utf8_lossy(&text)).await;
                    self.files.set(self.files.get() + 1);
                }
                Ok(Err(error)) => self.errors.borrow_mut().push(format!("{shown}: {error}")),
                Err(error) => self.errors.borrow_mut().push(format!("{shown}: {error}")),
            }
        }
    }

    async fn count(&self, text: &str) {
        let mut words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).peekable();
        while words.peek().is_some() {
            for word in words.by_ref().take(BATCH) {
                self.bytes.set(self.bytes.get() + word.len() as u64);
                let mut found = self.found.borrow_mut();
                // Most words have been seen before: no allocation for those in lower case.
                match found.get_mut(word) {
                    Some(count) => *count += 1,
                    None => *found.entry(word.to_lowercase()).or_default() += 1,
                }
            }
            // A long text does not keep the core from its other work, such as telling how far it is.
            ipiq::yield_if_needed().await;
        }
    }

    /// Sends every core the counts of its words.
    async fn shuffle(&self) -> Result<(), ShardError> {
        let mut parts = vec![Counts::new(); ipiq::core_count()];
        for (word, count) in self.found.take() {
            let owner = self.route.core_of(&word);
            parts[owner.index()].insert(word, count);
        }
        for (core, part) in ipiq::cores().zip(parts) {
            self.peers.on(core).call(move |owner| owner.add(part)).await?;
        }
        Ok(())
    }

    fn add(&self, part: Counts) {
        let mut own = self.own.borrow_mut();
        for (word, count) in part {
            *own.entry(word).or_default() += count;
        }
    }

    /// The most frequent of this core's words.
    fn top(&self, most: usize) -> Vec<(String, u64)> {
        first_of(self.own.take().into_iter().collect(), most)
    }
}

fn first_of(mut words: Vec<(String, u64)>, most: usize) -> Vec<(String, u64)> {
    words.sort_unstable_by(|(word, count), (other, others)| (Reverse(count), word).cmp(&(Reverse(others), other)));
    words.truncate(most);
    words
}

/// What was counted, and what could not be read.
struct Outcome {
    top: Vec<(String, u64)>,
    distinct: usize,
    errors: Vec<String>,
}

async fn run(files: Vec<PathBuf>, most: usize, progress: bool) -> Result<Outcome, ShardError> {
    let route = JumpHash::new(ipiq::core_count());
    let made = Sharded::start(move |peers| async move {
        Counter {
            peers,
            route,
            files: Cell::default(),
            bytes: Cell::default(),
            found: RefCell::default(),
            own: RefCell::default(),
            errors: RefCell::default(),
        }
    });
    let counters = made.await.expect("making a counter does not fail");
    let shown = progress.then(|| ipiq::spawn_local(show_progress(counters.clone(), files.len())));
    let (files, next) = (Arc::new(files), Arc::new(AtomicUsize::new(0)));
    counters.invoke_on_all(async move |counter: Shard<Counter>| counter.map(&files, &next).await).await?;
    counters.invoke_on_all(async |counter: Shard<Counter>| counter.shuffle().await.expect("all count on")).await?;
    if let Some(shown) = shown {
        shown.abort();
        eprintln!();
    }
    let distinct = counters.map_reduce(|counter| counter.own.borrow().len(), 0, |sum, words| sum + words).await?;
    let top = counters.map(move |counter| counter.top(most)).await?;
    let errors = counters.map(|counter| counter.errors.take()).await?;
    Ok(Outcome { top: first_of(top.concat(), most), distinct, errors: errors.concat() })
}

async fn show_progress(counters: Sharded<Counter>, files: usize) {
    let mut ticks = time::interval(PROGRESS);
    loop {
        ticks.tick().await;
        let add = |(files, bytes), (more, further)| (files + more, bytes + further);
        let sums = counters.map_reduce(|counter| (counter.files.get(), counter.bytes.get()), (0, 0), add);
        // When they have stopped there is nothing to show.
        let Ok((read, bytes)) = sums.await else { return };
        eprint!("\r{read} of {files} files, {:.1} MB of words ", bytes as f64 / 1e6);
        let _ = io::stderr().flush();
    }
}

/// All files at `path`, or below it.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A link may lead back to where it is.
            if !entry.file_type()?.is_symlink() {
                collect(&entry.path(), files)?;
            }
        }
        return Ok(());
    }
    // It is there, or reading it will say why not.
    files.push(path.to_owned());
    Ok(())
}

struct Flags {
    paths: Vec<OsString>,
    top: usize,
    cores: Option<usize>,
    quiet: bool,
}

impl Flags {
    /// `None`: help is wanted.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut flags = Self { paths: Vec::new(), top: 10, cores: None, quiet: !io::stderr().is_terminal() };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("top") => flags.top = arguments.value()?.parse()?,
                Long("cores") => flags.cores = Some(arguments.value()?.parse()?),
                Long("quiet") => flags.quiet = true,
                Long("help") | Short('h') => return Ok(None),
                Value(path) => flags.paths.push(path),
                other => return Err(other.unexpected()),
            }
        }
        if flags.paths.is_empty() { Err("which files? name one, or a directory".into()) } else { Ok(Some(flags)) }
    }
}

fn main() -> ExitCode {
    let flags = match cli::flags(Flags::parse(), HELP) {
        Ok(flags) => flags,
        Err(end) => return end,
    };
    match count(flags) {
        Ok(outcome) => {
            for (word, count) in &outcome.top {
                println!("{count:>9} {word}");
            }
            println!("{:>9} different words", outcome.distinct);
            outcome.errors.iter().for_each(|error| eprintln!("error: {error}"));
            if outcome.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn count(flags: Flags) -> Result<Outcome, Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for path in &flags.paths {
        let path = Path::new(path);
        collect(path, &mut files).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let mut builder = Runtime::builder();
    if let Some(cores) = flags.cores {
        builder = builder.cores(cores);
    }
    let runtime = builder.build()?;
    Ok(runtime.block_on(move || run(files, flags.top, !flags.quiet))?)
}
