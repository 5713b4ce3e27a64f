//! Which crate may depend on which.

use cargo_metadata::{Dependency, Metadata, MetadataCommand, Package};

use crate::{assert_none, root};

/// The crates of the runtime and those of ours that each may name, tests included. Packages elsewhere (examples, benches,
/// tests) may use any of them.
const EDGES: [(&str, &[&str]); 7] = [
    ("ipiq-fabric", &[]),
    ("ipiq-executor", &["ipiq-fabric"]),
    ("ipiq-linux", &["ipiq-fabric"]),
    ("ipiq-baremetal", &["ipiq-fabric"]),
    ("ipiq-driver", &[]),
    ("ipiq-macros", &[]),
    ("ipiq", &["ipiq-fabric", "ipiq-executor", "ipiq-linux", "ipiq-driver", "ipiq-macros"]),
];

/// Crates that must build without an operating system.
const NO_STD: [&str; 3] = ["ipiq-fabric", "ipiq-executor", "ipiq-baremetal"];

/// What those may use of others: each builds without `std` when its default features are off.
const NO_STD_LIBRARIES: [&str; 8] =
    ["async-task", "atomic-waker", "crossbeam-queue", "futures-channel", "hashbrown", "once_cell", "tracing", "x86_64"];

/// Crates without a line of `unsafe`.
const NO_UNSAFE: [&str; 2] = ["ipiq", "ipiq-macros"];

#[test]
fn crates_of_the_runtime_depend_on_lower_layers_only() {
    let metadata = metadata();
    assert_none(
        runtime_packages(&metadata).flat_map(|package| wrong_edges(&package.name, &package.dependencies)).collect(),
    );
}

#[test]
fn the_edge_check_sees_a_wrong_edge() {
    let metadata = metadata();
    let ipiq = metadata.packages.iter().find(|package| package.name == "ipiq").expect("ipiq");
    let seen = wrong_edges("ipiq-driver", &ipiq.dependencies);
    assert!(seen.iter().any(|fault| fault.contains("ipiq-fabric")), "{seen:?}");
}

#[test]
fn every_crate_of_the_runtime_has_its_allowed_edges_listed() {
    let metadata = metadata();
    let listed = |package: &&Package| EDGES.iter().any(|(name, _)| package.name == *name);
    let missing = runtime_packages(&metadata).filter(|package| !listed(package));
    assert_none(missing.map(|package| format!("{} is not in EDGES", package.name)).collect());
}

#[test]
fn lower_layers_build_without_an_operating_system() {
    let metadata = metadata();
    let mut faults = Vec::new();
    for package in runtime_packages(&metadata).filter(|package| NO_STD.contains(&package.name.as_str())) {
        if !has_inner_attribute(package, "no_std") {
            faults.push(format!("{}: lib.rs lacks #![no_std]", package.name));
        }
        let used = package.dependencies.iter().filter(|each| each.path.is_none() && in_normal_builds(each));
        faults.extend(
            used.filter_map(|each| needs_std(each).map(|why| format!("{}: {} {why}", package.name, each.name))),
        );
    }
    assert_none(faults);
}

#[test]
fn trace_events_are_built_only_where_they_are_asked_for() {
    let metadata = metadata();
    for name in ["ipiq-fabric", "ipiq"] {
        let package = metadata.packages.iter().find(|package| package.name == name).expect("a crate of the runtime");
        assert!(package.features.contains_key("tracing"), "{name}");
        assert!(!package.features["default"].iter().any(|feature| feature == "tracing"), "{name}");
    }
    let fabric = metadata.packages.iter().find(|package| package.name == "ipiq-fabric").expect("the fabric");
    let tracing = |each: &&Dependency| each.name == "tracing" && in_normal_builds(each);
    assert!(fabric.dependencies.iter().find(tracing).is_some_and(|each| each.optional));
}

#[test]
fn what_users_depend_on_contains_no_unsafe() {
    let metadata = metadata();
    let packages = runtime_packages(&metadata).filter(|package| NO_UNSAFE.contains(&package.name.as_str()));
    let wrong = packages.filter(|package| !has_inner_attribute(package, "forbid(unsafe_code)"));
    assert_none(wrong.map(|package| format!("{}: lib.rs lacks #![forbid(unsafe_code)]", package.name)).collect());
}

fn metadata() -> Metadata {
    let manifest = root().join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata")
}

fn runtime_packages(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    let runtime = root().join("runtime");
    metadata.packages.iter().filter(move |package| package.manifest_path.starts_with(&runtime))
}

fn wrong_edges(name: &str, dependencies: &[Dependency]) -> Vec<String> {
    let allowed = EDGES.iter().find(|(each, _)| *each == name).map_or(&[][..], |(_, allowed)| allowed);
    let ours = dependencies.iter().filter(|each| each.path.is_some());
    let wrong = ours.filter(|each| !allowed.contains(&each.name.as_str()));
    wrong.map(|each| format!("{name} → {} ({}) is no allowed edge", each.name, each.kind)).collect()
}

/// Not for tests only, nor for the model checker only.
fn in_normal_builds(dependency: &Dependency) -> bool {
    let target = dependency.target.as_ref().map(ToString::to_string);
    dependency.kind.to_string() == "normal" && target.as_deref() != Some("cfg(loom)")
}

fn needs_std(dependency: &Dependency) -> Option<&'static str> {
    if !NO_STD_LIBRARIES.contains(&dependency.name.as_str()) {
        Some("is not known to build without std")
    } else if dependency.uses_default_features {
        Some("has its default features on")
    } else if dependency.features.iter().any(|feature| feature == "std") {
        Some("has its feature `std` on")
    } else {
        None
    }
}

fn has_inner_attribute(package: &Package, attribute: &str) -> bool {
    let library = package.manifest_path.with_file_name("src").join("lib.rs");
    let text = std::fs::read_to_string(&library).unwrap_or_else(|error| panic!("{library}: {error}"));
    text.lines().any(|line| line == format!("#![{attribute}]"))
}
