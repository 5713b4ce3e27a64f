//! `main` may return an exit code, and call itself anything.

use std::process::ExitCode;

/// Documented.
#[ipiq::main(driver = "epoll", cores = 2)]
#[allow(clippy::needless_return)]
pub(crate) async fn main() -> ExitCode {
    return ExitCode::SUCCESS;
}
