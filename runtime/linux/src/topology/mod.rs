//! What the machine looks like: packages, NUMA nodes, physical cores, shared caches, as sysfs tells it.
//!
//! What a file does not tell, or a container hides, is unknown, and a CPU of which nothing is known is a physical core of its own.

mod table;
#[cfg(test)]
pub(crate) mod trees;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::cpus::Cpus;
use crate::cpus::list;
use crate::placement::Spot;

/// A machine's CPUs, as they were when it was first asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Machine {
    /// Those that are online, in ascending order. Empty if there is no sysfs.
    pub cpus: Vec<Cpu>,
}

/// One CPU: a hardware thread.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cpu {
    /// The kernel's number.
    pub id: usize,
    /// The socket, if it has a number.
    pub package: Option<usize>,
    /// The NUMA node.
    pub node: Option<usize>,
    /// The CPUs of the same physical core, itself among them, ascending.
    pub siblings: Vec<usize>,
    /// The caches, the nearest first.
    pub caches: Vec<Cache>,
    /// How fast it is, where CPUs differ: 1024 for the fastest.
    pub capacity: Option<u32>,
}

/// A cache that a CPU uses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cache {
    /// 1 is the nearest.
    pub level: u32,
    /// What it holds.
    pub kind: CacheKind,
    /// Its size, in KiB.
    pub size_kib: Option<u64>,
    /// The CPUs that use it, ascending.
    pub shared: Vec<usize>,
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheKind {
    /// Data only.
    Data,
    /// Instructions only.
    Instruction,
    /// Both.
    Unified,
}

/// The machine that this process runs on, read from sysfs once: some files per CPU.
pub fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| parse(&|path| fs::read_to_string(path).ok()))
}

impl Machine {
    /// The CPU `id`; `None`: it is not online, or nothing is known.
    #[must_use]
    pub fn cpu(&self, id: usize) -> Option<&Cpu> {
        self.cpus.binary_search_by_key(&id, |cpu| cpu.id).ok().map(|place| &self.cpus[place])
    }

    /// The lowest CPU of the physical core of `id`.
    #[must_use]
    pub fn physical_core(&self, id: usize) -> usize {
        self.cpu(id).and_then(|cpu| cpu.siblings.first().copied()).unwrap_or(id)
    }
}

impl Cpu {
    /// The cache farthest from it.
    #[must_use]
    pub fn last_cache(&self) -> Option<&Cache> {
        self.caches.iter().max_by_key(|cache| cache.level)
    }
}

/// What a runtime runs on: the machine, the part of it that the process may use, and where each core is.
///
/// Shows as a table of the CPUs that the process may use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Topology {
    /// The machine.
    pub machine: &'static Machine,
    /// What the process may use of it.
    pub allowed: Cpus,
    /// Where each core runs, in ascending order.
    pub cores: Vec<Spot>,
}

impl Topology {
    /// The topology of a runtime whose cores run on `cores`. Reads the machine's part if nobody has yet.
    #[must_use]
    pub fn new(allowed: Cpus, cores: Vec<Spot>) -> Self {
        Self { machine: machine(), allowed, cores }
    }
}

/// Reads a file; `None` if there is none.
type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

const SYSTEM: &str = "/sys/devices/system";
/// No CPU has as many caches.
const MOST_CACHES: usize = 32;

fn parse(read: Read<'_>) -> Machine {
    let text = |path: &str| read(&Path::new(SYSTEM).join(path)).map(|text| text.trim().to_owned());
    let cpus = |path: &str| text(path).and_then(|text| list::parse(&text)).filter(|cpus| !cpus.is_empty());
    let nodes: Vec<(usize, Vec<usize>)> = cpus("node/online")
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node, cpus(&format!("node/node{node}/cpulist"))?)))
        .collect();
    let online = cpus("cpu/online").unwrap_or_default();
    let cpu = |id: usize| {
        let of = |file: &str| format!("cpu/cpu{id}/{file}");
        let siblings = cpus(&of("topology/core_cpus_list")).or_else(|| cpus(&of("topology/thread_siblings_list")));
        Cpu {
            id,
            // -1: unknown.
            package: text(&of("topology/physical_package_id")).and_then(|text| text.parse().ok()),
            node: nodes.iter().find(|(_, cpus)| cpus.contains(&id)).map(|(node, _)| *node),
            siblings: siblings.filter(|cpus| cpus.contains(&id)).unwrap_or_else(|| vec![id]),
            caches: (0..MOST_CACHES).map_while(|index| cache(&text, &of(&format!("cache/index{index}")), id)).collect(),
            capacity: text(&of("cpu_capacity")).and_then(|text| text.parse().ok()),
        }
    };
    Machine { cpus: online.iter().map(|&id| cpu(id)).collect() }
}

fn cache(text: &dyn Fn(&str) -> Option<String>, path: &str, cpu: usize) -> Option<Cache> {
    let of = |file: &str| text(&format!("{path}/{file}"));
    let level = of("level")?.parse().ok()?;
    let kind = match of("type")?.as_str() {
        "Data" => CacheKind::Data,
        "Instruction" => CacheKind::Instruction,
        _ => CacheKind::Unified,
    };
    let size_kib = of("size").and_then(|size| size.strip_suffix('K')?.parse().ok());
    let shared = of("shared_cpu_list").and_then(|cpus| list::parse(&cpus)).filter(|cpus| cpus.contains(&cpu));
    Some(Cache { level, kind, size_kib, shared: shared.unwrap_or_else(|| vec![cpu]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(machine: &Machine) -> Vec<usize> {
        machine.cpus.iter().map(|cpu| cpu.id).collect()
    }

    #[test]
    fn two_sockets_whose_siblings_are_numbered_far_apart() {
        let machine = trees::machine(trees::TWO_SOCKETS);
        assert_eq!(ids(&machine), (0..16).collect::<Vec<_>>());
        let cpu = machine.cpu(13).expect("it is online");
        assert_eq!((cpu.package, cpu.node, &cpu.siblings[..]), (Some(1), Some(1), &[5, 13][..]));
        assert_eq!(machine.physical_core(13), 5);
        let levels: Vec<_> = cpu.caches.iter().map(|cache| (cache.level, cache.kind, cache.size_kib)).collect();
        let (data, unified) = (CacheKind::Data, CacheKind::Unified);
        assert_eq!(levels, [(1, data, Some(32)), (2, unified, Some(1024)), (3, unified, Some(32768))]);
        assert_eq!(cpu.last_cache().expect("it has some").shared, [4, 5, 6, 7, 12, 13, 14, 15]);
    }

    #[test]
    fn cpus_that_are_offline_leave_holes() {
        let machine = trees::machine(trees::HOLES);
        assert_eq!(ids(&machine), [0, 2, 3, 8, 10]);
        assert_eq!(machine.cpu(1), None);
        assert_eq!(machine.cpu(2).expect("it is online").siblings, [2, 10]);
        assert_eq!(machine.cpu(3).expect("it is online").siblings, [3], "the other is offline");
    }

    #[test]
    fn where_threads_are_switched_off_each_cpu_is_a_physical_core() {
        let machine = trees::machine(trees::SMT_OFF);
        assert_eq!(ids(&machine), [0, 2, 4, 6]);
        assert!(machine.cpus.iter().all(|cpu| cpu.siblings == [cpu.id]));
    }

    #[test]
    fn big_and_little_cpus_have_capacities_and_may_have_no_package() {
        let machine = trees::machine(trees::BIG_LITTLE);
        let capacities: Vec<_> = machine.cpus.iter().map(|cpu| cpu.capacity).collect();
        assert_eq!(capacities, [vec![Some(446); 4], vec![Some(1024); 4]].concat());
        assert!(machine.cpus.iter().all(|cpu| cpu.package.is_none() && cpu.node.is_none() && cpu.caches.is_empty()));
    }

    #[test]
    fn nodes_within_a_package_share_no_cache_and_a_node_without_cpus_is_nobodys() {
        let machine = trees::machine(trees::CHIPLETS);
        let nodes: Vec<_> = machine.cpus.iter().map(|cpu| cpu.node.expect("a node")).collect();
        assert_eq!(nodes, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(machine.cpu(3).expect("it is online").last_cache().expect("it has some").shared, [2, 3, 10, 11]);
    }

    #[test]
    fn a_virtual_machine_as_it_was_recorded() {
        let machine = trees::machine(trees::VIRTUAL);
        assert_eq!(ids(&machine), [0, 1]);
        let cpu = machine.cpu(1).expect("it is online");
        assert_eq!((cpu.package, cpu.node, &cpu.siblings[..], cpu.caches.len()), (Some(0), Some(0), &[1][..], 4));
    }

    #[test]
    fn without_sysfs_nothing_is_known_and_damage_is_as_if_it_were_not_there() {
        assert_eq!(parse(&|_| None), Machine::default());
        assert_eq!(trees::machine("cpu/online: many\n"), Machine::default());
        let damaged = "cpu/online: 0-1\ncpu/cpu[0-1]/topology/core_cpus_list: x\ncpu/cpu0/cache/index0/level: 1\nnode/online: 0\n";
        let machine = trees::machine(damaged);
        let bare = |id| Cpu { id, package: None, node: None, siblings: vec![id], caches: vec![], capacity: None };
        assert_eq!(machine.cpus, [bare(0), bare(1)]);
        // Lists that do not name the CPU itself are not its own.
        let wrong = trees::machine("cpu/online: 0-1\ncpu/cpu1/topology/core_cpus_list: 0\n");
        assert_eq!(wrong.physical_core(1), 1);
    }

    #[test]
    fn this_machine_knows_what_this_process_may_use() {
        let (machine, allowed) = (machine(), crate::cpus::allowed());
        assert!(machine.cpus.is_empty() || allowed.cpus.iter().all(|&cpu| machine.cpu(cpu).is_some()));
    }
}
