//! The command line: `huskv` runs a node, `huskv status` looks at nodes, `huskv demo` runs three, `huskv bench` measures
//! them.
//!
//! Why: one binary is all there is to install. The flags of a node are made from the table of settings, so there is no
//! second list of them here.
//!
//! Laws: a mistake is one line on stderr and exit code 2, before anything is created. Exit code 0 means done as asked.
//!
//! Not here: one file for each subcommand holds what it does.

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command};

mod bench;
mod demo;
mod fleet;
mod serve;
mod status;
mod view;

/// The exit code for wrong settings or flags.
const USAGE: u8 = 2;

/// The exit code for what failed while it was done.
const FAILED: u8 = 1;

/// Parses the arguments, the program's name first, and does what they say.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let code = match command().try_get_matches_from(arguments) {
        Ok(matches) => dispatch(&matches),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Where nobody reads the help there is nobody to tell.
            error.print().ok();
            0
        }
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or("wrong arguments");
            complain(format_args!("{}; huskv --help lists all", first.trim_start_matches("error: ")));
            USAGE
        }
    };
    ExitCode::from(code)
}

fn dispatch(matches: &ArgMatches) -> u8 {
    match matches.subcommand() {
        Some((status::NAME, matches)) => status::run(matches),
        Some((demo::NAME, matches)) => demo::run(matches),
        Some((bench::NAME, matches)) => bench::run(matches),
        Some((_, matches)) => serve::run(matches),
        None => serve::run(matches),
    }
}

fn command() -> Command {
    Command::new("huskv")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A replicated key-value node. Without a subcommand it runs one node, as `huskv serve` does.")
        .after_help(
            "Later wins: defaults, the file, variables, flags. config/huskv.toml explains every setting.\n\
             Exit codes: 0 stopped as asked, 1 could not start or broke, 2 wrong settings, 70 internal error.",
        )
        .args(serve::arguments())
        .subcommand(serve::command())
        .subcommand(status::command())
        .subcommand(demo::command())
        .subcommand(bench::command())
        .args_conflicts_with_subcommands(true)
}

/// Says on stderr, in one line, what is wrong.
fn complain(what: impl Display) {
    eprintln!("huskv: {what}");
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
