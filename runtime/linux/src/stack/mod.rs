#![doc = include_str!("README.md")]

#[cfg_attr(target_arch = "x86_64", path = "arch/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "arch/aarch64.rs")]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "arch/other.rs")]
mod arch;
mod capture;
mod captures;
mod cell;
mod limits;
#[cfg(feature = "symbols")]
mod symbols;
#[cfg(all(test, feature = "symbols", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests;

use std::fmt;

pub use captures::Captures;
pub use cell::TraceCell;
pub use limits::Limits;
#[cfg(feature = "symbols")]
pub use symbols::{Frame, Listing};

const WORD: usize = size_of::<usize>();

/// The registers by which one finds one's way on a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    pc: usize,
    sp: usize,
    fp: usize,
    /// Where functions that call none return to; 0 where that is always on the stack.
    lr: usize,
}

/// A frame record, and where it lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    at: usize,
    return_to: usize,
}

/// Why a chain of frame records ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// At the thread's outermost function.
    Outermost,
    /// At a frame pointer that points at no frame record: the code is built without them.
    NoRecord,
    /// The buffer is full.
    Full,
    /// The interrupted code did not run on the thread's stack.
    OtherStack,
    /// This kind of machine is not known.
    Unsupported,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outermost => "complete",
            Self::NoRecord => "ends at code without frame pointers",
            Self::Full => "ends where the buffer is full",
            Self::OtherStack => "the code ran on a stack of its own, which is not read",
            Self::Unsupported => "stacks of this machine cannot be read",
        })
    }
}

/// What a thread was in the middle of: addresses, not yet names.
#[derive(Clone, Debug)]
pub struct Trace {
    registers: Registers,
    chain: Vec<Record>,
    stack: Vec<usize>,
    end: End,
}

impl Trace {
    /// The instruction that was interrupted; 0 if the machine is not known.
    #[must_use]
    pub fn instruction(&self) -> usize {
        self.registers.pc
    }

    /// The return addresses of the frame records, innermost first: the callers, if everything is built with frame pointers.
    #[must_use]
    pub fn return_addresses(&self) -> Vec<usize> {
        self.chain.iter().map(|record| record.return_to).collect()
    }

    /// How many bytes of the stack were copied.
    #[must_use]
    pub fn copied(&self) -> usize {
        size_of_val(&self.stack[..])
    }

    /// Why there are no more return addresses.
    #[must_use]
    pub fn end(&self) -> End {
        self.end
    }
}
