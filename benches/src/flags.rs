//! The command line of `compare`.

use std::fmt;
use std::path::PathBuf;

use lexopt::{Arg, ValueExt};

use crate::machine::CpuPair;
use crate::peers::PEERS;
use crate::work::{WORKS, Work};

const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;

/// What the command line asks for.
pub enum Command {
    /// Print the help.
    Help,
    /// Run a comparison.
    Compare(Options),
}

/// How to run a comparison.
pub struct Options {
    /// The works, in the order of the table.
    pub works: Vec<&'static Work>,
    /// Only these runtimes; all when empty.
    pub runtimes: Vec<&'static str>,
    /// Short sections, for a look rather than for a figure.
    pub quick: bool,
    /// Where to write the lines of JSON.
    pub json: Option<PathBuf>,
    /// How many times each cell is measured.
    pub rounds: usize,
    /// The CPUs to use; the first two allowed when not given.
    pub cpus: Option<CpuPair>,
}

impl Options {
    /// Whether the runtime of that name is asked for.
    #[must_use]
    pub fn wants(&self, runtime: &str) -> bool {
        self.runtimes.is_empty() || self.runtimes.contains(&runtime)
    }
}

/// Text of `--help`.
#[must_use]
pub fn help() -> String {
    format!(
        "Runs every peer on the same work and prints what it cost.

usage: compare [FLAGS]

  --only WORK,…     only these works
  --runtime NAME,…  only these runtimes
  --quick           short sections and {QUICK_ROUNDS} rounds: for a look, not for a figure
  --rounds N        measure each cell N times (default {ROUNDS})
  --cpus A,B        the caller's and the target's CPU (default: the first two allowed)
  --json FILE       also write one JSON object per figure and line
  --help            this text

works: {}
runtimes: {}
",
        work_names(),
        runtime_names().join(", "),
    )
}

/// Reads the command line.
///
/// # Errors
///
/// When a flag is unknown, lacks its value, or names no work, runtime or number.
pub fn parse(mut parser: lexopt::Parser) -> Result<Command, FlagError> {
    let mut options = Options {
        works: WORKS.iter().collect(),
        runtimes: Vec::new(),
        quick: false,
        json: None,
        rounds: 0,
        cpus: None,
    };
    let mut rounds = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help),
            Arg::Long("only") => options.works = works(&parser.value()?.string()?)?,
            Arg::Long("runtime") => options.runtimes = runtimes(&parser.value()?.string()?)?,
            Arg::Long("quick") => options.quick = true,
            Arg::Long("rounds") => rounds = Some(positive(&parser.value()?.string()?)?),
            Arg::Long("cpus") => options.cpus = Some(cpus(&parser.value()?.string()?)?),
            Arg::Long("json") => options.json = Some(parser.value()?.into()),
            _ => return Err(arg.unexpected().into()),
        }
    }
    options.rounds = rounds.unwrap_or(if options.quick { QUICK_ROUNDS } else { ROUNDS });
    Ok(Command::Compare(options))
}

fn works(list: &str) -> Result<Vec<&'static Work>, FlagError> {
    let names: Vec<&str> = list.split(',').collect();
    for name in &names {
        if !WORKS.iter().any(|work| work.answers_to(name)) {
            return Err(FlagError::NoSuchWork((*name).to_owned()));
        }
    }
    let asked_for = |work: &&Work| names.iter().any(|name| work.answers_to(name));
    Ok(WORKS.iter().filter(asked_for).collect())
}

fn runtimes(list: &str) -> Result<Vec<&'static str>, FlagError> {
    let known = runtime_names();
    list.split(',')
        .map(|name| {
            known
                .iter()
                .copied()
                .find(|runtime| *runtime == name)
                .ok_or_else(|| FlagError::NoSuchRuntime(name.to_owned()))
        })
        .collect()
}

fn positive(text: &str) -> Result<usize, FlagError> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(FlagError::NotPositive(text.to_owned())),
    }
}

fn cpus(text: &str) -> Result<CpuPair, FlagError> {
    let pair = text
        .split_once(',')
        .and_then(|(source, target)| Some([source.trim().parse().ok()?, target.trim().parse().ok()?]));
    pair.ok_or_else(|| FlagError::NotTwoCpus(text.to_owned()))
}

fn work_names() -> String {
    let names: Vec<_> = WORKS.iter().map(|work| work.name).collect();
    format!("{} (call_pipelined alone means all four)", names.join(", "))
}

fn runtime_names() -> Vec<&'static str> {
    let mut names: Vec<_> = PEERS.iter().map(|peer| peer.runtime()).collect();
    names.dedup();
    names
}

/// Why a command line was refused.
#[derive(Debug)]
pub enum FlagError {
    /// An unknown flag, or one without its value.
    Malformed(lexopt::Error),
    /// `--only` names no work.
    NoSuchWork(String),
    /// `--runtime` names no runtime.
    NoSuchRuntime(String),
    /// `--rounds` is no number above zero.
    NotPositive(String),
    /// `--cpus` is not two CPU numbers.
    NotTwoCpus(String),
}

impl From<lexopt::Error> for FlagError {
    fn from(error: lexopt::Error) -> Self {
        Self::Malformed(error)
    }
}

impl fmt::Display for FlagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "{error}; --help lists the flags"),
            Self::NoSuchWork(name) => {
                write!(f, "no work is named '{name}'; works: {}", work_names())
            }
            Self::NoSuchRuntime(name) => {
                write!(f, "no runtime is named '{name}'; runtimes: {}", runtime_names().join(", "),)
            }
            Self::NotPositive(text) => {
                write!(f, "--rounds takes a number above zero, not '{text}'")
            }
            Self::NotTwoCpus(text) => {
                write!(f, "--cpus takes two CPU numbers such as 0,1, not '{text}'")
            }
        }
    }
}

impl std::error::Error for FlagError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Options, String> {
        let args = std::iter::once("compare").chain(args.iter().copied());
        match parse(lexopt::Parser::from_iter(args)) {
            Ok(Command::Compare(options)) => Ok(options),
            Ok(Command::Help) => Err("help".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn refusal(args: &[&str]) -> String {
        parsed(args).err().expect("the command line is refused")
    }

    #[test]
    fn without_flags_everything_runs() {
        let options = parsed(&[]).unwrap();
        assert_eq!(options.works.len(), WORKS.len());
        assert_eq!(options.rounds, ROUNDS);
        assert!(options.wants("tokio") && options.wants("ipiq"));
    }

    #[test]
    fn only_takes_works_and_their_parameters_once_and_in_order() {
        let options = parsed(&["--only", "yield,call_pipelined/16,call_pipelined"]).unwrap();
        let names: Vec<_> = options.works.iter().map(|work| work.name).collect();
        assert_eq!(
            names,
            ["call_pipelined/1", "call_pipelined/16", "call_pipelined/256", "call_pipelined/1024", "yield",],
        );
    }

    #[test]
    fn rounds_given_win_over_quick() {
        assert_eq!(parsed(&["--rounds", "7", "--quick"]).unwrap().rounds, 7);
        assert_eq!(parsed(&["--quick"]).unwrap().rounds, QUICK_ROUNDS);
    }

    #[test]
    fn an_unknown_work_is_refused_with_the_list() {
        let text = refusal(&["--only", "call_rtt,calls"]);
        assert!(text.contains("'calls'") && text.contains("call_pipelined/256"), "{text}");
    }

    #[test]
    fn an_unknown_runtime_is_refused_with_the_list() {
        let text = refusal(&["--runtime", "tokyo"]);
        assert!(text.contains("'tokyo'") && text.contains("ipiq, tokio"), "{text}");
    }

    #[test]
    fn bad_numbers_are_refused() {
        assert!(refusal(&["--rounds", "0"]).contains("above zero"));
        assert!(refusal(&["--cpus", "3"]).contains("two CPU numbers"));
        assert_eq!(parsed(&["--cpus", "3,1"]).unwrap().cpus, Some([3, 1]));
    }

    #[test]
    fn an_unknown_flag_and_a_missing_value_are_refused() {
        assert!(refusal(&["--fast"]).contains("--help"));
        assert!(refusal(&["--json"]).contains("--help"));
    }

    #[test]
    fn help_lists_every_work() {
        let text = help();
        assert!(WORKS.iter().all(|work| text.contains(work.name)), "{text}");
    }
}
