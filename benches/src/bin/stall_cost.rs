//! What polls cost on a runtime that reports stalls and on one that does not, to be counted by a tool that counts instructions. No stall comes in it.
//!
//! ```text
//! valgrind --tool=callgrind target/release/stall_cost yields 100000 watched   # or: spawns; without the last word: no reports
//! ```
//!
//! Less the same with another number: what the start and the end take is in both.

use std::error::Error;
use std::time::Duration;

use ipiq::{DriverKind, FenceChoice, InterruptPolicy, Placement, Runtime};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (what, times, limit) = match &arguments[..] {
        [what, times] => (what, times, None),
        // The watcher looks so seldom that its own instructions do not show.
        [what, times, watched] if watched == "watched" => (what, times, Some(Duration::from_secs(600))),
        _ => return Err("usage: stall_cost yields|spawns TIMES [watched]".into()),
    };
    let builder = Runtime::builder().cores(1).placement(Placement::Unpinned).time_slice(None).stall_limit(limit);
    // What the tool knows of.
    let builder = builder.driver(DriverKind::Epoll).fence(FenceChoice::Symmetric).interrupts(InterruptPolicy::Off);
    let runtime = builder.build()?;
    let times: u64 = times.parse()?;
    match &what[..] {
        "yields" => runtime.block_on(move || counted_yields(times)),
        "spawns" => runtime.block_on(move || counted_spawns(times)),
        _ => return Err(format!("{what}: nothing to count").into()),
    }
    Ok(())
}

async fn counted_yields(times: u64) {
    for _ in 0..times {
        ipiq::yield_now().await;
    }
}

async fn counted_spawns(times: u64) {
    for _ in 0..times {
        ipiq::spawn_local(async {}).await.expect("no panic");
    }
}
