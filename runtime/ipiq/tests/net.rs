//! TCP on both drivers, with borrowed and owned buffers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use ipiq::net::{BufResult, TcpListener, TcpStream};
use ipiq::time::timeout;
use ipiq::{CoreId, DriverKind, Runtime, call_on, core_id, spawn_local, spawn_on};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
const WATCHDOG: Duration = Duration::from_secs(30);

fn each_driver<F: Future<Output = ()> + 'static>(scenario: fn() -> F) {
    for driver in [DriverKind::Uring, DriverKind::Epoll] {
        let runtime = Runtime::builder().cores(2).driver(driver).build().expect("a runtime of two cores");
        runtime.block_on(move || async move {
            timeout(WATCHDOG, scenario()).await.expect("the scenario hangs");
        });
    }
}

/// A listener of this core that echoes on tasks of their own.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            drop(spawn_local(echo(stream)));
        }
    });
    drop(accepting); // It runs on.
    address
}

async fn echo(stream: TcpStream) {
    let mut buf = Vec::with_capacity(4096);
    loop {
        let BufResult(received, bytes) = stream.recv(buf).await;
        if !matches!(received, Ok(1..)) {
            return;
        }
        let BufResult(sent, bytes) = stream.send_all(bytes).await;
        if sent.is_err() {
            return;
        }
        buf = bytes;
    }
}

async fn recv_exactly(stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let BufResult(received, bytes) = stream.recv(Vec::with_capacity(count - all.len())).await;
        assert!(received.unwrap() > 0, "the stream ended early");
        all.extend(bytes);
    }
    all
}

#[test]
fn a_core_serves_another_core() {
    each_driver(|| async {
        let address = call_on(B, echo_server).await.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for round in 0..200u8 {
            stream.send_all(vec![round; 100]).await.0.unwrap();
            assert_eq!(recv_exactly(&stream, 100).await, [round; 100]);
        }
    });
}

#[test]
fn many_connections_come_and_go() {
    each_driver(|| async {
        let address = call_on(B, echo_server).await.unwrap();
        let clients: Vec<_> = (0..20u8)
            .map(|id| {
                spawn_local(async move {
                    for _ in 0..10 {
                        let stream = TcpStream::connect(address).await.unwrap();
                        stream.send_all([id; 64]).await.0.unwrap();
                        assert_eq!(recv_exactly(&stream, 64).await, [id; 64]);
                        stream.close().await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    });
}

#[test]
fn a_large_send_passes_while_the_other_side_reads_slowly() {
    each_driver(|| async {
        let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let reader = std::thread::spawn(move || {
            let mut far = std::net::TcpStream::connect(address).unwrap();
            let mut all = Vec::new();
            far.read_to_end(&mut all).unwrap();
            all
        });
        let (stream, peer) = listener.accept().await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), peer);
        let bytes: Vec<u8> = (0..8 << 20).map(|i: u32| (i % 251) as u8).collect();
        let BufResult(sent, bytes) = stream.send_all(bytes).await;
        sent.unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reader.join().unwrap(), bytes);
    });
}

#[test]
fn a_recv_that_timed_out_leaves_the_bytes_to_the_next() {
    each_driver(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        for _ in 0..6 {
            let late = timeout(Duration::from_millis(2), stream.recv(Vec::with_capacity(64))).await;
            assert!(late.is_err());
            far.write_all(b"bytes").unwrap();
            assert_eq!(recv_exactly(&stream, 5).await, b"bytes");
        }
    });
}

#[test]
fn a_connection_moves_to_another_core() {
    each_driver(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        far.write_all(b"here").unwrap();
        assert_eq!(recv_exactly(&stream, 4).await, b"here");
        let stream = stream.into_std().expect("nothing is in flight");
        spawn_on(B, move || async move {
            assert_eq!(core_id(), B);
            let stream = TcpStream::from_std(stream).unwrap();
            far.write_all(b"there").unwrap();
            assert_eq!(recv_exactly(&stream, 5).await, b"there");
        })
        .await
        .unwrap();
    });
}

#[test]
fn every_core_listens_on_one_port() {
    each_driver(|| async {
        let bind = |address: SocketAddr| TcpListener::builder().reuse_port(true).bind(address);
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = first.local_addr().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let on_b = spawn_on(B, move || async move {
            let second = bind(address).unwrap();
            ready.send(()).unwrap();
            second.accept().await.unwrap();
            core_id()
        });
        while is_ready.try_recv().is_err() {
            ipiq::yield_now().await;
        }
        let on_a = spawn_local(async move {
            first.accept().await.unwrap();
            core_id()
        });
        let mut far_ends = Vec::new();
        let start = Instant::now();
        while !(on_a.is_finished() && on_b.is_finished()) {
            assert!(start.elapsed() < WATCHDOG, "one listener gets nothing");
            if far_ends.len() < 256 {
                far_ends.push(TcpStream::connect(address).await);
            }
            ipiq::yield_now().await;
        }
        assert_eq!([on_a.await.unwrap(), on_b.await.unwrap()], [A, B]);
    });
}

#[test]
fn a_ready_socket_starves_no_task() {
    each_driver(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        far.write_all(&[0; 1 << 15]).unwrap();
        let hog = spawn_local(async move {
            for _ in 0..1 << 15 {
                stream.recv(Vec::with_capacity(1)).await.0.unwrap();
            }
        });
        let other = spawn_local(async {
            for _ in 0..20 {
                ipiq::yield_now().await;
            }
        });
        other.await.unwrap();
        assert!(!hog.is_finished());
        hog.await.unwrap();
    });
}

#[test]
fn a_name_is_refused_with_a_reason() {
    each_driver(|| async {
        let bind = TcpListener::bind("localhost:0").unwrap_err();
        assert_eq!(bind.kind(), std::io::ErrorKind::InvalidInput);
        let connect = TcpStream::connect("localhost:1").await.unwrap_err();
        assert!(connect.to_string().contains("names are not resolved"), "{connect}");
    });
}

#[test]
#[should_panic(expected = "on a thread that runs no core")]
fn binding_outside_a_core_panics_with_a_reason() {
    let _ = TcpListener::bind("127.0.0.1:0");
}

#[cfg(feature = "futures-io")]
mod futures_io {
    use futures::io::{AsyncReadExt, AsyncWriteExt, copy};

    use super::*;

    #[test]
    fn the_traits_of_futures_copy_a_stream_back_to_its_sender() {
        each_driver(|| async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = spawn_local(async move {
                let (reader, mut writer) = listener.accept().await.unwrap().0.into_split();
                copy(reader, &mut writer).await.unwrap()
            });
            let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
            let sender = spawn_local(async move {
                writer.write_all(&[7; 1 << 20]).await.unwrap();
                writer.close().await.unwrap();
            });
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, [7; 1 << 20]);
            sender.await.unwrap();
            assert_eq!(server.await.unwrap(), 1 << 20);
        });
    }
}

#[cfg(feature = "tokio-io")]
mod tokio_io {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};

    use super::*;

    #[test]
    fn the_traits_of_tokio_copy_a_stream_back_to_its_sender() {
        each_driver(|| async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = spawn_local(async move {
                let (mut reader, mut writer) = listener.accept().await.unwrap().0.into_split();
                copy(&mut reader, &mut writer).await.unwrap()
            });
            let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
            let sender = spawn_local(async move {
                writer.write_all(&[7; 1 << 20]).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, [7; 1 << 20]);
            sender.await.unwrap();
            assert_eq!(server.await.unwrap(), 1 << 20);
        });
    }
}

/// A dropped listener is closed when the kernel has answered what was in flight: soon, not at once.
async fn until_nobody_listens(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {
        ipiq::yield_now().await;
    }
}

#[test]
fn each_core_has_a_listener_of_its_own_on_one_address() {
    each_driver(|| async {
        let servers = TcpListener::bind_each_core("127.0.0.1:0", |listener| async move {
            let (stream, _) = listener.accept().await?;
            stream.send_all(vec![core_id().index() as u8]).await.0?;
            Ok(core_id())
        });
        let servers = servers.expect("a free port");
        let address = servers.local_addr();
        let mut answered = [false; 2];
        // Which core gets a connection is the kernel's choice; in the end both have got one.
        while answered != [true; 2] {
            if let Ok(stream) = TcpStream::connect(address).await
                && let BufResult(Ok(1), byte) = stream.recv(Vec::with_capacity(1)).await
            {
                answered[usize::from(byte[0])] = true;
            }
        }
        for (core, task) in ipiq::cores().zip(servers.into_handles()) {
            assert_eq!(task.await.expect("no panic").expect("accepted"), core);
        }
        until_nobody_listens(address).await;
    });
}

#[test]
fn an_address_that_is_taken_starts_a_listener_on_no_core() {
    each_driver(|| async {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("an address");
        let bound = TcpListener::bind_each_core(address, |_| async { std::io::Result::<()>::Ok(()) });
        assert_eq!(bound.expect_err("it is taken").kind(), std::io::ErrorKind::AddrInUse);
        let aborted =
            TcpListener::bind_each_core("127.0.0.1:0", |listener| async move { listener.accept().await.map(drop) });
        let aborted = aborted.expect("a free port");
        let address = aborted.local_addr();
        aborted.abort();
        for task in aborted.into_handles() {
            assert!(task.await.expect_err("aborted").is_cancelled());
        }
        until_nobody_listens(address).await;
    });
}
