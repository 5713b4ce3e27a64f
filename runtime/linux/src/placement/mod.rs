//! Which CPU each core of a runtime runs on: a function of the machine, what the process may use of it, and how many cores there are.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use crate::cpus::Cpus;
use crate::cpus::list::Ranges;
use crate::topology::Machine;

/// Which CPU each core's thread is pinned to.
///
/// Only CPUs that the process may use are taken, and none twice while others are free. What a core allocates itself, its tasks, timers, queues, I/O
/// and the rings that it sends by, is touched first by its thread after it was placed, and so lies in the memory of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// One CPU per core if there are as many, the kernel lets it, and no quota grants less time than those CPUs have; unpinned
    /// otherwise. One CPU of each physical core before the second, the fast ones before the slow ones, and node by node: the node first that has most of the CPUs, of equal ones
    /// the one with the lowest number.
    #[default]
    Auto,
    /// One CPU per core, in ascending order; an error if there are too few.
    Pinned,
    /// Core `i` on the `i`-th CPU of the list; a CPU may be named twice.
    Fixed(Vec<usize>),
    /// As far apart as can be: one CPU of each physical core before the second, over nodes, packages and caches in turn. For most memory bandwidth and
    /// cache. Unpinned if there are too few CPUs.
    Spread,
    /// As near as can be: all CPUs of a physical core, then of a cache, a package and a node, before the next. For cores that talk much. Unpinned if there are
    /// too few CPUs.
    Packed,
    /// In groups of equal size, as far as there is space, one on each of these NUMA nodes, in this order; all nodes if the list is empty. Neighbours in number share a
    /// node; within it cores are spread. If there are too few CPUs, cores are kept to their nodes, and not pinned.
    Nodes(Vec<usize>),
    /// Wherever the kernel likes.
    Unpinned,
}

/// Where a core runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spot {
    /// Pinned to this CPU.
    Cpu(usize),
    /// On any CPU of a NUMA node that the process may use.
    Node {
        /// The node.
        node: usize,
        /// Its CPUs.
        cpus: Vec<usize>,
    },
    /// Wherever the kernel likes.
    Anywhere(WhyUnpinned),
}

impl Spot {
    /// The CPU, if it is one.
    #[must_use]
    pub fn cpu(&self) -> Option<usize> {
        match self {
            Self::Cpu(cpu) => Some(*cpu),
            Self::Node { .. } | Self::Anywhere(_) => None,
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(cpu) => write!(f, "CPU {cpu}"),
            Self::Node { node, cpus } => {
                write!(f, "node {node}, CPUs {}, which are too few for one each", Ranges(cpus))
            }
            Self::Anywhere(why) => write!(f, "unpinned: {why}"),
        }
    }
}

/// Why a core is pinned to no CPU.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WhyUnpinned {
    /// So it was asked for.
    Asked,
    /// Cores that share CPUs are better moved about by the kernel.
    TooFewCpus {
        /// Cores.
        cores: usize,
        /// CPUs that the process may use.
        cpus: usize,
    },
    /// A quota below what the CPUs have: others use them too, and would be pinned to the same.
    Quota {
        /// How many CPUs' worth of time there is.
        quota: f64,
        /// CPUs that the process may use.
        cpus: usize,
    },
    /// The kernel refused it, and said this.
    Refused(String),
}

// A quota is a ratio of whole numbers, never NaN.
impl Eq for WhyUnpinned {}

impl fmt::Display for WhyUnpinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("as asked"),
            Self::TooFewCpus { cores, cpus } => write!(f, "{cores} cores share {cpus} CPUs"),
            Self::Quota { quota, cpus } => {
                write!(f, "{quota} CPUs of time on {cpus} CPUs, which others use too")
            }
            Self::Refused(error) => write!(f, "the kernel refused it ({error})"),
        }
    }
}

/// A placement that this machine cannot give.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlacementError {
    /// More pinned cores than CPUs.
    TooFewCpus {
        /// Cores.
        cores: usize,
        /// CPUs that the process may use.
        cpus: usize,
    },
    /// A list that does not name a CPU for each core.
    ListTooShort {
        /// Cores.
        cores: usize,
        /// CPUs in the list.
        listed: usize,
    },
    /// A CPU that the process may not use.
    NotAllowed {
        /// The CPU.
        cpu: usize,
        /// Those that it may use.
        allowed: Vec<usize>,
    },
    /// A node that has no CPU which the process may use.
    NoSuchNode {
        /// The node.
        node: usize,
        /// Those that have.
        nodes: Vec<usize>,
    },
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewCpus { cores, cpus } => {
                write!(
                    f,
                    "{cores} pinned cores need {cores} CPUs, but this process may use {cpus}: ask for fewer cores, or `Placement::Unpinned`"
                )
            }
            Self::ListTooShort { cores, listed } => {
                write!(
                    f,
                    "{cores} cores are to be pinned, but the list names only {listed}: name a CPU for each, or ask for fewer cores"
                )
            }
            Self::NotAllowed { cpu, allowed } => {
                write!(
                    f,
                    "CPU {cpu} is not among those that this process may use, {}: choose among them",
                    Ranges(allowed)
                )
            }
            Self::NoSuchNode { node, nodes } => {
                write!(
                    f,
                    "node {node} has no CPU that this process may use; nodes {} have: choose among them",
                    Ranges(nodes)
                )
            }
        }
    }
}

impl std::error::Error for PlacementError {}

impl Placement {
    /// Where each of `cores` cores is to run, on the CPUs `allowed` of `machine`.
    ///
    /// # Errors
    ///
    /// [`PlacementError`]: what was asked for explicitly cannot be had.
    pub fn assign(&self, cores: usize, allowed: &Cpus, machine: &Machine) -> Result<Vec<Spot>, PlacementError> {
        let cpus = &allowed.cpus;
        let anywhere = |why| Ok(vec![Spot::Anywhere(why); cores]);
        let shares = cores > cpus.len();
        let too_few = WhyUnpinned::TooFewCpus { cores, cpus: cpus.len() };
        match self {
            Self::Unpinned => anywhere(WhyUnpinned::Asked),
            Self::Auto | Self::Spread | Self::Packed if shares => anywhere(too_few),
            Self::Auto => match allowed.quota().filter(|&quota| quota < cpus.len() as f64) {
                Some(quota) => anywhere(WhyUnpinned::Quota { quota, cpus: cpus.len() }),
                None => Ok(pinned(&one_node_first(cpus, machine), cores)),
            },
            Self::Spread => Ok(pinned(&spread(cpus, machine, cores), cores)),
            Self::Packed => Ok(pinned(&packed(cpus, machine), cores)),
            Self::Nodes(nodes) => on_nodes(nodes, cores, cpus, machine),
            Self::Pinned if shares => Err(PlacementError::TooFewCpus { cores, cpus: cpus.len() }),
            Self::Pinned => Ok(pinned(cpus, cores)),
            Self::Fixed(list) => {
                if list.len() < cores {
                    return Err(PlacementError::ListTooShort { cores, listed: list.len() });
                }
                match list[..cores].iter().find(|cpu| !cpus.contains(cpu)) {
                    Some(&cpu) => Err(PlacementError::NotAllowed { cpu, allowed: cpus.clone() }),
                    None => Ok(pinned(list, cores)),
                }
            }
        }
    }

    /// Whether a core that the kernel does not let be pinned must not start.
    #[must_use]
    pub fn is_demand(&self) -> bool {
        matches!(self, Self::Pinned | Self::Fixed(_))
    }
}

/// Whether cores on `spots` share CPUs, or the time on them: then one that looks on without anything to do keeps another from running.
#[must_use]
pub fn shares_cpus(spots: &[Spot], allowed: &Cpus) -> bool {
    let mut pinned = Chosen::new();
    spots.iter().filter_map(Spot::cpu).for_each(|cpu| pinned.add(cpu));
    let twice = pinned.0.values().any(|&cores| cores > 1);
    // Cores are kept to nodes, and not pinned, only where these have too few CPUs.
    let crowded = spots.iter().any(|spot| matches!(spot, Spot::Node { .. }));
    twice || crowded || spots.len() > allowed.default_cores()
}

fn pinned(cpus: &[usize], cores: usize) -> Vec<Spot> {
    cpus[..cores].iter().copied().map(Spot::Cpu).collect()
}

/// What a placement goes by. What is unknown is one package, one node and one cache of all.
struct Place {
    node: Option<usize>,
    package: Option<usize>,
    /// The first of the CPUs that share the last cache.
    cache: Option<usize>,
    core: usize,
    slowness: Reverse<u32>,
}

impl Place {
    fn of(cpu: usize, machine: &Machine) -> Self {
        let known = machine.cpu(cpu);
        let cache = known.and_then(|known| known.last_cache()?.shared.first().copied());
        Self {
            node: known.and_then(|known| known.node),
            package: known.and_then(|known| known.package),
            cache,
            core: machine.physical_core(cpu),
            slowness: Reverse(known.and_then(|known| known.capacity).unwrap_or(0)),
        }
    }
}

/// How many of each have been chosen.
struct Chosen<K>(HashMap<K, usize>);

impl<K: Hash + Eq> Chosen<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }
}

/// One CPU of each physical core before the second, fast ones first, node by node, the largest first.
fn one_node_first(cpus: &[usize], machine: &Machine) -> Vec<usize> {
    let (mut seen, mut sizes) = (Chosen::new(), Chosen::new());
    cpus.iter().for_each(|&cpu| sizes.add(Place::of(cpu, machine).node));
    let mut ranked: Vec<_> = cpus
        .iter()
        .map(|&cpu| {
            let place = Place::of(cpu, machine);
            let rank = seen.of(&place.core);
            seen.add(place.core);
            (rank, place.slowness, Reverse(sizes.of(&place.node)), place.node, cpu)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(.., cpu)| cpu).collect()
}

/// Each time the CPU of which physical core, node, package and cache the fewest have been chosen.
fn spread(cpus: &[usize], machine: &Machine, cores: usize) -> Vec<usize> {
    let mut left: Vec<(usize, Place)> = cpus.iter().map(|&cpu| (cpu, Place::of(cpu, machine))).collect();
    let (mut physical, mut nodes, mut packages, mut caches) =
        (Chosen::new(), Chosen::new(), Chosen::new(), Chosen::new());
    let next = |left: &mut Vec<(usize, Place)>| {
        let cost = |(cpu, place): &(usize, Place)| {
            let used = (nodes.of(&place.node), packages.of(&place.package), caches.of(&place.cache));
            (physical.of(&place.core), place.slowness, used, *cpu)
        };
        let best = (0..left.len()).min_by_key(|&at| cost(&left[at]))?;
        let (cpu, place) = left.swap_remove(best);
        physical.add(place.core);
        nodes.add(place.node);
        packages.add(place.package);
        caches.add(place.cache);
        Some(cpu)
    };
    let mut next = next;
    (0..cores).map_while(|_| next(&mut left)).collect()
}

/// By node, package, cache and physical core.
fn packed(cpus: &[usize], machine: &Machine) -> Vec<usize> {
    let mut ordered = cpus.to_vec();
    ordered.sort_by_key(|&cpu| {
        let place = Place::of(cpu, machine);
        (place.node, place.package, place.cache, place.core, cpu)
    });
    ordered
}

fn on_nodes(nodes: &[usize], cores: usize, cpus: &[usize], machine: &Machine) -> Result<Vec<Spot>, PlacementError> {
    let node_of = |cpu| machine.cpu(cpu).and_then(|cpu| cpu.node).unwrap_or(0);
    let mut present: Vec<usize> = cpus.iter().map(|&cpu| node_of(cpu)).collect();
    present.sort_unstable();
    present.dedup();
    if let Some(&node) = nodes.iter().find(|node| !present.contains(node)) {
        return Err(PlacementError::NoSuchNode { node, nodes: present });
    }
    let mut wanted: Vec<usize> = Vec::new();
    for &node in if nodes.is_empty() { &present } else { nodes } {
        if !wanted.contains(&node) {
            wanted.push(node);
        }
    }
    let groups: Vec<(usize, Vec<usize>)> = wanted
        .into_iter()
        .map(|node| (node, cpus.iter().copied().filter(|&cpu| node_of(cpu) == node).collect()))
        .collect();
    let shares = cores > groups.iter().map(|(_, cpus)| cpus.len()).sum();
    let sizes = group_sizes(cores, &groups.iter().map(|(_, cpus)| cpus.len()).collect::<Vec<_>>());
    let spots = groups.into_iter().zip(sizes).flat_map(|((node, cpus), size)| {
        if shares { vec![Spot::Node { node, cpus }; size] } else { pinned(&spread(&cpus, machine, size), size) }
    });
    Ok(spots.collect())
}

/// Groups as equal as can be, none above its space while another has some, the first ones larger.
fn group_sizes(cores: usize, space: &[usize]) -> Vec<usize> {
    let mut sizes = vec![0; space.len()];
    for _ in 0..cores {
        let next = (0..space.len()).min_by_key(|&group| (sizes[group] >= space[group], sizes[group], group));
        next.into_iter().for_each(|group| sizes[group] += 1);
    }
    sizes
}
