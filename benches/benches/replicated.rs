//! Reading and updating a value that every core reads all the time: `Replicated` beside `arc-swap` and `left-right`.
//!
//! Core 0 is measured; core 1 reads all the time, so that whatever readers share is fought over. An update of `Replicated` is done when no core
//! can read the old value any more, and so is one of `left-right`; one of `arc-swap` promises only what later loads see.

use std::future::Future;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use criterion::{Criterion, criterion_group, criterion_main};
use ipiq::{CoreId, Handle, Local, Replicated, Runtime};
use left_right::{Absorb, ReadHandle, ReadHandleFactory, WriteHandle};

/// Eight words, of which a read looks at one.
type Settings = [u64; 8];

/// A way to share a value between cores.
trait Peer: Clone + Send + 'static {
    type Reader: 'static;
    fn new(handle: &Handle) -> Self;
    fn reader(&self) -> Self::Reader;
    fn read(reader: &mut Self::Reader) -> u64;
    fn update(&self, settings: Settings) -> impl Future<Output = ()>;
}

#[derive(Clone)]
struct Ipiq(Replicated<Settings>);

impl Peer for Ipiq {
    type Reader = Local<Settings>;

    fn new(handle: &Handle) -> Self {
        Self(handle.replicated(Settings::default()))
    }

    fn reader(&self) -> Self::Reader {
        self.0.local()
    }

    fn read(reader: &mut Self::Reader) -> u64 {
        reader.read(|settings| settings[5])
    }

    async fn update(&self, settings: Settings) {
        self.0.replace(settings).await.expect("the clone of an array does not panic");
    }
}

/// Not shared and not updated: the floor of a read.
#[derive(Clone)]
struct PlainRc;

impl Peer for PlainRc {
    type Reader = Rc<Settings>;

    fn new(_: &Handle) -> Self {
        Self
    }

    fn reader(&self) -> Self::Reader {
        Rc::default()
    }

    fn read(reader: &mut Self::Reader) -> u64 {
        reader[5]
    }

    async fn update(&self, _: Settings) {}
}

#[derive(Clone)]
struct SwapLoad(Arc<ArcSwap<Settings>>);

impl Peer for SwapLoad {
    type Reader = Arc<ArcSwap<Settings>>;

    fn new(_: &Handle) -> Self {
        Self(Arc::default())
    }

    fn reader(&self) -> Self::Reader {
        self.0.clone()
    }

    fn read(reader: &mut Self::Reader) -> u64 {
        reader.load()[5]
    }

    async fn update(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }
}

/// As `SwapLoad`, with a cache per reader.
#[derive(Clone)]
struct SwapCache(Arc<ArcSwap<Settings>>);

impl Peer for SwapCache {
    type Reader = Cache<Arc<ArcSwap<Settings>>, Arc<Settings>>;

    fn new(_: &Handle) -> Self {
        Self(Arc::default())
    }

    fn reader(&self) -> Self::Reader {
        Cache::new(self.0.clone())
    }

    fn read(reader: &mut Self::Reader) -> u64 {
        reader.load()[5]
    }

    async fn update(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }
}

#[derive(Clone, Default)]
struct Held(Settings);

struct Put(Settings);

impl Absorb<Put> for Held {
    fn absorb_first(&mut self, put: &mut Put, _: &Self) {
        self.0 = put.0;
    }

    fn sync_with(&mut self, first: &Self) {
        self.0 = first.0;
    }
}

#[derive(Clone)]
struct LeftRight {
    readers: ReadHandleFactory<Held>,
    writer: Arc<Mutex<WriteHandle<Held, Put>>>,
}

impl Peer for LeftRight {
    type Reader = ReadHandle<Held>;

    fn new(_: &Handle) -> Self {
        let (mut writer, reader) = left_right::new::<Held, Put>();
        writer.publish();
        Self { readers: reader.factory(), writer: Arc::new(Mutex::new(writer)) }
    }

    fn reader(&self) -> Self::Reader {
        self.readers.handle()
    }

    fn read(reader: &mut Self::Reader) -> u64 {
        reader.enter().expect("the writer lives").0[5]
    }

    async fn update(&self, settings: Settings) {
        self.writer.lock().expect("not poisoned").append(Put(settings)).publish();
    }
}

/// A runtime of two cores, the second of which reads until this is dropped.
struct Bench<P> {
    runtime: Runtime,
    peer: P,
    stop: Arc<AtomicBool>,
}

impl<P: Peer> Bench<P> {
    fn new() -> Self {
        let runtime = Runtime::builder().cores(2).build().expect("a runtime of two cores");
        let (peer, stop) = (P::new(&runtime.handle()), Arc::new(AtomicBool::new(false)));
        let (read, stopped) = (peer.clone(), stop.clone());
        drop(runtime.handle().spawn_on(CoreId::new(1), move || async move {
            let mut reader = read.reader();
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..100 {
                    black_box(P::read(black_box(&mut reader)));
                }
                ipiq::yield_now().await;
            }
        }));
        Self { runtime, peer, stop }
    }

    fn reads(&self, times: u64) -> Duration {
        let peer = self.peer.clone();
        self.runtime.block_on(move || async move {
            let mut reader = peer.reader();
            let started = Instant::now();
            for _ in 0..times {
                black_box(P::read(black_box(&mut reader)));
            }
            started.elapsed()
        })
    }

    fn updates(&self, times: u64) -> Duration {
        let peer = self.peer.clone();
        self.runtime.block_on(move || async move {
            let _reader = peer.reader();
            let started = Instant::now();
            for n in 0..times {
                peer.update([n; 8]).await;
            }
            started.elapsed()
        })
    }
}

impl<P> Drop for Bench<P> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read<P: Peer>(criterion: &mut Criterion, name: &str) {
    let bench = Bench::<P>::new();
    criterion.benchmark_group("read").bench_function(name, |bencher| bencher.iter_custom(|times| bench.reads(times)));
}

fn update<P: Peer>(criterion: &mut Criterion, name: &str) {
    let bench = Bench::<P>::new();
    let mut group = criterion.benchmark_group("update");
    group.bench_function(name, |bencher| bencher.iter_custom(|times| bench.updates(times)));
}

fn all(criterion: &mut Criterion) {
    read::<PlainRc>(criterion, "rc");
    read::<Ipiq>(criterion, "replicated");
    read::<SwapLoad>(criterion, "arc_swap");
    read::<SwapCache>(criterion, "arc_swap_cache");
    read::<LeftRight>(criterion, "left_right");
    update::<Ipiq>(criterion, "replicated");
    update::<SwapLoad>(criterion, "arc_swap");
    update::<LeftRight>(criterion, "left_right");
}

criterion_group!(replicated, all);
criterion_main!(replicated);
