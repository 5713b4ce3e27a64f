//! Runs the tests that rows name, those of one program together.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use super::builds::{Place, Program, programs};
use super::rows::TestName;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
}

/// Runs each test once; says why if they cannot be built.
pub(crate) fn run<'a>(names: &BTreeSet<&'a TestName>) -> Result<BTreeMap<&'a TestName, Outcome>, String> {
    let programs = programs(names)?;
    let mut places: BTreeMap<Place, Vec<&'a TestName>> = BTreeMap::new();
    for &name in names {
        places.entry((name.package.clone(), name.target.clone())).or_default().push(name);
    }
    Ok(places.into_iter().flat_map(|(place, names)| run_program(&place, programs.get(&place), &names)).collect())
}

fn run_program<'a>(
    (package, target): &Place,
    program: Option<&Program>,
    names: &[&'a TestName],
) -> Vec<(&'a TestName, Outcome)> {
    let all_failed = |reason: &str| names.iter().map(|&name| (name, Outcome::Failed(reason.to_owned()))).collect();
    let Some(program) = program else { return all_failed("there is no such package or target") };
    println!("{package}::{target}: {} tests", names.len());
    let paths = names.iter().map(|name| name.path.as_str());
    let mut command = Command::new(&program.file);
    command.arg("--exact").args(paths).current_dir(&program.package_root).stderr(Stdio::inherit());
    // As under cargo, where programs that start cargo themselves look for the package.
    command.env("CARGO_MANIFEST_DIR", &program.package_root);
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            names.iter().map(|&name| (name, outcome(&said, &name.path))).collect()
        }
        Err(error) => all_failed(&error.to_string()),
    }
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
    fn a_program_that_is_not_there_fails_each_of_its_tests() {
        let name = TestName::parse("p::lib::a").expect("a name");
        let outcomes = run_program(&("p".into(), "lib".into()), None, &[&name]);
        assert_eq!(outcomes, [(&name, Outcome::Failed("there is no such package or target".into()))]);
    }
}
