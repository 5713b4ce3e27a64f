//! A task that keeps its core for 200 ms, and the report of it.
//!
//! ```sh
//! cargo run --release --bin stall
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use ipiq::{CoreId, Runtime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder()
        .cores(2)
        .stall_limit(Duration::from_millis(50))
        .on_stall(|report| println!("{report}"))
        .build()?;
    runtime.block_on(|| async {
        let indexer = ipiq::spawn_on(CoreId::new(1), || ipiq::named("indexer", index_everything()));
        indexer.await
    })?;
    // Its end waits for the report.
    drop(runtime);
    Ok(())
}

/// It should ask `ipiq::should_yield` now and then.
async fn index_everything() {
    black_box(checksum(Duration::from_millis(200)));
}

#[inline(never)]
fn checksum(time: Duration) -> u64 {
    let (begun, mut sum, mut number) = (Instant::now(), 0_u64, 0_u64);
    // Time is asked for now and then only.
    while number % 1_000_000 != 0 || begun.elapsed() < time {
        number += 1;
        sum = sum.rotate_left(5) ^ number;
    }
    sum
}
