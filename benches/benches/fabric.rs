//! One-way messages and calls through the fabric between two pinned threads, without an executor.

use std::hint;
use std::task::{Context, Waker};
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipiq_benches::machine;
use ipiq_benches::peers::fabric::{Bell, call, on_cores, post};

fn one_way(criterion: &mut Criterion) {
    let cpus = machine::first_two_cpus().expect("two CPUs");
    let mut group = criterion.benchmark_group("one_way");
    group.throughput(Throughput::Elements(1));
    for (name, bell) in [("each", Bell::Each), ("by_32", Bell::By32)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|messages| on_cores(cpus, |core, target| post(core, target, messages as usize, bell)));
        });
    }
    group.finish();
}

fn round_trip(criterion: &mut Criterion) {
    let cpus = machine::first_two_cpus().expect("two CPUs");
    criterion.bench_function("call", |bencher| {
        bencher.iter_custom(|calls| {
            on_cores(cpus, |core, target| {
                let mut cx = Context::from_waker(Waker::noop());
                let started = Instant::now();
                for _ in 0..calls {
                    hint::black_box(call(core, target, &mut cx).expect("the target stays"));
                }
                started.elapsed()
            })
        });
    });
}

criterion_group!(fabric, one_way, round_trip);
criterion_main!(fabric);
