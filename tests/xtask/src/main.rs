//! The project's own commands: `cargo xtask help` lists them.

mod conformance;
mod limited;
mod parts;
mod report;
mod setup;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use conformance::conformance;
use parts::Part;
use report::{Outcome, Report};

const HELP: &str = "\
Usage: cargo xtask <COMMAND>

  test     install missing tools, then check and test everything; stops at the first failure
  conformance
           run the tests that runtime/fabric/CONFORMANCE.md names; every requirement must have a row, every row must pass
  setup    install missing tools only
  help     show this text

Options of test:
  --only PART     run this part only; may be given several times
  --list          list the parts and their commands, and run nothing
  --keep-going    go on after a failure
Options of conformance:
  --only PREFIX   rows whose id begins so; may be given several times, and others may be missing
  --list          list the rows' tests, and run nothing
Options of test and setup:
  --no-install    name missing tools instead of installing them
";

fn main() -> ExitCode {
    match run(lexopt::Parser::from_env()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn run(mut arguments: lexopt::Parser) -> Result<bool, lexopt::Error> {
    use lexopt::prelude::*;
    let Some(command) = arguments.next()? else { return Err("a command is missing".into()) };
    match command {
        Value(name) if name == "test" => {
            let options = Options::parse(&mut arguments, true)?;
            Ok(options.list_or(test))
        }
        Value(name) if name == "conformance" => Ok(conformance(&rows(&mut arguments)?)),
        Value(name) if name == "setup" => {
            let options = Options::parse(&mut arguments, false)?;
            Ok(test(&Options { only: vec![Part::Setup], ..options }))
        }
        Value(name) if name == "help" => Ok(help()),
        Long("help") | Short('h') => Ok(help()),
        other => Err(other.unexpected()),
    }
}

fn rows(arguments: &mut lexopt::Parser) -> Result<conformance::Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = conformance::Options::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("only") => options.only.push(arguments.value()?.string()?),
            Long("list") => options.list = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn help() -> bool {
    print!("{HELP}");
    true
}

struct Options {
    only: Vec<Part>,
    list: bool,
    keep_going: bool,
    install: bool,
}

impl Options {
    fn parse(arguments: &mut lexopt::Parser, of_test: bool) -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut options = Self { only: Vec::new(), list: false, keep_going: false, install: true };
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("no-install") => options.install = false,
                Long("list") if of_test => options.list = true,
                Long("keep-going") if of_test => options.keep_going = true,
                Long("only") if of_test => options.only.push(part(&arguments.value()?)?),
                other => return Err(other.unexpected()),
            }
        }
        Ok(options)
    }

    /// The parts to run, in the order in which they are listed.
    fn parts(&self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(|part| self.only.is_empty() || self.only.contains(part))
    }

    fn list_or(&self, run: impl FnOnce(&Self) -> bool) -> bool {
        if !self.list {
            return run(self);
        }
        for part in self.parts() {
            println!("{:<12}{}", part.name(), part.about());
            for step in part.steps() {
                println!("{:<12}  {}", "", step.line());
            }
        }
        true
    }
}

fn part(name: &OsString) -> Result<Part, lexopt::Error> {
    let known = || Part::ALL.map(Part::name).join(", ");
    let found = Part::ALL.into_iter().find(|part| name == part.name());
    found.ok_or_else(|| format!("no part {}; there are {}", name.display(), known()).into())
}

fn test(options: &Options) -> bool {
    let mut report = Report::default();
    for part in options.parts() {
        if report.failed() && !options.keep_going {
            report.add(part.name(), Outcome::NotRun);
            continue;
        }
        println!("\n== {}: {}", part.name(), part.about());
        let start = Instant::now();
        let result = match part {
            Part::Setup => setup::tools(options.install),
            _ => part.steps().iter().try_for_each(parts::Step::run),
        };
        let took = start.elapsed();
        report.add(
            part.name(),
            result.map_or_else(|reason| Outcome::Failed { took, reason }, |()| Outcome::Passed { took }),
        );
    }
    print!("\n{report}");
    !report.failed()
}
