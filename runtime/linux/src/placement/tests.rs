use super::*;
use crate::topology::trees::{self, machine};

/// The CPUs of cores that all have one.
fn cpus(placement: &Placement, cores: usize, allowed: &[usize], tree: &str) -> Vec<usize> {
    let spots = placement.assign(cores, &Cpus::of(allowed), &machine(tree)).expect("a placement");
    spots.iter().map(|spot| spot.cpu().expect("a CPU")).collect()
}

fn all(tree: &str) -> Vec<usize> {
    let online = machine(tree).cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>();
    if online.is_empty() { vec![0, 1, 2, 3] } else { online }
}

#[test]
fn each_machine_gets_the_order_that_the_placement_says() {
    let nodes = || Placement::Nodes(vec![]);
    for (tree, placement, order) in [
        (trees::TWO_SOCKETS, Placement::Auto, vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (trees::TWO_SOCKETS, Placement::Spread, vec![0, 4, 1, 5, 2, 6, 3, 7, 8, 12]),
        (trees::TWO_SOCKETS, Placement::Packed, vec![0, 8, 1, 9, 2, 10, 3, 11, 4, 12]),
        (trees::TWO_SOCKETS, nodes(), vec![0, 1, 2, 4, 5, 6]),
        (trees::TWO_SOCKETS, Placement::Nodes(vec![1]), vec![4, 5, 6, 7, 12]),
        (trees::TWO_SOCKETS, Placement::Nodes(vec![1, 0]), vec![4, 5, 0]),
        (trees::CHIPLETS, Placement::Spread, vec![0, 4, 2, 6, 1, 5, 3, 7, 8, 12]),
        (trees::CHIPLETS, Placement::Packed, vec![0, 8, 1, 9, 2, 10, 3, 11, 4]),
        (trees::HOLES, Placement::Auto, vec![0, 2, 3, 8, 10]),
        (trees::HOLES, Placement::Packed, vec![0, 8, 2, 10, 3]),
        (trees::SMT_OFF, Placement::Packed, vec![0, 2, 4, 6]),
        (trees::BIG_LITTLE, Placement::Auto, vec![4, 5, 6, 7, 0, 1]),
        (trees::BIG_LITTLE, Placement::Spread, vec![4, 5, 6, 7, 0, 1]),
        (trees::BIG_LITTLE, Placement::Packed, vec![0, 1, 2, 3, 4]),
        (trees::VIRTUAL, Placement::Auto, vec![0, 1]),
        (trees::NOTHING, Placement::Spread, vec![0, 1, 2, 3]),
        (trees::NOTHING, Placement::Nodes(vec![0]), vec![0, 1, 2]),
    ] {
        let got = cpus(&placement, order.len(), &all(tree), tree);
        assert_eq!(got, order, "{placement:?} on\n{tree}");
    }
}

#[test]
fn only_what_the_process_may_use_counts() {
    // The node that has most of them comes first.
    assert_eq!(cpus(&Placement::Auto, 5, &[3, 4, 5, 6, 7], trees::TWO_SOCKETS), [4, 5, 6, 7, 3]);
    assert_eq!(cpus(&Placement::Auto, 4, &[2, 3, 4, 5], trees::TWO_SOCKETS), [2, 3, 4, 5]);
    assert_eq!(cpus(&Placement::Spread, 3, &[1, 2, 9, 10, 13], trees::TWO_SOCKETS), [1, 13, 2]);
    assert_eq!(cpus(&Placement::Packed, 3, &[1, 2, 9, 13], trees::TWO_SOCKETS), [1, 9, 2]);
    assert_eq!(
        cpus(&Placement::Nodes(vec![]), 4, &[0, 4, 5, 6], trees::TWO_SOCKETS),
        [0, 4, 5, 6],
        "groups of 1 and 3"
    );
}

#[test]
fn where_cpus_are_too_few_cores_are_kept_to_nodes_or_not_at_all_and_it_is_said_why() {
    let two = machine(trees::TWO_SOCKETS);
    let allowed = Cpus::of(&[1, 4]);
    for placement in [Placement::Auto, Placement::Spread, Placement::Packed] {
        let spots = placement.assign(3, &allowed, &two).expect("a placement");
        assert_eq!(spots, vec![Spot::Anywhere(WhyUnpinned::TooFewCpus { cores: 3, cpus: 2 }); 3]);
        assert_eq!(spots[0].to_string(), "unpinned: 3 cores share 2 CPUs");
    }
    let spots = Placement::Nodes(vec![]).assign(3, &allowed, &two).expect("a placement");
    let node = |node, cpu| Spot::Node { node, cpus: vec![cpu] };
    assert_eq!(spots, [node(0, 1), node(0, 1), node(1, 4)]);
    assert_eq!(Placement::Pinned.assign(3, &allowed, &two), Err(PlacementError::TooFewCpus { cores: 3, cpus: 2 }));
}

#[test]
fn a_quota_below_the_cpus_leaves_only_those_pinned_who_ask_for_it() {
    let machine = machine(trees::VIRTUAL);
    let allowed = Cpus::of(&[0, 1]).with_quota(1.5);
    let spots = Placement::Auto.assign(2, &allowed, &machine).expect("a placement");
    assert_eq!(spots, vec![Spot::Anywhere(WhyUnpinned::Quota { quota: 1.5, cpus: 2 }); 2]);
    assert_eq!(spots[0].to_string(), "unpinned: 1.5 CPUs of time on 2 CPUs, which others use too");
    let enough = Cpus::of(&[0, 1]).with_quota(2.0);
    for (placement, allowed) in [(Placement::Auto, enough), (Placement::Spread, allowed)] {
        let spots = placement.assign(2, &allowed, &machine).expect("a placement");
        assert_eq!(spots, [Spot::Cpu(0), Spot::Cpu(1)]);
    }
}

#[test]
fn lists_and_nodes_that_cannot_be_had_are_refused_by_name() {
    let machine = machine(trees::TWO_SOCKETS);
    let allowed = Cpus::of(&[4, 6]);
    let assign = |placement: Placement, cores| placement.assign(cores, &allowed, &machine);
    assert_eq!(assign(Placement::Fixed(vec![6, 6]), 2), Ok(vec![Spot::Cpu(6); 2]));
    let error = assign(Placement::Fixed(vec![4, 5]), 2).expect_err("it is not allowed");
    assert_eq!(error, PlacementError::NotAllowed { cpu: 5, allowed: vec![4, 6] });
    assert_eq!(error.to_string(), "CPU 5 is not among those that this process may use, 4,6: choose among them");
    assert_eq!(assign(Placement::Fixed(vec![4]), 2), Err(PlacementError::ListTooShort { cores: 2, listed: 1 }));
    let error = assign(Placement::Nodes(vec![1, 0]), 1).expect_err("its CPUs are not allowed");
    assert_eq!(error, PlacementError::NoSuchNode { node: 0, nodes: vec![1] });
    assert_eq!(assign(Placement::Unpinned, 1), Ok(vec![Spot::Anywhere(WhyUnpinned::Asked)]));
}

#[test]
fn cores_share_cpus_where_a_list_names_one_twice_a_node_has_too_few_or_a_quota_grants_less() {
    let machine = machine(trees::TWO_SOCKETS);
    let shares = |placement: Placement, cores, allowed: Cpus| {
        shares_cpus(&placement.assign(cores, &allowed, &machine).expect("a placement"), &allowed)
    };
    let all = || Cpus::of(&(0..16).collect::<Vec<_>>());
    assert!(shares(Placement::Fixed(vec![3, 3]), 2, all()));
    assert!(!shares(Placement::Fixed(vec![3, 4]), 2, all()));
    assert!(!shares(Placement::Fixed(vec![3, 4, 3]), 2, all()), "the third is nobody's");
    assert!(shares(Placement::Nodes(vec![1]), 9, all()));
    assert!(!shares(Placement::Nodes(vec![1]), 8, all()));
    assert!(shares(Placement::Unpinned, 17, all()) && !shares(Placement::Unpinned, 16, all()));
    assert!(shares(Placement::Auto, 3, all().with_quota(1.5)) && !shares(Placement::Auto, 2, all().with_quota(1.5)));
}

/// A machine that nobody has built: holes, and groups of any size.
fn any_tree(random: &mut fastrand::Rng) -> (String, Vec<usize>) {
    let online: Vec<usize> = (0..random.usize(1..40)).filter(|_| random.u8(0..4) > 0).collect();
    let mut tree = format!("cpu/online: {}\nnode/online: 0-3\n", Ranges(&online));
    let mut groups = |name: &str, of: &[usize], random: &mut fastrand::Rng| {
        let mut rest = of.to_vec();
        random.shuffle(&mut rest);
        while !rest.is_empty() && random.u8(0..8) > 0 {
            let mut group: Vec<usize> = rest.split_off(rest.len() - random.usize(1..=rest.len().min(4)));
            group.sort_unstable();
            let group = Ranges(&group).to_string();
            for line in name.lines() {
                tree += &format!("{}: {}\n", line.replace("{}", &group), group);
            }
        }
    };
    groups("cpu/cpu[{}]/topology/core_cpus_list", &online, random);
    groups("cpu/cpu[{}]/cache/index0/shared_cpu_list", &online, random);
    for node in 0..4 {
        groups(&format!("node/node{node}/cpulist"), &online, random);
    }
    tree += "cpu/cpu[0-40]/cache/index0/level: 3\ncpu/cpu[0-40]/cache/index0/type: Unified\n";
    for cpu in &online {
        tree += &format!("cpu/cpu{cpu}/topology/physical_package_id: {}\n", random.i8(-1..3));
        tree += &format!("cpu/cpu{cpu}/cpu_capacity: {}\n", random.u32(1..1024));
    }
    (tree, online)
}

#[test]
fn every_assignment_is_of_allowed_cpus_and_takes_none_twice_while_others_are_free() {
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..400 {
        let (tree, online) = any_tree(&mut random);
        let allowed: Vec<usize> = online.iter().copied().filter(|_| random.bool()).chain([99]).collect();
        let (machine, cpus) = (machine(&tree), Cpus::of(&allowed));
        let cores = random.usize(1..allowed.len() + 3);
        for placement in [Placement::Auto, Placement::Spread, Placement::Packed, Placement::Nodes(vec![])] {
            let spots = placement.assign(cores, &cpus, &machine).expect("a placement");
            assert_eq!(spots.len(), cores, "round {round}");
            let mut taken: Vec<usize> = spots.iter().filter_map(Spot::cpu).collect();
            assert!(taken.iter().all(|cpu| allowed.contains(cpu)), "round {round}: {placement:?} {spots:?}");
            taken.sort_unstable();
            taken.dedup();
            let expected = if cores <= allowed.len() { cores } else { 0 };
            assert_eq!(taken.len(), expected, "round {round}: {placement:?} {spots:?}");
            for spot in &spots {
                if let Spot::Node { cpus, .. } = spot {
                    assert!(!cpus.is_empty() && cpus.iter().all(|cpu| allowed.contains(cpu)), "round {round}");
                }
            }
        }
    }
}

#[test]
fn no_physical_core_runs_two_while_another_runs_none() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..200 {
        let (tree, online) = any_tree(&mut random);
        if online.is_empty() {
            continue;
        }
        let (machine, cpus) = (machine(&tree), Cpus::of(&online));
        let cores = random.usize(1..=online.len());
        for placement in [Placement::Auto, Placement::Spread] {
            let spots = placement.assign(cores, &cpus, &machine).expect("a placement");
            let mut used = Chosen::new();
            spots.iter().filter_map(Spot::cpu).for_each(|cpu| used.add(machine.physical_core(cpu)));
            let idle = online.iter().any(|&cpu| used.of(&machine.physical_core(cpu)) == 0);
            let doubled = used.0.values().any(|&cores| cores > 1);
            assert!(!(idle && doubled), "round {round}: {placement:?} {spots:?}");
        }
    }
}
