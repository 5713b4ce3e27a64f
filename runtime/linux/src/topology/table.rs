//! A topology for people.

use std::fmt;

use super::Topology;
use crate::cpus::list::Ranges;
use crate::placement::Spot;

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.allowed)?;
        let mut rows = vec![["cpu", "node", "package", "siblings", "L2", "L3", "capacity", "cores"].map(str::to_owned)];
        rows.extend(self.allowed.cpus.iter().map(|&cpu| self.row(cpu)));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        for row in &rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
            writeln!(f, "{}", cells.join("  "))?;
        }
        for (core, spot) in self.cores.iter().enumerate() {
            if !matches!(spot, Spot::Cpu(_)) {
                writeln!(f, "core {core}: {spot}")?;
            }
        }
        Ok(())
    }
}

impl Topology {
    fn row(&self, id: usize) -> [String; 8] {
        fn known<T: ToString>(value: Option<T>) -> String {
            value.map_or_else(|| "-".to_owned(), |value| value.to_string())
        }
        let cpu = self.machine.cpu(id);
        let shared = |level| {
            let cache = cpu.and_then(|cpu| cpu.caches.iter().find(|cache| cache.level == level));
            known(cache.map(|cache| Ranges(&cache.shared)))
        };
        let here = self.cores.iter().enumerate().filter(|(_, spot)| **spot == Spot::Cpu(id));
        let cores: Vec<usize> = here.map(|(core, _)| core).collect();
        [
            id.to_string(),
            known(cpu.and_then(|cpu| cpu.node)),
            known(cpu.and_then(|cpu| cpu.package)),
            known(cpu.map(|cpu| Ranges(&cpu.siblings))),
            shared(2),
            shared(3),
            known(cpu.and_then(|cpu| cpu.capacity)),
            known((!cores.is_empty()).then_some(Ranges(&cores))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::Cpus;
    use crate::placement::WhyUnpinned;
    use crate::topology::trees;

    #[test]
    fn a_line_per_cpu_that_may_be_used_and_per_core_that_has_none_of_its_own() {
        let machine = Box::leak(Box::new(trees::machine(trees::HOLES)));
        let why = WhyUnpinned::Refused("no".to_owned());
        let cores = vec![Spot::Cpu(2), Spot::Cpu(8), Spot::Anywhere(why)];
        let topology = Topology { machine, allowed: Cpus::of(&[2, 3, 8, 90]), cores };
        let text = topology.to_string();
        let expected = "\
CPUs 2-3,8,90 (affinity mask)
cpu  node  package  siblings  L2  L3  capacity  cores
  2     0        0      2,10   -   -         -      0
  3     0        0         3   -   -         -      -
  8     0        0       0,8   -   -         -      1
 90     -        -         -   -   -         -      -
core 2: unpinned: the kernel refused it (no)
";
        assert_eq!(text, expected);
    }
}
