//! The calling thread's affinity mask, of any length.
//!
//! `core_affinity` and the C library's `cpu_set_t` end at CPU 1023, where larger machines begin.

use std::ffi::c_ulong;
use std::io;

use crate::cpus::list::MAX_CPUS;

const WORD_BITS: usize = c_ulong::BITS as usize;
/// The first try: 1024 CPUs.
const FIRST_WORDS: usize = 1024 / WORD_BITS;
const MAX_WORDS: usize = MAX_CPUS / WORD_BITS;

/// The CPUs in the calling thread's mask, ascending.
pub(crate) fn get() -> io::Result<Vec<usize>> {
    let mut words: Vec<c_ulong> = vec![0; FIRST_WORDS];
    loop {
        let bytes = size_of_val(&words[..]);
        // SAFETY: 1. `words` is valid for writes of `bytes` bytes; the kernel writes at most as many.
        let written = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, bytes, words.as_mut_ptr()) };
        if written >= 0 {
            return Ok(cpus_in(&words));
        }
        let error = io::Error::last_os_error();
        // The kernel's own mask is longer.
        if error.raw_os_error() != Some(libc::EINVAL) || words.len() >= MAX_WORDS {
            return Err(error);
        }
        words = vec![0; words.len() * 2];
    }
}

/// Makes `cpus` the calling thread's mask. A number that no CPU can have is refused as the kernel refuses one that none has.
pub(crate) fn set(cpus: &[usize]) -> io::Result<()> {
    let last = cpus.iter().max().copied().unwrap_or(0);
    if last >= MAX_CPUS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut words: Vec<c_ulong> = vec![0; last / WORD_BITS + 1];
    cpus.iter().for_each(|cpu| words[cpu / WORD_BITS] |= 1 << (cpu % WORD_BITS));
    let bytes = size_of_val(&words[..]);
    // SAFETY: 1. `words` is valid for reads of `bytes` bytes.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, words.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn cpus_in(words: &[c_ulong]) -> Vec<usize> {
    let set = |cpu: &usize| words[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1 == 1;
    (0..words.len() * WORD_BITS).filter(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_several_words_lists_its_cpus_in_order() {
        let mut words = vec![0; 20];
        words[0] = 0b101;
        words[1100 / WORD_BITS] |= 1 << (1100 % WORD_BITS);
        assert_eq!(cpus_in(&words), [0, 2, 1100]);
    }

    #[test]
    fn the_kernels_answer_is_what_core_affinity_sees_below_1024() {
        let theirs: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        let ours: Vec<usize> = get().expect("a mask").into_iter().filter(|cpu| *cpu < 1024).collect();
        assert_eq!(ours, theirs);
    }
}
