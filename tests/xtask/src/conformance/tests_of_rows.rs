//! Runs the tests that rows name, those of one target together.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use super::rows::TestName;
use crate::parts::{cargo, root};

/// Targets that are built only with a feature.
const FEATURES: [(&str, &str, &str); 1] = [("ipiq-fabric", "trace", "tracing")];

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
}

/// Runs each test once.
pub(crate) fn run<'a>(names: &BTreeSet<&'a TestName>) -> BTreeMap<&'a TestName, Outcome> {
    let mut targets: BTreeMap<(&str, &str), Vec<&'a TestName>> = BTreeMap::new();
    for &name in names {
        targets.entry((&name.package, &name.target)).or_default().push(name);
    }
    targets.into_iter().flat_map(|((package, target), names)| run_target(package, target, &names)).collect()
}

fn run_target<'a>(package: &str, target: &str, names: &[&'a TestName]) -> Vec<(&'a TestName, Outcome)> {
    let selection = selection(package, target);
    println!("$ {}cargo {} -- --exact ({} tests)", variables(target).1, selection.join(" "), names.len());
    let paths: Vec<&str> = names.iter().map(|name| name.path.as_str()).collect();
    let output = command(target).args(&selection).args(["--", "--exact"]).args(&paths).output();
    let said = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return names.iter().map(|&name| (name, Outcome::Failed(error.to_string()))).collect(),
    };
    names.iter().map(|&name| (name, outcome(&said, &name.path))).collect()
}

fn command(target: &str) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).envs(variables(target).0).stderr(Stdio::inherit());
    command
}

/// What the environment needs, and how one would type it.
fn variables(target: &str) -> (Vec<(&'static str, &'static str)>, &'static str) {
    match target {
        "loom" => (
            vec![("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom")],
            "RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR='target/loom' ",
        ),
        _ => (Vec::new(), ""),
    }
}

fn selection(package: &str, target: &str) -> Vec<String> {
    let mut arguments = vec!["test", "--package", package];
    match target {
        "lib" => arguments.push("--lib"),
        "loom" => arguments.extend(["--lib", "--profile", "stress"]),
        name => arguments.extend(["--test", name]),
    }
    let feature = FEATURES.iter().find(|(of, name, _)| (*of, *name) == (package, target));
    arguments.extend(feature.into_iter().flat_map(|(.., feature)| ["--features", feature]));
    arguments.into_iter().map(str::to_owned).collect()
}

/// What the harness said of a test.
fn outcome(said: &str, path: &str) -> Outcome {
    let of_it = |line: &str| {
        let rest = line.strip_prefix("test ")?.strip_prefix(path)?;
        rest.strip_prefix(" - should panic").unwrap_or(rest).strip_prefix(" ... ").map(str::to_owned)
    };
    match said.lines().find_map(of_it).as_deref() {
        Some("ok") => Outcome::Passed,
        Some(other) => Outcome::Failed(other.to_owned()),
        None => Outcome::Failed("there is no such test, or its program ended before it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_of_the_very_test_that_says_ok_is_a_pass() {
        let said = "running 4 tests\ntest a::b ... ok\ntest a::bc ... FAILED\ntest d - should panic ... ok\n\
                    test e ... ignored\n";
        assert_eq!(outcome(said, "a::b"), Outcome::Passed);
        assert_eq!(outcome(said, "d"), Outcome::Passed);
        assert_eq!(outcome(said, "a::bc"), Outcome::Failed("FAILED".into()));
        assert_eq!(outcome(said, "e"), Outcome::Failed("ignored".into()));
        assert!(matches!(outcome(said, "b"), Outcome::Failed(_)));
    }

    #[test]
    fn a_target_is_selected_as_one_would_type_it() {
        assert_eq!(selection("p", "lib").join(" "), "test --package p --lib");
        assert_eq!(selection("p", "storm").join(" "), "test --package p --test storm");
        assert_eq!(selection("p", "loom").join(" "), "test --package p --lib --profile stress");
        assert!(selection("ipiq-fabric", "trace").ends_with(&["--features".into(), "tracing".into()]));
    }
}
