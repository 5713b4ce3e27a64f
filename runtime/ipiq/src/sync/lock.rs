//! Locks that a task may hold while it awaits.

use std::cell::{Ref, RefCell, RefMut};
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::semaphore::{Permit, Semaphore};

/// A value that one task of a core at a time may use, also across awaits, in the order in which they asked.
///
/// What is used between two awaits needs no lock: a `Cell` or a `RefCell` will do.
///
/// ```
/// use std::rc::Rc;
///
/// use ipiq::sync::Mutex;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let log = Rc::new(Mutex::new(Vec::new()));
///     let (first, second) = [1, 2].map(|n| {
///         let log = log.clone();
///         ipiq::spawn_local(async move {
///             let mut log = log.lock().await;
///             log.push(n);
///             ipiq::yield_now().await; // Nobody comes between.
///             log.push(n);
///         })
///     }).into();
///     first.await.unwrap();
///     second.await.unwrap();
///     assert_eq!(*log.lock().await, [1, 1, 2, 2]);
/// }
/// ```
///
/// A panic of who holds it frees it; there is no poison.
pub struct Mutex<T> {
    turns: Semaphore,
    value: RefCell<T>,
}

impl<T> Mutex<T> {
    /// A free mutex.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { turns: Semaphore::new(1), value: RefCell::new(value) }
    }

    /// Locks it, when it is free and nobody came before. A task that holds it and locks it again waits for ever.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future gives its place to the next; a task that waits again waits behind all others.
    pub async fn lock(&self) -> MutexGuard<'_, T> {
        let Ok(turn) = self.turns.acquire().await else { unreachable!("it is never closed") };
        MutexGuard { value: self.value.borrow_mut(), _turn: turn }
    }

    /// Locks it now, unless it is locked or others wait.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let turn = self.turns.try_acquire()?;
        Some(MutexGuard { value: self.value.borrow_mut(), _turn: turn })
    }

    /// The value, which nobody else can use meanwhile.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With a turn: showing the value is anybody's code, and may try to lock it.
        show(f, "Mutex", self.try_lock().as_deref())
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// The value of a [`Mutex`], locked until this is dropped.
#[must_use = "it is unlocked at once"]
pub struct MutexGuard<'a, T> {
    // Given back before the turn.
    value: RefMut<'a, T>,
    _turn: Permit<'a>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// As many readers as a lock has.
const READERS: usize = u32::MAX as usize;

/// A value that many tasks of a core read at a time, or one writes, also across awaits, in the order in which they asked: a reader does not come before a writer that waits.
///
/// ```
/// use ipiq::sync::RwLock;
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let names = RwLock::new(vec!["a"]);
///     {
///         let (one, other) = (names.read().await, names.read().await);
///         assert_eq!(one.len(), other.len());
///         assert!(names.try_write().is_none());
///     }
///     names.write().await.push("b");
/// }
/// ```
///
/// A panic of who holds it frees it; there is no poison.
pub struct RwLock<T> {
    turns: Semaphore,
    value: RefCell<T>,
}

impl<T> RwLock<T> {
    /// A free lock.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { turns: Semaphore::new(READERS), value: RefCell::new(value) }
    }

    /// Locks it for reading, when no one writes and nobody came before. A task that reads and locks it again may wait for ever, behind a writer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future gives its place to the next; a task that waits again waits behind all others.
    pub async fn read(&self) -> ReadGuard<'_, T> {
        let Ok(turn) = self.turns.acquire().await else { unreachable!("it is never closed") };
        ReadGuard { value: self.value.borrow(), _turn: turn }
    }

    /// Locks it for writing, when it is free and nobody came before.
    ///
    /// # Cancel safety
    ///
    /// As [`read`](Self::read).
    pub async fn write(&self) -> WriteGuard<'_, T> {
        let Ok(turn) = self.turns.acquire_many(READERS).await else { unreachable!("it is never closed") };
        WriteGuard { value: self.value.borrow_mut(), _turn: turn }
    }

    /// Locks it for reading now, unless someone writes or others wait.
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let turn = self.turns.try_acquire()?;
        Some(ReadGuard { value: self.value.borrow(), _turn: turn })
    }

    /// Locks it for writing now, unless it is locked or others wait.
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let turn = self.turns.try_acquire_many(READERS)?;
        Some(WriteGuard { value: self.value.borrow_mut(), _turn: turn })
    }

    /// The value, which nobody else can use meanwhile.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With a turn: showing the value is anybody's code, and may try to lock it.
        show(f, "RwLock", self.try_read().as_deref())
    }
}

/// A lock, with its value unless that is locked.
fn show<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, name: &str, value: Option<&T>) -> fmt::Result {
    let locked: &dyn fmt::Debug = &format_args!("<locked>");
    let value = value.map_or(locked, |value| value);
    f.debug_struct(name).field("value", value).finish_non_exhaustive()
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// The value of an [`RwLock`], locked for reading until this is dropped.
#[must_use = "it is unlocked at once"]
pub struct ReadGuard<'a, T> {
    // Given back before the turn.
    value: Ref<'a, T>,
    _turn: Permit<'a>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The value of an [`RwLock`], locked for writing until this is dropped.
#[must_use = "it is unlocked at once"]
pub struct WriteGuard<'a, T> {
    // Given back before the turn.
    value: RefMut<'a, T>,
    _turn: Permit<'a>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
