//! Builds the programs of tests, in as few commands as their ways of building allow: built package by package, crates would be built anew for
//! each package's choice of features.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cargo_metadata::{Artifact, Message, MetadataCommand, PackageId, TargetKind};

use super::rows::TestName;
use crate::parts::{cargo, root};

/// Integration tests that are built only with a feature.
const FEATURES: [(&str, &str, &str); 1] = [("ipiq-fabric", "trace", "tracing")];

/// A program of tests, and where cargo would run it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) file: PathBuf,
    pub(crate) package_root: PathBuf,
}

/// Package and target, the latter as rows name it.
pub(crate) type Place = (String, String);

/// One command of cargo's.
#[derive(Debug, PartialEq, Eq)]
struct Build {
    arguments: Vec<String>,
    loom: bool,
}

/// Builds what the tests are in; says which command failed.
pub(crate) fn programs(names: &BTreeSet<&TestName>) -> Result<BTreeMap<Place, Program>, String> {
    let packages = names_of_packages()?;
    let mut found = BTreeMap::new();
    for build in builds(names) {
        build.run(&packages, &mut found)?;
    }
    Ok(found)
}

/// The commands that build all of `names`: the workspace's as the part `test` builds it, that of the models as the part `loom` does.
fn builds(names: &BTreeSet<&TestName>) -> Vec<Build> {
    let feature_of = |name: &TestName| {
        let known = FEATURES.iter().find(|(package, target, _)| (*package, *target) == (&name.package, &name.target));
        known.map(|(.., feature)| *feature)
    };
    let mut targets = BTreeSet::new();
    let (mut others, mut models) = (BTreeSet::new(), BTreeSet::new());
    for name in names {
        match (name.target.as_str(), feature_of(name)) {
            ("loom", _) => _ = models.insert(name.package.as_str()),
            ("lib", _) => _ = targets.insert("--lib".to_owned()),
            (target, Some(feature)) => _ = others.insert((name.package.as_str(), feature, target)),
            (target, None) => _ = targets.insert(format!("--test {target}")),
        }
    }
    let mut builds = Vec::new();
    let mut add = |arguments: String, loom| {
        builds.push(Build { arguments: arguments.split(' ').map(str::to_owned).collect(), loom });
    };
    if !targets.is_empty() {
        add(format!("test --workspace {}", Vec::from_iter(targets).join(" ")), false);
    }
    for (package, feature, target) in others {
        add(format!("test --package {package} --features {feature} --test {target}"), false);
    }
    if !models.is_empty() {
        // Both, also if one would do: see the module's first line.
        add("test --profile stress --package ipiq-fabric --package ipiq-executor --lib".to_owned(), true);
    }
    builds
}

impl Build {
    /// As one would type it.
    fn line(&self) -> String {
        let variables = self.variables().iter().map(|(name, value)| format!("{name}='{value}' "));
        format!("{}cargo {} --no-run", variables.collect::<String>(), self.arguments.join(" "))
    }

    fn variables(&self) -> &'static [(&'static str, &'static str)] {
        if self.loom { &[("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom")] } else { &[] }
    }

    fn run(&self, packages: &BTreeMap<PackageId, String>, found: &mut BTreeMap<Place, Program>) -> Result<(), String> {
        let line = self.line();
        println!("$ {line}");
        let failed = |reason: &dyn std::fmt::Display| format!("{line}: {reason}");
        let mut command = Command::new(cargo());
        command.args(&self.arguments).args(["--no-run", "--message-format=json-render-diagnostics"]);
        command.envs(self.variables().iter().copied()).current_dir(root()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let output = child.stdout.take().expect("it is piped");
        for message in Message::parse_stream(BufReader::new(output)) {
            if let Message::CompilerArtifact(artifact) = message.map_err(|error| failed(&error))? {
                found.extend(self.program(packages, artifact));
            }
        }
        let status = child.wait().map_err(|error| failed(&error))?;
        if status.success() { Ok(()) } else { Err(failed(&status)) }
    }

    /// The program of tests, if that is what was built.
    fn program(&self, packages: &BTreeMap<PackageId, String>, artifact: Artifact) -> Option<(Place, Program)> {
        let file = artifact.executable.filter(|_| artifact.profile.test)?;
        let package = packages.get(&artifact.package_id)?.clone();
        let target = match artifact.target.kind.first()? {
            TargetKind::Test => artifact.target.name,
            TargetKind::Lib if self.loom => "loom".to_owned(),
            TargetKind::Lib => "lib".to_owned(),
            _ => return None,
        };
        let package_root = artifact.manifest_path.parent()?.into();
        Some(((package, target), Program { file: file.into(), package_root }))
    }
}

fn names_of_packages() -> Result<BTreeMap<PackageId, String>, String> {
    let metadata = MetadataCommand::new().cargo_path(cargo()).current_dir(root()).no_deps().exec();
    let packages = metadata.map_err(|error| error.to_string())?.packages;
    Ok(packages.into_iter().map(|package| (package.id, package.name.to_string())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(names: &[&str]) -> Vec<String> {
        let names: Vec<TestName> = names.iter().map(|name| TestName::parse(name).expect("a name")).collect();
        builds(&names.iter().collect()).iter().map(Build::line).collect()
    }

    #[test]
    fn tests_of_many_packages_are_built_by_one_command() {
        let names =
            ["ipiq-fabric::lib::a::b", "ipiq-executor::lib::c", "ipiq-suites::storm::d", "ipiq-suites::storm::e"];
        assert_eq!(lines(&names), ["cargo test --workspace --lib --test storm --no-run"]);
    }

    #[test]
    fn models_and_tests_behind_a_feature_have_commands_of_their_own() {
        let names = ["ipiq-fabric::trace::a", "ipiq-fabric::loom::models::b"];
        let expected = [
            "cargo test --package ipiq-fabric --features tracing --test trace --no-run",
            "RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR='target/loom' cargo test --profile stress --package ipiq-fabric --package ipiq-executor --lib --no-run",
        ];
        assert_eq!(lines(&names), expected);
    }
}
