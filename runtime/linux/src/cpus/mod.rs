//! Which CPUs this process may use, and who says so.

mod cgroup;
pub(crate) mod list;

use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use crate::affinity;
use cgroup::{Cpuset, Limits, Quota};
use list::Ranges;

/// The CPUs a thread may run on and the CPU time its process gets.
///
/// Shows as one line, for logs and start messages.
///
/// ```
/// let cpus = ipiq_linux::cpus::Cpus::of_this_thread()?;
/// println!("{cpus}"); // CPUs 0-3 (affinity mask); 1.5 CPUs of time (/sys/fs/cgroup/kv/cpu.max)
/// assert!(cpus.worth().get() <= cpus.allowed().len());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Cpus {
    allowed: Vec<usize>,
    /// Only if it took CPUs out of the mask.
    cpuset: Option<Cpuset>,
    quota: Option<Quota>,
}

impl Cpus {
    /// What the calling thread may use: its affinity mask, cut by the control group's cpuset, and the group's quota.
    ///
    /// Ask on a thread that is not pinned yet. Reads files: not for a hot path. Control groups that cannot be read limit
    /// nothing.
    ///
    /// # Errors
    ///
    /// If the kernel, or a sandbox in front of it, refuses to say the affinity mask.
    pub fn of_this_thread() -> io::Result<Self> {
        let read = |path: &Path| fs::read_to_string(path).ok();
        Ok(Self::from(affinity::get()?, cgroup::limits(&read)))
    }

    /// Never more than the mask. A cpuset that has nothing in common with it is out of date: the mask is the kernel's answer.
    fn from(mask: Vec<usize>, limits: Limits) -> Self {
        let common = |set: &Cpuset| mask.iter().copied().filter(|cpu| set.cpus.contains(cpu)).collect::<Vec<_>>();
        match limits.cpuset.map(|set| (common(&set), set)) {
            Some((both, set)) if !both.is_empty() && both.len() < mask.len() => {
                Self { allowed: both, cpuset: Some(set), quota: limits.quota }
            }
            _ => Self { allowed: mask, cpuset: None, quota: limits.quota },
        }
    }

    /// The CPUs, ascending; at least one.
    #[must_use]
    pub fn allowed(&self) -> &[usize] {
        &self.allowed
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

    /// How many busy threads make sense: as many as CPUs are allowed, but no more than the quota, rounded up.
    ///
    /// ```
    /// # let cpus = ipiq_linux::cpus::Cpus::of_this_thread()?;
    /// let cores = cpus.worth().get();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn worth(&self) -> NonZeroUsize {
        let by_quota = self.quota().map_or(usize::MAX, |cpus| cpus.ceil() as usize);
        NonZeroUsize::new(self.allowed.len().min(by_quota)).unwrap_or(NonZeroUsize::MIN)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPUs {} (affinity mask", Ranges(&self.allowed))?;
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
        let cpus = Cpus::from(vec![0, 1, 2, 3], Limits { cpuset: cpuset(&[2, 3, 4]), quota: None });
        assert_eq!(cpus.allowed(), [2, 3]);
        assert_eq!(cpus.to_string(), "CPUs 2-3 (affinity mask and /set)");
    }

    #[test]
    fn a_cpuset_never_adds_to_the_mask_and_a_foreign_one_is_ignored() {
        let wide = Cpus::from(vec![1], Limits { cpuset: cpuset(&[0, 1, 2]), quota: None });
        assert_eq!((wide.allowed(), wide.cpuset_source()), (&[1][..], None));
        let foreign = Cpus::from(vec![1], Limits { cpuset: cpuset(&[7]), quota: None });
        assert_eq!((foreign.allowed(), foreign.cpuset_source()), (&[1][..], None));
    }

    #[test]
    fn a_quota_caps_the_worth_but_not_the_cpus() {
        let cpus = Cpus::from(vec![0, 1, 2, 3], Limits { cpuset: None, quota: quota(1.5) });
        assert_eq!((cpus.allowed().len(), cpus.worth().get()), (4, 2));
        assert_eq!(cpus.to_string(), "CPUs 0-3 (affinity mask); 1.5 CPUs of time (/max)");
        let tiny = Cpus::from(vec![0, 1], Limits { cpuset: None, quota: quota(0.01) });
        assert_eq!(tiny.worth().get(), 1);
        let large = Cpus::from(vec![0, 1], Limits { cpuset: None, quota: quota(64.0) });
        assert_eq!(large.worth().get(), 2);
    }

    #[test]
    fn this_machine_answers() {
        let cpus = Cpus::of_this_thread().expect("a mask");
        assert!(!cpus.allowed().is_empty());
        assert!(cpus.allowed().is_sorted());
    }
}
