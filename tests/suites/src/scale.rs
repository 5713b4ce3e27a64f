//! How large the scenarios are.

/// `full` where `IPIQ_STRESS=full` is set, as `cargo xtask test --only stress` does; else `quick`.
#[must_use]
pub fn scaled<T>(quick: T, full: T) -> T {
    if std::env::var_os("IPIQ_STRESS").is_some_and(|scale| scale == "full") { full } else { quick }
}
