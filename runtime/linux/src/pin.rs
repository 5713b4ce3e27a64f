//! Pinning a thread to a CPU.

use std::fmt;
use std::io;

use core_affinity::CoreId as Cpu;

use crate::affinity;

/// `core_affinity` knows CPUs below this one.
const CPU_SET_SIZE: usize = libc::CPU_SETSIZE as usize;

/// A thread could not be pinned; says to which CPU and why.
#[derive(Debug)]
pub struct PinError {
    cpu: usize,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    NotAllowed { allowed: Vec<usize> },
    Refused(io::Error),
    Overridden { mask: Vec<usize> },
}

impl PinError {
    /// The CPU that was asked for.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// Whether the CPU is outside of what the process may use, or does not exist.
    #[must_use]
    pub fn is_not_allowed(&self) -> bool {
        matches!(self.reason, Reason::NotAllowed { .. })
    }

    /// Whether the kernel, or a sandbox in front of it, refused the system call.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.reason, Reason::Refused(_))
    }
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot pin a thread to CPU {}: ", self.cpu)?;
        match &self.reason {
            Reason::NotAllowed { allowed } => {
                write!(f, "this process may use CPUs {}; choose one of them", crate::cpus::list::Ranges(allowed))
            }
            Reason::Refused(error) => {
                write!(f, "the kernel refused it ({error}); run unpinned, or lift the restriction")
            }
            Reason::Overridden { mask } => {
                write!(
                    f,
                    "the kernel set CPUs {} instead; was a cpuset changed meanwhile?",
                    crate::cpus::list::Ranges(mask)
                )
            }
        }
    }
}

impl std::error::Error for PinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Refused(error) => Some(error),
            Reason::NotAllowed { .. } | Reason::Overridden { .. } => None,
        }
    }
}

/// Pins the calling thread to `cpu`, and reads the mask back where that is allowed, to see that the kernel did so.
///
/// Threads that it starts afterwards inherit the pin. Takes two system calls and allocates.
///
/// # Errors
///
/// [`PinError`]: the process may not use the CPU, the kernel refused the call, or a changed cpuset overrode it.
///
/// ```
/// let cpu = ipiq_linux::cpus::allowed().cpus[0];
/// std::thread::spawn(move || ipiq_linux::pin::pin_current(cpu)).join().unwrap()?;
/// # Ok::<(), ipiq_linux::pin::PinError>(())
/// ```
pub fn pin_current(cpu: usize) -> Result<(), PinError> {
    let fail = |reason| Err(PinError { cpu, reason });
    if let Err(error) = set(cpu) {
        // Outside of the cpuset and beyond the last CPU give EINVAL.
        return match (error.raw_os_error(), affinity::get()) {
            (Some(libc::EINVAL), Ok(allowed)) => fail(Reason::NotAllowed { allowed }),
            _ => fail(Reason::Refused(error)),
        };
    }
    match affinity::get() {
        Ok(mask) if mask == [cpu] => Ok(()),
        Ok(mask) => fail(Reason::Overridden { mask }),
        // A sandbox that lets one set the mask but not read it: the kernel has said yes.
        Err(_) => Ok(()),
    }
}

/// Lets the calling thread run on all of `cpus`, such as one that was started by a pinned thread. One system call.
///
/// # Errors
///
/// The kernel's: none of `cpus` is allowed, or a sandbox refuses the call.
///
/// ```
/// let cpus = ipiq_linux::cpus::allowed().cpus;
/// std::thread::spawn(move || ipiq_linux::pin::unpin_current(&cpus)).join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn unpin_current(cpus: &[usize]) -> io::Result<()> {
    affinity::set(cpus)
}

fn set(cpu: usize) -> io::Result<()> {
    if cpu >= CPU_SET_SIZE {
        affinity::set(&[cpu])
    } else if core_affinity::set_for_current(Cpu { id: cpu }) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pins only threads of its own: the mask of the test's thread stays.
    fn in_a_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(f).join().expect("no panic")
    }

    #[test]
    fn a_pinned_thread_reads_its_cpu_back() {
        for cpu in affinity::get().expect("a mask") {
            let mask = in_a_thread(move || {
                pin_current(cpu).expect("an allowed CPU");
                affinity::get().expect("a mask")
            });
            assert_eq!(mask, [cpu]);
        }
    }

    #[test]
    fn what_a_pinned_thread_starts_is_pinned_until_it_is_let_go() {
        let all = affinity::get().expect("a mask");
        let cpus = all.clone();
        let masks = in_a_thread(move || {
            pin_current(cpus[0]).expect("an allowed CPU");
            in_a_thread(move || {
                let before = affinity::get().expect("a mask");
                unpin_current(&cpus).expect("allowed CPUs");
                (before, affinity::get().expect("a mask"))
            })
        });
        assert_eq!(masks, (vec![all[0]], all));
        assert!(in_a_thread(|| unpin_current(&[])).is_err());
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_refused_with_those_that_do() {
        let beyond = affinity::get().expect("a mask").last().expect("at least one") + 5000;
        let error = in_a_thread(move || pin_current(beyond)).expect_err("no such CPU");
        assert!(error.is_not_allowed() && !error.is_refused());
        assert_eq!(error.cpu(), beyond);
        assert!(error.to_string().contains("may use CPUs"), "{error}");
    }

    #[test]
    fn a_number_that_no_cpu_can_have_is_refused_like_any_other() {
        for cpu in [1 << 20, usize::MAX / 2, usize::MAX] {
            let error = in_a_thread(move || pin_current(cpu)).expect_err("no such CPU");
            assert!(error.is_not_allowed() && error.cpu() == cpu, "{error}");
            assert!(in_a_thread(move || unpin_current(&[0, cpu])).is_err());
        }
    }

    #[test]
    fn a_cpu_that_does_not_exist_below_1024_is_refused_too() {
        let allowed = affinity::get().expect("a mask");
        let Some(missing) = (0..1024).rev().find(|cpu| !allowed.contains(cpu)) else { return };
        assert!(in_a_thread(move || pin_current(missing)).is_err());
    }
}
