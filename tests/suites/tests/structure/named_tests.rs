//! Tables in documents, and the tests that they name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::root;

/// The cells of each line of the tables in `text`.
pub(crate) fn cells(text: &str) -> impl Iterator<Item = Vec<String>> {
    let cells = |line: &str| line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    text.lines().filter(|line| line.starts_with('|')).map(cells)
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
pub(crate) fn fault(name: &str) -> Option<String> {
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
fn a_test_that_there_is_not_is_a_fault() {
    assert!(fault("ipiq-suites::structure::named_tests::a_test_that_there_is_not_is_a_fault").is_none());
    for name in ["ipiq-suites::structure::no_such_test", "ipiq-suites::no_such_suite::x", "ipiq::doc::handle", "x"] {
        assert!(fault(name).is_some(), "{name}");
    }
    assert!(
        has_test("#[test]\nfn one() {", "one")
            && !has_test("fn one() {", "one")
            && !has_test("#[test]\nfn one_more() {", "one")
    );
}
