//! The executor's timer wheel beside an ordered map that does the same, for an instruction count.
//!
//! Without an argument it does the work. With `--count` it runs itself under callgrind, prints what each operation took, and fails if one
//! takes more instructions in the wheel than in the map.

extern crate alloc;

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::process::Command;

use fastrand::Rng;

#[allow(dead_code, reason = "not all of it is measured")]
#[path = "../../../runtime/executor/src/time/entries.rs"]
mod entries;
#[allow(dead_code, reason = "not all of it is measured")]
#[path = "../../../runtime/executor/src/time/wheel.rs"]
mod wheel;

use wheel::{Due, Timer, Wheel};

/// As large as a waker; it names the timer.
type Payload = (&'static (), usize);

const OPERATIONS: u64 = 100_000;

/// What both do.
trait Queue: Default {
    type Key;
    fn insert(&mut self, deadline_ns: u64, name: usize, now_ns: u64) -> Self::Key;
    fn cancel(&mut self, key: Self::Key);
    /// Takes one that is due.
    fn fire(&mut self, now_ns: u64) -> Option<usize>;
    /// After a timer has fired.
    fn let_go(&mut self, key: Self::Key);
}

#[derive(Default)]
struct Map {
    timers: BTreeMap<(u64, u64), Payload>,
    next_number: u64,
}

impl Queue for Map {
    type Key = (u64, u64);

    fn insert(&mut self, deadline_ns: u64, name: usize, _now_ns: u64) -> Self::Key {
        let key = (deadline_ns, self.next_number);
        self.next_number += 1;
        self.timers.insert(key, (&(), name));
        key
    }

    fn cancel(&mut self, key: Self::Key) {
        black_box(self.timers.remove(&key));
    }

    fn fire(&mut self, now_ns: u64) -> Option<usize> {
        let first = self.timers.first_entry().filter(|first| first.key().0 <= now_ns)?;
        Some(first.remove().1)
    }

    /// As the sleep did when its timers were a map: it looks for one that is gone.
    fn let_go(&mut self, key: Self::Key) {
        self.cancel(key);
    }
}

impl Queue for Wheel<Payload> {
    type Key = Timer;

    fn insert(&mut self, deadline_ns: u64, name: usize, now_ns: u64) -> Timer {
        self.insert(deadline_ns, (&(), name), now_ns)
    }

    fn cancel(&mut self, key: Timer) {
        black_box(self.give_back(key));
    }

    fn fire(&mut self, now_ns: u64) -> Option<usize> {
        match self.next_due(now_ns, &mut { u32::MAX }) {
            Due::Fired(payload) => Some(payload.1),
            Due::Nothing | Due::Unknown => None,
        }
    }

    fn let_go(&mut self, key: Timer) {
        self.cancel(key);
    }
}

/// A queue, and the keys of its timers by name.
type Filled<Q> = (Q, Vec<<Q as Queue>::Key>);

fn deadline_ns(random: &mut Rng, now_ns: u64) -> u64 {
    now_ns + random.u64(1_000_000..100_000_000)
}

#[inline(never)]
fn fill<Q: Queue>(size: usize, random: &mut Rng) -> Filled<Q> {
    let mut queue = Q::default();
    let keys = (0..size).map(|name| queue.insert(deadline_ns(random, 0), name, 0)).collect();
    (queue, keys)
}

/// Sets one timer more and cancels any, again and again.
#[inline(never)]
fn set_and_cancel<Q: Queue>((mut queue, mut keys): Filled<Q>, mut random: Rng) {
    for _ in 0..OPERATIONS {
        let name = random.usize(..keys.len());
        let fresh = queue.insert(deadline_ns(&mut random, 0), name, 0);
        queue.cancel(std::mem::replace(&mut keys[name], fresh));
    }
    // What is dropped is no part of it.
    std::mem::forget((queue, keys));
}

/// Lets time go on, and sets another timer for each that fires.
#[inline(never)]
fn set_and_fire<Q: Queue>((mut queue, mut keys): Filled<Q>, mut random: Rng) {
    let between_ns = 50_500_000 / keys.len() as u64;
    let (mut now_ns, mut fired) = (0, 0);
    while fired < OPERATIONS {
        now_ns += between_ns;
        while let Some(name) = queue.fire(now_ns) {
            fired += 1;
            let fresh = queue.insert(deadline_ns(&mut random, now_ns), name, now_ns);
            queue.let_go(std::mem::replace(&mut keys[name], fresh));
        }
    }
    std::mem::forget((queue, keys));
}

const FUNCTIONS: [&str; 2] = ["set_and_cancel", "set_and_fire"];
const SIZES: [usize; 3] = [10, 10_000, 1_000_000];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--count"] => count(),
        [queue, function, size] => {
            let (size, mut random) = (size.parse()?, Rng::with_seed(1));
            match (queue, function) {
                ("map", "set_and_cancel") => set_and_cancel(fill::<Map>(size, &mut random), random),
                ("map", "set_and_fire") => set_and_fire(fill::<Map>(size, &mut random), random),
                ("wheel", "set_and_cancel") => set_and_cancel(fill::<Wheel<Payload>>(size, &mut random), random),
                ("wheel", "set_and_fire") => set_and_fire(fill::<Wheel<Payload>>(size, &mut random), random),
                _ => return Err("no such queue or function".into()),
            }
            Ok(())
        }
        _ => Err(format!("usage: timer_wheel --count, or timer_wheel map|wheel {} SIZE", FUNCTIONS.join("|")).into()),
    }
}

fn count() -> Result<(), Box<dyn Error>> {
    println!("instructions per operation, loop and random numbers included");
    println!("{:<24}{:>10}{:>10}{:>10}", "timers", SIZES[0], SIZES[1], SIZES[2]);
    let mut more = Vec::new();
    for function in FUNCTIONS {
        let mut map = [0.0; SIZES.len()];
        for queue in ["map", "wheel"] {
            let mut counts = [0.0; SIZES.len()];
            for (count, size) in counts.iter_mut().zip(SIZES) {
                *count = instructions(queue, function, size)?;
            }
            println!("{:<24}{:>10.0}{:>10.0}{:>10.0}", format!("{function}, {queue}"), counts[0], counts[1], counts[2]);
            if queue == "map" {
                map = counts;
            } else if counts.iter().zip(map).any(|(wheel, map)| *wheel > map) {
                more.push(function);
            }
        }
    }
    if more.is_empty() { Ok(()) } else { Err(format!("the wheel takes more to {}", more.join(", ")).into()) }
}

/// What an operation takes, by a run under callgrind.
fn instructions(queue: &str, function: &str, size: usize) -> Result<f64, Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("timer_wheel.{}", std::process::id()));
    let ran = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args([queue, function, &size.to_string()])
        .status();
    let annotated = Command::new("callgrind_annotate").args(["--inclusive=yes", "--threshold=100"]).arg(&file).output();
    // There is no file if valgrind is missing, which the next line says.
    let _ = std::fs::remove_file(&file);
    if !ran.map_err(|error| format!("valgrind: {error}; install it"))?.success() {
        return Err("the work failed under callgrind".into());
    }
    let text = String::from_utf8(annotated?.stdout)?;
    let named = |line: &&str| line.contains("timer_wheel::") && line.contains(function);
    let line = text.lines().find(named).ok_or("callgrind has not seen the work")?;
    let number = line.split_whitespace().next().unwrap_or_default().replace(',', "");
    Ok(number.parse::<f64>()? / OPERATIONS as f64)
}
