//! Which CPUs this process may use, and who says so.

mod cgroup;
pub(crate) mod list;

use std::fmt;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use crate::affinity;
use cgroup::{Cpuset, Limits, Quota};
use list::Ranges;

/// The CPUs a thread may run on and the CPU time its process gets.
///
/// Shows as one line, for logs and start messages.
///
/// ```
/// let cpus = ipiq_linux::cpus::allowed();
/// println!("{cpus}"); // CPUs 0-3 (affinity mask); 1.5 CPUs of time (/sys/fs/cgroup/kv/cpu.max)
/// assert!(cpus.default_cores() <= cpus.cpus.len());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Cpus {
    /// The CPUs, ascending; at least one.
    pub cpus: Vec<usize>,
    mask: Mask,
    /// Only if it took CPUs out of the mask.
    cpuset: Option<Cpuset>,
    quota: Option<Quota>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    Kernel,
    /// A sandbox refuses the question: as many as the standard library counts, from 0.
    Guessed,
}

/// What the calling thread may use: its affinity mask, cut by the control group's cpuset, and the group's quota.
///
/// Ask on a thread that is not pinned yet. Reads files: not for a hot path. Control groups that cannot be read limit
/// nothing.
#[must_use]
pub fn allowed() -> Cpus {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let (cpus, mask) = match affinity::get() {
        Ok(cpus) if !cpus.is_empty() => (cpus, Mask::Kernel),
        _ => ((0..thread::available_parallelism().map_or(1, NonZeroUsize::get)).collect(), Mask::Guessed),
    };
    Cpus::from(cpus, mask, cgroup::limits(&read))
}

impl Cpus {
    /// Never more than the mask. A cpuset that has nothing in common with it is out of date: the mask is the kernel's answer.
    fn from(cpus: Vec<usize>, mask: Mask, limits: Limits) -> Self {
        let common = |set: &Cpuset| cpus.iter().copied().filter(|cpu| set.cpus.contains(cpu)).collect::<Vec<_>>();
        match limits.cpuset.map(|set| (common(&set), set)) {
            Some((both, set)) if !both.is_empty() && both.len() < cpus.len() => {
                Self { cpus: both, mask, cpuset: Some(set), quota: limits.quota }
            }
            _ => Self { cpus, mask, cpuset: None, quota: limits.quota },
        }
    }

    /// The affinity mask of a test.
    #[cfg(test)]
    pub(crate) fn of(cpus: &[usize]) -> Self {
        Self { cpus: cpus.to_vec(), mask: Mask::Kernel, cpuset: None, quota: None }
    }

    #[cfg(test)]
    pub(crate) fn with_quota(self, cpus: f64) -> Self {
        Self { quota: Some(Quota { cpus, file: "/max".into() }), ..self }
    }

    /// How many CPUs' worth of time the process gets, if its control group limits that; may be a fraction.
    #[must_use]
    pub fn quota(&self) -> Option<f64> {
        self.quota.as_ref().map(|quota| quota.cpus)
    }

    /// The file that states the quota.
    #[must_use]
    pub fn quota_source(&self) -> Option<&Path> {
        self.quota.as_ref().map(|quota| quota.file.as_path())
    }

    /// The file of the cpuset, if it allows less than the affinity mask.
    #[must_use]
    pub fn cpuset_source(&self) -> Option<&Path> {
        self.cpuset.as_ref().map(|set| set.file.as_path())
    }

    /// How many cores a runtime has that is not told: as many as CPUs, but no more than the quota, rounded up; at least one.
    /// More busy threads than this wait for each other, or are throttled.
    #[must_use]
    pub fn default_cores(&self) -> usize {
        let by_quota = self.quota().map_or(usize::MAX, |cpus| cpus.ceil() as usize);
        self.cpus.len().min(by_quota).clamp(1, ipiq_fabric::MAX_CORES)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = match self.mask {
            Mask::Kernel => "affinity mask",
            Mask::Guessed => "guessed: the affinity mask cannot be read",
        };
        write!(f, "CPUs {} ({mask}", Ranges(&self.cpus))?;
        if let Some(set) = &self.cpuset {
            write!(f, " and {}", set.file.display())?;
        }
        f.write_str(")")?;
        if let Some(quota) = &self.quota {
            write!(f, "; {} CPUs of time ({})", quota.cpus, quota.file.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuset(cpus: &[usize]) -> Option<Cpuset> {
        Some(Cpuset { cpus: cpus.to_vec(), file: "/set".into() })
    }

    fn quota(cpus: f64) -> Option<Quota> {
        Some(Quota { cpus, file: "/max".into() })
    }

    #[test]
    fn a_smaller_cpuset_cuts_the_mask_and_is_named() {
        let cpus = Cpus::from(vec![0, 1, 2, 3], Mask::Kernel, Limits { cpuset: cpuset(&[2, 3, 4]), quota: None });
        assert_eq!(cpus.cpus, [2, 3]);
        assert_eq!(cpus.cpuset_source(), Some(Path::new("/set")));
        assert_eq!(cpus.to_string(), "CPUs 2-3 (affinity mask and /set)");
    }

    #[test]
    fn a_cpuset_never_adds_to_the_mask_and_a_foreign_one_is_ignored() {
        for set in [&[0, 1, 2][..], &[7]] {
            let cpus = Cpus::from(vec![1], Mask::Kernel, Limits { cpuset: cpuset(set), quota: None });
            assert_eq!((&cpus.cpus[..], cpus.cpuset_source()), (&[1][..], None));
        }
    }

    #[test]
    fn a_quota_caps_the_cores_but_not_the_cpus() {
        let with = |cpus, worth| Cpus::from(cpus, Mask::Kernel, Limits { cpuset: None, quota: quota(worth) });
        let cpus = with(vec![0, 1, 2, 3], 1.5);
        assert_eq!((cpus.cpus.len(), cpus.default_cores()), (4, 2));
        assert_eq!(cpus.to_string(), "CPUs 0-3 (affinity mask); 1.5 CPUs of time (/max)");
        assert_eq!(with(vec![0, 1], 0.01).default_cores(), 1);
        assert_eq!(with(vec![0, 1], 64.0).default_cores(), 2);
        assert_eq!(with((0..5000).collect(), 5000.0).default_cores(), ipiq_fabric::MAX_CORES);
    }

    #[test]
    fn this_machine_answers() {
        let cpus = allowed();
        assert!(!cpus.cpus.is_empty() && cpus.cpus.is_sorted());
        assert_eq!(cpus.mask, Mask::Kernel);
    }
}
