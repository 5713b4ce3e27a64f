//! The key-value server, as a user starts it.

use ipiq_suites::kv::{Kv, binary};
use ipiq_suites::sandbox::refusing;

use crate::{IO_URING, MEMBARRIER, forbidden, unknown};

fn banner_line<'a>(kv: &'a Kv, start: &str) -> &'a str {
    let found = kv.banner().iter().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line {start} in {:#?}", kv.banner()))
}

/// Keys of both shards are set, and counted on both.
fn it_serves(kv: &Kv) {
    let mut client = kv.connect();
    for i in 0..64 {
        assert_eq!(client.ask(&format!("SET key:{i} x")), "+OK");
    }
    assert_eq!(client.ask("DBSIZE"), ":64");
}

#[test]
fn everything_forbidden_is_told_in_the_banner_and_it_serves() {
    // Built outside of the sandbox, and of its watchdog.
    binary();
    let test = "kv::everything_forbidden_is_told_in_the_banner_and_it_serves";
    refusing(test, &[forbidden(MEMBARRIER), forbidden(IO_URING)], || {
        let kv = Kv::start("--cores 2");
        let driver = banner_line(&kv, "driver:");
        assert!(driver.contains("epoll") && driver.contains("seccomp"), "{driver}");
        let fence = banner_line(&kv, "fence:");
        assert!(fence.contains("membarrier is refused"), "{fence}");
        it_serves(&kv);
    });
}

#[test]
fn io_uring_unknown_is_told_in_the_banner_and_it_serves() {
    binary();
    refusing("kv::io_uring_unknown_is_told_in_the_banner_and_it_serves", &[unknown(IO_URING)], || {
        let kv = Kv::start("--cores 2");
        let driver = banner_line(&kv, "driver:");
        assert!(driver.contains("epoll") && driver.contains("the kernel lacks it"), "{driver}");
        it_serves(&kv);
    });
}
