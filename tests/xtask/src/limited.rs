//! Commands that end, by themselves or at a limit.

use std::fs;
use std::io;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `command` to its end. What goes on after `limit` is killed with all that it has started, and is an error.
pub(crate) fn run(command: &mut Command, limit: Duration) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= end {
            kill(&with_descendants(child.id()))?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("did not end in {} s", limit.as_secs())));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The process and all below it, parents first.
fn with_descendants(process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(&process) = found.get(next) {
        found.extend(children(process));
        next += 1;
    }
    found
}

/// None of a process that has ended.
fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

fn kill(processes: &[u32]) -> io::Result<()> {
    let ids = processes.iter().map(u32::to_string);
    // It fails if one of them has ended meanwhile; the others get their signal all the same.
    Command::new("kill").args(["-s", "KILL"]).args(ids).status().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_ends_tells_its_status() {
        let status = run(&mut shell("exit 3"), Duration::from_secs(60)).expect("runs");
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn what_does_not_end_is_killed_with_all_below_it() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut script = shell("sh -c 'sleep 60; true' & sleep 60; true");
        let error = run(script.stdout(writer), Duration::from_millis(300)).expect_err("it goes on");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(script);
        // Ends when the last process that holds the other end has.
        assert_eq!(io::read_to_string(reader).expect("reads"), "");
    }
}
