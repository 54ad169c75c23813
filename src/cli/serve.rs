//! `huskv serve`: loads the settings, starts the log, runs a node.
//!
//! See also: [`crate::config`] for the settings, [`crate::node`] for the node.

use clap::{Arg, ArgAction, ArgMatches, Command};
use slog::warn;

use super::exit::{USAGE, print_error};
use crate::config::keys::{KEYS, Key, Kind};
use crate::config::{CONFIG_FLAG, CONFIG_VARIABLE, Given, Loaded, near_misses, service_links};
use crate::node::{self, Stop};
use crate::telemetry::logging::{self, Format};

/// The hidden flag that stops a node when its stdin closes, so that the demo's nodes end with the demo.
pub(super) const STOP_WITH_STDIN: &str = "stop-with-stdin";

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new("serve").about("Run one node (the default)").args(arguments())
}

/// The flags of a node: one for each setting, and one for the file.
pub(super) fn arguments() -> Vec<Arg> {
    let mut arguments = vec![
        Arg::new(CONFIG_FLAG)
            .long(CONFIG_FLAG)
            .value_name("FILE")
            .help(format!("A TOML file with settings [variable {CONFIG_VARIABLE}, default none]")),
        Arg::new(STOP_WITH_STDIN).long(STOP_WITH_STDIN).hide(true).action(ArgAction::SetTrue),
    ];
    arguments.extend(KEYS.iter().map(argument));
    arguments
}

fn argument(key: &'static Key) -> Arg {
    let name = match key.kind {
        Kind::Number { .. } => "NUMBER",
        Kind::NumberOrAuto { .. } => "NUMBER|auto",
        Kind::Port(_) => "PORT",
        Kind::Switch(_) => "TRUE|FALSE",
        Kind::Text { .. } => "TEXT",
        Kind::List { .. } => "LIST",
    };
    let default = if key.default.is_empty() { "none" } else { key.default };
    Arg::new(key.path)
        .long(key.flag())
        .visible_aliases(key.aliases)
        .value_name(name)
        // A negative number is refused as a value, with its bounds, not as an unknown flag.
        .allow_negative_numbers(true)
        .help(format!("{} [variable {}, default {default}]", key.help, key.known_as()))
}

/// The flags, and the environment of the process.
pub(super) fn given(matches: &ArgMatches) -> Given {
    let text = |id: &str| matches.get_one::<String>(id).cloned();
    Given {
        flags: KEYS.iter().filter_map(|key| Some((key.path, text(key.path)?))).collect(),
        config: text(CONFIG_FLAG),
        variables: std::env::vars_os().collect(),
        ..Given::default()
    }
}

/// Runs a node until it is stopped and returns the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let given = given(matches);
    let settings = match Loaded::of(given.clone()) {
        Ok(settings) => settings,
        Err(error) => {
            print_error(error);
            return USAGE;
        }
    };
    let stop = if matches.get_flag(STOP_WITH_STDIN) { Stop::SignalsAndStdin } else { Stop::Signals };
    let config = &settings.config;
    let level = logging::level_named(&config.log.level);
    let (log, guard) = logging::start(level, Format::named(&config.log.format));
    for (name, meant) in near_misses(&given.variables) {
        warn!(log, "the variable {} is no setting and is ignored; did you mean {}?", name, meant);
    }
    if let Some(sentence) = service_links(&given.variables, config) {
        warn!(log, "{}", sentence);
    }
    // Before any thread of the node starts: limits and the panic hook are for the whole process.
    node::process_settings::prepare(&log);
    node::panics::install(log.clone(), guard.clone());
    let code = node::run(&settings, stop, &log, &guard);
    guard.flush();
    code
}
