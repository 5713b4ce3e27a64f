//! The list of what has ended other systems, and the tests that show that it does not end this one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{assert_none, root};

const FILE: &str = "tests/suites/KNOWN_FAILURES.md";
/// The scenarios that must have a row.
const SCENARIOS: [(&str, usize); 3] = [("life", 7), ("timers", 2), ("env", 6)];
/// The reports that must have a row.
const REPORTS: [u32; 13] = [54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 65, 66, 70];

/// `| id | scenario | tests |`.
struct Row {
    id: String,
    tests: Vec<String>,
}

fn rows(text: &str) -> Vec<Row> {
    let cells = |line: &str| line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let tables = text.lines().filter(|line| line.starts_with('|')).map(cells);
    let rows = tables.filter(|cells: &Vec<String>| cells.len() == 3 && cells[2].contains("::"));
    rows.map(|cells| {
        let tests = cells[2].split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect();
        Row { id: cells[0].clone(), tests }
    })
    .collect()
}

fn required() -> impl Iterator<Item = String> {
    let scenarios =
        SCENARIOS.iter().flat_map(|(kind, count)| (1..=*count).map(move |number| format!("{kind}-{number}")));
    scenarios.chain(REPORTS.iter().map(ToString::to_string))
}

/// Where a package's files lie.
fn package(name: &str) -> PathBuf {
    match name.strip_prefix("ipiq") {
        Some("-suites") => root().join("tests/suites"),
        Some("") => root().join("runtime/ipiq"),
        _ => root().join("runtime").join(name.trim_start_matches("ipiq-")),
    }
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        return entries.flat_map(|entry| files(&entry.path())).collect();
    }
    if path.is_file() { vec![path.to_owned()] } else { Vec::new() }
}

/// Why there is no test `package::target::path`; the target `doc` means code in documentation that must not compile.
fn fault(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split("::").collect();
    let [of, target, path @ ..] = &parts[..] else { return Some(format!("{name}: not package::target::path")) };
    let function = path.last()?;
    let sources = match *target {
        "lib" => files(&package(of).join("src")),
        "doc" => files(&package(of).join("src").join(format!("{function}.rs"))),
        suite => {
            let tests = package(of).join("tests");
            [files(&tests.join(format!("{suite}.rs"))), files(&tests.join(suite))].concat()
        }
    };
    let texts = sources.iter().filter_map(|source| fs::read_to_string(source).ok());
    let found = texts.into_iter().any(|text| match *target {
        "doc" => text.contains("```compile_fail,E"),
        _ => has_test(&text, function),
    });
    (!found).then(|| format!("{name}: there is no such test"))
}

/// Whether a file has a test of that name, written as a function or as an argument of a macro that writes tests.
fn has_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let heads = lines.windows(2).any(|pair| pair[0] == "#[test]" && pair[1].starts_with(&format!("fn {function}(")));
    heads || lines.iter().any(|line| line.ends_with(';') && line.contains(&format!(": {function},")))
}

#[test]
fn every_known_failure_has_tests_that_there_are() {
    let text = fs::read_to_string(root().join(FILE)).expect("the list is there");
    let rows = rows(&text);
    let have: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let missing = required().filter(|id| !have.contains(&id.as_str())).map(|id| format!("{id}: no row"));
    let distinct: BTreeSet<&&str> = have.iter().collect();
    let twice = (distinct.len() != have.len()).then(|| "an id has two rows".to_owned());
    let unknown = rows.iter().flat_map(|row| &row.tests).filter_map(|test| fault(test));
    assert_none(missing.chain(twice).chain(unknown).collect());
}

#[test]
fn a_test_that_there_is_not_is_a_fault() {
    assert!(fault("ipiq-suites::structure::known_failures::a_test_that_there_is_not_is_a_fault").is_none());
    for name in ["ipiq-suites::structure::no_such_test", "ipiq-suites::no_such_suite::x", "ipiq::doc::handle", "x"] {
        assert!(fault(name).is_some(), "{name}");
    }
    assert!(
        has_test("#[test]\nfn one() {", "one")
            && !has_test("fn one() {", "one")
            && !has_test("#[test]\nfn one_more() {", "one")
    );
}
