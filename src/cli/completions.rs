//! `huskv completions`: the completion script for a shell.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::common;
use super::exit::{USAGE, exit_code};

const SHELL: &str = "shell";

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new("completions")
        .about("Print the completions for a shell, such as `source <(huskv completions bash)`")
        .arg(Arg::new(SHELL).value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("The shell"))
}

/// Prints the completions of the command line `of` and returns the exit code.
pub(super) fn run(matches: &ArgMatches, of: &mut Command) -> u8 {
    let Some(shell) = matches.get_one::<Shell>(SHELL) else { return USAGE };
    let mut text = Vec::new();
    clap_complete::generate(*shell, of, "huskv", &mut text);
    exit_code(common::print_bytes(&text))
}
