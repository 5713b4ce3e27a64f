//! How large the scenarios are.

/// `full` where `IPIQ_STRESS=full` is set, as `cargo xtask test --only stress` does, or `IPIQ_STRESS=most`; else `quick`.
#[must_use]
pub fn scaled<T>(quick: T, full: T) -> T {
    if matches!(std::env::var("IPIQ_STRESS").as_deref(), Ok("full" | "most")) { full } else { quick }
}

/// As [`scaled`], and `most` where `IPIQ_STRESS=most` is set: millions of rounds, for a quiet machine and an hour.
#[must_use]
pub fn scaled_up_to<T>(quick: T, full: T, most: T) -> T {
    match std::env::var("IPIQ_STRESS").as_deref() {
        Ok("full") => full,
        Ok("most") => most,
        _ => quick,
    }
}
