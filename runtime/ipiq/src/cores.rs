//! The cores of a runtime, one after the other.

use std::iter::FusedIterator;
use std::ops::Range;

use ipiq_fabric::CoreId;

/// An iterator over cores, from [`cores`](crate::cores()) or [`Handle::cores`](crate::Handle::cores).
#[derive(Clone, Debug)]
#[must_use = "iterators do nothing unless iterated"]
pub struct Cores {
    indices: Range<usize>,
}

impl Cores {
    pub(crate) fn first(count: usize) -> Self {
        Self { indices: 0..count }
    }
}

impl Iterator for Cores {
    type Item = CoreId;

    fn next(&mut self) -> Option<CoreId> {
        self.indices.next().map(CoreId::new)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.indices.size_hint()
    }
}

impl DoubleEndedIterator for Cores {
    fn next_back(&mut self) -> Option<CoreId> {
        self.indices.next_back().map(CoreId::new)
    }
}

impl ExactSizeIterator for Cores {}
impl FusedIterator for Cores {}
