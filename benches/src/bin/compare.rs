//! Runs every peer on the same work and prints what it cost; `--help` lists the flags.

use std::process::ExitCode;

use ipiq_benches::{compare, flags, memory};

#[global_allocator]
static ALLOCATOR: memory::Counted = memory::Counted;

fn main() -> ExitCode {
    let command = match flags::parse(lexopt::Parser::from_env()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("compare: {error}");
            return ExitCode::from(2);
        }
    };
    match command {
        flags::Command::Help => print!("{}", flags::help()),
        flags::Command::Compare(options) => {
            if let Err(error) = compare::run(&options) {
                eprintln!("compare: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
