//! A whole runtime.

use std::io;

use ipiq::net::{TcpListener, TcpStream};
use ipiq::{CoreId, DriverKind, FenceKind, IdlePolicy, Placement, Runtime};
use ipiq_suites::sandbox::{refuse_to_all_threads, refusing};

use crate::{IO_URING, MEMBARRIER, forbidden, unknown};

const FIRST: CoreId = CoreId::new(0);
const SECOND: CoreId = CoreId::new(1);

/// Two cores that sleep whenever they are idle: every exchange goes through fences, kicks and the driver's wait.
fn two_sleepy_cores() -> Runtime {
    Runtime::builder().cores(2).idle(IdlePolicy::Park).build().expect("a runtime starts in any sandbox")
}

fn cores_call_spawn_and_echo(runtime: &Runtime) {
    runtime.block_on(|| async {
        for i in 0..2_000 {
            assert_eq!(ipiq::call_on(SECOND, move || i + 1).await.expect("an answer"), i + 1);
            let task = ipiq::spawn_on(SECOND, move || async move { ipiq::call_on(FIRST, move || i).await });
            assert_eq!(task.await.expect("no panic").expect("an answer"), i);
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = ipiq::spawn_on(SECOND, move || async move {
            let stream = TcpStream::connect(address).await?;
            for i in 0..500_u32 {
                stream.send_all(i.to_le_bytes().to_vec()).await.0?;
                assert_eq!(read_exactly(&stream, 4).await?, i.to_le_bytes());
            }
            io::Result::Ok(())
        });
        let (stream, _) = listener.accept().await.expect("a connection");
        loop {
            let received = read_some(&stream).await.expect("bytes");
            if received.is_empty() {
                break;
            }
            stream.send_all(received).await.0.expect("sent");
        }
        client.await.expect("no panic").expect("an echo");
    });
}

async fn read_some(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let result = stream.recv(Vec::with_capacity(64)).await;
    result.0.map(|_| result.1)
}

async fn read_exactly(stream: &TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < count {
        let some = read_some(stream).await?;
        assert!(!some.is_empty(), "the stream ended early");
        all.extend(some);
    }
    Ok(all)
}

#[test]
fn membarrier_forbidden() {
    refusing("runtime::membarrier_forbidden", &[forbidden(MEMBARRIER)], || {
        let runtime = two_sleepy_cores();
        assert_eq!(runtime.info().fence, FenceKind::Symmetric);
        cores_call_spawn_and_echo(&runtime);
    });
}

#[test]
fn membarrier_forbidden_after_the_start() {
    refusing("runtime::membarrier_forbidden_after_the_start", &[], || {
        let runtime = two_sleepy_cores();
        assert_eq!(runtime.info().fence, FenceKind::Asymmetric);
        cores_call_spawn_and_echo(&runtime);
        refuse_to_all_threads(&forbidden(MEMBARRIER));
        // Its cores cannot sleep any more, but serve; and end, although a departure wants a fence.
        cores_call_spawn_and_echo(&runtime);
        let asleep = || [FIRST, SECOND].map(|core| runtime.handle().core_counters(core).parked);
        let before = asleep();
        cores_call_spawn_and_echo(&runtime);
        assert_eq!(asleep(), before);
        drop(runtime);
    });
}

#[test]
fn io_uring_forbidden() {
    refusing("runtime::io_uring_forbidden", &[forbidden(IO_URING)], || {
        let runtime = two_sleepy_cores();
        assert_eq!(runtime.info().driver, DriverKind::Epoll);
        let reason = runtime.info().driver_fallback.as_deref().expect("a reason");
        assert!(reason.contains("seccomp"), "{reason}");
        cores_call_spawn_and_echo(&runtime);
    });
}

#[test]
fn io_uring_unknown() {
    refusing("runtime::io_uring_unknown", &[unknown(IO_URING)], || {
        let runtime = two_sleepy_cores();
        assert_eq!(runtime.info().driver, DriverKind::Epoll);
        let reason = runtime.info().driver_fallback.as_deref().expect("a reason");
        assert!(reason.contains("the kernel lacks it"), "{reason}");
        cores_call_spawn_and_echo(&runtime);
    });
}

#[test]
fn io_uring_may_be_set_up_but_not_entered() {
    let enter = &[forbidden(&[libc::SYS_io_uring_enter])];
    refusing("runtime::io_uring_may_be_set_up_but_not_entered", enter, || {
        let runtime = two_sleepy_cores();
        assert_eq!(runtime.info().driver, DriverKind::Epoll);
        cores_call_spawn_and_echo(&runtime);
    });
}

#[test]
fn membarrier_and_io_uring_unknown() {
    refusing("runtime::membarrier_and_io_uring_unknown", &[unknown(MEMBARRIER), unknown(IO_URING)], || {
        let runtime = two_sleepy_cores();
        assert_eq!((runtime.info().driver, runtime.info().fence), (DriverKind::Epoll, FenceKind::Symmetric));
        cores_call_spawn_and_echo(&runtime);
    });
}

#[test]
fn io_uring_demanded_is_an_error_that_says_what_to_do() {
    refusing("runtime::io_uring_demanded_is_an_error_that_says_what_to_do", &[forbidden(IO_URING)], || {
        let error = Runtime::builder().cores(2).driver(DriverKind::Uring).build().expect_err("refused");
        assert!(error.is_driver());
        let text = error.to_string();
        assert!(text.contains("DriverKind::Auto or Epoll"), "{text}");
    });
}

#[test]
fn pinning_forbidden_leaves_cores_unpinned_unless_it_is_demanded() {
    let pin = &[forbidden(&[libc::SYS_sched_setaffinity])];
    refusing("runtime::pinning_forbidden_leaves_cores_unpinned_unless_it_is_demanded", pin, || {
        let runtime = Runtime::builder().cores(1).build().expect("Placement::Auto takes what it gets");
        assert_eq!(runtime.info().cpus, [None]);
        let text = runtime.handle().topology().cores[0].to_string();
        assert!(text.starts_with("unpinned: the kernel refused it ("), "{text}");
        let error = Runtime::builder().cores(1).placement(Placement::Pinned).build().expect_err("refused");
        assert!(error.to_string().contains("pin"), "{error}");
    });
}

#[test]
fn pinning_forbidden_when_a_core_comes_back_leaves_it_unpinned_and_the_topology_says_so() {
    let test = "runtime::pinning_forbidden_when_a_core_comes_back_leaves_it_unpinned_and_the_topology_says_so";
    refusing(test, &[], || {
        let away = |placement: Placement| {
            let runtime = Runtime::builder().cores(2).placement(placement).build().expect("it may pin");
            Runtime::wait(runtime.handle().leave(SECOND).expect("it may"));
            runtime
        };
        let cpus = ipiq_linux::cpus::allowed().cpus;
        if cpus.len() < 2 {
            return;
        }
        let (taken, demanded) = (away(Placement::Auto), away(Placement::Pinned));
        let before = taken.handle().topology().cores;
        refuse_to_all_threads(&forbidden(&[libc::SYS_sched_setaffinity]));
        Runtime::wait(taken.handle().bring_back(SECOND).expect("it may")).expect("it takes what it gets");
        let after = taken.handle().topology().cores;
        assert_eq!(after[0], before[0]);
        assert!(after[1].to_string().starts_with("unpinned: the kernel refused it ("), "{}", after[1]);
        assert_eq!(taken.info().cpus[1], before[1].cpu(), "of the start");
        cores_call_spawn_and_echo(&taken);
        let error = Runtime::wait(demanded.handle().bring_back(SECOND).expect("it may")).expect_err("refused");
        assert!(error.to_string().contains("pin"), "{error}");
        assert!(demanded.handle().has_left(SECOND));
    });
}
