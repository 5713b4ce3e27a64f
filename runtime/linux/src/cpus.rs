//! Which CPUs this process may use.

/// What the kernel and the process's groups allow.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpus {
    /// The CPUs of the affinity mask, ascending.
    pub cpus: Vec<usize>,
}

impl Cpus {
    /// How many cores a runtime has that is not told: one per CPU.
    #[must_use]
    pub fn default_cores(&self) -> usize {
        self.cpus.len().clamp(1, ipiq_fabric::MAX_CORES)
    }
}

/// The CPUs that the calling thread may use.
#[must_use]
pub fn allowed() -> Cpus {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let mut cpus: Vec<usize> = ids.into_iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    Cpus { cpus }
}
