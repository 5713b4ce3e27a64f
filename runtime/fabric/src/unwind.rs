//! Containing panics, where the machine can.

use alloc::boxed::Box;
use alloc::string::String;
use core::any::Any;
use core::fmt;

/// What a panic carries.
pub type PanicPayload = Box<dyn Any + Send>;

/// A panic that was caught: its text can be read from any thread, its payload be taken out by value. Displayed as the text.
pub struct Panic(PanicPayload);

// SAFETY: 1. a shared reference reads the payload only as a `&str`, `String` or other `Sync` type; any other payload can be
// reached by value only (`into_payload`).
unsafe impl Sync for Panic {}

impl Panic {
    /// Of what [`catch`] has caught.
    #[must_use]
    pub fn new(payload: PanicPayload) -> Self {
        Self(payload)
    }

    /// The text it was raised with, or `(no text)` if that was something else.
    #[must_use]
    pub fn text(&self) -> &str {
        if let Some(text) = self.0.downcast_ref::<&'static str>() {
            text
        } else if let Some(text) = self.0.downcast_ref::<String>() {
            text
        } else {
            "(no text)"
        }
    }

    /// What it carries, if that is a `T`.
    #[doc(hidden)]
    #[must_use]
    pub fn carried<T: Any + Sync>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// What it carries.
    #[must_use]
    pub fn into_payload(self) -> PanicPayload {
        self.0
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&self.text()).finish()
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Runs `f` and returns its value, or what it panicked with.
///
/// # Errors
///
/// The payload of the panic. Without the feature `std` there is no unwinding, and this never fails.
#[cfg(any(feature = "std", test, loom))]
#[inline(always)]
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, PanicPayload> {
    std::panic::catch_unwind(core::panic::AssertUnwindSafe(f))
}

/// Runs `f` and returns its value.
///
/// # Errors
///
/// Never: without the feature `std` a panic does not unwind.
#[cfg(not(any(feature = "std", test, loom)))]
#[inline(always)]
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, PanicPayload> {
    Ok(f())
}

/// Runs `f`, whose panic reaches nobody: for destructors of what nobody wants any more.
pub fn contain(f: impl FnOnce()) {
    if let Err(payload) = catch(f)
        && let Err(second) = catch(|| drop(payload))
    {
        // A payload whose destructor panics: the chain ends here, leaked.
        core::mem::forget(second);
    }
}

/// Panics of a loop that has to come to its end: the first one goes on then.
#[derive(Default)]
pub(crate) struct PutOff(Option<PanicPayload>);

impl PutOff {
    /// What `f` returns; `None`: it panicked.
    pub(crate) fn catch<R>(&mut self, f: impl FnOnce() -> R) -> Option<R> {
        match catch(f) {
            Ok(value) => Some(value),
            Err(payload) if self.0.is_none() => {
                self.0 = Some(payload);
                None
            }
            Err(payload) => {
                contain(|| drop(payload));
                None
            }
        }
    }

    /// The loop has ended. Inside of another panic, which can be only one at a time, this one reaches nobody.
    pub(crate) fn go_on(self) {
        if let Some(payload) = self.0 {
            resume(payload);
        }
    }
}

#[cfg(any(feature = "std", test, loom))]
fn resume(payload: PanicPayload) {
    if std::thread::panicking() {
        return contain(|| drop(payload));
    }
    std::panic::resume_unwind(payload);
}

/// Nothing was caught.
#[cfg(not(any(feature = "std", test, loom)))]
fn resume(_payload: PanicPayload) {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_shows_its_text_from_another_thread_and_gives_its_payload_back() {
        let panics: [fn(); 3] = [|| panic!("plain"), || panic!("of {}", "parts"), || std::panic::panic_any(7_u32)];
        let caught = panics.map(|f| Panic::new(catch(f).expect_err("a panic")));
        let texts = std::thread::scope(|scope| {
            let shown = scope.spawn(|| caught.each_ref().map(|panic| alloc::format!("{panic} {panic:?}")));
            shown.join().expect("no panic")
        });
        assert_eq!(
            texts,
            [r#"plain Panic("plain")"#, r#"of parts Panic("of parts")"#, r#"(no text) Panic("(no text)")"#]
        );
        let [.., last] = caught;
        assert_eq!(last.into_payload().downcast_ref(), Some(&7_u32));
    }
}
