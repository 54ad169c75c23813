//! `huskv token new`: a secret, and the table of its token for the file of `auth.tokens`.
//!
//! Why: a secret of a person's choice can be guessed out of its hash; one of 256 random bits cannot.
//!
//! Invariants: the secret is printed once, as the first line of stdout, and stored nowhere. It needs no node.
//!
//! See also: [`crate::auth`].

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::common;
use super::exit::{ExitError, USAGE, exit_code};
use crate::auth::{NewToken, NewTokenError};

/// What stands between the secret and the table.
const COMMENT: &str = "# The line above is the secret, which is shown only now and stored nowhere. Append the rest to the file of\n\
                       # auth.tokens on every node; it holds the secret's hash.\n";

/// The subcommand.
pub(super) fn command() -> Command {
    let prefixes = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("PREFIX").action(ArgAction::Append).help(help)
    };
    let new = Command::new("new")
        .about("Print a new secret, and the TOML of its token to append to the file of auth.tokens")
        .arg(Arg::new("name").value_name("NAME").required(true).help("The token's name, 1 to 64 of A-Z a-z 0-9 . _ -"))
        .arg(prefixes("read", "Keys with this prefix may be read; may be repeated, \"\" is every key"))
        .arg(prefixes("write", "Keys with this prefix may be written; may be repeated, \"\" is every key"))
        .arg(Arg::new("admin").long("admin").action(ArgAction::SetTrue).help("Everything is allowed, membership too"))
        .arg(
            Arg::new("metrics")
                .long("metrics")
                .action(ArgAction::SetTrue)
                .help("GET /metrics, /events, /load and the overview of the cluster are allowed, and no key by itself"),
        )
        .arg(Arg::new("expires").long("expires").value_name("TIME").help("When it ends, such as 2027-01-31T00:00:00Z"));
    Command::new("token").about("Make tokens for auth.tokens").subcommand_required(true).subcommand(new)
}

/// Prints the secret and the table, and returns the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let Some(("new", matches)) = matches.subcommand() else { return USAGE };
    let many = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    let new = NewToken {
        name: matches.get_one::<String>("name").cloned().unwrap_or_default(),
        read: many("read"),
        write: many("write"),
        admin: matches.get_flag("admin"),
        metrics: matches.get_flag("metrics"),
        expires: matches.get_one::<String>("expires").cloned(),
    };
    exit_code(print(&new))
}

fn print(new: &NewToken) -> Result<(), ExitError> {
    let (secret, table) = new.draw().map_err(|error| match error {
        NewTokenError::Wrong(_) => ExitError::usage(error),
        NewTokenError::Randomness(_) => ExitError::failed(error),
    })?;
    common::print_bytes(format!("{}\n{COMMENT}\n{table}", secret.expose()).as_bytes())
}
