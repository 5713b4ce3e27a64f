//! `epoll_pwait2`: the wait with a timeout finer than milliseconds.

use std::os::fd::{AsFd, AsRawFd};

use rustix::event::Timespec;
use rustix::event::epoll::Event;
use rustix::io::Errno;

/// Waits and fills the spare capacity of `events`. Linux 5.11.
pub(super) fn wait(epoll: impl AsFd, events: &mut Vec<Event>, timeout: Timespec) -> Result<(), Errno> {
    let timeout = libc::timespec { tv_sec: timeout.tv_sec, tv_nsec: timeout.tv_nsec };
    let spare = events.spare_capacity_mut();
    // SAFETY: the kernel writes at most `spare.len()` events, of the layout of `Event`, to the spare capacity,
    // and reads the timeout; the signal mask is absent.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_fd().as_raw_fd(),
            spare.as_mut_ptr(),
            libc::c_int::try_from(spare.len()).unwrap_or(libc::c_int::MAX),
            &raw const timeout,
            std::ptr::null::<libc::sigset_t>(),
            size_of::<u64>(),
        )
    };
    let Ok(count) = usize::try_from(count) else {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    };
    // SAFETY: the kernel wrote `count` events behind the old length.
    unsafe { events.set_len(events.len() + count) };
    Ok(())
}
