//! The kernel's notation for sets of CPUs: `0-3,8,10-11`.

use std::fmt;

/// No kernel is built for more CPUs; a larger number in a file is damage.
pub(crate) const MAX_CPUS: usize = 1 << 20;

/// The CPUs of a list, ascending and without repetition; `None` if it is no list. An empty list is empty.
pub(crate) fn parse(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// Shows ascending CPUs in the kernel's notation.
pub(crate) struct Ranges<'a>(pub(crate) &'a [usize]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, run) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_shown_in_the_same_notation() {
        assert_eq!(parse("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse("\n"), Some(vec![]));
        assert_eq!(parse("5,1-2,2"), Some(vec![1, 2, 5]));
        assert_eq!(Ranges(&[0, 1, 2, 3, 8, 10, 11]).to_string(), "0-3,8,10-11");
        assert_eq!(Ranges(&[]).to_string(), "none");
    }

    #[test]
    fn damage_is_no_list() {
        for text in ["a", "3-1", "1-", "-", "0-99999999999", "0-4294967295", "1:2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
