//! Channels between pairs of cores: order, bounds and ends per pair, whatever becomes of either side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use ipiq::mesh::{Mesh, NoPair, Peers, Receivers, Sender};
use ipiq::{CoreId, Runtime, core_id, cores, spawn_local, yield_now};
use ipiq_suites::homebound::Homebound;
use ipiq_suites::runtimes::{Census, Token, each_kind};
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// Each kind of runtime, of two to four cores, `rounds` times, under a watchdog; nothing is left after each runtime.
fn each_runtime(what: &str, rounds: usize, scenario: impl Fn(&Runtime, &Census)) {
    with_watchdog(what, LIMIT, || {
        each_kind(|builder| {
            for round in 0..rounds {
                let census = Census::default();
                let runtime =
                    builder.clone().cores(2 + round % 3).ring_capacity(2).build().expect("a runtime of a few cores");
                scenario(&runtime, &census);
                drop(runtime);
                assert_eq!(census.alive(), 0, "{what}: a value is left");
            }
        });
    });
}

/// What travels: where from, and the how manyth.
#[derive(Debug)]
struct Parcel {
    source: CoreId,
    number: usize,
    _token: Token,
}

fn parcel(census: &Census, number: usize) -> Parcel {
    Parcel { source: core_id(), number, _token: census.token() }
}

async fn some_turns() {
    for _ in 0..fastrand::usize(..4) {
        yield_now().await;
    }
}

async fn send_all(sender: Sender<Parcel>, census: Census, count: usize) {
    for number in 0..count {
        match fastrand::u32(..3) {
            0 => sender.reserve().await.expect("open").send(parcel(&census, number)).expect("open"),
            _ => sender.send(parcel(&census, number)).await.expect("open"),
        }
        if fastrand::u32(..4) == 0 {
            yield_now().await;
        }
    }
}

/// Sends so many to every target, in a task for each.
fn send_to_all(peers: &mut Peers<Parcel>, census: &Census, count: usize) {
    let targets: Vec<CoreId> = peers.senders.cores().collect();
    for target in targets {
        let sender = peers.senders.take_to(target).expect("a pair");
        drop(spawn_local(send_all(sender, census.clone(), count)));
    }
}

/// Receives from all until all have ended: how many of each source came, in order.
async fn receive_all(receivers: &mut Receivers<Parcel>) -> Vec<usize> {
    let mut next = vec![0; cores().count()];
    while let Some((source, parcel)) = receivers.recv().await {
        assert_eq!((parcel.source, parcel.number), (source, next[source.index()]));
        next[source.index()] += 1;
    }
    next
}

#[test]
fn every_pair_of_a_full_mesh_keeps_its_order_and_ends() {
    each_runtime("mesh, full", scaled(4, 10), |runtime, census| {
        let census = census.clone();
        runtime.block_on(|| async move {
            let count = cores().count();
            let counted = census.clone();
            let ended = Mesh::full(fastrand::usize(1..5)).run(async move |mut peers: Peers<Parcel>| {
                // What a member makes need not be `Send`.
                let own = Homebound::new(&counted);
                assert!(peers.senders.cores().eq(cores()) && peers.receivers.cores().eq(cores()));
                send_to_all(&mut peers, &counted, 30);
                let received = if fastrand::bool() {
                    receive_all(&mut peers.receivers).await
                } else {
                    // One source after the other, each to its end; the others wait.
                    let mut received = Vec::new();
                    for source in cores() {
                        let values = peers.receivers.take_from(source).expect("a pair");
                        received.push(values.enumerate().map(|(n, value)| assert_eq!(value.number, n)).count().await);
                    }
                    received
                };
                assert_eq!(own.home, core_id());
                received
            });
            for (_, received) in ended.await.expect("all are there") {
                assert_eq!(received.expect("no panic"), vec![30; count]);
            }
        });
    });
}

#[test]
fn a_partial_mesh_has_its_pairs_and_names_those_that_it_has_not() {
    each_runtime("mesh, partial", scaled(4, 10), |runtime, census| {
        let census = census.clone();
        runtime.block_on(|| async move {
            let all: Vec<CoreId> = cores().collect();
            let pairs: Vec<(CoreId, CoreId)> = all
                .iter()
                .flat_map(|source| all.iter().map(|target| (*source, *target)))
                .filter(|_| fastrand::bool())
                .collect();
            let (counted, expected) = (census.clone(), pairs.clone());
            let mesh = Mesh::partial(2, pairs.iter().copied().chain(pairs.first().copied()));
            let ended = mesh.run(async move |mut peers: Peers<Parcel>| {
                let here = core_id();
                for other in cores() {
                    assert_eq!(peers.senders.to(other).is_ok(), expected.contains(&(here, other)));
                    assert_eq!(peers.receivers.from(other).is_ok(), expected.contains(&(other, here)));
                    let missing = |error: NoPair, source, target| {
                        assert_eq!((error.sender(), error.receiver()), (source, target));
                        let text = format!("the mesh has no channel from {source} to {target}");
                        assert_eq!(error.to_string(), text);
                    };
                    if let Err(error) = peers.senders.to(other) {
                        missing(error, here, other);
                    }
                    if let Err(error) = peers.receivers.from(other) {
                        missing(error, other, here);
                    }
                }
                send_to_all(&mut peers, &counted, 10);
                let received = receive_all(&mut peers.receivers).await;
                for other in cores() {
                    assert_eq!(received[other.index()], if expected.contains(&(other, here)) { 10 } else { 0 });
                }
            });
            let ended = ended.await.expect("all are there");
            let members = |core: &CoreId| pairs.iter().any(|(source, target)| core == source || core == target);
            assert!(ended.iter().map(|(core, _)| *core).eq(all.iter().copied().filter(members)));
            ended.into_iter().for_each(|(_, ended)| ended.expect("no panic"));
        });
    });
}

#[test]
fn a_pair_holds_so_many_and_a_slow_one_holds_up_no_other() {
    each_runtime("mesh, bounds", scaled(4, 10), |runtime, census| {
        let census = census.clone();
        runtime.block_on(|| async move {
            let others_are_done = Arc::new(AtomicUsize::new(0));
            let ended = Mesh::full(3).run(async move |mut peers: Peers<Parcel>| {
                let to_slow = peers.senders.take_to(B).expect("a pair");
                for number in 0..3 {
                    to_slow.send(parcel(&census, number)).await.expect("open");
                }
                let refused = to_slow.try_send(parcel(&census, 3)).expect_err("three are under way");
                assert!(refused.is_full() && refused.into_inner().number == 3);
                if core_id() == B {
                    // Looks at nothing until the others have had what they need from each other.
                    while others_are_done.load(Ordering::Acquire) < cores().count() - 1 {
                        yield_now().await;
                    }
                    drop(to_slow);
                } else {
                    for number in 0..20 {
                        peers.senders.to(A).expect("a pair").send(parcel(&census, number)).await.expect("open");
                        if core_id() == A {
                            for source in cores().filter(|source| *source != B) {
                                let received = peers.receivers.from(source).expect("a pair").recv().await;
                                assert_eq!(received.expect("open").number, number);
                            }
                        }
                    }
                    others_are_done.fetch_add(1, Ordering::AcqRel);
                    // The fourth waits until B looks.
                    to_slow.send(parcel(&census, 3)).await.expect("open");
                    drop(to_slow);
                }
                drop(peers.senders);
                let mut received = 0;
                while peers.receivers.recv().await.is_some() {
                    received += 1;
                }
                received
            });
            for (core, received) in ended.await.expect("all are there") {
                let expected = if core == B { 4 * cores().count() - 1 } else { 0 };
                assert_eq!(received.expect("no panic"), expected, "{core}");
            }
        });
    });
}

#[test]
fn what_a_member_does_not_take_is_dropped_at_home_and_its_senders_are_told() {
    each_runtime("mesh, receivers gone", scaled(5, 12), |runtime, census| {
        let census = census.clone();
        let astray = Arc::new(AtomicUsize::new(0));
        let strays = astray.clone();
        runtime.block_on(|| async move {
            /// Notes its drop on a thread that is neither end's.
            struct Stays(Vec<ThreadId>, Arc<AtomicUsize>, #[expect(dead_code, reason = "it counts")] Token);
            impl Drop for Stays {
                fn drop(&mut self) {
                    if !self.0.contains(&thread::current().id()) {
                        self.1.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            let target = CoreId::new(fastrand::usize(..cores().count()));
            let home = ipiq::call_on(target, || thread::current().id()).await.expect("no panic");
            let patience = fastrand::usize(..30);
            let ends_by_panic = fastrand::bool();
            let pairs = cores().map(|source| (source, target));
            let ended = Mesh::partial(2, pairs).run(async move |mut peers: Peers<Stays>| {
                let sender = peers.senders.take_to(target).expect("a pair");
                let sending = spawn_local(async move {
                    let places = vec![home, thread::current().id()];
                    let stays = || Stays(places.clone(), strays.clone(), census.token());
                    while sender.send(stays()).await.is_ok() {}
                    sender.closed().await;
                    assert!(sender.is_closed() && sender.try_send(stays()).is_err_and(|error| error.is_closed()));
                });
                if core_id() == target {
                    for _ in 0..patience {
                        let _ = peers.receivers.recv().await;
                    }
                    assert!(!ends_by_panic, "the member panics");
                    drop(peers.receivers);
                }
                sending.await.expect("no panic");
            });
            for (core, ended) in ended.await.expect("all are there") {
                assert_eq!(ended.is_err_and(|error| error.is_panic()), ends_by_panic && core == target);
            }
        });
        assert_eq!(astray.load(Ordering::Relaxed), 0, "a value was dropped elsewhere");
    });
}

#[test]
fn a_mesh_that_is_dropped_while_it_is_joined_leaves_nothing() {
    each_runtime("mesh, half joined", scaled(6, 15), |runtime, census| {
        let census = census.clone();
        runtime.block_on(|| async move {
            for turns in 0..6 {
                let counted = census.clone();
                let mesh = Mesh::<Parcel>::full(1).run(async move |peers: Peers<Parcel>| {
                    let _token = counted.token();
                    for target in cores() {
                        peers.senders.to(target).expect("a pair").send(parcel(&counted, 0)).await.expect("open");
                    }
                    // The others may not be there yet.
                    let mut receivers = peers.receivers;
                    for _ in cores() {
                        receivers.recv().await.expect("each sends one");
                    }
                });
                let mut mesh = Box::pin(mesh);
                for _ in 0..turns {
                    if mesh.as_mut().now_or_never().is_some() {
                        break;
                    }
                    some_turns().await;
                }
            }
            while census.alive() > 0 {
                yield_now().await;
            }
        });
    });
}

#[test]
fn meshes_end_with_their_runtime_in_every_state() {
    each_runtime("mesh, the runtime's end", scaled(8, 20), |runtime, census| {
        let (counted, handle) = (census.clone(), runtime.handle());
        let received = Arc::new(AtomicUsize::new(0));
        let count = received.clone();
        let mesh = handle.spawn_on(A, move || async move {
            let ended = Mesh::full(2).run(async move |mut peers: Peers<Parcel>| {
                for target in cores() {
                    let (sender, counted) = (peers.senders.take_to(target).expect("a pair"), counted.clone());
                    drop(spawn_local(async move {
                        // The other core may be quicker to end.
                        let mut numbers = 0..;
                        while let Some(number) = numbers.next()
                            && sender.send(parcel(&counted, number)).await.is_ok()
                        {}
                    }));
                }
                loop {
                    let _ = peers.receivers.recv().await;
                    count.fetch_add(1, Ordering::AcqRel);
                    some_turns().await;
                }
            });
            drop(ended.await);
        });
        let enough = fastrand::usize(..60);
        while received.load(Ordering::Acquire) < enough {
            thread::yield_now();
        }
        runtime.handle().stop();
        // Cancelled, or told that a core was.
        let _ = Runtime::wait(mesh);
    });
}

#[test]
fn a_member_that_leaves_ends_its_pairs_and_no_others() {
    each_runtime("mesh, a member leaves", scaled(5, 12), |runtime, census| {
        let (census, handle) = (census.clone(), runtime.handle());
        runtime.block_on(move || async move {
            let joined = Arc::new(AtomicUsize::new(0));
            let (here, going) = (joined.clone(), handle.clone());
            drop(spawn_local(async move {
                while here.load(Ordering::Acquire) < cores().count() {
                    yield_now().await;
                }
                going.leave(B).expect("it may").await;
            }));
            let ended = Mesh::full(2).run(async move |mut peers: Peers<Parcel>| {
                joined.fetch_add(1, Ordering::AcqRel);
                if core_id() == B {
                    // Receives nothing, and sends until it is ended.
                    for number in 0.. {
                        let _ = peers.senders.to(A).expect("a pair").send(parcel(&census, number)).await;
                    }
                }
                let to_leaver = peers.senders.take_to(B).expect("a pair");
                send_to_all(&mut peers, &census, 10);
                let to_leaver = spawn_local(async move { while to_leaver.send(parcel(&census, 0)).await.is_ok() {} });
                let received = receive_all(&mut peers.receivers).await;
                to_leaver.await.expect("no panic");
                received
            });
            for (core, ended) in ended.await.expect("all were there") {
                match ended {
                    Ok(received) => {
                        let others = cores().filter(|other| *other != B);
                        assert!(core != B && others.map(|other| received[other.index()]).all(|count| count == 10));
                    }
                    Err(error) => assert!(core == B && error.is_cancelled(), "{error}"),
                }
            }
            let error = Mesh::<u32>::full(1).run(async |_| ()).await.expect_err("one has left");
            assert_eq!(error.to_string(), "core 1 did not join the mesh: it has left, or shuts down");
            assert_eq!(error.core(), B);
        });
    });
}

#[test]
#[should_panic(expected = "core 7")]
fn a_pair_of_a_core_that_there_is_not_is_refused() {
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    let _ = runtime.block_on(|| Mesh::<u32>::partial(1, [(A, CoreId::new(7))]).run(async |_| ()));
}
