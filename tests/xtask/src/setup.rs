//! Finds the tools that the tests need, and installs what is missing.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that must be on the `PATH`, and the Debian package that has it.
struct Tool {
    program: &'static str,
    package: &'static str,
    needed_for: &'static str,
}

const TOOLS: [Tool; 3] = [
    Tool { program: "redis-server", package: "redis-server", needed_for: "comparing kv's answers with Redis's" },
    Tool { program: "redis-cli", package: "redis-tools", needed_for: "driving kv as a user would" },
    Tool { program: "redis-benchmark", package: "redis-tools", needed_for: "loading kv" },
];

/// Subcommands of cargo and the rustup component that has each.
const COMPONENTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

/// Checks that every tool is there; installs those that are not, after saying so.
pub(crate) fn tools(install: bool) -> Result<(), String> {
    components()?;
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !on_path(tool.program)).collect();
    if missing.is_empty() {
        println!("all tools are there");
        return Ok(());
    }
    for tool in &missing {
        println!("{} is missing (for {}); the package {} has it", tool.program, tool.needed_for, tool.package);
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let packages_line = packages.join(" ");
    if !install {
        return Err(format!("install these packages: {packages_line}"));
    }
    if !on_path("apt-get") {
        return Err(format!("there is no apt-get here: install by hand what your system calls {packages_line}"));
    }
    println!("installing by apt-get: {packages_line}");
    apt_get(&["update"])?;
    let install = ["install", "--yes", "--no-install-recommends"];
    apt_get(&[&install[..], &packages[..]].concat())?;
    match missing.iter().find(|tool| !on_path(tool.program)) {
        Some(tool) => Err(format!("{} is still missing after installing {}", tool.program, tool.package)),
        None => Ok(()),
    }
}

fn components() -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for (subcommand, component) in COMPONENTS {
        let mut command = Command::new(&cargo);
        command.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        if !command.status().is_ok_and(|status| status.success()) {
            return Err(format!("cargo {subcommand} is missing: rustup component add {component}"));
        }
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let mut command = if is_root() { Command::new("apt-get") } else { sudo()? };
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let line = format!("apt-get {}", arguments.join(" "));
    let status = command.status().map_err(|error| format!("{line}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}; install the packages by hand")) }
}

fn sudo() -> Result<Command, String> {
    if !on_path("sudo") {
        return Err(
            "installing needs root and there is no sudo: install the packages as root, or run this as root".into()
        );
    }
    let mut command = Command::new("sudo");
    command.args(["--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
    Ok(command)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| is_executable(&dir.join(program)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_and_a_made_up_one_is_not() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-anywhere"));
    }
}
