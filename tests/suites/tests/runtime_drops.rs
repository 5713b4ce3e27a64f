//! Every state of a task × everything that can happen to it × everywhere that it can come from: each future is dropped once, at home.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use ipiq::net::TcpListener;
use ipiq::{Builder, CoreId, JoinError, JoinHandle, Runtime, spawn_local, spawn_on, time, yield_now};
use ipiq_suites::alone::alone;
use ipiq_suites::process::holdings;
use ipiq_suites::runtimes::{Census, Token, drivers};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const PEER: CoreId = CoreId::new(0);
const HOME: CoreId = CoreId::new(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Spawned, and not polled.
    New,
    /// Polled, woken, and not polled again.
    Queued,
    /// In the middle of a poll.
    Running,
    Message,
    Timer,
    Io,
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Abort,
    Join,
    Detach,
    Wake,
    EndOfRuntime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    SameCore,
    OtherCore,
    ForeignThread,
}

const STATES: [State; 7] =
    [State::New, State::Queued, State::Running, State::Message, State::Timer, State::Io, State::Finished];
const ACTS: [Act; 5] = [Act::Abort, Act::Join, Act::Detach, Act::Wake, Act::EndOfRuntime];
const PLACES: [Place; 3] = [Place::SameCore, Place::OtherCore, Place::ForeignThread];

/// What a case observes.
#[derive(Default)]
struct Seen {
    made: AtomicU32,
    dropped: AtomicU32,
    astray: AtomicU32,
    /// The task is where its state says.
    ready: AtomicBool,
    /// The act is over.
    acted: AtomicBool,
    /// The task may end.
    released: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Seen {
    fn wake(&self) {
        let wakers = self.wakers.lock().expect("not poisoned").clone();
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.acted.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn is_even(&self) -> bool {
        self.made.load(Ordering::SeqCst) == self.dropped.load(Ordering::SeqCst)
    }
}

fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        thread::yield_now();
    }
}

/// A part of the future.
struct Homed(Arc<Seen>, ThreadId);

impl Homed {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.made.fetch_add(1, Ordering::SeqCst);
        Self(seen.clone(), thread::current().id())
    }
}

impl Drop for Homed {
    fn drop(&mut self) {
        let astray = thread::current().id() != self.1;
        self.0.astray.fetch_add(u32::from(astray), Ordering::SeqCst);
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// The task, on its core. `itself` is what it does in the middle of its poll.
async fn task(seen: Arc<Seen>, state: State, itself: impl FnOnce(), _token: Token) {
    let _homed = Homed::new(&seen);
    itself();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut wait: Pin<Box<dyn Future<Output = ()> + '_>> = match state {
        State::Finished => return seen.ready.store(true, Ordering::SeqCst),
        State::Message => Box::pin(async { drop(spawn_on(PEER, pending::<()>).await) }),
        State::Timer => Box::pin(time::sleep(Duration::from_secs(3600))),
        State::Io => Box::pin(async { drop(listener.accept().await) }),
        State::New | State::Queued | State::Running => Box::pin(pending()),
    };
    poll_fn(|cx| {
        seen.wakers.lock().expect("not poisoned").push(cx.waker().clone());
        if seen.released.load(Ordering::SeqCst) || wait.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        seen.ready.store(true, Ordering::SeqCst);
        Poll::Pending
    })
    .await;
}

/// What becomes of who joins.
type Joined = Receiver<Result<(), JoinError>>;

/// Does it, at the calling place.
fn act(act: Act, place: Place, handle: JoinHandle<()>, runtime: Option<Runtime>, seen: &Seen) -> Option<Joined> {
    match act {
        Act::Abort => handle.abort(),
        Act::Detach => drop(handle),
        Act::EndOfRuntime => drop(runtime),
        Act::Wake => (0..3).for_each(|_| seen.wake()),
        Act::Join => {
            let (tell, told) = channel();
            if place == Place::ForeignThread {
                drop(thread::spawn(move || tell.send(Runtime::wait(handle))));
            } else {
                drop(spawn_local(async move { tell.send(handle.await) }));
            }
            return Some(told);
        }
    }
    None
}

/// One case. The runtime is in `slot`, from which its end takes it.
struct Case {
    state: State,
    act: Act,
    place: Place,
    seen: Arc<Seen>,
    census: Census,
    slot: Arc<Mutex<Option<Runtime>>>,
}

impl Case {
    /// What acts, at its place, and says what to join.
    fn actor(&self, handle: JoinHandle<()>) -> impl FnOnce() -> Option<Joined> + Send + 'static {
        let (wanted, place, seen, slot) = (self.act, self.place, self.seen.clone(), self.slot.clone());
        move || {
            let ends = wanted == Act::EndOfRuntime;
            let runtime = ends.then(|| slot.lock().expect("not poisoned").take()).flatten();
            act(wanted, place, handle, runtime, &seen)
        }
    }

    fn spawn(&self, handle: &ipiq::Handle) -> JoinHandle<()> {
        let (seen, state, token) = (self.seen.clone(), self.state, self.census.token());
        let in_its_poll = self.state == State::Running && self.place != Place::SameCore;
        handle.spawn_on(HOME, move || {
            let running = seen.clone();
            let itself = move || {
                if in_its_poll {
                    running.ready.store(true, Ordering::SeqCst);
                    wait_for(&running.acted);
                }
            };
            task(seen, state, itself, token)
        })
    }

    /// Keeps the task's core in one poll until the act is over.
    fn block_home(&self, handle: &ipiq::Handle) {
        let (seen, begun) = (self.seen.clone(), Arc::new(AtomicBool::new(false)));
        let begins = begun.clone();
        drop(handle.spawn_on(HOME, move || async move {
            begins.store(true, Ordering::SeqCst);
            wait_for(&seen.acted);
        }));
        wait_for(&begun);
    }

    /// The act comes from another core or thread.
    fn act_elsewhere(&self, handle: &ipiq::Handle) -> Option<Joined> {
        if self.state == State::New {
            self.block_home(handle);
        }
        let task = self.spawn(handle);
        if self.state != State::New {
            wait_for(&self.seen.ready);
        }
        if self.state == State::Queued {
            self.block_home(handle);
            self.seen.wake();
        }
        let actor = self.actor(task);
        if self.place == Place::OtherCore {
            return Runtime::wait(handle.call_on(PEER, actor)).expect("no panic");
        }
        let acting = thread::spawn(actor);
        if self.act == Act::EndOfRuntime {
            // Its drop waits for the cores, which are let go when it has begun.
            while !handle.spawn_on(PEER, pending::<()>).is_finished() {
                thread::yield_now();
            }
            self.seen.release();
        }
        acting.join().expect("no panic")
    }

    /// The act comes from a task of the same core, or, while the task runs, from itself.
    fn act_at_home(&self, handle: &ipiq::Handle) -> Option<Joined> {
        let (seen, state, token) = (self.seen.clone(), self.state, self.census.token());
        let (tell, told) = channel();
        if state == State::Running {
            let (give, given) = channel();
            let own = handle.spawn_on(HOME, move || {
                let itself = move || {
                    let actor: Box<dyn FnOnce() -> Option<Joined> + Send> = given.recv().expect("it is given");
                    let _ = tell.send(actor());
                };
                task(seen, state, itself, token)
            });
            assert!(give.send(Box::new(self.actor(own))).is_ok(), "it is taken");
            return told.recv().expect("it acts");
        }
        let (slot, wanted) = (self.slot.clone(), self.act);
        drop(handle.spawn_on(HOME, move || async move {
            let task = spawn_local(task(seen.clone(), state, || (), token));
            while state != State::New && !seen.ready.load(Ordering::SeqCst) {
                yield_now().await;
            }
            if state == State::Queued {
                seen.wake();
            }
            let runtime = (wanted == Act::EndOfRuntime).then(|| slot.lock().expect("not poisoned").take()).flatten();
            let _ = tell.send(act(wanted, Place::SameCore, task, runtime, &seen));
        }));
        told.recv().expect("it acts")
    }

    fn run(&self, handle: &ipiq::Handle) {
        let joined = match self.place {
            Place::SameCore => self.act_at_home(handle),
            Place::OtherCore | Place::ForeignThread => self.act_elsewhere(handle),
        };
        self.seen.release();
        if let Some(joined) = joined {
            joined.recv().expect("it is told").expect("the task ends by itself");
        }
        if self.act != Act::EndOfRuntime {
            // Before the runtime's end.
            while self.census.alive() > 0 {
                self.seen.wake();
                thread::yield_now();
            }
        }
        drop(self.slot.lock().expect("not poisoned").take());
        while self.census.alive() > 0 {
            thread::yield_now();
        }
        assert!(self.seen.is_even() && self.seen.made.load(Ordering::SeqCst) <= 1, "dropped once");
        let ends_unmade = matches!(self.act, Act::Abort | Act::EndOfRuntime) && self.state == State::New;
        assert!(ends_unmade || self.seen.made.load(Ordering::SeqCst) == 1, "it was made");
        assert_eq!(self.seen.astray.load(Ordering::SeqCst), 0, "dropped elsewhere");
    }
}

fn all_cases(builder: &Builder) {
    for state in STATES {
        for act in ACTS {
            for place in PLACES {
                let runtime = builder.clone().cores(2).build().expect("a runtime");
                let handle = runtime.handle();
                let (seen, census) = (Arc::default(), Census::default());
                let case = Case { state, act, place, seen, census, slot: Arc::new(Mutex::new(Some(runtime))) };
                let ran = thread::scope(|scope| scope.spawn(|| case.run(&handle)).join());
                assert!(ran.is_ok(), "{state:?}, {act:?}, {place:?}");
            }
        }
    }
}

#[test]
fn each_future_is_dropped_once_at_home_whatever_happens_to_it_in_whatever_state() {
    alone("each_future_is_dropped_once_at_home_whatever_happens_to_it_in_whatever_state", LIMIT, || {
        let before = holdings();
        for driver in drivers() {
            (0..scaled(2, 5)).for_each(|_| all_cases(&Runtime::builder().driver(driver)));
        }
        while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
            thread::yield_now();
        }
    });
}
