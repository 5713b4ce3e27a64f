//! What stands in the parentheses of the attribute.

use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, ExprLit, Ident, Lit, LitBool, LitInt, MetaNameValue, Result, Token};

#[derive(Default)]
pub(crate) struct Arguments {
    /// An `ipiq::Builder`.
    pub(crate) builder: Option<Expr>,
    pub(crate) cores: Option<LitInt>,
    pub(crate) driver: Option<Driver>,
    pub(crate) paused_clock: Option<LitBool>,
}

/// A variant of `ipiq::DriverKind`, where the user wrote it.
pub(crate) struct Driver {
    pub(crate) variant: Ident,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut arguments = Self::default();
        let mut failed: Option<Error> = None;
        for pair in Punctuated::<MetaNameValue, Token![,]>::parse_terminated(input)? {
            if let Err(error) = arguments.take(&pair) {
                match &mut failed {
                    Some(failed) => failed.combine(error),
                    None => failed = Some(error),
                }
            }
        }
        failed.map_or(Ok(arguments), Err)
    }
}

impl Arguments {
    fn take(&mut self, pair: &MetaNameValue) -> Result<()> {
        let key = pair.path.get_ident().map(Ident::to_string).unwrap_or_default();
        let given_twice = match key.as_str() {
            "builder" => self.builder.replace(pair.value.clone()).is_some(),
            "cores" => self.cores.replace(cores(&pair.value)?).is_some(),
            "driver" => self.driver.replace(driver(&pair.value)?).is_some(),
            "paused_clock" => self.paused_clock.replace(yes_or_no(&pair.value)?).is_some(),
            _ => {
                let text = "unknown argument; there are `builder`, `cores`, `driver` and, in tests, `paused_clock`";
                return Err(Error::new_spanned(&pair.path, text));
            }
        };
        if given_twice { Err(Error::new_spanned(&pair.path, format!("`{key}` is given twice"))) } else { Ok(()) }
    }
}

fn cores(value: &Expr) -> Result<LitInt> {
    const KIND: &str = "`cores` is an integer literal, as in `cores = 2`";
    let wrong = |text| Err(Error::new_spanned(value, text));
    let Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) = value else {
        return wrong(KIND);
    };
    match number.base10_parse::<usize>() {
        Ok(0) => wrong("a runtime has at least one core"),
        Ok(_) if number.suffix().is_empty() || number.suffix() == "usize" => Ok(number.clone()),
        Ok(_) => wrong("`cores` is a `usize`"),
        Err(_) => wrong(KIND),
    }
}

fn yes_or_no(value: &Expr) -> Result<LitBool> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Bool(answer), .. }) => Ok(answer.clone()),
        _ => Err(Error::new_spanned(value, "`paused_clock` is `true` or `false`")),
    }
}

fn driver(value: &Expr) -> Result<Driver> {
    let wrong = || Err(Error::new_spanned(value, r#"`driver` is "auto", "uring" or "epoll""#));
    let Expr::Lit(ExprLit { lit: Lit::Str(name), .. }) = value else { return wrong() };
    let variant = match name.value().as_str() {
        "auto" => "Auto",
        "uring" => "Uring",
        "epoll" => "Epoll",
        _ => return wrong(),
    };
    Ok(Driver { variant: Ident::new(variant, name.span()) })
}
