//! What can run beside anything else: the bounds of the loop's table, each by a scenario of its name.
//!
//! One core has a task that yields for ever, a pair of tasks that wake each other, another core that floods it with messages, and a thousand timers; and then one thing more, which must be
//! served all the same. How long that took is told less what the machine gave to others meanwhile: on a quiet machine the promises are those of a wall clock, and on a loaded one of the time that
//! the cores had. `--nocapture` shows the figures.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures::io::{AsyncReadExt, AsyncWriteExt};
use ipiq::classes::ClassSpec;
use ipiq::net::{TcpListener, TcpStream};
use ipiq::{Builder, CoreId, JoinSet, Runtime, call_on, spawn_on, time, yield_now};
use ipiq_suites::had::Moment;
use ipiq_suites::runtimes::drivers;
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::with_watchdog;

/// Much is asked of two CPUs here, which others may use, too.
const LIMIT: Duration = Duration::from_secs(400);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

/// What everything competes with, on the calling core. Dropped, it ends.
struct Load {
    tasks: JoinSet<()>,
    flood: Arc<AtomicBool>,
    /// Of the endless yielder.
    yields: Rc<Cell<u64>>,
    timers: Rc<Cell<u64>>,
    messages: Arc<AtomicU64>,
    pings: Rc<Cell<u64>>,
    /// The longest time between two polls of the yielder: no poll beside it was longer.
    longest_round: Rc<Cell<Duration>>,
    /// The longest poll of all of these tasks, by what it ran.
    longest_poll: Rc<Cell<Duration>>,
    /// For how long the core had not run, by its yielder's last poll, since the load began; in nanoseconds.
    missed_ns: Arc<AtomicU64>,
    began: Moment,
}

impl Load {
    fn start() -> Self {
        let mut load = Self {
            tasks: JoinSet::new(),
            flood: Arc::new(AtomicBool::new(true)),
            yields: Rc::default(),
            timers: Rc::default(),
            messages: Arc::default(),
            pings: Rc::default(),
            longest_round: Rc::default(),
            longest_poll: Rc::default(),
            missed_ns: Arc::default(),
            began: Moment::now(),
        };
        load.yield_for_ever();
        load.ping_pong();
        load.set_timers();
        load.flood();
        load
    }

    fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        let (longest, mut future) = (self.longest_poll.clone(), Box::pin(future));
        self.tasks.spawn_local(poll_fn(move |cx| {
            let begun = Moment::now();
            let polled = future.as_mut().poll(cx);
            longest.set(longest.get().max(Moment::now().ran - begun.ran));
            polled
        }));
    }

    fn yield_for_ever(&mut self) {
        let (yields, longest) = (self.yields.clone(), self.longest_round.clone());
        let (began, missed_ns) = (self.began, self.missed_ns.clone());
        self.spawn(async move {
            loop {
                let begun = Instant::now();
                missed_ns.store(Moment::now().missed_since(began).as_nanos() as u64, Ordering::Release);
                yield_now().await;
                longest.set(longest.get().max(begun.elapsed()));
                yields.set(yields.get() + 1);
            }
        });
    }

    fn ping_pong(&mut self) {
        let ball = Rc::new(RefCell::new((0_u64, VecDeque::<Waker>::new())));
        for side in 0..2 {
            let (ball, pings) = (ball.clone(), self.pings.clone());
            self.spawn(poll_fn(move |cx| {
                let mut ball = ball.borrow_mut();
                if ball.0 % 2 == side {
                    ball.0 += 1;
                    pings.set(pings.get() + 1);
                    ball.1.drain(..).for_each(Waker::wake);
                }
                ball.1.push_back(cx.waker().clone());
                Poll::Pending
            }));
        }
    }

    fn set_timers(&mut self) {
        for n in 0..1_000_u64 {
            let timers = self.timers.clone();
            self.spawn(async move {
                loop {
                    time::sleep(Duration::from_micros(10_000 + n * 90)).await;
                    timers.set(timers.get() + 1);
                }
            });
        }
    }

    fn flood(&mut self) {
        let (goes_on, messages) = (self.flood.clone(), self.messages.clone());
        self.tasks.spawn_on(B, move || async move {
            while goes_on.load(Ordering::Relaxed) {
                let calls: Vec<_> = (0..64)
                    .map(|_| {
                        let messages = messages.clone();
                        call_on(A, move || messages.fetch_add(1, Ordering::Relaxed))
                    })
                    .collect();
                for call in calls {
                    let _ = call.await;
                }
            }
        });
    }

    /// Awaits that all of it has run.
    async fn under_way(&self) {
        let ran = || {
            let messages = self.messages.load(Ordering::Relaxed);
            [self.yields.get(), self.timers.get(), self.pings.get(), messages].into_iter().all(|count| count > 100)
        };
        while !ran() {
            yield_now().await;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.flood.store(false, Ordering::Relaxed);
    }
}

/// Two cores with every driver, with and without classes beside the default one.
fn beside_load<Fut: Future<Output = ()> + 'static>(what: &str, scenario: fn(Rc<Load>) -> Fut) {
    let run = |builder: Builder, classes: bool| {
        let runtime = builder.cores(2).scheduling_class(ClassSpec::new("busy")).build().expect("a runtime");
        runtime.block_on(move || async move {
            let busy = classes.then(|| {
                let busy = ipiq::handle().scheduling_class("busy").expect("it was made");
                let mut tasks = JoinSet::new();
                tasks.insert(busy.spawn_local(async {
                    loop {
                        yield_now().await;
                    }
                }));
                tasks
            });
            let load = Rc::new(Load::start());
            load.under_way().await;
            scenario(load).await;
            drop(busy);
        });
    };
    with_watchdog(what, LIMIT, || {
        for driver in drivers() {
            let builder = Runtime::builder().driver(driver);
            run(builder.clone(), false);
            run(builder, true);
        }
    });
}

/// A socket whose other end, on this core too, sends back what it gets: nobody else's CPU is waited for.
async fn echo() -> (TcpStream, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let mut echoes = JoinSet::new();
    echoes.spawn_local(async move {
        let mut word = [0_u8; 4];
        // Until the other end is closed.
        while stream.read_exact(&mut word).await.is_ok() && stream.write_all(&word).await.is_ok() {}
    });
    (listener.accept().await.expect("it connects").0, echoes)
}

#[test]
fn an_io_task_is_served_a_hundred_times_a_second() {
    beside_load("I/O beside load", |load| async move {
        let (mut stream, _echoes) = echo().await;
        let rounds: u32 = scaled(100, 500);
        let (begun, yields) = (Moment::now(), load.yields.get());
        let mut word = *b"ping";
        for _ in 0..rounds {
            stream.write_all(&word).await.expect("it is open");
            stream.read_exact(&mut word).await.expect("it is open");
        }
        // The core never sleeps.
        let ended = Moment::now();
        let (taken, had) = (ended.at - begun.at, ended.ran - begun.ran);
        println!(
            "I/O: {rounds} in {taken:?}, of which the core had {had:?}: {:.0} a second",
            f64::from(rounds) / had.as_secs_f64()
        );
        let allowed = rounds * Duration::from_millis(10);
        assert!(had < allowed, "{rounds} took {had:?} of {taken:?}, {} yields", load.yields.get() - yields);
    });
}

#[test]
fn a_message_waits_for_the_longest_poll_and_a_millisecond() {
    beside_load("messages beside load", |load| async move {
        let messages: u32 = scaled(1_000, 10_000);
        // Polls of a task that yields for ever, and the time, between the sending and the run.
        let yields = Arc::new(AtomicU64::new(0));
        let counted = yields.clone();
        let mut yielder = JoinSet::new();
        yielder.spawn_local(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        });
        let (mut late, mut waits) = (0, Vec::new());
        for _ in 0..messages {
            let (yields, missed_ns, began) = (yields.clone(), load.missed_ns.clone(), load.began);
            let sender = spawn_on(B, move || async move {
                let there = yields.clone();
                let missed_before = Duration::from_nanos(missed_ns.load(Ordering::Acquire));
                let call = call_on(A, move || (there.load(Ordering::Relaxed), Moment::now()));
                // Behind the sending: before it the machine may keep the sender from its CPU.
                let (sent_polls, sent) = (yields.load(Ordering::Relaxed), Instant::now());
                let (polls, ran) = call.await.expect("it is there");
                let missed = ran.missed_since(began).saturating_sub(missed_before);
                (polls.saturating_sub(sent_polls), ran.at.saturating_duration_since(sent).saturating_sub(missed))
            });
            let (polls, waited) = sender.await.expect("no panic");
            // The turn that is under way, and one that began before the message could be seen.
            late += u32::from(polls > 64 || waited > Duration::from_millis(1) + load.longest_poll.get());
            waits.push(waited);
        }
        waits.sort_unstable();
        let [middle, nearly_all] = [0.5, 0.999].map(|part| waits[(f64::from(messages) * part) as usize]);
        println!(
            "messages: half of {messages} within {middle:?}, 99.9 % within {nearly_all:?}; the longest poll {:?}",
            load.longest_poll.get()
        );
        assert!(late <= (messages / 1_000).max(1), "{late} of {messages} waited for long");
    });
}

#[test]
fn a_timer_fires_within_a_round_of_its_deadline() {
    beside_load("timers beside load", |load| async move {
        let mut late = 0;
        let rounds = scaled(60, 500);
        for _ in 0..rounds {
            let begun = Instant::now();
            time::sleep(Duration::from_millis(2)).await;
            // The grid's millisecond; a credit's polls, of each task one in a round.
            let allowed = Duration::from_millis(3) + 16 * load.longest_round.get();
            late += u32::from(begun.elapsed() > allowed);
        }
        assert!(late * 100 <= rounds, "{late} of {rounds}");
    });
}

#[test]
fn every_part_of_the_load_goes_on_beside_the_others() {
    beside_load("the load itself", |load| async move {
        let count = || {
            let messages = load.messages.load(Ordering::Relaxed);
            [load.yields.get(), load.timers.get(), load.pings.get(), messages]
        };
        for _ in 0..scaled(20, 50) {
            let before = count();
            while count().iter().zip(before).any(|(now, before)| now - before < 10) {
                yield_now().await;
            }
        }
    });
}

#[test]
fn a_spawned_task_starts_after_those_before_it() {
    beside_load("spawns beside load", |load| async move {
        for _ in 0..scaled(200, 500) {
            // Timers may wake all of their thousand at once; the yielder has one turn for each of theirs.
            let before = load.yields.get();
            let yields = load.yields.clone();
            let after = ipiq::spawn_local(async move { yields.get() }).await.expect("no panic");
            assert!(after - before <= 2, "{} rounds", after - before);
        }
    });
}
