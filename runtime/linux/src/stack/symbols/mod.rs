//! From addresses to names: ordinary code, on any thread but a core's.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod modules;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "no_unwind.rs")]
mod unwind;

use std::ffi::c_void;
use std::fmt;
use std::path::PathBuf;
use std::ptr;

use super::Trace;

/// One function of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// Where in the code it was.
    pub address: usize,
    /// Its name, if the program has it.
    pub function: Option<String>,
    /// The source file, if the program knows.
    pub file: Option<PathBuf>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// Whether callers may be missing between the frame before and this one, which is known by frame pointers alone.
    pub after_gap: bool,
    /// Whether it has a caller that could not be found: the last of a list that ends before the outermost function.
    pub cut: bool,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.function {
            Some(function) => f.write_str(function)?,
            None => write!(f, "{:#x}", self.address)?,
        }
        let Some(file) = &self.file else { return Ok(()) };
        write!(f, "\n             at {}", file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// Frames as a backtrace is usually printed, innermost first; says where some are missing.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a>(pub &'a [Frame]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut frames = self.0.iter().enumerate();
        frames.try_for_each(|(index, frame)| {
            if frame.after_gap {
                writeln!(f, "      (callers may be missing here)")?;
            }
            writeln!(f, "{index:>4}: {frame}")?;
            if frame.cut {
                writeln!(f, "      (the rest could not be unwound)")?;
            }
            Ok(())
        })
    }
}

/// A place in the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    address: usize,
    /// Whether the function returns there, rather than being there.
    returns: bool,
    after_gap: bool,
    cut: bool,
}

impl Trace {
    /// The functions on the stack, innermost first; those that the compiler has put into others are named too.
    ///
    /// Reads the files of the program and its libraries, allocates and takes locks: some milliseconds the first time. Not for a core that has
    /// other things to do, and not for handlers.
    #[must_use]
    pub fn symbolise(&self) -> Vec<Frame> {
        unwind::places(self).into_iter().flat_map(frames_at).collect()
    }
}

/// The function at `place` and those inlined there; one without a name, if nobody knows it.
fn frames_at(place: Place) -> Vec<Frame> {
    let Place { address, returns, after_gap, cut } = place;
    let mut frames = Vec::new();
    // [stack T4]
    let inside = address.saturating_sub(usize::from(returns));
    backtrace::resolve(ptr::without_provenance_mut::<c_void>(inside), |symbol| {
        frames.push(Frame {
            address,
            // Without the hash that the compiler adds.
            function: symbol.name().map(|name| format!("{name:#}")),
            file: symbol.filename().map(PathBuf::from),
            line: symbol.lineno(),
            ..Frame::default()
        });
    });
    if frames.is_empty() {
        frames.push(Frame { address, ..Frame::default() });
    }
    frames[0].after_gap = after_gap;
    frames.last_mut().into_iter().for_each(|outer| outer.cut = cut);
    frames
}
