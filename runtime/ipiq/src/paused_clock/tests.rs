//! Every interleaving of a few cores that send to each other, write to each other's sockets and sleep, under the clock itself. Each step is one under
//! its lock, or one of the fabric.

use std::cell::RefCell;
use std::collections::HashSet;

use super::*;

/// What a core does, once, when something has come: a message, an event of I/O, the end of a sleep. A thread does it of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Work {
    Send(usize),
    Write(usize),
    Sleep(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Looks for the next thing that has come.
    Look,
    /// I/O has been seen.
    Seen,
    Ring(usize, Back),
    Kick(usize, Back),
    Arm,
    Armed,
    Fall,
    Wait,
    /// The wait is over, or has not been; I/O has come, or has not.
    Woken(usize),
}

/// Where it goes on after a send. A wait runs what its events wake before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Back {
    Look,
    Woken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bell {
    Awake,
    Parked,
    Kicked,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Actor {
    at: At,
    bell: Bell,
    inbox: usize,
    io: usize,
    notified: bool,
    worked: bool,
    read_ns: u64,
    timers_ns: Vec<u64>,
    /// The next last.
    work: Vec<Work>,
}

#[derive(Clone)]
struct Model {
    cores: Vec<Actor>,
    /// One that is no core, and what it has still to do.
    thread: (At, Vec<Work>),
    /// The thread has written to a core's socket.
    wrote_from_outside: bool,
    now_ns: u64,
    state: State,
}

thread_local! {
    static NOTIFIED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

struct Notify(usize);

impl Kick for Notify {
    fn kick(&self) {
        NOTIFIED.with_borrow_mut(|notified| notified.push(self.0));
    }
}

impl Model {
    /// Each core has a message to begin with.
    fn new(work: &[&[Work]], thread: &[Work]) -> Self {
        let clock = PausedClock::new(work.len());
        (0..work.len()).for_each(|core| clock.set_notifier(CoreId::new(core), Arc::new(Notify(core))));
        let backwards = |work: &[Work]| work.iter().rev().copied().collect();
        let actor = |work| Actor {
            at: At::Look,
            bell: Bell::Awake,
            inbox: 1,
            io: 0,
            notified: false,
            worked: false,
            read_ns: 0,
            timers_ns: Vec::new(),
            work: backwards(work),
        };
        let state = clock.with_state(|state| state.clone());
        let cores = work.iter().copied().map(actor).collect();
        Self { cores, thread: (At::Look, backwards(thread)), wrote_from_outside: false, now_ns: 0, state }
    }

    /// Does `step` with a clock in the model's state.
    fn with_clock<R>(&mut self, step: impl FnOnce(&Arc<PausedClock>) -> R) -> R {
        let clock = PausedClock { now_ns: AtomicU64::new(self.now_ns), state: Mutex::new(self.state.clone()) };
        let clock = Arc::new(clock);
        let value = step(&clock);
        self.now_ns = clock.now_ns();
        self.state = clock.with_state(|state| state.clone());
        for core in NOTIFIED.take() {
            self.cores[core].notified = true;
        }
        value
    }

    fn kick(&mut self, core: usize) {
        self.with_clock(|clock| PausedKick { clock: clock.clone(), core: CoreId::new(core) }.kick());
    }

    /// Something has come.
    fn work(&mut self, core: usize, back: Back) {
        let after = if back == Back::Look { At::Look } else { At::Woken(1) };
        self.cores[core].at = match self.cores[core].work.pop() {
            Some(Work::Send(target)) => {
                self.cores[target].inbox += 1;
                At::Ring(target, back)
            }
            Some(Work::Write(target)) => {
                self.cores[target].io += 1;
                after
            }
            Some(Work::Sleep(ns)) => {
                let until_ns = self.now_ns + ns;
                self.cores[core].timers_ns.push(until_ns);
                after
            }
            None => after,
        };
    }

    /// Rings `target`, after a message has been put into its inbox. Returns whether it is to be kicked.
    fn ring(&mut self, target: usize) -> bool {
        let wins = self.cores[target].bell == Bell::Parked;
        if wins {
            self.cores[target].bell = Bell::Kicked;
        }
        wins
    }

    /// One step of a core; `false` if it can do none.
    fn step(&mut self, core: usize) -> bool {
        let now_ns = self.now_ns;
        let after = |back| if back == Back::Look { At::Look } else { At::Woken(1) };
        let actor = &mut self.cores[core];
        match actor.at {
            At::Look if actor.inbox > 0 => {
                (actor.inbox, actor.worked) = (actor.inbox - 1, true);
                self.work(core, Back::Look);
            }
            At::Look if actor.io > 0 => {
                actor.io -= 1;
                actor.at = At::Seen;
            }
            At::Look => match actor.timers_ns.iter().position(|ns| *ns <= now_ns) {
                Some(due) => {
                    actor.timers_ns.remove(due);
                    actor.worked = true;
                    self.work(core, Back::Look);
                }
                None => (actor.read_ns, actor.at) = (now_ns, At::Arm),
            },
            At::Seen => {
                self.with_clock(|clock| clock.something_happened());
                self.work(core, Back::Look);
            }
            At::Ring(target, back) => {
                self.cores[core].at = if self.ring(target) { At::Kick(target, back) } else { after(back) }
            }
            At::Kick(target, back) => {
                self.kick(target);
                self.cores[core].at = after(back);
            }
            At::Arm => (actor.bell, actor.at) = (Bell::Parked, At::Armed),
            At::Armed if actor.inbox > 0 => (actor.bell, actor.at) = (Bell::Awake, At::Look),
            At::Armed => actor.at = At::Fall,
            At::Fall => self.fall_asleep(core),
            At::Wait if actor.io > 0 => {
                (actor.io, actor.notified) = (actor.io - 1, false);
                self.work(core, Back::Woken);
            }
            At::Wait if actor.notified => (actor.notified, actor.at) = (false, At::Woken(0)),
            At::Wait => return false,
            At::Woken(events) => {
                (actor.bell, actor.at) = (Bell::Awake, At::Look);
                self.with_clock(|clock| clock.wake(CoreId::new(core), events));
            }
        }
        true
    }

    fn fall_asleep(&mut self, core: usize) {
        let (before_ns, read_ns) = (self.now_ns, self.cores[core].read_ns);
        let worked = std::mem::take(&mut self.cores[core].worked);
        let timeout_ns = self.cores[core].timers_ns.iter().min().map(|ns| ns - read_ns);
        let waits = self.with_clock(|clock| clock.fall_asleep(CoreId::new(core), timeout_ns, worked));
        if self.now_ns != before_ns {
            self.assert_idle(core);
        }
        let actor = &mut self.cores[core];
        actor.at = if waits && actor.bell != Bell::Kicked { At::Wait } else { At::Woken(0) };
    }

    /// The time has just gone on, in a step of `last`.
    fn assert_idle(&self, last: usize) {
        let earliest_ns = self.cores.iter().flat_map(|actor| &actor.timers_ns).min();
        assert_eq!(earliest_ns, Some(&self.now_ns), "it goes on to the earliest timer");
        let thread_is_done = self.thread.1.is_empty() && self.thread.0 == At::Look;
        if self.wrote_from_outside || !thread_is_done {
            // What comes from outside comes in no time of this clock.
            return;
        }
        for (core, actor) in self.cores.iter().enumerate() {
            let idle = core == last || matches!(actor.at, At::Wait | At::Woken(0));
            assert!(idle && actor.inbox == 0 && actor.io == 0, "core {core} has something to do: {actor:?}");
        }
    }

    /// One step of the thread.
    fn step_thread(&mut self) -> bool {
        self.thread.0 = match self.thread.0 {
            At::Ring(target, back) => {
                if self.ring(target) {
                    At::Kick(target, back)
                } else {
                    At::Look
                }
            }
            At::Kick(target, _) => {
                self.kick(target);
                At::Look
            }
            _ => match self.thread.1.pop() {
                Some(Work::Send(target)) => {
                    self.cores[target].inbox += 1;
                    At::Ring(target, Back::Look)
                }
                Some(Work::Write(target)) => {
                    self.cores[target].io += 1;
                    self.wrote_from_outside = true;
                    At::Look
                }
                Some(Work::Sleep(ns)) => {
                    // As a core's `advance`.
                    self.with_clock(|clock| clock.advance(Duration::from_nanos(ns)));
                    At::Look
                }
                None => return false,
            },
        };
        true
    }

    fn key(&self) -> impl Eq + std::hash::Hash + use<> {
        let cores = self.state.cores.iter().map(|core| (core.asleep, core.roused, core.timer_ns));
        let clock: Vec<_> = cores.collect();
        let thread = (self.thread.clone(), self.wrote_from_outside);
        (self.cores.clone(), thread, self.now_ns, clock, self.state.asleep, self.state.quiet)
    }

    /// Every state that can be reached. Returns how many.
    fn explore(self) -> usize {
        let (mut seen, mut open) = (HashSet::from([self.key()]), vec![self]);
        while let Some(model) = open.pop() {
            let actors = 0..=model.cores.len();
            let next = |actor| {
                let mut next = model.clone();
                let stepped = if actor < next.cores.len() { next.step(actor) } else { next.step_thread() };
                stepped.then_some(next)
            };
            let all: Vec<_> = actors.filter_map(next).collect();
            if all.is_empty() {
                let done = |actor: &Actor| actor.inbox == 0 && actor.io == 0 && actor.timers_ns.is_empty();
                assert!(model.cores.iter().all(done), "all sleep for ever: {:?}", model.cores);
            }
            open.extend(all.into_iter().filter(|next| seen.insert(next.key())));
        }
        seen.len()
    }
}

const WORK_OF_0: [Work; 4] = [Work::Send(1), Work::Write(1), Work::Sleep(1), Work::Sleep(2)];
const WORK_OF_1: [Work; 4] = [Work::Send(0), Work::Write(0), Work::Sleep(1), Work::Sleep(2)];

#[test]
fn the_time_goes_on_when_no_core_has_anything_to_do_and_nobody_sleeps_for_ever() {
    let [send, write, ..] = WORK_OF_0;
    for here in WORK_OF_0.into_iter().flat_map(|first| [[first, send], [first, write]]) {
        for there in WORK_OF_1 {
            assert!(Model::new(&[&here, &[there]], &[]).explore() > 100);
        }
    }
}

#[test]
fn nobody_sleeps_over_what_a_thread_does() {
    for thread in [Work::Send(0), Work::Write(0), Work::Sleep(1)] {
        for (here, there) in WORK_OF_0.into_iter().flat_map(|here| WORK_OF_1.map(|there| (here, there))) {
            assert!(Model::new(&[&[here], &[there]], &[thread]).explore() > 100);
        }
    }
}

#[test]
fn what_a_thread_sets_going_between_cores_takes_no_time() {
    let there = [Work::Sleep(1)];
    for then in [Work::Send(1), Work::Write(1)] {
        assert!(Model::new(&[&[Work::Sleep(2), then], &there], &[Work::Send(0)]).explore() > 100);
    }
}

#[test]
fn three_cores_pass_something_round() {
    use Work::{Send, Sleep, Write};
    let rounds: [[&[Work]; 3]; 3] = [
        [&[Send(1), Sleep(1)], &[Write(2)], &[Send(0)]],
        [&[Sleep(2), Write(1)], &[Sleep(1), Send(2)], &[]],
        [&[Write(2), Sleep(1)], &[Write(0), Sleep(1)], &[Send(1)]],
    ];
    for work in &rounds {
        assert!(Model::new(work, &[]).explore() > 1_000);
    }
}
