//! Programs of this workspace, as users start them.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cargo_metadata::{Message, camino::Utf8PathBuf};

/// Builds the program `name` of `package`, if it is not yet, and says where it is.
///
/// # Panics
///
/// If it does not build.
#[must_use]
pub fn built(package: &str, name: &str) -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--message-format=json-render-diagnostics", "--package", package, "--bin", name]);
    let output = build.stderr(Stdio::inherit()).output().expect("cargo starts");
    assert!(output.status.success(), "{name} does not build");
    let messages = Message::parse_stream(&output.stdout[..]).map(|message| message.expect("cargo speaks JSON"));
    let programs = messages.filter_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == name => artifact.executable,
        _ => None,
    });
    programs.last().map(Utf8PathBuf::into_std_path_buf).expect("cargo names what it built")
}
