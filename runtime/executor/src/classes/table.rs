//! The classes of a set of cores, as all of them and other threads see them.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use once_cell::race::OnceBox;

use super::policy;
use super::{DEFAULT_SHARES, MAX_CLASSES, MAX_SHARES};

/// Goals and slices are a millisecond at least: shorter ones cost more than they bring.
const LEAST_NS: u64 = 1_000_000;

/// What a new class is called and promised.
#[derive(Clone, Debug)]
#[must_use = "a class is made by the runtime"]
pub struct ClassSpec {
    name: Cow<'static, str>,
    shares: u32,
    latency_goal: Option<Duration>,
    time_slice: Option<Duration>,
}

impl ClassSpec {
    /// A class of 100 shares.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), shares: DEFAULT_SHARES, latency_goal: None, time_slice: None }
    }

    /// See [`Terms::set_shares`].
    pub fn shares(mut self, shares: u32) -> Self {
        self.shares = shares;
        self
    }

    /// See [`Terms::set_latency_goal`].
    pub fn latency_goal(mut self, goal: impl Into<Option<Duration>>) -> Self {
        self.latency_goal = goal.into();
        self
    }

    /// See [`Terms::set_time_slice`].
    pub fn time_slice(mut self, slice: impl Into<Option<Duration>>) -> Self {
        self.time_slice = slice.into();
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a class is called and promised. Changes are seen at each core's next choice between classes.
pub struct Terms {
    name: Arc<str>,
    shares: AtomicU32,
    /// 0: none.
    latency_goal_ns: AtomicU64,
    /// 0: the runtime's.
    time_slice_ns: AtomicU64,
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("name", &self.name)
            .field("shares", &self.shares())
            .field("latency_goal", &self.latency_goal())
            .field("time_slice", &self.time_slice())
            .finish()
    }
}

impl Terms {
    fn new(spec: ClassSpec) -> Self {
        let terms = Self {
            name: spec.name.as_ref().into(),
            shares: AtomicU32::default(),
            latency_goal_ns: AtomicU64::default(),
            time_slice_ns: AtomicU64::default(),
        };
        terms.set(&spec);
        terms
    }

    /// Sets all of them, but for the name.
    pub fn set(&self, spec: &ClassSpec) {
        self.set_shares(spec.shares);
        self.set_latency_goal(spec.latency_goal);
        self.set_time_slice(spec.time_slice);
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, for who keeps it.
    #[must_use]
    pub fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// The shares.
    #[must_use]
    pub fn shares(&self) -> u32 {
        self.shares.load(Ordering::Relaxed)
    }

    /// 1 to [`MAX_SHARES`]; what is outside counts as the nearest that is not.
    pub fn set_shares(&self, shares: u32) {
        // Relaxed, as all of these: nothing else is read by it.
        self.shares.store(shares.clamp(1, MAX_SHARES), Ordering::Relaxed);
    }

    /// How long a task of the class that can run should wait at most for other classes.
    #[must_use]
    pub fn latency_goal(&self) -> Option<Duration> {
        read(&self.latency_goal_ns)
    }

    /// A millisecond at least; `None`: no goal.
    pub fn set_latency_goal(&self, goal: Option<Duration>) {
        write(&self.latency_goal_ns, goal);
    }

    /// How long a turn of the class may take before it is asked to give way; `None`: what the runtime says.
    #[must_use]
    pub fn time_slice(&self) -> Option<Duration> {
        read(&self.time_slice_ns)
    }

    /// A millisecond at least; `None`: what the runtime says.
    pub fn set_time_slice(&self, slice: Option<Duration>) {
        write(&self.time_slice_ns, slice);
    }

    pub(super) fn policy(&self) -> policy::Terms {
        let goal_ns = self.latency_goal_ns.load(Ordering::Relaxed);
        policy::Terms { shares: self.shares(), latency_goal_ns: (goal_ns != 0).then_some(goal_ns) }
    }
}

fn read(word: &AtomicU64) -> Option<Duration> {
    let ns = word.load(Ordering::Relaxed);
    (ns != 0).then(|| Duration::from_nanos(ns))
}

fn write(word: &AtomicU64, time: Option<Duration>) {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(LEAST_NS);
    word.store(time.map_or(0, ns), Ordering::Relaxed);
}

/// Why there is no such class.
pub struct ClassError {
    /// `None`: there is no room.
    taken: Option<Arc<str>>,
}

impl ClassError {
    /// Whether another class has the name.
    #[must_use]
    pub fn is_name_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// Whether there are as many classes as there may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.taken.is_none()
    }
}

impl fmt::Debug for ClassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ClassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.taken {
            Some(name) => write!(f, "there is a scheduling class `{name}` already: use that one, or another name"),
            None => write!(
                f,
                "there are {MAX_CLASSES} scheduling classes, which is the most; they last as long as the runtime, so make few and keep them"
            ),
        }
    }
}

impl core::error::Error for ClassError {}

/// All classes. Slots are filled from the front and never emptied.
pub(crate) struct Table([OnceBox<Terms>; MAX_CLASSES]);

impl Table {
    pub(crate) fn new() -> Self {
        let table = Self([const { OnceBox::new() }; MAX_CLASSES]);
        table.create(ClassSpec::new("default")).expect("the first one");
        table
    }

    /// The new class's number.
    pub(super) fn create(&self, spec: ClassSpec) -> Result<usize, ClassError> {
        let mut terms = Box::new(Terms::new(spec));
        for (index, slot) in self.0.iter().enumerate() {
            // [classes T1]
            terms = match slot.set(terms) {
                Ok(()) => return Ok(index),
                Err(terms) => terms,
            };
            if slot.get().is_some_and(|other| other.name == terms.name) {
                return Err(ClassError { taken: Some(terms.name.clone()) });
            }
        }
        Err(ClassError { taken: None })
    }

    #[inline(always)]
    pub(super) fn get(&self, class: usize) -> Option<&Terms> {
        self.0.get(class)?.get()
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().take_while(|slot| slot.get().is_some()).count()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn names_are_unique_and_the_last_slot_is_the_last() {
        let table = Table::new();
        assert!(table.create(ClassSpec::new("default")).unwrap_err().is_name_taken());
        for index in 1..MAX_CLASSES {
            assert_eq!(table.create(ClassSpec::new(format!("class {index}"))).unwrap(), index);
            assert_eq!(table.len(), index + 1);
        }
        assert!(table.create(ClassSpec::new("class 7")).unwrap_err().is_name_taken());
        let full = table.create(ClassSpec::new("one more")).unwrap_err();
        assert!(full.is_full() && format!("{full}").contains("32"), "{full}");
        assert_eq!(table.len(), MAX_CLASSES);
    }

    #[test]
    fn terms_are_brought_within_their_bounds() {
        let terms = Terms::new(ClassSpec::new("x").shares(0).latency_goal(Duration::from_nanos(1)));
        assert_eq!((terms.shares(), terms.latency_goal()), (1, Some(Duration::from_millis(1))));
        terms.set_shares(u32::MAX);
        terms.set_latency_goal(None);
        terms.set_time_slice(Some(Duration::MAX));
        assert_eq!((terms.shares(), terms.latency_goal()), (MAX_SHARES, None));
        assert!(terms.time_slice().expect("set") > Duration::from_secs(1 << 32));
    }
}
