//! Unwinding in the copy of a stack.

use framehop::{
    CacheNative, FrameAddress, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder, UnwinderNative,
};

use super::super::{Registers, Trace, WORD};
use super::{Place, modules};

/// Far more than anybody reads; a recursion without end is cut here.
const MAX_PLACES: usize = 512;

type Tables = UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>;

/// An address at which no code and no stack lies, and to which nothing can be added.
const NOWHERE: usize = usize::MAX;

/// Where the interrupted thread was, and where each function on its stack returns to.
pub(super) fn places(trace: &Trace) -> Vec<Place> {
    let pc = trace.registers.pc;
    if pc == 0 {
        return Vec::new();
    }
    let modules = modules::of_this_process();
    let code = Code::new(&modules);
    let mut tables = Tables::new();
    modules.into_iter().for_each(|module| tables.add_module(module));
    let mut places = vec![Place { address: pc, ..Place::default() }];
    // [stack T2]
    if let Err(reached) = unwind(trace, &tables, &code, &mut places) {
        // [stack T3]
        let above = trace.chain.iter().filter(|record| record.at >= reached).map(|record| record.return_to);
        let believed = above.take_while(|address| code.holds(*address)).enumerate();
        let believed =
            believed.map(|(index, address)| Place { address, returns: true, after_gap: index == 0, cut: false });
        places.extend(believed.take(MAX_PLACES.saturating_sub(places.len())));
        // [stack T5]
        places.last_mut().into_iter().for_each(|last| last.cut = !is_outermost(*last, &tables));
    }
    places
}

/// Adds the callers to `places`. `Err`: it ended before the outermost one, with this stack pointer.
fn unwind(trace: &Trace, tables: &Tables, code: &Code, places: &mut Vec<Place>) -> Result<(), usize> {
    let mut registers = native(trace.registers, tables);
    let mut cache = CacheNative::new();
    let base = trace.registers.sp as u64;
    let mut word = |address: u64| {
        let offset = address.checked_sub(base).filter(|offset| offset.is_multiple_of(WORD as u64)).ok_or(())?;
        trace.stack.get(offset as usize / WORD).map(|word| *word as u64).ok_or(())
    };
    let mut address = FrameAddress::from_instruction_pointer(trace.registers.pc as u64);
    while places.len() < MAX_PLACES {
        let reached = registers.sp() as usize;
        let has_frame_pointer = frame_pointer(&registers) != 0;
        let Some(next) = tables.unwind_frame(address, &mut registers, &mut cache, &mut word).map_err(|_| reached)?
        else {
            // Without tables for this code, a frame pointer of 0 was taken for the end.
            let last = places.last().copied().unwrap_or_default();
            return if has_frame_pointer || is_outermost(last, tables) { Ok(()) } else { Err(reached) };
        };
        if !code.holds(next as usize) {
            return Err(reached);
        }
        places.push(Place { address: next as usize, returns: true, ..Place::default() });
        address = FrameAddress::from_return_address(next).ok_or(reached)?;
    }
    Err(registers.sp() as usize)
}

/// [stack T5]: whether the tables say that the function at `place` has no caller, whatever registers and stack hold.
fn is_outermost(place: Place, tables: &Tables) -> bool {
    let address = place.address as u64;
    let address = match FrameAddress::from_return_address(address) {
        Some(address) if place.returns => address,
        _ => FrameAddress::from_instruction_pointer(address),
    };
    let nowhere = Registers { pc: place.address, sp: NOWHERE, fp: NOWHERE, lr: NOWHERE };
    let said = tables.unwind_frame(address, &mut native(nowhere, tables), &mut CacheNative::new(), &mut |_| Err(()));
    matches!(said, Ok(None))
}

#[cfg(target_arch = "x86_64")]
fn frame_pointer(registers: &UnwindRegsNative) -> u64 {
    registers.bp()
}

#[cfg(target_arch = "aarch64")]
fn frame_pointer(registers: &UnwindRegsNative) -> u64 {
    registers.fp()
}

#[cfg(target_arch = "x86_64")]
fn native(registers: Registers, _: &Tables) -> UnwindRegsNative {
    let Registers { pc, sp, fp, .. } = registers;
    UnwindRegsNative::new(pc as u64, sp as u64, fp as u64)
}

#[cfg(target_arch = "aarch64")]
fn native(registers: Registers, tables: &Tables) -> UnwindRegsNative {
    let Registers { sp, fp, lr, .. } = registers;
    let mask = framehop::aarch64::PtrAuthMask::from_max_known_address(tables.max_known_code_address());
    UnwindRegsNative::new_with_ptr_auth_mask(mask, lr as u64, sp as u64, fp as u64)
}

/// Where code is.
struct Code(Vec<std::ops::Range<u64>>);

impl Code {
    fn new(modules: &[Module<Vec<u8>>]) -> Self {
        Self(modules.iter().map(Module::avma_range).collect())
    }

    fn holds(&self, address: usize) -> bool {
        self.0.iter().any(|range| range.contains(&(address as u64)))
    }
}
