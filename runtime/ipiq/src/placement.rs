//! Which CPU each core runs on.

use std::fmt;

/// Which CPU each core's thread is pinned to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// One CPU per core if this process may use as many as there are cores and the kernel lets it; unpinned otherwise.
    #[default]
    Auto,
    /// One CPU per core, in ascending order; an error if there are too few.
    Pinned,
    /// Core `i` on the `i`-th CPU of the list; a CPU may be named twice.
    Fixed(Vec<usize>),
    /// Wherever the kernel likes.
    Unpinned,
}

/// A placement that this machine cannot give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PlacementError {
    TooFewCpus { cores: usize, cpus: usize },
    ListTooShort { cores: usize, listed: usize },
    NotAllowed { cpu: usize },
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
                write!(f, "{cores} cores are to be pinned, but the list names only {listed}: name a CPU for each")
            }
            Self::NotAllowed { cpu } => {
                write!(f, "CPU {cpu} is not among those that this process may use: `taskset -cp $$` lists them")
            }
        }
    }
}

impl Placement {
    /// The CPU of each core; `None`: unpinned.
    pub(crate) fn resolve(&self, cores: usize, allowed: &[usize]) -> Result<Vec<Option<usize>>, PlacementError> {
        match self {
            Self::Auto if cores > allowed.len() => Ok(vec![None; cores]),
            Self::Auto | Self::Pinned if cores <= allowed.len() => {
                Ok(allowed[..cores].iter().copied().map(Some).collect())
            }
            Self::Auto | Self::Pinned => Err(PlacementError::TooFewCpus { cores, cpus: allowed.len() }),
            Self::Unpinned => Ok(vec![None; cores]),
            Self::Fixed(list) => {
                if list.len() < cores {
                    return Err(PlacementError::ListTooShort { cores, listed: list.len() });
                }
                match list[..cores].iter().find(|cpu| !allowed.contains(cpu)) {
                    Some(&cpu) => Err(PlacementError::NotAllowed { cpu }),
                    None => Ok(list[..cores].iter().copied().map(Some).collect()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_more_cores_than_cpus_is_refused_only_when_demanded() {
        assert_eq!(Placement::Auto.resolve(3, &[4, 6]), Ok(vec![None; 3]));
        assert_eq!(Placement::Auto.resolve(2, &[4, 6]), Ok(vec![Some(4), Some(6)]));
        assert_eq!(Placement::Pinned.resolve(3, &[4, 6]), Err(PlacementError::TooFewCpus { cores: 3, cpus: 2 }));
        assert_eq!(Placement::Fixed(vec![6, 6]).resolve(2, &[4, 6]), Ok(vec![Some(6), Some(6)]));
        assert_eq!(Placement::Fixed(vec![5]).resolve(1, &[4, 6]), Err(PlacementError::NotAllowed { cpu: 5 }));
    }
}
