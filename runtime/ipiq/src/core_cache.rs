//! A cache on every core, of what lives elsewhere.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::ops::{Bound, RangeBounds};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use ipiq_executor::{Remote, Shootdown};
use ipiq_fabric::Core;
use ipiq_fabric::preemptible::Notes;

use crate::Handle;
use crate::current::on_core;

/// A cache on every core, of values that live elsewhere: on other cores, in a database, behind a network.
///
/// A look into it touches nothing but the core's own memory. Whoever changes the original says so with [`invalidate`](Self::invalidate),
/// [`invalidate_range`](Self::invalidate_range) or [`invalidate_all`](Self::invalidate_all): when the returned future is ready, no core
/// serves the old value any more, and no fetch that began before puts it back.
///
/// Each core holds at most `capacity` entries; the least recently filled that was not used since goes first. Invalidations that a core has been
/// told of and not yet carried out wait in a queue of [`CoreCache::QUEUE`] places; when it is full they become one of everything, as do those that reach a core in a
/// [`preemptible`](crate::preemptible()) section, which acknowledges them at once.
///
/// ```
/// use ipiq::CoreCache;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), ipiq::ShootdownError> {
///     let names = CoreCache::<u32, String>::new(1000);
///     let local = names.local();
///     let name = local.get_or_fetch(7, || async { String::from("seven") }).await;
///     assert_eq!(name, "seven");
///     assert!(local.get(&7).is_some());
///     names.invalidate(7).await?;
///     assert!(local.get(&7).is_none());
///     Ok(())
/// }
/// ```
///
/// Clones refer to the same caches. The idea is the kernels' TLB with its shootdowns: a cached translation per CPU, ranges and "all".
pub struct CoreCache<K, V> {
    shared: Arc<Shared>,
    remote: Remote,
    entries: std::marker::PhantomData<fn(K) -> V>,
}

struct Shared {
    capacity: usize,
    /// Told in preemptible sections, where nothing else can be.
    notes: Arc<Notes>,
}

impl<K, V> Clone for CoreCache<K, V> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), remote: self.remote.clone(), entries: std::marker::PhantomData }
    }
}

impl<K, V> fmt::Debug for CoreCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreCache").field("capacity", &self.shared.capacity).finish_non_exhaustive()
    }
}

thread_local! {
    /// The thread's caches, by the address of what their clones share; a cache keeps that alive.
    static CACHES: RefCell<HashMap<usize, Weak<dyn Part>>> = RefCell::default();
}

/// A core's part of a cache of any type.
trait Part: Any {
    /// Forgets everything, if a note says so. Runs no foreign code.
    fn settle(&self, core: &Core);
}

impl<K: Ord + Clone + 'static, V: Clone + 'static> Part for Inner<K, V> {
    fn settle(&self, core: &Core) {
        if self.shared.notes.take(core.id()) {
            self.forget_at_next_look();
        }
    }
}

/// After a preemptible section: the thread's caches forget what they were told to in it.
pub(crate) fn settle(core: &Core) {
    let parts: Vec<_> = CACHES.with_borrow(|caches| caches.values().filter_map(Weak::upgrade).collect());
    parts.into_iter().for_each(|part| part.settle(core));
}

const QUEUE: usize = 32;

/// What is no longer true.
#[derive(Clone, Debug)]
enum Stale<K> {
    Key(K),
    Range(Bound<K>, Bound<K>),
    All,
}

impl<K: Ord> Stale<K> {
    fn covers(&self, key: &K) -> bool {
        match self {
            Self::Key(stale) => stale == key,
            Self::Range(from, to) => (from.as_ref(), to.as_ref()).contains(key),
            Self::All => true,
        }
    }
}

/// Whether no key can be in it: the map refuses such ranges.
fn is_empty<K: Ord>(from: &Bound<K>, to: &Bound<K>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
    }
}

impl<K, V> CoreCache<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: Clone + 'static,
{
    /// How many invalidations a core keeps for its next look into the cache, before they become one of everything.
    pub const QUEUE: usize = QUEUE;

    /// A cache of at most `capacity` entries on each core of the caller's runtime. [`Handle::core_cache`] does the same on any thread.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core; if `capacity` is 0.
    #[must_use]
    #[track_caller]
    pub fn new(capacity: usize) -> Self {
        on_core("CoreCache::new", |executor| Self::on(executor.remote().clone(), capacity))
    }

    #[track_caller]
    fn on(remote: Remote, capacity: usize) -> Self {
        assert!(capacity > 0, "a cache holds at least one entry");
        let notes = Arc::new(Notes::new(remote.cores()));
        Self { shared: Arc::new(Shared { capacity, notes }), remote, entries: std::marker::PhantomData }
    }

    /// The calling core's cache, made empty now if nobody on this core has it; it lives until its last clone is dropped.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the cache's runtime.
    #[must_use]
    #[track_caller]
    pub fn local(&self) -> LocalCache<K, V> {
        let at_home = on_core("CoreCache::local", |executor| executor.remote().fabric().is_same(self.remote.fabric()));
        assert!(at_home, "a cache is used on the cores of its own runtime");
        let inner = find(&self.shared).unwrap_or_else(|| {
            let inner = Rc::new(Inner::new(self.shared.clone()));
            let weak: Weak<Inner<K, V>> = Rc::downgrade(&inner);
            CACHES.with_borrow_mut(|caches| caches.insert(address(&self.shared), weak));
            inner
        });
        LocalCache { inner }
    }

    /// Makes every core forget `key`. Callable on any thread.
    ///
    /// # Errors
    ///
    /// The future resolves to [`ShootdownError`](crate::ShootdownError) if the runtime has stopped, or comparing or cloning a key panicked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the invalidation.
    pub fn invalidate(&self, key: K) -> Shootdown {
        self.tell(Stale::Key(key))
    }

    /// Makes every core forget the keys of `range`; otherwise as [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    ///
    /// As [`invalidate`](Self::invalidate).
    pub fn invalidate_range(&self, range: impl RangeBounds<K>) -> Shootdown {
        self.tell(Stale::Range(range.start_bound().cloned(), range.end_bound().cloned()))
    }

    /// Makes every core forget everything; otherwise as [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    ///
    /// As [`invalidate`](Self::invalidate).
    pub fn invalidate_all(&self) -> Shootdown {
        self.tell(Stale::All)
    }

    fn tell(&self, stale: Stale<K>) -> Shootdown {
        let shared = self.shared.clone();
        let operation = move |_: &Core| {
            if let Some(inner) = find::<K, V>(&shared) {
                inner.note_clone_of(&stale);
            }
        };
        self.remote.shootdown_noting(operation, &self.shared.notes)
    }
}

fn address(shared: &Arc<Shared>) -> usize {
    Arc::as_ptr(shared).addr()
}

fn find<K: 'static, V: 'static>(shared: &Arc<Shared>) -> Option<Rc<Inner<K, V>>> {
    let cache: Rc<dyn Any> = CACHES.with_borrow(|caches| caches.get(&address(shared)).and_then(Weak::upgrade))?;
    cache.downcast().ok()
}

/// One core's cache.
struct Inner<K, V> {
    shared: Arc<Shared>,
    /// Invalidations told and not carried out; carried out before every look.
    queue: RefCell<Vec<Stale<K>>>,
    waits: Cell<bool>,
    table: RefCell<Table<K, V>>,
}

struct Table<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// Keys in the order in which they were filled, with the fill's number; some have gone since.
    order: VecDeque<(K, u64)>,
    fills: u64,
    /// Fetches under way that no invalidation has hit, by number.
    fetches: BTreeMap<u64, K>,
}

struct Entry<V> {
    value: V,
    fill: u64,
    used: Cell<bool>,
}

impl<K, V> Inner<K, V> {
    fn new(shared: Arc<Shared>) -> Self {
        let table = Table { entries: BTreeMap::new(), order: VecDeque::new(), fills: 0, fetches: BTreeMap::new() };
        Self { shared, queue: RefCell::default(), waits: Cell::new(false), table: RefCell::new(table) }
    }
}

impl<K, V> Drop for Inner<K, V> {
    fn drop(&mut self) {
        // The thread may be ending.
        let _ = CACHES.try_with(|caches| {
            if let Ok(mut caches) = caches.try_borrow_mut()
                && caches.get(&address(&self.shared)).is_some_and(|cache| cache.strong_count() == 0)
            {
                caches.remove(&address(&self.shared));
            }
        });
    }
}

impl<K: Ord + Clone, V: Clone> Inner<K, V> {
    /// In a shootdown, inside any drain: the table may be borrowed further down the stack, the queue never is.
    fn note(&self, stale: Stale<K>) {
        let mut queue = self.queue.borrow_mut();
        let mut discarded = Vec::new();
        if matches!(stale, Stale::All) || queue.len() >= QUEUE {
            discarded = std::mem::replace(&mut *queue, vec![Stale::All]);
        } else {
            queue.push(stale);
        }
        self.waits.set(true);
        drop(queue);
        drop(discarded);
    }

    /// As noting [`Stale::All`], but drops nothing.
    fn forget_at_next_look(&self) {
        let mut queue = self.queue.borrow_mut();
        // So it grows by one entry at most beyond its bound.
        if !matches!(queue.last(), Some(Stale::All)) {
            queue.push(Stale::All);
        }
        self.waits.set(true);
    }

    /// Runs in a drain. Should cloning a key panic, this core forgets more than it was told to, not less.
    fn note_clone_of(&self, stale: &Stale<K>) {
        let unfinished = Unfinished(self);
        let stale = stale.clone();
        std::mem::forget(unfinished);
        self.note(stale);
    }

    /// Carries out what waits. Before every look: from then on the look cannot find what was acknowledged as forgotten.
    fn catch_up(&self) {
        if self.waits.get() {
            self.carry_out();
        }
    }

    #[cold]
    fn carry_out(&self) {
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        self.waits.set(false);
        // Should comparing keys panic, everything goes at the next look.
        let unfinished = Unfinished(self);
        let mut dropped = Vec::new();
        let mut table = self.table.borrow_mut();
        for stale in &queue {
            table.forget(stale, &mut dropped);
        }
        drop(table);
        std::mem::forget(unfinished);
        // Destructors may look into the cache again.
        drop((dropped, queue));
    }
}

/// Invalidations that were taken from the queue.
struct Unfinished<'a, K: Ord + Clone, V: Clone>(&'a Inner<K, V>);

impl<K: Ord + Clone, V: Clone> Drop for Unfinished<'_, K, V> {
    fn drop(&mut self) {
        self.0.note(Stale::All);
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    fn forget(&mut self, stale: &Stale<K>, dropped: &mut Vec<Entry<V>>) {
        self.fetches.retain(|_, key| !stale.covers(key));
        match stale {
            Stale::Key(key) => dropped.extend(self.entries.remove(key)),
            Stale::Range(from, to) if is_empty(from, to) => {}
            Stale::Range(from, to) => {
                let gone = self.entries.extract_if((from.clone(), to.clone()), |_, _| true);
                dropped.extend(gone.map(|(_, entry)| entry));
            }
            Stale::All => {
                dropped.extend(std::mem::take(&mut self.entries).into_values());
                self.order.clear();
            }
        }
    }

    fn insert(&mut self, key: K, value: V, capacity: usize, dropped: &mut Vec<Entry<V>>) {
        // Before it is there: where all others were used it would go at once.
        if !self.entries.contains_key(&key) {
            while self.entries.len() >= capacity {
                dropped.push(self.evict());
            }
        }
        self.fills += 1;
        let fill = self.fills;
        self.order.push_back((key.clone(), fill));
        dropped.extend(self.entries.insert(key, Entry { value, fill, used: Cell::new(false) }));
        // Keys of entries that have gone: at most as many as entries.
        if self.order.len() > capacity.saturating_mul(2) {
            let entries = &self.entries;
            self.order.retain(|(key, fill)| entries.get(key).is_some_and(|entry| entry.fill == *fill));
        }
    }

    /// The oldest entry that was not used since it last came to the front. There is one.
    fn evict(&mut self) -> Entry<V> {
        loop {
            // It stays in front until nothing is compared any more: a comparison may panic, and an entry out of the order would never go.
            let (key, fill) = self.order.front().expect("every entry is in the order");
            match self.entries.get(key).filter(|entry| entry.fill == *fill) {
                None => drop(self.order.pop_front()),
                Some(entry) if entry.used.take() => self.order.rotate_left(1),
                Some(_) => {
                    let entry = self.entries.remove(key).expect("it was found");
                    self.order.pop_front();
                    return entry;
                }
            }
        }
    }
}

/// The calling core's part of a [`CoreCache`]. It stays on its core; clones are cheap and share the entries.
pub struct LocalCache<K, V> {
    inner: Rc<Inner<K, V>>,
}

impl<K, V> Clone for LocalCache<K, V> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K, V> fmt::Debug for LocalCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache").finish_non_exhaustive()
    }
}

impl<K, V> LocalCache<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: Clone + 'static,
{
    /// The value of `key`, if this core has it.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<V> {
        self.inner.catch_up();
        let table = self.inner.table.borrow();
        let entry = table.entries.get(key)?;
        entry.used.set(true);
        Some(entry.value.clone())
    }

    /// How many entries this core has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.catch_up();
        self.inner.table.borrow().entries.len()
    }

    /// Whether this core has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Announces that the value of `key` is about to be fetched. An invalidation that comes before the value is there makes
    /// [`Fetch::fill`] keep it out of the cache.
    #[must_use = "a fetch that is dropped fills nothing"]
    pub fn begin_fetch(&self, key: K) -> Fetch<K, V> {
        self.inner.catch_up();
        let mut table = self.inner.table.borrow_mut();
        table.fills += 1;
        let number = table.fills;
        table.fetches.insert(number, key);
        drop(table);
        Fetch { cache: self.clone(), number }
    }

    /// The value of `key`: this core's, or what `fetch` brings, which the core then has, unless it was invalidated meanwhile.
    ///
    /// Two tasks that miss the same key both fetch it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it fills nothing.
    pub async fn get_or_fetch<F, Fut>(&self, key: K, fetch: F) -> V
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = V>,
    {
        if let Some(value) = self.get(&key) {
            return value;
        }
        let begun = self.begin_fetch(key);
        let value = fetch().await;
        begun.fill(value.clone());
        value
    }
}

/// A fetch under way, of [`LocalCache::begin_fetch`].
#[derive(Debug)]
pub struct Fetch<K: Ord + Clone + Send + Sync + 'static, V: Clone + 'static> {
    cache: LocalCache<K, V>,
    number: u64,
}

impl<K, V> Fetch<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: Clone + 'static,
{
    /// Puts what was fetched into this core's cache. `false`: it was invalidated since the fetch began, and is not.
    pub fn fill(self, value: V) -> bool {
        let inner = &self.cache.inner;
        inner.catch_up();
        let mut dropped = Vec::new();
        let mut table = inner.table.borrow_mut();
        let Some(key) = table.fetches.remove(&self.number) else { return false };
        table.insert(key, value, inner.shared.capacity, &mut dropped);
        drop(table);
        drop(dropped);
        true
    }
}

impl<K, V> Drop for Fetch<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: Clone + 'static,
{
    fn drop(&mut self) {
        let key = self.cache.inner.table.borrow_mut().fetches.remove(&self.number);
        drop(key);
    }
}

impl Handle {
    /// A cache on each of the runtime's cores: [`CoreCache::new`] for threads that run no core.
    ///
    /// # Panics
    ///
    /// If `capacity` is 0.
    #[must_use]
    #[track_caller]
    pub fn core_cache<K, V>(&self, capacity: usize) -> CoreCache<K, V>
    where
        K: Ord + Clone + Send + Sync + 'static,
        V: Clone + 'static,
    {
        CoreCache::on(self.remote().clone(), capacity)
    }
}
