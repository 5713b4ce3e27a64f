//! The attribute macros of `ipiq`: `#[ipiq::main]` and `#[ipiq::test]`.
//!
//! Both turn an `async fn` into a plain one that builds a runtime and waits for the body on its core 0. They expand to calls
//! of `::ipiq`'s public API only. Use them through `ipiq`, which re-exports them.
#![forbid(unsafe_code)]

mod arguments;
mod expand;

use proc_macro::TokenStream;

use expand::Role;

/// Runs an `async fn main` on a runtime.
///
/// | Argument | Value | Default |
/// |---|---|---|
/// | `cores` | an integer above 0 | what `Runtime::builder()` chooses |
/// | `driver` | `"auto"`, `"uring"` or `"epoll"` | `"auto"` |
/// | `builder` | an expression: the `ipiq::Builder` to begin with | `Runtime::builder()` |
///
/// The function may return anything that a plain `main` may, in particular a `Result` whose error is not `Send`: it is
/// reported on the core that made it. If the runtime cannot be built, the program says why and exits with a failure. Tasks that
/// still run when the function returns are dropped. To keep the runtime for something else than the function, write a plain `main` with `Runtime::builder()` and `Runtime::block_on`.
///
/// ```ignore
/// #[ipiq::main(cores = 2)]
/// async fn main() -> std::io::Result<()> {
///     let listener = ipiq::net::TcpListener::bind("127.0.0.1:0")?;
///     println!("{}", listener.local_addr()?);
///     Ok(())
/// }
/// ```
///
/// Every other setting is the builder's: the phases of the end, for example, classes, or the environment. It is made before the runtime, in a plain function; the other arguments are
/// set on it.
///
/// ```ignore
/// fn settings() -> ipiq::Builder {
///     ipiq::Runtime::builder().phase("flush", Duration::from_secs(10)).stall_limit(Duration::from_millis(50))
/// }
///
/// #[ipiq::main(builder = settings(), cores = 2)]
/// async fn main() {
///     drop(ipiq::shutdown::phase("flush").await);
/// }
/// ```
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(Role::Main, arguments.into(), function.into()).into()
}

/// Runs an `async fn` as a test, on a runtime of its own.
///
/// Takes the arguments of [`main`](macro@main), and `paused_clock`: `true` for a [clock](https://docs.rs/ipiq/latest/ipiq/struct.Builder.html#method.paused_clock) that goes on
/// when nothing else does, so that hours of sleeping pass at once. The cores are not pinned, because tests run side by side, unless `builder` is given, which says by itself. Works with `#[ignore]` and `#[should_panic]`; a test that returns an error
/// fails with it.
///
/// ```ignore
/// #[ipiq::test(cores = 2)]
/// async fn a_call_brings_its_value_back() {
///     let value = ipiq::call_on(ipiq::CoreId::new(1), || 6 * 7).await;
///     assert_eq!(value.unwrap(), 42);
/// }
/// ```
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(Role::Test, arguments.into(), function.into()).into()
}
