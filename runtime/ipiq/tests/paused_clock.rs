//! A clock that stands still while cores have something to do.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt};
use ipiq::net::{TcpListener, TcpStream};
use ipiq::time::{advance, interval, now_ns, sleep, timeout};
use ipiq::{CoreId, DriverKind, IdlePolicy, Runtime, call_on, spawn_local, spawn_on, yield_now};

const B: CoreId = CoreId::new(1);
const HOUR: Duration = Duration::from_secs(3600);
const MS: u64 = 1_000_000;

/// Every runtime that a test here runs on.
fn each_runtime(test: impl Fn(Runtime)) {
    for driver in [DriverKind::Epoll, DriverKind::Auto] {
        for idle in [IdlePolicy::Adaptive, IdlePolicy::Spin] {
            let builder = Runtime::builder().cores(2).driver(driver).idle(idle).paused_clock();
            test(builder.build().expect("a runtime of two cores"));
        }
    }
}

#[test]
fn hours_pass_at_once_and_to_the_nanosecond() {
    each_runtime(|runtime| {
        let start = Instant::now();
        runtime.block_on(|| async {
            for ns in [1, 999_999, 1_500_000, HOUR.as_nanos() as u64] {
                let before_ns = now_ns();
                sleep(Duration::from_nanos(ns)).await;
                assert_eq!(now_ns() - before_ns, ns);
            }
            let mut ticks = interval(HOUR);
            for _ in 0..100 {
                let tick = ticks.tick().await;
                assert_eq!((tick.deadline_ns(), tick.late_by()), (now_ns(), Duration::ZERO));
            }
        });
        assert!(start.elapsed() < HOUR / 60, "it waited");
    });
}

#[test]
fn sleeps_of_several_cores_end_in_the_order_of_their_deadlines() {
    each_runtime(|runtime| {
        let ended = runtime.block_on(|| async {
            let ended = Arc::new(Mutex::new(Vec::new()));
            let tasks: Vec<_> = (0..40)
                .map(|n| {
                    let ended = ended.clone();
                    spawn_on(CoreId::new(n % 2), move || async move {
                        let until_ns = (40 - n as u64) * 7 * MS;
                        sleep(Duration::from_nanos(until_ns - now_ns())).await;
                        assert_eq!(now_ns(), until_ns);
                        ended.lock().expect("not poisoned").push(n);
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("no panic");
            }
            let ended = ended.lock().expect("not poisoned");
            ended.clone()
        });
        assert_eq!(ended, (0..40).rev().collect::<Vec<_>>());
    });
}

#[test]
fn time_stands_still_while_another_core_works_or_a_message_is_under_way() {
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            let limit = Duration::from_millis(1);
            let work = spawn_on(B, || async {
                for _ in 0..1_000 {
                    yield_now().await;
                }
                // In the middle of a poll the core is not asleep either.
                std::thread::sleep(Duration::from_millis(20));
                now_ns()
            });
            assert_eq!(timeout(limit, work).await.expect("in time").expect("no panic"), 0);
            let calls = async {
                for _ in 0..1_000 {
                    call_on(B, now_ns).await.expect("alive");
                }
            };
            timeout(limit, calls).await.expect("in time");
            assert_eq!(now_ns(), 0);
        });
    });
}

#[test]
fn time_stands_still_while_cores_talk_through_sockets() {
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            let address = listener.local_addr().expect("an address");
            let echo = spawn_local(async move {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut byte = [0];
                while stream.read(&mut byte).await.expect("a byte or the end") == 1 {
                    stream.write_all(&byte).await.expect("the client reads");
                }
            });
            let client = spawn_on(B, move || async move {
                let mut stream = TcpStream::connect(address).await.expect("the server accepts");
                let limit = Duration::from_millis(1);
                for byte in 0..200 {
                    stream.write_all(&[byte]).await.expect("the server reads");
                    let mut answer = [0];
                    timeout(limit, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
                    assert_eq!(answer, [byte]);
                }
            });
            client.await.expect("no panic");
            echo.await.expect("no panic");
            assert_eq!(now_ns(), 0);
        });
    });
}

#[test]
fn what_is_set_on_by_hand_fires_on_every_core() {
    each_runtime(|runtime| {
        runtime.block_on(|| async {
            // Nobody is idle before it is set on.
            let there = spawn_on(B, || sleep(HOUR));
            let here = spawn_local(sleep(HOUR));
            let mut set_on = Duration::ZERO;
            while !(there.is_finished() && here.is_finished()) {
                advance(HOUR / 8);
                set_on += HOUR / 8;
                yield_now().await;
                call_on(B, || ()).await.expect("alive");
            }
            assert!(set_on >= HOUR);
            assert!(now_ns() >= HOUR.as_nanos() as u64);
            advance(Duration::MAX);
            timeout(Duration::MAX, call_on(B, || ())).await.expect("that never comes").expect("alive");
        });
    });
}

#[test]
fn a_runtime_that_waits_for_nothing_but_a_thread_sleeps_and_hears_it() {
    each_runtime(|runtime| {
        let handle = runtime.handle();
        let (tell, told) = futures::channel::oneshot::channel();
        let task = handle.spawn_on(B, || async move {
            let told = told.await.expect("a word");
            sleep(HOUR).await;
            told
        });
        tell.send(7).expect("the task waits");
        assert_eq!(Runtime::wait(task).expect("no panic"), 7);
    });
}

#[test]
#[should_panic(expected = "build the runtime with `Builder::paused_clock`")]
fn the_clock_of_the_machine_is_not_set_on() {
    let runtime = Runtime::builder().cores(1).build().expect("a runtime of one core");
    runtime.block_on(|| async { advance(HOUR) });
}

#[test]
fn time_goes_on_without_a_core_that_has_left() {
    each_runtime(|runtime| {
        let handle = runtime.handle();
        let theirs = handle.spawn_on(B, || sleep(HOUR));
        runtime.block_on(move || async move {
            let leaving = handle.leave(B).expect("it may");
            // Nothing else ends this sleep: the other core is out, or on its way.
            sleep(2 * HOUR).await;
            leaving.await;
            let before_ns = now_ns();
            sleep(HOUR).await;
            assert_eq!(u128::from(now_ns() - before_ns), HOUR.as_nanos());
            assert!(theirs.await.expect_err("cut").is_cancelled());
        });
    });
}
