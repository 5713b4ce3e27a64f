//! What the small examples do with their command lines.

use std::process::ExitCode;

/// The flags; or how the program ends without them, after the help was printed: because it was asked for (`None`), or with the error.
pub(crate) fn flags<T>(parsed: Result<Option<T>, lexopt::Error>, help: &str) -> Result<T, ExitCode> {
    match parsed {
        Ok(Some(flags)) => Ok(flags),
        Ok(None) => {
            print!("{help}");
            Err(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{help}");
            Err(ExitCode::from(2))
        }
    }
}
