//! Sandboxes that refuse `membarrier` or a part of it, io_uring or pinning: everything still works, and says what it does instead.

mod kv;
mod port;
mod runtime;

use ipiq_suites::sandbox::Refusal;

const MEMBARRIER: &[libc::c_long] = &[libc::SYS_membarrier];
const IO_URING: &[libc::c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// As an old kernel answers.
fn unknown(calls: &[libc::c_long]) -> Refusal<'_> {
    Refusal { calls, first_argument: None, errno: libc::ENOSYS }
}

/// As a container's default policy answers.
fn forbidden(calls: &[libc::c_long]) -> Refusal<'_> {
    Refusal { calls, first_argument: None, errno: libc::EPERM }
}
