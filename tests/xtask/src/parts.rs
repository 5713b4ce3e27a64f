//! What `cargo xtask test` runs.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::limited;

/// A command that has not ended by then hangs: the longest takes seven minutes on two CPUs.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// A part of the test run, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Setup,
    Fmt,
    Structure,
    Clippy,
    Features,
    Doc,
    Test,
    Loom,
    Stress,
    Conformance,
}

impl Part {
    /// In the order in which they run: what fails fast comes first.
    pub(crate) const ALL: [Self; 10] = [
        Self::Setup,
        Self::Fmt,
        Self::Structure,
        Self::Clippy,
        Self::Features,
        Self::Doc,
        Self::Test,
        Self::Loom,
        Self::Stress,
        Self::Conformance,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Fmt => "fmt",
            Self::Structure => "structure",
            Self::Clippy => "clippy",
            Self::Features => "features",
            Self::Doc => "doc",
            Self::Test => "test",
            Self::Loom => "loom",
            Self::Stress => "stress",
            Self::Conformance => "conformance",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Setup => "tools that the tests need",
            Self::Fmt => "the code is formatted",
            Self::Structure => "allowed edges between crates, protocol tags, where atomics and unsafe may be",
            Self::Clippy => "no warning of compiler or clippy, all targets and features",
            Self::Features => "what builds with a feature builds without it",
            Self::Doc => "the documentation builds without warnings",
            Self::Test => "unit, documentation and end-to-end tests",
            Self::Loom => "the fabric's protocols and the word of a task under the model checker",
            Self::Stress => "the fabric and the runtime on real threads, at full size",
            Self::Conformance => "every requirement of the kernels has a row, whose tests pass",
        }
    }

    /// The commands of the part. The setup has none: what it does depends on what is there.
    pub(crate) fn steps(self) -> Vec<Step> {
        match self {
            Self::Setup => vec![],
            Self::Fmt => vec![Step::cargo("fmt --all --check")],
            Self::Structure => vec![Step::cargo("test --package ipiq-suites --test structure")],
            Self::Clippy => {
                vec![Step::cargo("clippy --workspace --all-targets --all-features -- -D warnings")]
            }
            // Built together, crates share the features that any of them asks for; so these are built apart.
            Self::Features => vec![
                Step::cargo("clippy --package ipiq-fabric --no-default-features -- -D warnings"),
                Step::cargo("clippy --package ipiq-fabric --no-default-features --features tracing -- -D warnings"),
                Step::cargo("clippy --package ipiq-executor --no-default-features -- -D warnings"),
                Step::cargo("clippy --package ipiq-linux --no-default-features -- -D warnings"),
                Step::cargo("clippy --package ipiq --no-default-features -- -D warnings"),
                Step::cargo("clippy --package ipiq --no-default-features --features metrics -- -D warnings"),
            ],
            Self::Doc => {
                vec![
                    Step::cargo("doc --workspace --no-deps --document-private-items")
                        .with("RUSTDOCFLAGS", "-D warnings"),
                ]
            }
            Self::Test => vec![
                Step::cargo("test --workspace"),
                Step::cargo("test --package ipiq-fabric --features tracing --test trace"),
                Step::cargo("test --package ipiq --features metrics --test recorder"),
            ],
            Self::Loom => vec![
                Step::cargo("test --profile stress --package ipiq-fabric --package ipiq-executor --lib")
                    .with("RUSTFLAGS", "--cfg loom")
                    // Other flags build everything anew: in a place of their own both stay built.
                    .with("CARGO_TARGET_DIR", "target/loom"),
            ],
            // Optimised: where orders of events between cores, and what is in registers, are what may fail. The others as the part `test` has built
            // them, but for those whose quick size is the whole of it.
            Self::Stress => vec![
                Step::cargo(
                    "test --profile stress --package ipiq-suites --test fabric_* --test runtime_[fiotw]* --test runtime_xcall_storm --test shootdown --test cpusync --test handlers --test urgent --test frozen",
                )
                .with("IPIQ_STRESS", "full"),
                Step::cargo(
                    "test --workspace --test runtime_c[al]* --test runtime_[dl]* --test runtime_sync --test runtime_xcall --test kv_snapshot",
                )
                .with("IPIQ_STRESS", "full"),
            ],
            Self::Conformance => vec![Step::cargo("xtask conformance")],
        }
    }
}

/// One command.
pub(crate) struct Step {
    arguments: &'static str,
    variables: Vec<(&'static str, &'static str)>,
}

impl Step {
    fn cargo(arguments: &'static str) -> Self {
        Self { arguments, variables: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    /// The command as one would type it.
    pub(crate) fn line(&self) -> String {
        let variables = self.variables.iter().map(|(name, value)| format!("{name}='{value}' "));
        format!("{}cargo {}", variables.collect::<String>(), self.arguments)
    }

    /// Runs it in the workspace's root, its output as its own; says why it failed.
    pub(crate) fn run(&self) -> Result<(), String> {
        let line = self.line();
        println!("$ {line}");
        let mut command = Command::new(cargo());
        command.args(self.arguments.split(' ')).envs(self.variables.iter().copied()).current_dir(root());
        let status = limited::run(&mut command, LIMIT).map_err(|error| format!("{line}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
    }
}

/// The cargo that runs this, or the one on the path.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_every_part_but_the_setup_has_commands() {
        let mut names = Part::ALL.map(Part::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Part::ALL.len());
        assert!(Part::ALL.iter().all(|part| part.steps().is_empty() == (*part == Part::Setup)));
    }

    #[test]
    fn a_line_can_be_pasted_into_a_shell() {
        let step = Step::cargo("test --lib").with("RUSTFLAGS", "--cfg loom");
        assert_eq!(step.line(), "RUSTFLAGS='--cfg loom' cargo test --lib");
    }
}
