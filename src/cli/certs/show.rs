//! `huskv certs show`: what the certificates of a file, or of a server, say.
//!
//! Invariants: an existing file wins over an address. `not verified` is printed unless `HUSKV_CA` is set and verifies what the
//! server presents; where it is set and does not, the exit code is 1.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command};

use crate::cli::common;
use crate::cli::exit::{ExitError, USAGE, exit_code};
use crate::trust::inspect::{self, Description, Item};
use crate::trust::pem_files::CaBundle;
use crate::trust::probe::{self, ServerAddress};

const SOURCE: &str = "source";
/// The variable that names the bundle of a client.
const CA_VARIABLE: &str = "HUSKV_CA";

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new("show")
        .about("Show what the certificates of a file, or of a server, say: names, usage, validity, fingerprint")
        .after_help(
            "A server's certificates are shown whether or not they can be trusted; HUSKV_CA=FILE verifies them.\n\
             Exit codes: 0 shown, 1 failed or not verified by HUSKV_CA, 2 wrong arguments.",
        )
        .arg(
            Arg::new(SOURCE)
                .value_name("FILE|HOST:PORT")
                .required(true)
                .help("A PEM file; where there is none of this name, the address of a server"),
        )
}

/// Runs the subcommand and returns the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let Some(source) = matches.get_one::<String>(SOURCE) else { return USAGE };
    if Path::new(source).exists() {
        return exit_code(show_file(source));
    }
    match ServerAddress::parse(source) {
        Some(address) => exit_code(show_server(source, &address)),
        None => {
            exit_code(Err(ExitError::failed(format_args!("{source}: there is no such file, and it is no HOST:PORT"))))
        }
    }
}

fn show_file(file: &str) -> Result<(), ExitError> {
    let mut unreadable = None;
    let items = inspect::items(Path::new(file))?;
    for (at, item) in items.iter().enumerate() {
        let place = if items.len() > 1 { format!("{file}, {} of {}", at + 1, items.len()) } else { file.to_owned() };
        match item {
            Item::Certificate(Ok(description)) => common::print_line(format_args!("{place}\n{description}"))?,
            Item::Certificate(Err(reason)) => {
                common::print_line(format_args!("{place}\n  {reason}"))?;
                unreadable = Some(format!("{place}: {reason}"));
            }
            Item::Other(kind) => common::print_line(format_args!("{place}\n  {kind}; it is not shown"))?,
        }
    }
    unreadable.map_or(Ok(()), |reason| Err(ExitError::failed(reason)))
}

fn show_server(source: &str, address: &ServerAddress) -> Result<(), ExitError> {
    let trusted = bundle()?;
    let failed = |reason: String| ExitError::failed(format_args!("{source}: {reason}"));
    let shown = common::block_on(probe::presented(address, trusted.as_ref().map(|(_, bundle)| bundle)))?;
    let shown = shown.map_err(failed)?;
    for (at, certificate) in shown.chain.iter().enumerate() {
        let place = format!("{source}, {}, certificate {} of {}", shown.version, at + 1, shown.chain.len());
        let text = Description::of(certificate).map_or_else(|reason| format!("  {reason}"), |it| it.to_string());
        common::print_line(format_args!("{place}\n{text}"))?;
    }
    if let Some(reason) = &shown.incomplete {
        common::print_line(format_args!("the handshake was not completed: {reason}"))?;
    }
    match (shown.verified, trusted) {
        (Some(Ok(root)), Some((file, _))) => {
            let root = Description::of(&root).map_err(failed)?;
            let (subject, print) = (root.info.subject, root.fingerprint);
            let host = address.host();
            common::print_line(format_args!("verified for {host} by {subject} of {}, SHA-256 {print}", file.display()))
        }
        (Some(Err(reason)), Some((file, _))) => {
            let reason = format!("not verified by {CA_VARIABLE}={}: {reason}", file.display());
            common::print_line(&reason)?;
            Err(failed(reason))
        }
        _ => common::print_line(format_args!("not verified: {CA_VARIABLE} names no CA")),
    }
}

/// The bundle of `HUSKV_CA`, and its file.
fn bundle() -> Result<Option<(PathBuf, CaBundle)>, ExitError> {
    let Some(file) = std::env::var_os(CA_VARIABLE) else { return Ok(None) };
    if file.is_empty() {
        return Err(ExitError::usage(format_args!("{CA_VARIABLE} is empty; unset it, or name a file")));
    }
    let file = PathBuf::from(file);
    let bundle = CaBundle::read(&file).map_err(|error| ExitError::usage(format_args!("{CA_VARIABLE}: {error}")))?;
    Ok(Some((file, bundle)))
}
