//! The invariants of the layers that a machine can check: edges between crates, protocol tags, where atomics may be named, that listed tests exist.

mod edges;
mod features;
mod known_failures;
mod named_tests;
mod seams;
mod tags;

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the workspace: its path from the root, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

/// The workspace's root.
fn root() -> PathBuf {
    let suites = Path::new(env!("CARGO_MANIFEST_DIR"));
    suites.ancestors().nth(2).expect("suites lie two levels deep").to_owned()
}

/// Every file below `dir` (from the root) that `wanted` accepts, in order of path.
fn sources(dir: &str, wanted: fn(&Path) -> bool) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut dirs = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() {
                dirs.push(path);
            } else if wanted(&path) {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let path = path.strip_prefix(&root).expect("below the root").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn is_readme(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "README.md")
}

/// Fails with all faults at once.
fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
