//! The asymmetric fences on a machine with store buffers (x86-TSO), all interleavings.
//!
//! The C++ memory model knows no fence that one thread executes on behalf of another, so the models under `--cfg loom` stand full
//! fences in for both halves. Here the protocols are written down once more, as programs of an abstract machine whose every
//! thread has a FIFO of stores that the others do not see yet; an interrupt by `membarrier` empties the interrupted one's. The explorer
//! visits every reachable state. A lost wake-up is a state in which nothing can happen any more and a thread sleeps.

use std::collections::HashMap;
use std::fmt::Write as _;

use Op::*;

/// A word of memory.
type Word = u8;
type Register = usize;
/// A name, and a number where several are alike.
type Label = (&'static str, usize);

/// One instruction. Jumps go to the `Mark` of their label.
#[derive(Clone, Copy, Debug)]
enum Op {
    Mark(Label),
    Goto(Label),
    /// Goes either way.
    Perhaps(Label),
    /// Jumps if the register has the value.
    IfIs(Register, u8, Label),
    IfNot(Register, u8, Label),
    /// Jumps if the register has none of the bits.
    IfClear(Register, u8, Label),
    IfSame(Register, Register, Label),
    Move(Register, Register),
    Load(Register, Word),
    Store(Word, u8),
    /// Locked: they wait until the own buffer is empty.
    Or(Word, u8),
    AndNot(Word, u8),
    Exchange(Word, u8),
    /// Compares, exchanges; jumps on failure.
    Cas(Word, u8, u8, Label),
    /// `mfence`.
    Fence,
    /// `membarrier`: interrupts every other thread, one after the other in any order.
    Membarrier,
    /// `membarrier` for one CPU: interrupts the thread if the word, its place, has the value.
    InterruptIn(Word, u8, usize),
    /// By the scheduler: a fence of the thread, and its new place, in the first word by the kernel and in the second as its own first store.
    Migrate(usize, [Word; 2], u8),
    /// Ends the current or the next sleep of a thread.
    Kick(usize),
    Sleep,
}

const WORDS: usize = 4;
const REGISTERS: usize = 5;
const BUFFER: usize = 4;

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Thread {
    at: u8,
    registers: [u8; REGISTERS],
    /// Oldest first.
    buffer: [(Word, u8); BUFFER],
    buffered: u8,
    /// Threads that its `membarrier` has still to interrupt, as bits.
    to_interrupt: u8,
    kicked: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    memory: [u8; WORDS],
    threads: Vec<Thread>,
}

impl Thread {
    fn push(&mut self, word: Word, value: u8) {
        self.buffer[self.buffered as usize] = (word, value);
        self.buffered += 1;
    }

    /// The youngest buffered store to `word`, if any: a thread sees its own stores.
    fn forwarded(&self, word: Word) -> Option<u8> {
        let stores = self.buffer[..self.buffered as usize].iter().rev();
        stores.into_iter().find(|store| store.0 == word).map(|store| store.1)
    }
}

impl State {
    fn flush_oldest(&mut self, thread: usize) {
        let thread = &mut self.threads[thread];
        let (word, value) = thread.buffer[0];
        self.memory[word as usize] = value;
        thread.buffer.rotate_left(1);
        thread.buffered -= 1;
        thread.buffer[thread.buffered as usize..].fill((0, 0));
    }

    fn flush_all(&mut self, thread: usize) {
        while self.threads[thread].buffered > 0 {
            self.flush_oldest(thread);
        }
    }
}

/// What the explorer found.
struct Explored {
    states: usize,
    /// The way to the first state in which nothing can happen and a thread has not ended.
    stuck: Option<String>,
}

struct Machine {
    programs: Vec<Vec<Op>>,
}

impl Machine {
    fn explore(&self) -> Explored {
        let mut start = State { memory: [0; WORDS], threads: vec![Thread::default(); self.programs.len()] };
        (0..self.programs.len()).for_each(|thread| self.settle(&mut start, thread));
        let mut seen = HashMap::from([(start.clone(), 0)]);
        let mut parents = vec![(0, String::new())];
        let mut open = vec![(start, 0)];
        while let Some((state, index)) = open.pop() {
            let next = self.successors(&state);
            if next.is_empty() && (0..self.programs.len()).any(|thread| self.op(&state, thread).is_some()) {
                return Explored { states: seen.len(), stuck: Some(way(&parents, index)) };
            }
            for (step, state) in next {
                let fresh = parents.len();
                seen.entry(state).or_insert_with_key(|state| {
                    parents.push((index, step));
                    open.push((state.clone(), fresh));
                    fresh
                });
            }
        }
        Explored { states: seen.len(), stuck: None }
    }

    /// The next instruction of `thread`; `None`: its program has ended.
    fn op(&self, state: &State, thread: usize) -> Option<Op> {
        self.programs[thread].get(state.threads[thread].at as usize).copied()
    }

    fn jump(&self, state: &mut State, thread: usize, label: Label) {
        let target = self.programs[thread].iter().position(|op| matches!(op, Mark(mark) if *mark == label));
        state.threads[thread].at = target.unwrap_or_else(|| panic!("no label {label:?}")) as u8;
    }

    fn successors(&self, state: &State) -> Vec<(String, State)> {
        let mut next = Vec::new();
        for thread in 0..state.threads.len() {
            if state.threads[thread].buffered > 0 {
                let mut flushed = state.clone();
                flushed.flush_oldest(thread);
                next.push((format!("{thread}: the oldest store reaches memory"), flushed));
            }
            let Some(op) = self.op(state, thread) else { continue };
            for mut after in self.execute(state, thread, op) {
                self.settle(&mut after, thread);
                next.push((format!("{thread}: {op:?}"), after));
            }
        }
        next
    }

    /// Executes what no other thread can see, up to the next instruction that they can.
    fn settle(&self, state: &mut State, thread: usize) {
        while let Some(op) = self.op(state, thread) {
            let here = &mut state.threads[thread];
            let registers = &mut here.registers;
            here.at += 1;
            let target = match op {
                Mark(_) => None,
                Goto(label) => Some(label),
                IfIs(register, value, label) => (registers[register] == value).then_some(label),
                IfNot(register, value, label) => (registers[register] != value).then_some(label),
                IfClear(register, bits, label) => (registers[register] & bits == 0).then_some(label),
                IfSame(a, b, label) => (registers[a] == registers[b]).then_some(label),
                Move(to, from) => {
                    registers[to] = registers[from];
                    None
                }
                _ => {
                    here.at -= 1;
                    return;
                }
            };
            if let Some(label) = target {
                self.jump(state, thread, label);
            }
        }
    }

    /// The states after `op`; none if it has to wait.
    fn execute(&self, state: &State, thread: usize, op: Op) -> Vec<State> {
        let mut after = state.clone();
        let here = &mut after.threads[thread];
        here.at += 1;
        match op {
            Load(register, word) => {
                here.registers[register] = here.forwarded(word).unwrap_or(state.memory[word as usize]);
            }
            Store(word, value) => here.push(word, value),
            Or(..) | AndNot(..) | Exchange(..) | Cas(..) | Fence if here.buffered > 0 => return Vec::new(),
            Or(word, bits) => after.memory[word as usize] |= bits,
            AndNot(word, bits) => after.memory[word as usize] &= !bits,
            Exchange(word, value) => after.memory[word as usize] = value,
            Cas(word, from, to, failed) => {
                if after.memory[word as usize] == from {
                    after.memory[word as usize] = to;
                } else {
                    self.jump(&mut after, thread, failed);
                }
            }
            Fence => {}
            Membarrier => return self.interrupt(state, thread),
            InterruptIn(place, here, target) => {
                after.flush_all(thread);
                if after.memory[place as usize] == here {
                    after.flush_all(target);
                }
            }
            Migrate(target, [place, own], there) => {
                after.flush_all(target);
                after.memory[place as usize] = there;
                after.threads[target].push(own, there);
            }
            Perhaps(label) => {
                let mut other = after.clone();
                self.jump(&mut other, thread, label);
                return vec![after, other];
            }
            Kick(sleeper) => after.threads[sleeper].kicked = true,
            Sleep if !here.kicked => return Vec::new(),
            Sleep => here.kicked = false,
            Mark(_) | Goto(_) | IfIs(..) | IfNot(..) | IfClear(..) | IfSame(..) | Move(..) => {
                unreachable!("settled before")
            }
        }
        vec![after]
    }

    /// One step of a `membarrier`: its start, or the interrupt of one thread. After the last it returns.
    fn interrupt(&self, state: &State, thread: usize) -> Vec<State> {
        let to_interrupt = state.threads[thread].to_interrupt;
        if to_interrupt == 0 {
            let mut started = state.clone();
            started.flush_all(thread);
            started.threads[thread].to_interrupt = ((1 << state.threads.len()) - 1) & !(1 << thread);
            return vec![started];
        }
        let others = (0..state.threads.len()).filter(|other| to_interrupt & 1 << other != 0);
        let interrupted = others.map(|other| {
            let mut after = state.clone();
            after.flush_all(other);
            let here = &mut after.threads[thread];
            here.to_interrupt &= !(1 << other);
            here.at += u8::from(here.to_interrupt == 0);
            after
        });
        interrupted.collect()
    }
}

fn way(parents: &[(usize, String)], mut index: usize) -> String {
    let mut steps = Vec::new();
    while index != 0 {
        steps.push(&parents[index].1);
        index = parents[index].0;
    }
    steps.iter().rev().fold(String::new(), |mut text, step| {
        let _ = writeln!(text, "  {step}");
        text
    })
}

/// What stands between the two halves of the store→load order.
#[derive(Clone, Copy, PartialEq)]
enum Fences {
    /// Nothing on the light side but the order of the instructions; `membarrier` on the heavy one.
    Asymmetric,
    /// As before; a `membarrier` may be refused.
    Refusing,
    /// `mfence` on both sides.
    Symmetric,
    /// Mutant: `mfence` on the heavy side alone.
    HeavyIsOwn,
    /// Mutant: none.
    None,
    /// Mutant: a refused `membarrier` counts as one.
    RefusalIgnored,
}

impl Fences {
    fn light(self) -> &'static [Op] {
        if self == Self::Symmetric { &[Fence] } else { &[] }
    }

    fn heavy(self, refused: Label) -> Vec<Op> {
        match self {
            Self::Asymmetric => vec![Membarrier],
            Self::Refusing => vec![Perhaps(refused), Membarrier],
            Self::Symmetric | Self::HeavyIsOwn => vec![Fence],
            Self::None => vec![],
            Self::RefusalIgnored => vec![Perhaps(GRANTED), Membarrier, Mark(GRANTED)],
        }
    }
}

/// How the target looks a last time before it sleeps (K3, O5).
#[derive(Clone, Copy, PartialEq)]
enum Recheck {
    Everything,
    /// Mutant.
    PendingOnly,
    /// Mutant.
    Nothing,
}

/// In which order the sender's instructions stand.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    AsWritten,
    /// Mutant, what a compiler may do without its fence: the loads before the publish.
    LoadsFirst,
    /// Mutant: the load of the state alone.
    StateFirst,
}

const TICK: Label = ("tick", 0);
const STAY_AWAKE: Label = ("stay awake", 0);
const GRANTED: Label = ("granted", 0);
const END: Label = ("end", 0);

const AWAKE: u8 = 0;
const PARKED: u8 = 1;
const KICKED: u8 = 2;

mod doorbell {
    use super::*;

    const STATE: Word = 0;
    const PENDING: Word = 1;
    /// Messages published by each source; what the target has taken is in the register of the same place.
    const RINGS: [Word; 2] = [2, 3];
    const TAKEN: [Register; 2] = [0, 1];
    const BITS: Register = 2;
    const LOOK: Register = 3;
    const SOME_MISSING: Label = ("some missing", 0);

    pub(super) struct Scenario {
        pub(super) senders: usize,
        pub(super) messages: u8,
        pub(super) fences: Fences,
        pub(super) recheck: Recheck,
        pub(super) order: Order,
    }

    impl Scenario {
        pub(super) fn explore(&self) -> Explored {
            let mut programs = vec![self.target()];
            programs.extend((0..self.senders).map(|source| self.sender(source)));
            Machine { programs }.explore()
        }

        /// Publishes its messages one after the other.
        fn sender(&self, source: usize) -> Vec<Op> {
            (1..=self.messages).flat_map(|message| self.send(source, message)).collect()
        }

        fn send(&self, source: usize, message: u8) -> Vec<Op> {
            let label = |name| (name, usize::from(message));
            let (set, announced, sent) = (label("set"), label("announced"), label("sent"));
            let bit = 1 << source;
            // S1 and S2
            let publish = [&[Store(RINGS[source], message)], self.fences.light()].concat();
            // S3
            let look = [Load(BITS, PENDING)];
            let announce = [IfClear(BITS, bit, set), Goto(announced), Mark(set), Or(PENDING, bit), Mark(announced)];
            // S4
            let state = [Load(LOOK, STATE)];
            let claim = [IfNot(LOOK, PARKED, sent), Cas(STATE, PARKED, KICKED, sent), Kick(0), Mark(sent)];
            match self.order {
                Order::AsWritten => [&publish[..], &look, &announce, &state, &claim].concat(),
                Order::LoadsFirst => [&look, &state, &publish[..], &announce, &claim].concat(),
                Order::StateFirst => [&state, &publish[..], &look, &announce, &claim].concat(),
            }
        }

        /// Ends when it has taken every message.
        fn target(&self) -> Vec<Op> {
            let mut program = vec![Mark(TICK), Load(BITS, PENDING)];
            program.extend((0..self.senders).flat_map(|source| self.take_pending(source)));
            program.extend(self.end_unless_missing(SOME_MISSING));
            // K1 and K2
            program.extend([Mark(SOME_MISSING), Store(STATE, PARKED)]);
            program.extend(self.fences.heavy(STAY_AWAKE));
            program.extend(self.look_again());
            // K4 and K5
            program.extend([Sleep, Mark(STAY_AWAKE), Exchange(STATE, AWAKE)]);
            // R3 comes now or after more ticks.
            program.push(Perhaps(TICK));
            program.extend((0..self.senders).map(|source| Load(TAKEN[source], RINGS[source])));
            program.extend(self.end_unless_missing(TICK));
            program.push(Mark(END));
            program
        }

        /// R1 and R2; whether the ring was empty often enough is left open.
        fn take_pending(&self, source: usize) -> Vec<Op> {
            let (bit, empty, next) = (1 << source, ("empty", source), ("next ring", source));
            let take = [Load(LOOK, RINGS[source]), IfSame(LOOK, TAKEN[source], empty), Move(TAKEN[source], LOOK)];
            let quiet = [Goto(next), Mark(empty), Perhaps(next), AndNot(PENDING, bit), Mark(next)];
            [&[IfClear(BITS, bit, next)], &take[..], &quiet].concat()
        }

        /// K3
        fn look_again(&self) -> Vec<Op> {
            let look = |source| {
                let quiet = ("quiet", source);
                [Load(LOOK, RINGS[source]), IfSame(LOOK, TAKEN[source], quiet), Goto(STAY_AWAKE), Mark(quiet)]
            };
            match self.recheck {
                Recheck::Everything => (0..self.senders).flat_map(look).collect(),
                Recheck::PendingOnly => {
                    let look_if_pending = |source| {
                        let mut program = vec![IfClear(BITS, 1_u8 << source, ("quiet", source))];
                        program.extend(look(source));
                        program
                    };
                    let looks = (0..self.senders).flat_map(look_if_pending);
                    [Load(BITS, PENDING)].into_iter().chain(looks).collect()
                }
                Recheck::Nothing => Vec::new(),
            }
        }

        fn end_unless_missing(&self, missing: Label) -> Vec<Op> {
            let mut program: Vec<Op> =
                (0..self.senders).map(|source| IfNot(TAKEN[source], self.messages, missing)).collect();
            program.push(Goto(END));
            program
        }
    }
}

mod overflow {
    use super::*;

    const STATE: Word = 0;
    const WANTED: Word = 1;
    const READ: Word = 2;
    const LOOK: Register = 0;

    pub(super) struct Scenario {
        pub(super) fences: Fences,
        pub(super) recheck: Recheck,
        pub(super) order: Order,
        pub(super) wanted: bool,
    }

    impl Scenario {
        pub(super) fn explore(&self) -> Explored {
            Machine { programs: vec![self.source(), self.target()] }.explore()
        }

        /// Sleeps until there is space: until `READ` is 1.
        fn source(&self) -> Vec<Op> {
            let mut program = vec![Mark(TICK), Load(LOOK, READ), IfIs(LOOK, 1, END)];
            // O4
            if self.wanted {
                program.push(Store(WANTED, 1));
            }
            program.push(Store(STATE, PARKED));
            program.extend(self.fences.heavy(STAY_AWAKE));
            if self.recheck != Recheck::Nothing {
                // O5
                program.extend([Load(LOOK, READ), IfIs(LOOK, 1, STAY_AWAKE)]);
            }
            program.extend([Sleep, Mark(STAY_AWAKE), Exchange(STATE, AWAKE), Goto(TICK), Mark(END)]);
            program
        }

        fn target(&self) -> Vec<Op> {
            let publish = [&[Store(READ, 1)], self.fences.light()].concat();
            // W1 and W2
            let mut program = match self.order {
                Order::AsWritten => [&publish[..], &[Load(LOOK, WANTED)]].concat(),
                _ => [&[Load(LOOK, WANTED)], &publish[..]].concat(),
            };
            program.extend([IfIs(LOOK, 0, END), Exchange(WANTED, 0), Load(LOOK, STATE), IfNot(LOOK, PARKED, END)]);
            program.extend([Cas(STATE, PARKED, KICKED, END), Kick(0), Mark(END)]);
            program
        }
    }
}

/// The fence of one thread by its CPU (`membarrier` O1 to O3 of the Linux port), while the scheduler moves the thread about.
mod fence_of_one {
    use super::*;

    const MESSAGE: Word = 0;
    const STATE: Word = 1;
    /// The kernel's own note of where the target runs, and the one that it leaves in the target's memory.
    const PLACE: Word = 2;
    const OWN_PLACE: Word = 3;
    const LOOK: Register = 0;
    const EVERYONE: Label = ("everyone", 0);
    const FENCED: Label = ("fenced", 0);
    const CLAIMED: u8 = 0;
    const ELSEWHERE: u8 = 1;

    #[derive(Clone, Copy, PartialEq)]
    pub(super) enum Check {
        AsWritten,
        /// Mutant.
        Nothing,
        /// Mutant: no fence of the caller before it.
        Unfenced,
        /// Mutant.
        OwnPlace,
    }

    /// The caller stores that it sleeps and looks for the message; the target sends it and looks whether the caller sleeps.
    pub(super) fn explore(check: Check, places: &[u8]) -> Explored {
        let place = if check == Check::OwnPlace { OWN_PLACE } else { PLACE };
        let fence: &[Op] = if check == Check::Unfenced { &[] } else { &[Fence] };
        let look: &[Op] =
            if check == Check::Nothing { &[] } else { &[Load(LOOK, place), IfNot(LOOK, CLAIMED, EVERYONE)] };
        let tail = [
            InterruptIn(PLACE, CLAIMED, 1),
            Goto(FENCED),
            Mark(EVERYONE),
            Membarrier,
            Mark(FENCED),
            Load(LOOK, MESSAGE),
            IfIs(LOOK, 1, END),
            Sleep,
            Mark(END),
        ];
        let caller = [&[Store(STATE, PARKED)], fence, look, &tail].concat();
        let target = vec![Store(MESSAGE, 1), Load(LOOK, STATE), IfNot(LOOK, PARKED, END), Kick(0), Mark(END)];
        let scheduler = places.iter().map(|place| Migrate(1, [PLACE, OWN_PLACE], *place)).collect();
        Machine { programs: vec![caller, target, scheduler] }.explore()
    }

    pub(super) const MOVES: [&[u8]; 4] = [&[], &[ELSEWHERE], &[ELSEWHERE, CLAIMED], &[ELSEWHERE, CLAIMED, ELSEWHERE]];
}

fn assert_never_stuck(name: &str, explored: &Explored) {
    println!("{name}: {} states", explored.states);
    if let Some(way) = &explored.stuck {
        panic!("{name}: a thread sleeps for ever after\n{way}");
    }
}

const DOORBELL: doorbell::Scenario = doorbell::Scenario {
    senders: 1,
    messages: 2,
    fences: Fences::Asymmetric,
    recheck: Recheck::Everything,
    order: Order::AsWritten,
};

const OVERFLOW: overflow::Scenario = overflow::Scenario {
    fences: Fences::Asymmetric,
    recheck: Recheck::Everything,
    order: Order::AsWritten,
    wanted: true,
};

#[test]
fn no_message_is_slept_through() {
    for fences in [Fences::Asymmetric, Fences::Refusing, Fences::Symmetric] {
        for (senders, messages) in [(1, 1), (1, 2), (2, 1)] {
            let explored = doorbell::Scenario { senders, messages, fences, ..DOORBELL }.explore();
            assert_never_stuck(&format!("{senders} senders, {messages} messages each"), &explored);
        }
    }
}

#[test]
fn no_space_is_slept_through() {
    for fences in [Fences::Asymmetric, Fences::Refusing, Fences::Symmetric] {
        assert_never_stuck("overflow", &overflow::Scenario { fences, ..OVERFLOW }.explore());
    }
}

#[test]
fn every_mutant_of_the_doorbell_sleeps_through_a_message() {
    let mutants = [
        ("no heavy fence", doorbell::Scenario { fences: Fences::None, ..DOORBELL }),
        ("a heavy fence for itself alone", doorbell::Scenario { fences: Fences::HeavyIsOwn, ..DOORBELL }),
        ("a refusal ignored", doorbell::Scenario { fences: Fences::RefusalIgnored, ..DOORBELL }),
        ("no recheck", doorbell::Scenario { recheck: Recheck::Nothing, ..DOORBELL }),
        ("a recheck of pending rings only", doorbell::Scenario { recheck: Recheck::PendingOnly, ..DOORBELL }),
        ("both loads before the publish", doorbell::Scenario { order: Order::LoadsFirst, ..DOORBELL }),
        ("the state read before the publish", doorbell::Scenario { order: Order::StateFirst, ..DOORBELL }),
    ];
    for (name, scenario) in mutants {
        assert!(scenario.explore().stuck.is_some(), "{name} is not found");
    }
}

#[test]
fn every_mutant_of_the_overflow_list_sleeps_through_space() {
    let mutants = [
        ("no heavy fence", overflow::Scenario { fences: Fences::None, ..OVERFLOW }),
        ("a heavy fence for itself alone", overflow::Scenario { fences: Fences::HeavyIsOwn, ..OVERFLOW }),
        ("no recheck", overflow::Scenario { recheck: Recheck::Nothing, ..OVERFLOW }),
        ("no wish announced", overflow::Scenario { wanted: false, ..OVERFLOW }),
        ("the wish read before the publish", overflow::Scenario { order: Order::LoadsFirst, ..OVERFLOW }),
    ];
    for (name, scenario) in mutants {
        assert!(scenario.explore().stuck.is_some(), "{name} is not found");
    }
}

#[test]
fn a_fence_of_one_thread_misses_nothing_wherever_the_thread_is_moved() {
    for moves in fence_of_one::MOVES {
        let explored = fence_of_one::explore(fence_of_one::Check::AsWritten, moves);
        assert_never_stuck(&format!("fence of one, {} moves", moves.len()), &explored);
    }
}

#[test]
fn every_mutant_of_the_fence_of_one_sleeps_through_a_message() {
    use fence_of_one::{Check, MOVES, explore};
    let mutants = [
        ("no look at the place", Check::Nothing),
        ("a look before the caller's own fence", Check::Unfenced),
        ("a place that the target writes", Check::OwnPlace),
    ];
    for (name, check) in mutants {
        assert!(explore(check, MOVES[1]).stuck.is_some(), "{name} is not found");
    }
}

/// The machine itself: the classic that tells store buffers from sequential consistency.
#[test]
fn stores_are_seen_late_by_others_only_and_a_fence_ends_that() {
    const OWN: Label = ("own", 0);
    // Each thread stores to its word, reads it back and reads the other's.
    let thread = |own: Word, other: Word, fence: &[Op]| {
        [&[Store(own, 1)], fence, &[Load(0, own), IfIs(0, 1, OWN), Sleep, Mark(OWN), Load(1, other)]].concat()
    };
    let tell_if_zero = |mut program: Vec<Op>, seen: Word| {
        program.extend([IfIs(1, 1, END), Store(seen, 1), Fence, Mark(END)]);
        program
    };
    // Sleeps for ever if it sees that both have read 0.
    let watcher = vec![Load(0, 2), Load(1, 3), IfIs(0, 0, END), IfIs(1, 0, END), Sleep, Mark(END)];
    let run = |fence: &[Op]| {
        let programs =
            vec![tell_if_zero(thread(0, 1, fence), 2), tell_if_zero(thread(1, 0, fence), 3), watcher.clone()];
        Machine { programs }.explore().stuck.is_some()
    };
    assert!(run(&[]), "both may read 0");
    assert!(!run(&[Fence]), "with fences one of them reads 1");
    assert!(!run(&[Membarrier]), "so it does with a membarrier each");
}
