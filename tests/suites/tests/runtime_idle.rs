//! Cores with nothing to do use nothing, however many there are, and are all there when they are needed.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use futures::future::join_all;
use ipiq::{CoreId, DriverKind, IdlePolicy, Runtime, call_on, core_id, spawn_on};
use ipiq_suites::alone::alone;
use ipiq_suites::process::usage;
use ipiq_suites::runtimes::{drivers, each_kind};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const MANY: usize = 64;

fn cores(runtime: &Runtime) -> impl Iterator<Item = CoreId> + use<> {
    (0..runtime.info().cores).map(CoreId::new)
}

fn started(driver: DriverKind, cores_wanted: usize) -> Runtime {
    started_with(driver, cores_wanted, IdlePolicy::Adaptive)
}

fn started_with(driver: DriverKind, cores_wanted: usize, idle: IdlePolicy) -> Runtime {
    let runtime = Runtime::builder().cores(cores_wanted).driver(driver).idle(idle).build().expect("a runtime");
    for core in cores(&runtime) {
        Runtime::wait(runtime.handle().call_on(core, || ())).expect("it runs");
    }
    runtime
}

/// Returns once no thread of the runtime has run for a while.
fn wait_for_rest() {
    let mut before = usage("ipiq-");
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = usage("ipiq-");
        if now.switches == before.switches {
            return;
        }
        before = now;
    }
}

fn rests(runtime: &Runtime, time: Duration) {
    wait_for_rest();
    let before = usage("ipiq-");
    std::thread::sleep(time);
    let after = usage("ipiq-");
    // One watches over the time slices.
    assert_eq!(after.threads, runtime.info().cores + 1);
    let (switches, cpu) = (after.switches - before.switches, after.cpu - before.cpu);
    println!(
        "{:?}, {} threads, idle for {time:?}: {switches} switches, {cpu:?} of CPU",
        runtime.info().driver,
        after.threads
    );
    assert!(switches < 10 * after.threads as u64, "{switches} context switches of {} idle threads", after.threads);
    assert!(cpu < time / 100, "{cpu:?} on a CPU");
}

#[test]
fn idle_cores_use_no_cpu() {
    alone("idle_cores_use_no_cpu", LIMIT, || {
        for driver in drivers() {
            for cores in [2, MANY] {
                rests(&started(driver, cores), scaled(Duration::from_secs(1), Duration::from_secs(5)));
            }
        }
    });
}

#[test]
fn cores_that_only_wait_for_a_far_timer_use_no_cpu() {
    alone("cores_that_only_wait_for_a_far_timer_use_no_cpu", LIMIT, || {
        for driver in drivers() {
            let runtime = started(driver, 2);
            for core in cores(&runtime) {
                drop(runtime.handle().spawn_on(core, || ipiq::time::sleep(Duration::from_secs(3_600))));
                drop(runtime.handle().spawn_on(core, || ipiq::time::sleep(Duration::MAX)));
            }
            rests(&runtime, scaled(Duration::from_millis(500), Duration::from_secs(5)));
        }
    });
}

#[test]
fn many_cores_on_few_cpus_all_answer_each_other() {
    alone("many_cores_on_few_cpus_all_answer_each_other", LIMIT, || {
        // Cores that sleep at once fence, and find each other in the middle of it, all the time.
        let both = [(IdlePolicy::Adaptive, scaled(100, 500)), (IdlePolicy::Park, scaled(20, 100))];
        for (driver, (idle, calls)) in drivers().into_iter().flat_map(|driver| both.map(|kind| (driver, kind))) {
            let runtime = started_with(driver, MANY, idle);
            let start = Instant::now();
            let askers = cores(&runtime).map(|core| runtime.handle().spawn_on(core, move || ask_everybody(calls)));
            let answers: u64 =
                askers.collect::<Vec<_>>().into_iter().map(|asker| Runtime::wait(asker).expect("no panic")).sum();
            assert_eq!(answers, calls * (MANY * MANY) as u64);
            println!("{driver:?}, {idle:?}: {answers} calls in {:.1?}", start.elapsed());
            rests(&runtime, Duration::from_millis(500));
        }
    });
}

async fn ask_everybody(calls: u64) -> u64 {
    let mut answers = 0;
    for round in 0..calls {
        let asked = (0..MANY).map(|core| call_on(CoreId::new(core), move || (core_id().index(), round)));
        for (core, answer) in join_all(asked).await.into_iter().enumerate() {
            assert_eq!(answer.expect("it runs"), (core, round));
            answers += 1;
        }
    }
    answers
}

#[test]
fn a_token_goes_round_many_cores() {
    alone("a_token_goes_round_many_cores", LIMIT, || {
        for driver in drivers() {
            let runtime = started(driver, MANY);
            let laps = scaled(50, 1_000);
            let (arrived, arrival) = channel();
            let start = Instant::now();
            drop(runtime.handle().spawn_on(CoreId::new(0), move || async move { pass(laps * MANY, arrived) }));
            assert_eq!(arrival.recv().expect("the token"), 0, "it ends where it began");
            println!("{driver:?}: {laps} laps of {MANY} cores in {:.1?}", start.elapsed());
            rests(&runtime, Duration::from_millis(500));
        }
    });
}

fn pass(hops: usize, arrived: Sender<usize>) {
    let own = core_id().index();
    if hops == 0 {
        return arrived.send(own).expect("somebody waits for it");
    }
    drop(spawn_on(CoreId::new((own + 1) % MANY), move || async move { pass(hops - 1, arrived) }));
}

#[test]
fn a_core_that_slept_answers_at_once() {
    alone("a_core_that_slept_answers_at_once", LIMIT, || {
        each_kind(|builder| {
            let runtime = builder.cores(2).idle(IdlePolicy::Park).build().expect("a runtime");
            let handle = runtime.handle();
            // Only this call can wake the core: no timer runs, nobody else sends.
            for number in 0..scaled(500, 10_000) {
                let core = CoreId::new(number % 2);
                let answer = Runtime::wait(handle.call_on(core, move || (core_id(), number)));
                assert_eq!(answer.expect("it runs"), (core, number));
            }
            for core in cores(&runtime) {
                assert!(handle.core_counters(core).parked > 0, "{core} never slept");
            }
        });
    });
}
