//! `huskv certs`: a CA for a cluster, certificates of nodes and clients, and what a certificate says.
//!
//! Why: certificates with the names that peers check are made by one line each.
//!
//! Invariants: a name that no certificate can have is a usage error, before anything is created. No key is ever printed.
//!
//! See also: `docs/certificates.md`; `trust::authority`, which makes the certificates.

mod issue;
mod show;

use clap::{ArgMatches, Command};

use super::exit::{ExitError, USAGE};
use crate::trust::TrustError;

type Subcommand = (fn() -> Command, fn(&ArgMatches) -> u8);

const SUBCOMMANDS: [Subcommand; 4] = [
    (issue::ca_command, issue::ca),
    (issue::node_command, issue::node),
    (issue::client_command, issue::client),
    (show::command, show::run),
];

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new("certs")
        .about("Make the certificates of a cluster, and show what a certificate says")
        .after_help("Exit codes: 0 done, 1 failed, 2 wrong flags or names.")
        .subcommand_required(true)
        .subcommands(SUBCOMMANDS.iter().map(|(command, _)| command()))
}

/// Runs the subcommand and returns the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let Some((name, matches)) = matches.subcommand() else { return USAGE };
    let found = SUBCOMMANDS.iter().find(|(command, _)| command().get_name() == name);
    found.map_or(USAGE, |(_, run)| run(matches))
}

impl From<TrustError> for ExitError {
    fn from(error: TrustError) -> Self {
        Self::failed(error)
    }
}
