//! The two directions in which an operation moves bytes.

use std::io;

use compio_buf::{IoBuf, IoBufMut};

use crate::readiness::Half;
use crate::socket::Shared;

/// A direction, and what it does with the buffer of an operation.
pub(crate) trait Direction<B> {
    /// The half of the socket that it uses.
    const HALF: Half;

    /// Moves bytes without sleeping; keeps the half's readiness up to date.
    fn try_now(shared: &Shared, buf: &mut B) -> io::Result<usize>;

    /// Moves bytes that are here already: a dropped operation took them out of the socket.
    fn take_recovered(_shared: &Shared, _buf: &mut B) -> Option<usize> {
        None
    }

    /// What the kernel may move: where it begins, and how many bytes.
    fn bytes(buf: &mut B) -> (*mut u8, usize);

    /// Takes over what the kernel has moved.
    ///
    /// # Safety
    ///
    /// 1. The kernel has moved `count` bytes at the start of [`bytes`](Self::bytes).
    unsafe fn moved(buf: &mut B, count: usize);
}

/// Into the buffer.
pub(crate) enum Receiving {}

impl<B: IoBufMut> Direction<B> for Receiving {
    const HALF: Half = Half::Read;

    fn try_now(shared: &Shared, buf: &mut B) -> io::Result<usize> {
        let count = shared.try_recv(buf.as_uninit())?;
        // SAFETY: 1. the kernel wrote them.
        unsafe { received(buf, count) };
        Ok(count)
    }

    fn take_recovered(shared: &Shared, buf: &mut B) -> Option<usize> {
        let count = shared.take_recovered(buf.as_uninit())?;
        // SAFETY: 1. they were copied there.
        unsafe { received(buf, count) };
        Some(count)
    }

    fn bytes(buf: &mut B) -> (*mut u8, usize) {
        let space = buf.as_uninit();
        (space.as_mut_ptr().cast(), space.len())
    }

    unsafe fn moved(buf: &mut B, count: usize) {
        // SAFETY: 1. the kernel wrote them to the start of the space (1).
        unsafe { received(buf, count) };
    }
}

/// Out of the buffer.
pub(crate) enum Sending {}

impl<B: IoBuf> Direction<B> for Sending {
    const HALF: Half = Half::Write;

    fn try_now(shared: &Shared, buf: &mut B) -> io::Result<usize> {
        shared.try_send(B::as_init(buf))
    }

    fn bytes(buf: &mut B) -> (*mut u8, usize) {
        let bytes = B::as_init(buf);
        (bytes.as_ptr().cast_mut(), bytes.len())
    }

    unsafe fn moved(_buf: &mut B, _count: usize) {}
}

/// Sets the length of a buffer that a receive filled.
///
/// # Safety
///
/// 1. The first `count` bytes of the buffer's space are initialised.
unsafe fn received<B: IoBufMut>(buf: &mut B, count: usize) {
    // SAFETY: `count` bytes of the space are initialised (1), hence also not more than the space.
    unsafe { buf.set_len(count) };
}
