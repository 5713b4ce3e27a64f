//! A typed channel from every core to every other, or between chosen pairs.
//!
//! Each end stays on its core, so a pair has one producer and one consumer, and its own bound: a slow core holds up those that send to it, and nobody else.
//!
//! ```
//! use ipiq::mesh::{Mesh, Peers};
//!
//! #[ipiq::main(cores = 3)]
//! async fn main() {
//!     let sums = Mesh::full(16).run(async |Peers { senders, mut receivers }: Peers<usize>| {
//!         for core in ipiq::cores() {
//!             senders.to(core).unwrap().send(core.index() * 10).await.unwrap();
//!         }
//!         drop(senders);
//!         let mut sum = 0;
//!         while let Some((_source, n)) = receivers.recv().await {
//!             sum += n;
//!         }
//!         sum
//!     });
//!     for (core, sum) in sums.await.unwrap() {
//!         assert_eq!(sum.unwrap(), 3 * core.index() * 10);
//!     }
//! }
//! ```
//!
//! The idea is glommio's `channel_mesh`.
//!
//! How it works, step by step:
//!
#![doc = include_str!("README.md")]

mod ends;
mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::pending;
use std::marker::PhantomData;

use ipiq_executor::{JoinError, JoinHandle, Remote};
use ipiq_fabric::CoreId;

use crate::ForeignBox;
use crate::current::{assert_cores, on_core};
use crate::sync::cross::mpsc;

pub use ends::{Receivers, Sender, Senders};
pub use error::{JoinMeshError, NoPair};

/// A mesh to be joined: which pairs, and how much each holds.
#[must_use = "it does nothing unless run"]
pub struct Mesh<T: Send + 'static> {
    capacity: usize,
    /// `None`: all.
    pairs: Option<BTreeSet<(CoreId, CoreId)>>,
    value: PhantomData<fn(T)>,
}

impl<T: Send> fmt::Debug for Mesh<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("capacity", &self.capacity).field("pairs", &self.pairs).finish_non_exhaustive()
    }
}

/// What a core has of a mesh.
#[derive(Debug)]
pub struct Peers<T: Send + 'static> {
    /// To the cores that this one sends to.
    pub senders: Senders<T>,
    /// From the cores that send to this one.
    pub receivers: Receivers<T>,
}

/// What a member makes: the sending ends of its channels, by source, and the receiving ones, which stay.
struct Made<T: Send + 'static> {
    senders: Vec<(CoreId, mpsc::Sender<T>)>,
    receivers: ForeignBox<Vec<(CoreId, mpsc::Receiver<T>)>>,
}

impl<T: Send> Mesh<T> {
    /// From every core to every core, itself included; each pair holds `capacity` values.
    ///
    /// # Panics
    ///
    /// If `capacity` is nothing.
    pub fn full(capacity: usize) -> Self {
        Self::new(capacity, None)
    }

    /// From the first to the second core of each of `pairs`, each of which holds `capacity` values. The cores that are in a pair take part.
    ///
    /// ```
    /// use ipiq::CoreId;
    /// use ipiq::mesh::{Mesh, Peers};
    ///
    /// #[ipiq::main(cores = 3)]
    /// async fn main() {
    ///     let [a, b, c] = [0, 1, 2].map(CoreId::new);
    ///     let line = Mesh::partial(4, [(a, b), (b, c)]).run(async move |mut peers: Peers<u32>| {
    ///         if ipiq::core_id() == a {
    ///             let error = peers.senders.to(c).unwrap_err();
    ///             assert_eq!(error.to_string(), "the mesh has no channel from core 0 to core 2");
    ///             peers.senders.to(b).unwrap().send(1).await.unwrap();
    ///         } else if ipiq::core_id() == b {
    ///             let n = peers.receivers.from(a).unwrap().recv().await.unwrap();
    ///             peers.senders.to(c).unwrap().send(n + 1).await.unwrap();
    ///         } else {
    ///             assert_eq!(peers.receivers.recv().await, Some((b, 2)));
    ///         }
    ///     });
    ///     assert!(line.await.unwrap().into_iter().all(|(_, ended)| ended.is_ok()));
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// If `capacity` is nothing.
    pub fn partial(capacity: usize, pairs: impl IntoIterator<Item = (CoreId, CoreId)>) -> Self {
        Self::new(capacity, Some(pairs.into_iter().collect()))
    }

    fn new(capacity: usize, pairs: Option<BTreeSet<(CoreId, CoreId)>>) -> Self {
        assert!(capacity > 0, "a channel has space for one value at least");
        Self { capacity, pairs, value: PhantomData }
    }

    /// Runs `f` on every core that takes part, as a task there, with that core's ends; returns the values, in ascending order of cores, when all have ended.
    ///
    /// What `f` makes need not be `Send`, and may move the ends into further tasks of its core. A pair ends when its sending end is dropped.
    ///
    /// # Errors
    ///
    /// [`JoinMeshError`] if a core has left before it has joined: `f` runs nowhere then. Each core's value is a [`JoinError`] if its task panicked, or was cancelled because the
    /// core shut down: its ends are dropped then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before all have joined leaves nothing. Afterwards it stops no task.
    ///
    /// # Panics
    ///
    /// When polled on a thread that runs no core; and if there is no core that a pair names.
    pub async fn run<F, R>(self, f: F) -> Result<Vec<(CoreId, Result<R, JoinError>)>, JoinMeshError>
    where
        F: AsyncFnOnce(Peers<T>) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        let remote = on_core("Mesh::run", |executor| executor.remote().clone());
        let tasks = self.join(&remote).await?.into_iter().map(|(core, senders, receivers)| {
            let f = f.clone();
            // [mesh J2]
            let task = remote.spawn_on(core, move || async move {
                match receivers.try_into_inner() {
                    Ok(receivers) => f(Peers::new(core, senders, receivers)).await,
                    // The core drops what it has, this task too.
                    Err(_) => pending().await,
                }
            });
            (core, task)
        });
        let tasks: Vec<(CoreId, JoinHandle<R>)> = tasks.collect();
        let mut ended = Vec::with_capacity(tasks.len());
        for (core, task) in tasks {
            ended.push((core, task.await));
        }
        Ok(ended)
    }

    /// Has every member make its channels, and sorts their sending ends by source.
    async fn join(self, remote: &Remote) -> Result<Vec<Joined<T>>, JoinMeshError> {
        let members = self.members(remote);
        assert_cores("Mesh::run", members.keys().copied());
        let capacity = self.capacity;
        let tasks: Vec<_> = members
            .into_iter()
            .map(|(core, sources)| (core, remote.spawn_on(core, move || async move { make(&sources, capacity) })))
            .collect();
        let mut senders: BTreeMap<CoreId, Vec<(CoreId, mpsc::Sender<T>)>> = BTreeMap::new();
        let mut boxes = Vec::with_capacity(tasks.len());
        for (core, task) in tasks {
            // [mesh J3]
            let made: Made<T> = task.await.map_err(|_| JoinMeshError { core })?;
            boxes.push((core, made.receivers));
            for (source, sender) in made.senders {
                senders.entry(source).or_default().push((core, sender));
            }
        }
        let with_senders = |(core, receivers)| (core, senders.remove(&core).unwrap_or_default(), receivers);
        Ok(boxes.into_iter().map(with_senders).collect())
    }

    /// Who takes part, and who sends to each.
    fn members(&self, remote: &Remote) -> BTreeMap<CoreId, Vec<CoreId>> {
        let Some(pairs) = &self.pairs else {
            let all: Vec<CoreId> = (0..remote.cores()).map(CoreId::new).collect();
            return all.iter().map(|core| (*core, all.clone())).collect();
        };
        let mut members: BTreeMap<CoreId, Vec<CoreId>> = BTreeMap::new();
        for &(source, target) in pairs {
            members.entry(source).or_default();
            members.entry(target).or_default().push(source);
        }
        members
    }
}

/// A member, what it sends to, what it receives from.
type Joined<T> = (CoreId, Vec<(CoreId, mpsc::Sender<T>)>, ForeignBox<Vec<(CoreId, mpsc::Receiver<T>)>>);

/// The channels of which the calling core is the target.
fn make<T: Send + 'static>(sources: &[CoreId], capacity: usize) -> Made<T> {
    // [mesh J1]
    let (senders, receivers) = sources
        .iter()
        .map(|source| {
            let (sender, receiver) = mpsc::channel(capacity);
            ((*source, sender), (*source, receiver))
        })
        .unzip();
    Made { senders, receivers: ForeignBox::new(receivers) }
}
