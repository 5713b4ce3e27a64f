//! `main` may have a builder of its own.

use std::time::Duration;

use ipiq::{Builder, Runtime, shutdown};

fn settings(limit: Duration) -> Builder {
    Runtime::builder().cores(7).phase("flush", limit)
}

#[ipiq::main(builder = settings(Duration::from_secs(3)), cores = 2, driver = "epoll")]
pub(crate) async fn main() {
    assert_eq!(ipiq::core_count(), 2);
    // A phase that there is not would panic.
    drop(shutdown::guard("flush"));
}
