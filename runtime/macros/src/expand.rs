//! The expansion.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, ItemFn, Result, ReturnType, Signature, Type, parse2};

use crate::arguments::Arguments;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Main,
    Test,
}

impl Role {
    fn attribute(self) -> &'static str {
        match self {
            Self::Main => "#[ipiq::main]",
            Self::Test => "#[ipiq::test]",
        }
    }
}

/// The function that takes the place of `function`; errors become `compile_error!` at the place they are about.
pub(crate) fn expand(role: Role, arguments: TokenStream, function: TokenStream) -> TokenStream {
    try_expand(role, arguments, function).unwrap_or_else(|error| {
        let error = error.to_compile_error();
        // Without it the compiler would also complain that there is no `main`.
        let main = (role == Role::Main).then(|| {
            quote!(
                fn main() {}
            )
        });
        quote!(#error #main)
    })
}

fn try_expand(role: Role, arguments: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = parse2(function)?;
    check(role, &function)?;
    let arguments: Arguments = parse2(arguments)?;

    let ItemFn { attrs, vis, sig, block } = &function;
    let name = &sig.ident;
    let test = (role == Role::Test).then(|| quote!(#[::core::prelude::v1::test]));
    let cores = arguments.cores.map(|cores| quote!(.cores(#cores)));
    let driver = arguments.driver.map(|driver| {
        let variant = driver.variant;
        quote!(.driver(::ipiq::DriverKind::#variant))
    });
    let own = arguments.builder.map(|builder| {
        // An error about its type points to the expression.
        let typed = quote_spanned!(builder.span()=> let builder: ::ipiq::Builder = #builder;);
        quote!({ #typed builder })
    });
    // Tests run in parallel, each on a runtime of its own: pinned, the first cores of all would share one CPU.
    let placement = (role == Role::Test && own.is_none()).then(|| quote!(.placement(::ipiq::Placement::Unpinned)));
    let clock = match arguments.paused_clock {
        Some(clock) if role == Role::Main => {
            return Err(Error::new_spanned(
                clock,
                "a program's clock is not paused: `paused_clock` is for `#[ipiq::test]`",
            ));
        }
        clock => clock.is_some_and(|clock| clock.value).then(|| quote!(.paused_clock())),
    };
    let builder = own.unwrap_or_else(|| quote!(::ipiq::Runtime::builder()));
    let build = quote!(#builder #cores #driver #clock #placement .build());
    let (output, run) = if role == Role::Test && returns_nothing(sig) {
        // `#[should_panic]` wants a test without a value.
        let run = quote! {
            match #build {
                ::core::result::Result::Ok(runtime) => runtime.block_on(#name),
                ::core::result::Result::Err(error) => {
                    ::core::panic!("the ipiq runtime does not start: {error}")
                }
            }
        };
        (TokenStream::new(), run)
    } else {
        // Errors about what the body returns point to its type, not to the attribute.
        let returned = match &sig.output {
            ReturnType::Default => sig.ident.span(),
            ReturnType::Type(_, kind) => kind.span(),
        };
        let report = quote_spanned!(returned=> ::std::process::Termination::report(#name().await));
        // What the body returns is reported on its core: only the exit code, which is `Send`, leaves it.
        let run = quote! {
            match #build {
                ::core::result::Result::Ok(runtime) => runtime.block_on(|| async { #report }),
                ::core::result::Result::Err(error) => {
                    ::std::eprintln!("Error: the ipiq runtime does not start: {error}");
                    ::std::process::ExitCode::FAILURE
                }
            }
        };
        (quote!(-> ::std::process::ExitCode), run)
    };
    // The body stays a function of its own, so that `return`, `?` and inference are those of any `async fn`.
    Ok(quote! {
        #test
        #(#attrs)*
        #vis fn #name() #output {
            #sig #block
            #run
        }
    })
}

fn returns_nothing(sig: &Signature) -> bool {
    match &sig.output {
        ReturnType::Default => true,
        ReturnType::Type(_, kind) => matches!(&**kind, Type::Tuple(tuple) if tuple.elems.is_empty()),
    }
}

fn check(role: Role, function: &ItemFn) -> Result<()> {
    let sig = &function.sig;
    let attribute = role.attribute();
    if sig.asyncness.is_none() {
        return Err(Error::new_spanned(sig.fn_token, format!("{attribute} needs an `async fn`")));
    }
    if !sig.inputs.is_empty() {
        return Err(Error::new_spanned(&sig.inputs, format!("a function with {attribute} takes no arguments")));
    }
    if !sig.generics.params.is_empty() {
        return Err(Error::new_spanned(&sig.generics, format!("a function with {attribute} has no type parameters")));
    }
    if let Some(unsafety) = &sig.unsafety {
        return Err(Error::new_spanned(unsafety, format!("a function with {attribute} is not `unsafe`")));
    }
    if let Some(abi) = &sig.abi {
        return Err(Error::new_spanned(abi, format!("a function with {attribute} has Rust's own ABI")));
    }
    let is_test = |attr: &&syn::Attribute| attr.path().is_ident("test");
    if let (Role::Test, Some(attr)) = (role, function.attrs.iter().find(is_test)) {
        return Err(Error::new_spanned(attr, "`#[ipiq::test]` adds `#[test]` itself: remove this one"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn tokens(text: &str) -> TokenStream {
        TokenStream::from_str(text).expect("tokens")
    }

    fn expanded(role: Role, arguments: &str, function: &str) -> String {
        let text = expand(role, tokens(arguments), tokens(function)).to_string();
        syn::parse_file(&text).unwrap_or_else(|error| panic!("no Rust: {error}\n{text}"));
        text.split_whitespace().collect()
    }

    fn refused(role: Role, arguments: &str, function: &str) -> String {
        try_expand(role, tokens(arguments), tokens(function)).expect_err("refused").to_string()
    }

    #[test]
    fn main_becomes_a_plain_function_that_waits_on_a_runtime() {
        let text = expanded(Role::Main, "", "async fn main() { work().await }");
        assert!(text.starts_with("fnmain()->::std::process::ExitCode{asyncfnmain(){work().await}"), "{text}");
        assert!(text.contains("::ipiq::Runtime::builder().build()"), "{text}");
        assert!(!text.contains("unsafe"), "{text}");
    }

    #[test]
    fn arguments_go_to_the_builder() {
        let text = expanded(Role::Main, r#"cores = 4, driver = "epoll","#, "async fn main() {}");
        assert!(text.contains("builder().cores(4).driver(::ipiq::DriverKind::Epoll).build()"), "{text}");
    }

    #[test]
    fn a_builder_of_ones_own_comes_before_the_other_arguments() {
        let text = expanded(Role::Main, "cores = 4, builder = f().phase(a, b)", "async fn main() {}");
        assert!(text.contains("{letbuilder:::ipiq::Builder=f().phase(a,b);builder}.cores(4).build()"), "{text}");
        let text = expanded(Role::Test, "builder = f()", "async fn t() {}");
        assert!(text.contains("builder}.build()") && !text.contains("placement"), "{text}");
    }

    #[test]
    fn a_test_may_have_a_paused_clock() {
        let text = expanded(Role::Test, "cores = 2, paused_clock = true", "async fn t() {}");
        assert!(text.contains("builder().cores(2).paused_clock().placement("), "{text}");
        assert!(!expanded(Role::Test, "paused_clock = false", "async fn t() {}").contains("paused"));
    }

    #[test]
    fn every_driver_has_its_name() {
        for (name, variant) in [("auto", "Auto"), ("uring", "Uring"), ("epoll", "Epoll")] {
            let text = expanded(Role::Main, &format!("driver = \"{name}\""), "async fn main() {}");
            assert!(text.contains(&format!(".driver(::ipiq::DriverKind::{variant})")), "{text}");
        }
    }

    #[test]
    fn a_test_keeps_its_attributes_visibility_and_return_type() {
        let function = "#[ignore = \"slow\"] pub async fn t() -> Result<(), String> { Ok(()) }";
        let text = expanded(Role::Test, "cores = 2", function);
        assert!(text.starts_with("#[::core::prelude::v1::test]#[ignore=\"slow\"]pubfnt()->::std::"), "{text}");
        assert!(text.contains("asyncfnt()->Result<(),String>{Ok(())}"), "{text}");
    }

    #[test]
    fn a_test_without_a_value_stays_one() {
        for function in ["#[should_panic] async fn t() {}", "#[should_panic] async fn t() -> () {}"] {
            let text = expanded(Role::Test, "", function);
            assert!(text.contains("#[should_panic]fnt(){") && text.contains("runtime.block_on(t)"), "{text}");
        }
    }

    #[test]
    fn functions_that_cannot_be_run_are_refused() {
        for (function, reason) in [
            ("fn main() {}", "needs an `async fn`"),
            ("async fn main(x: u8) {}", "takes no arguments"),
            ("async fn main(self) {}", "takes no arguments"),
            ("async fn main<T>() {}", "no type parameters"),
            ("async unsafe fn main() {}", "not `unsafe`"),
            ("async extern \"C\" fn main() {}", "ABI"),
            ("struct Main;", "expected"),
        ] {
            let error = refused(Role::Main, "", function);
            assert!(error.contains(reason), "{function}: {error}");
        }
        assert!(refused(Role::Test, "", "#[test] async fn t() {}").contains("remove this one"));
    }

    #[test]
    fn arguments_that_mean_nothing_are_refused() {
        for (arguments, reason) in [
            ("threads = 2", "there are `builder`, `cores`, `driver`"),
            ("a::b = 2", "there are `builder`, `cores`, `driver`"),
            ("paused_clock = true", "is for `#[ipiq::test]`"),
            ("paused_clock = 1", "`true` or `false`"),
            ("cores = 0", "at least one core"),
            ("cores = \"2\"", "integer literal"),
            ("cores = -1", "integer literal"),
            ("cores = N", "integer literal"),
            ("cores = 2u8", "`usize`"),
            ("cores = 2, cores = 3", "given twice"),
            ("builder = a, builder = b", "given twice"),
            ("cores = 99999999999999999999999", "integer literal"),
            ("driver = \"kqueue\"", r#""auto", "uring" or "epoll""#),
            ("driver = Uring", r#""auto", "uring" or "epoll""#),
            ("cores", "expected `=`"),
            ("2", "expected identifier"),
        ] {
            let error = refused(Role::Main, arguments, "async fn main() {}");
            assert!(error.contains(reason), "{arguments}: {error}");
        }
    }

    #[test]
    fn all_wrong_arguments_are_told_at_once() {
        let result = try_expand(Role::Main, tokens("cores = 0, driver = 1"), tokens("async fn main() {}"));
        assert_eq!(result.expect_err("refused").into_iter().count(), 2);
    }

    #[test]
    fn a_refused_main_still_is_a_main() {
        let text = expanded(Role::Main, "", "fn main() {}");
        assert!(text.starts_with("::core::compile_error!") && text.ends_with("fnmain(){}"), "{text}");
    }
}
