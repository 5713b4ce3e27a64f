//! The local APIC: what little of it a kick needs.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, compiler_fence};

/// The address of a core on the interrupt bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicId(pub u32);

/// Sends interrupts to other cores.
///
/// # Safety
///
/// 1. [`own_id`](Self::own_id) returns the same address each time on one core, and no other core's.
pub unsafe trait LocalApic: Send + Sync {
    /// The calling core's address.
    fn own_id(&self) -> ApicId;

    /// Raises `vector` on `target`. Returns when the interrupt is on its way.
    fn send(&self, target: ApicId, vector: u8);
}

/// The interrupt command of a fixed interrupt for one physical destination, edge-triggered: only the vector is set.
const fn fixed_command(vector: u8) -> u32 {
    const LEVEL_ASSERT: u32 = 1 << 14;
    vector as u32 | LEVEL_ASSERT
}

/// The x2APIC's 64-bit command: destination above, command below.
const fn x2apic_command(target: ApicId, vector: u8) -> u64 {
    (target.0 as u64) << 32 | fixed_command(vector) as u64
}

/// An APIC in x2APIC mode: model-specific registers.
#[derive(Clone, Copy, Debug)]
pub struct X2Apic(());

impl X2Apic {
    const ID: u32 = 0x802;
    const COMMAND: u32 = 0x830;

    /// The calling core's APIC.
    ///
    /// # Safety
    ///
    /// 1. Every core that uses it runs at the highest privilege, with x2APIC mode enabled.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

// SAFETY: 1. each core reads its own register.
unsafe impl LocalApic for X2Apic {
    fn own_id(&self) -> ApicId {
        let id: u32;
        // SAFETY: 1. the register exists in x2APIC mode (`new`), and reading it has no effect.
        unsafe {
            core::arch::asm!("rdmsr", in("ecx") Self::ID, out("eax") id, out("edx") _, options(nomem, nostack, preserves_flags));
        }
        ApicId(id)
    }

    fn send(&self, target: ApicId, vector: u8) {
        let command = x2apic_command(target, vector);
        // The write is no fence in x2APIC mode: what the interrupted core is to see is stored before it.
        // SAFETY: 1. the fence and the command register exist in x2APIC mode (`new`); the command raises an interrupt elsewhere.
        unsafe {
            core::arch::asm!(
                "mfence",
                "lfence",
                "wrmsr",
                in("ecx") Self::COMMAND,
                in("eax") command as u32,
                in("edx") (command >> 32) as u32,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// An APIC in xAPIC mode: a page of memory, the same address on every core. Its addresses have eight bits.
#[derive(Clone, Copy, Debug)]
pub struct XApic {
    page: NonNull<u32>,
}

// SAFETY: 1. each core reaches its own APIC through the address.
unsafe impl Send for XApic {}
// SAFETY: as for `Send`.
unsafe impl Sync for XApic {}

impl XApic {
    const ID: usize = 0x20;
    const COMMAND_LOW: usize = 0x300;
    const COMMAND_HIGH: usize = 0x310;
    const PENDING: u32 = 1 << 12;

    /// The calling core's APIC at `page`.
    ///
    /// # Safety
    ///
    /// 1. `page` is mapped, uncached, to the APIC's page on every core that uses it. 2. Interrupts are off while it is used: a command is
    ///    two writes.
    #[must_use]
    pub const unsafe fn new(page: NonNull<u32>) -> Self {
        Self { page }
    }

    fn register(&self, offset: usize) -> NonNull<u32> {
        // SAFETY: 1. every register's offset lies in the page.
        unsafe { self.page.byte_add(offset) }
    }

    fn read(&self, offset: usize) -> u32 {
        // SAFETY: 1. the page is the APIC's (`new`).
        unsafe { self.register(offset).read_volatile() }
    }

    fn write(&self, offset: usize, value: u32) {
        // SAFETY: 1. as for `read`.
        unsafe { self.register(offset).write_volatile(value) }
    }
}

// SAFETY: 1. each core reads its own APIC's register (`new`).
unsafe impl LocalApic for XApic {
    fn own_id(&self) -> ApicId {
        ApicId(self.read(Self::ID) >> 24)
    }

    /// # Panics
    ///
    /// If the target's address has more than eight bits: only x2APIC mode reaches it.
    fn send(&self, target: ApicId, vector: u8) {
        assert!(target.0 <= 0xff, "an APIC in xAPIC mode reaches no core of this address: use x2APIC mode");
        // Volatile accesses are ordered among themselves only; the CPU writes uncached memory after what was stored before.
        compiler_fence(Ordering::SeqCst);
        while self.read(Self::COMMAND_LOW) & Self::PENDING != 0 {
            core::hint::spin_loop();
        }
        self.write(Self::COMMAND_HIGH, target.0 << 24);
        self.write(Self::COMMAND_LOW, fixed_command(vector));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_carry_destination_and_vector() {
        assert_eq!(fixed_command(0x41), 0x4041);
        assert_eq!(x2apic_command(ApicId(0x1_0002), 0xf0), 0x0001_0002_0000_40f0);
    }

    #[test]
    fn the_memory_form_writes_the_destination_before_the_command() {
        let mut page = [0u32; 1024];
        page[XApic::ID / 4] = 3 << 24;
        let start = NonNull::from(&mut page).cast();
        // SAFETY: 1., 2. a plain array stands for the page; nobody else uses it.
        let apic = unsafe { XApic::new(start) };
        assert_eq!(apic.own_id(), ApicId(3));
        apic.send(ApicId(5), 0x41);
        assert_eq!(apic.read(XApic::COMMAND_HIGH), 5 << 24);
        assert_eq!(apic.read(XApic::COMMAND_LOW), 0x4041);
    }
    #[test]
    #[should_panic(expected = "use x2APIC mode")]
    fn the_memory_form_refuses_an_address_that_it_would_cut_short() {
        let mut page = [0u32; 1024];
        // SAFETY: 1., 2. as above.
        let apic = unsafe { XApic::new(NonNull::from(&mut page).cast()) };
        apic.send(ApicId(0x105), 0x41);
    }
}
