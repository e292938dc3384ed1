//! `segd hash-password`: a user's entry for `[access] users`.

use std::io::{IsTerminal, Read, stdin};

use clap::Args;

use crate::output::access::User;
use vision::error::{Error, Result};

/// Longest password in bytes.
const MAX_PASSWORD: u64 = 1024;

/// Arguments of `segd hash-password`. The password is no argument: those are seen by everyone on the machine.
#[derive(Debug, Args)]
pub struct HashPasswordArgs {
    /// The user's name
    pub name: String,
}

/// Asks for the password twice on a terminal, or reads one line of standard input; prints the entry.
///
/// # Errors
/// Usage, for a name or password that can't be used.
pub fn run(args: HashPasswordArgs) -> Result<()> {
    let fail = |e: std::io::Error| Error::usage("the password can't be read").caused_by(e);
    let password = if stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ").map_err(fail)?;
        let second = rpassword::prompt_password("Again: ").map_err(fail)?;
        if first != second {
            return Err(Error::usage("the two passwords differ"));
        }
        first
    } else {
        let mut text = String::new();
        stdin()
            .take(MAX_PASSWORD)
            .read_to_string(&mut text)
            .map_err(fail)?;
        text.lines().next().unwrap_or_default().to_owned()
    };
    println!("{}", User::new(&args.name, &password)?.entry());
    Ok(())
}
