//! What the handler does: signal-safe, without a panic in it.

use super::{End, Limits, Record, Registers, Trace, WORD, arch};

/// Most frame records of a chain.
const MAX_RECORDS: usize = 128;

/// Where a capture goes.
pub(super) struct Buffer {
    registers: Registers,
    records: [Record; MAX_RECORDS],
    recorded: usize,
    stack: Box<[usize]>,
    copied: usize,
    end: End,
}

impl Buffer {
    /// With room for a copy of `stack_bytes` bytes.
    pub(super) fn new(stack_bytes: usize) -> Self {
        Self {
            registers: Registers::default(),
            records: [Record::default(); MAX_RECORDS],
            recorded: 0,
            stack: vec![0; stack_bytes / WORD].into_boxed_slice(),
            copied: 0,
            end: End::Unsupported,
        }
    }

    /// Takes the chain and the copy.
    ///
    /// # Safety
    ///
    /// 1. `registers` are those of code that is interrupted on the calling thread, or `None`.
    /// 2. `limits` are the calling thread's.
    pub(super) unsafe fn fill(&mut self, registers: Option<Registers>, limits: &Limits) {
        (self.recorded, self.copied) = (0, 0);
        self.registers = registers.unwrap_or_default();
        let sp = self.registers.sp;
        self.end = if registers.is_none() {
            End::Unsupported
        } else if !limits.contain(sp) || !sp.is_multiple_of(WORD) {
            // [stack F3]
            End::OtherStack
        } else {
            // SAFETY: 1. the thread has used its stack from the upper limit down to `sp`, which is in it.
            let stack = unsafe { InUse::new(sp, limits.high()) };
            let end = self.walk(&stack);
            self.copy(&stack);
            end
        };
    }

    /// [stack F4]
    fn walk(&mut self, stack: &InUse) -> End {
        let (mut at, mut floor) = (self.registers.fp, stack.low);
        loop {
            if at == 0 {
                return End::Outermost;
            }
            if at < floor {
                return End::NoRecord;
            }
            let (Some(caller), Some(return_to)) = (stack.word(at), stack.word(at.wrapping_add(WORD))) else {
                return End::NoRecord;
            };
            if return_to == 0 {
                return End::Outermost;
            }
            let Some(record) = self.records.get_mut(self.recorded) else { return End::Full };
            *record = Record { at, return_to: arch::plain(return_to) };
            self.recorded += 1;
            floor = at.wrapping_add(2 * WORD);
            at = caller;
        }
    }

    /// [stack F5]
    fn copy(&mut self, stack: &InUse) {
        let mut at = stack.low;
        for place in &mut self.stack {
            let Some(word) = stack.word(at) else { return };
            *place = word;
            self.copied += 1;
            at = at.wrapping_add(WORD);
        }
    }

    /// What was captured, for ordinary code.
    pub(super) fn to_trace(&self) -> Trace {
        Trace {
            registers: self.registers,
            chain: self.records[..self.recorded].to_vec(),
            stack: self.stack[..self.copied].to_vec(),
            end: self.end,
        }
    }
}

/// The part of the calling thread's stack that the interrupted code used.
struct InUse {
    low: usize,
    high: usize,
}

impl InUse {
    /// # Safety
    ///
    /// 1. From `low` to `high` memory is readable as long as this lives.
    unsafe fn new(low: usize, high: usize) -> Self {
        Self { low, high }
    }

    /// The word at `at`, if it is one of the stack.
    #[inline(always)]
    fn word(&self, at: usize) -> Option<usize> {
        let fits = at.is_multiple_of(WORD) && at >= self.low && at < self.high && self.high - at >= WORD;
        // SAFETY: 1. it lies between the limits, by `new`.
        fits.then(|| unsafe { arch::load(at) })
    }
}
