//! Places that only one module may name, so that another machine can be put in there.

use crate::{Source, assert_none, is_rust, sources};

/// Only this module chooses between the machine's atomics and the model checker's.
const SEAM: &str = "runtime/fabric/src/sync.rs";
const ATOMICS: [&str; 3] = ["core::sync", "std::sync", "loom::"];

#[test]
fn only_the_seam_of_the_fabric_names_atomics() {
    let code = sources("runtime/fabric/src", is_rust);
    assert!(code.iter().any(|source| source.path.ends_with(SEAM)), "the seam is gone");
    let outside = code.iter().filter(|source| !source.path.ends_with(SEAM));
    assert_none(outside.flat_map(|source| namings(source, &ATOMICS)).collect());
}

/// Lines outside of comments and tests that name one of `names`.
fn namings(source: &Source, names: &[&str]) -> Vec<String> {
    if source.path.ends_with("tests.rs") {
        return Vec::new();
    }
    // Test modules stand at the end of a file.
    let is_test = |line: &str| line.starts_with("#[cfg(") && line.contains("test");
    let is_test_module =
        |lines: &[&str]| is_test(lines[0]) && lines.get(1).is_some_and(|next| next.starts_with("mod tests"));
    let lines: Vec<&str> = source.text.lines().collect();
    let end = (0..lines.len()).find(|start| is_test_module(&lines[*start..])).unwrap_or(lines.len());
    let named =
        |line: &str| names.iter().find(|name| line.split("//").next().unwrap_or_default().contains(**name)).copied();
    let found = lines[..end].iter().enumerate().filter_map(|(i, line)| named(line).map(|name| (i + 1, name)));
    found.map(|(line, name)| format!("{}:{line}: names {name}", source.path.display())).collect()
}

#[test]
fn a_naming_in_code_is_seen_and_one_in_comments_or_tests_is_not() {
    let text = "//! use core::sync::x\nuse core::sync::y; // z\n#[cfg(all(test, not(loom)))]\nmod tests {\n    use std::sync::z;\n";
    let source = Source { path: "a/lib.rs".into(), text: text.into() };
    assert_eq!(namings(&source, &ATOMICS), ["a/lib.rs:2: names core::sync"]);
}
