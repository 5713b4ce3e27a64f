//! The attribute macros, as users write them.

mod builder;
mod error_that_is_not_send;
mod exit_code;

use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use ipiq::{CoreId, Runtime};

#[ipiq::test]
async fn a_test_runs_on_core_0() {
    assert_eq!(ipiq::core_id(), CoreId::new(0));
}

#[ipiq::test(cores = 2)]
async fn a_test_has_the_cores_it_asks_for() {
    assert_eq!(ipiq::core_count(), 2);
    let there = ipiq::call_on(CoreId::new(1), || ipiq::core_id().index()).await;
    assert_eq!(there.expect("an answer"), 1);
}

#[ipiq::test(cores = 1, driver = "epoll")]
async fn a_test_may_return_a_result() -> Result<(), std::net::AddrParseError> {
    let address: std::net::IpAddr = "127.0.0.1".parse()?;
    assert!(address.is_loopback());
    Ok(())
}

#[ipiq::test(cores = 2, paused_clock = true)]
async fn a_test_may_let_hours_pass_at_once() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut ticks = ipiq::time::interval(HOUR);
    assert_eq!(ticks.tick().await.number(), 0);
    ipiq::time::sleep(HOUR / 2).await;
    // The next one is an hour from here.
    ticks.reset();
    assert_eq!(ticks.tick().await.number(), 1);
    assert_eq!(Duration::from_nanos(ipiq::time::now_ns()), HOUR * 3 / 2);
    assert_eq!(ticks.tick().await.number(), 2);
    assert_eq!(Duration::from_nanos(ipiq::time::now_ns()), HOUR * 5 / 2);
}

#[ipiq::test(builder = Runtime::builder().thread_name(|core| format!("of-test-{}", core.index())), cores = 1)]
async fn a_test_may_have_a_builder_of_its_own() {
    assert_eq!(std::thread::current().name(), Some("of-test-0"));
}

#[ipiq::test(cores = 1)]
#[should_panic(expected = "as it should")]
async fn a_test_may_be_expected_to_panic() {
    ipiq::yield_now().await;
    panic!("as it should");
}

#[ipiq::test(cores = 1)]
async fn a_test_that_ends_leaves_no_task_behind() {
    let held = std::rc::Rc::new(());
    let task = held.clone();
    drop(ipiq::spawn_local(async move {
        let _held = task;
        pending::<()>().await;
    }));
    ipiq::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(std::rc::Rc::strong_count(&held), 2);
}

#[test]
fn a_main_function_may_return_whatever_one_of_std_may() {
    let success = format!("{:?}", ExitCode::SUCCESS);
    assert_eq!(format!("{:?}", error_that_is_not_send::main()), success);
    assert_eq!(format!("{:?}", exit_code::main()), success);
}

#[test]
fn a_main_function_may_have_a_builder_of_its_own() {
    assert_eq!(format!("{:?}", builder::main()), format!("{:?}", ExitCode::SUCCESS));
}
