//! Programs of this workspace, as users start them.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

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

/// A program that is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts `command`, to read its standard output.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, stdout }
    }

    /// The lines it prints, up to and including the first that `is_last` accepts.
    ///
    /// # Panics
    ///
    /// If its output ends before, with what there was.
    #[must_use]
    pub fn lines_until(&mut self, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| is_last(line)) {
            let mut line = String::new();
            let count = self.stdout.read_line(&mut line).expect("text");
            assert!(count > 0, "the output ended: {lines:#?}");
            lines.push(line.trim_end().to_owned());
        }
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
