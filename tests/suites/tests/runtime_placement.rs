//! Where the cores' threads really are, against what the runtime says.

use std::sync::{Arc, Mutex};

use ipiq::topology::{Spot, WhyUnpinned};
use ipiq::{Placement, Runtime};
use ipiq_linux::cpus::allowed;
use ipiq_suites::watchdog::watch;

/// The CPUs on which each core's thread may run, as the kernel says.
fn masks(runtime: &Runtime) -> Vec<Vec<usize>> {
    let handle = runtime.handle();
    handle.cores().map(|core| Runtime::wait(handle.call_on(core, || allowed().cpus)).expect("a mask")).collect()
}

fn placements() -> [Placement; 6] {
    let nodes = Placement::Nodes(Vec::new());
    [Placement::Auto, Placement::Pinned, Placement::Spread, Placement::Packed, nodes, Placement::Unpinned]
}

#[test]
fn every_thread_is_where_the_topology_says() {
    let _watch = watch("every_thread_is_where_the_topology_says");
    let cpus = allowed().cpus;
    for placement in placements() {
        let runtime = Runtime::builder().cores(cpus.len().min(8)).placement(placement).build().expect("a runtime");
        let handle = runtime.handle();
        let topology = handle.topology();
        for (spot, mask) in topology.cores.iter().zip(masks(&runtime)) {
            match spot {
                Spot::Cpu(cpu) => assert_eq!(mask, [*cpu]),
                Spot::Node { cpus, .. } => assert_eq!(mask, *cpus),
                _ => assert_eq!(mask, cpus),
            }
        }
        let told: Vec<_> = topology.cores.iter().map(Spot::cpu).collect();
        assert_eq!(told, runtime.info().cpus);
        assert_eq!(topology.allowed.cpus, cpus);
        assert!(topology.to_string().lines().count() > cpus.len(), "{topology}");
    }
}

#[test]
fn where_cores_share_cpus_it_says_so_and_nodes_keep_theirs() {
    let _watch = watch("where_cores_share_cpus_it_says_so_and_nodes_keep_theirs");
    let cpus = allowed().cpus;
    let cores = cpus.len() + 1;
    if cores > 64 {
        return;
    }
    for placement in [Placement::Auto, Placement::Spread, Placement::Packed] {
        let runtime = Runtime::builder().cores(cores).placement(placement).build().expect("a runtime");
        let shared = Spot::Anywhere(WhyUnpinned::TooFewCpus { cores, cpus: cpus.len() });
        assert_eq!(runtime.handle().topology().cores, vec![shared; cores]);
        assert!(masks(&runtime).iter().all(|mask| *mask == cpus));
    }
    let runtime = Runtime::builder().cores(cores).placement(Placement::Nodes(Vec::new())).build().expect("a runtime");
    let handle = runtime.handle();
    for (spot, mask) in handle.topology().cores.iter().zip(masks(&runtime)) {
        let Spot::Node { cpus, .. } = spot else { panic!("{spot}") };
        assert_eq!(mask, *cpus);
    }
}

#[test]
fn a_thread_is_in_its_place_before_anything_of_its_core_is_made() {
    let _watch = watch("a_thread_is_in_its_place_before_anything_of_its_core_is_made");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let hook = move |core| told.lock().expect("not poisoned").push((core, allowed().cpus));
    let cpu = allowed().cpus[0];
    let builder = Runtime::builder().cores(1).placement(Placement::Fixed(vec![cpu])).on_thread_start(hook);
    let runtime = builder.build().expect("a runtime");
    assert_eq!(*seen.lock().expect("not poisoned"), [(ipiq::CoreId::new(0), vec![cpu])]);
    drop(runtime);
}

#[test]
fn a_node_that_there_is_not_is_refused_with_those_that_there_are() {
    let _watch = watch("a_node_that_there_is_not_is_refused_with_those_that_there_are");
    let error = Runtime::builder().cores(1).placement(Placement::Nodes(vec![4096])).build().expect_err("no such node");
    assert!(error.is_config() && error.to_string().contains("node 4096 has no CPU"), "{error}");
}
