//! `huskv completions`: what a shell reads to complete huskv's command line.
//!
//! Not here: the command line itself.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::common;

const SHELL: &str = "shell";

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new("completions")
        .about("Print the completions for a shell, such as `source <(huskv completions bash)`")
        .arg(Arg::new(SHELL).value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("The shell"))
}

/// Does it; the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let Some(shell) = matches.get_one::<Shell>(SHELL) else { return super::USAGE };
    let mut text = Vec::new();
    clap_complete::generate(*shell, &mut super::command(), "huskv", &mut text);
    common::ended(common::print(&text))
}
