//! Command line: `huskv` runs a node; `get`, `put` and their like use a cluster; `members`, `join`, `remove` and
//! `transfer` administer it; `events` prints what happened to its nodes; `top` shows it live; `reload` makes nodes read their settings again; `certs` and `token` make its certificates and tokens; `demo` runs three nodes, `bench` measures them.
//!
//! Why: one binary is all there is to install. The flags of a node are generated from the table of settings, so no list
//! of them is kept here.
//!
//! Invariants: a usage error is one line on stderr and exit code 2, before anything is created. Exit code 0 means that
//! the subcommand did what it was asked.
//!
//! See also: one file for each subcommand; `exit` for the exit codes.

mod access;
mod bench;
mod certs;
mod cluster;
mod common;
mod completions;
mod demo;
mod endpoints;
mod exit;
mod kv;
mod serve;
mod token;
mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command};

use exit::{USAGE, print_error};

/// A subcommand: its arguments, and the function that runs it and returns the exit code.
type Subcommand = (fn() -> Command, fn(&ArgMatches) -> u8);

/// All subcommands, in the order of the help.
const SUBCOMMANDS: [Subcommand; 20] = [
    (serve::command, serve::run),
    (kv::get::command, kv::get::run),
    (kv::put::command, kv::put::run),
    (kv::delete::command, kv::delete::run),
    (kv::list::command, kv::list::run),
    (kv::watch::command, kv::watch::run),
    (kv::txn::command, kv::txn::run),
    (cluster::status::command, cluster::status::run),
    (cluster::members::command, cluster::members::run),
    (cluster::events::command, cluster::events::run),
    (top::command, top::run),
    (cluster::membership::join_command, cluster::membership::join),
    (cluster::membership::remove_command, cluster::membership::remove),
    (cluster::membership::transfer_command, cluster::membership::transfer),
    (cluster::reload::command, cluster::reload::run),
    (certs::command, certs::run),
    (token::command, token::run),
    (demo::command, demo::run),
    (bench::command, bench::run),
    (completions::command, |matches| completions::run(matches, &mut command())),
];

/// Parses the arguments, the program's name first, and runs the subcommand.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let code = match command().try_get_matches_from(arguments) {
        Ok(matches) => dispatch(&matches),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // A closed stdout is no error.
            error.print().ok();
            0
        }
        Err(error) => {
            print_error(format_args!("{}; huskv --help lists all", in_one_line(&error.to_string())));
            USAGE
        }
    };
    ExitCode::from(code)
}

fn dispatch(matches: &ArgMatches) -> u8 {
    let Some((name, matches)) = matches.subcommand() else { return serve::run(matches) };
    let found = SUBCOMMANDS.iter().find(|(command, _)| command().get_name() == name);
    found.map_or(USAGE, |(_, run)| run(matches))
}

fn command() -> Command {
    Command::new("huskv")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A replicated key-value node. Without a subcommand it runs one node, as `huskv serve` does.")
        .after_help(
            "Later wins: defaults, the file, variables, flags. config/huskv.toml explains every setting.\n\
             Exit codes of a node: 0 stopped as asked, 1 could not start or broke, 2 wrong settings, 70 internal error.",
        )
        .args(serve::arguments())
        .subcommands(SUBCOMMANDS.iter().map(|(command, _)| command()))
        .args_conflicts_with_subcommands(true)
}

/// Joins clap's multi-line error: its first line, and the list below it where that ends in a colon.
///
/// ```text
/// error: the following required arguments were not provided:
///   <KEY>
/// ```
/// becomes `the following required arguments were not provided: <KEY>`.
fn in_one_line(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("wrong arguments").trim_start_matches("error: ");
    let rest: Vec<&str> = lines.take_while(|line| line.starts_with(' ')).map(str::trim).collect();
    if first.ends_with(':') { format!("{first} {}", rest.join(", ")) } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_flags_of_serve_work_with_and_without_the_subcommand() {
        for line in [&["huskv", "--raft-port", "7"][..], &["huskv", "serve", "--raft-port", "7"]] {
            let matches = command().try_get_matches_from(line).unwrap();
            let matches = matches.subcommand().map_or(&matches, |(_, matches)| matches);
            assert_eq!(serve::given(matches).flags, [("raft.port", "7".to_owned())]);
        }
    }
}
