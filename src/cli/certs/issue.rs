//! `huskv certs ca`, `certs node` and `certs client`: the files of a CA, of a node, of a client.
//!
//! See also: `trust::authority` for what is in them.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::common;
use crate::cli::exit::{ExitError, USAGE, exit_code, print_error};
use crate::trust::authority::{self, Authority, Written};
use crate::trust::names::{Host, Label};

const DIR: &str = "dir";
const NAME: &str = "name";
const CLUSTER: &str = "cluster";
const HOST: &str = "host";
const DAYS: &str = "days";
const FORCE: &str = "force";

/// The days for which a certificate is valid by default: browsers and others accept at most 398.
const DEFAULT_DAYS: &str = "397";
/// The most days, as many as a CA has.
const MAX_DAYS: i64 = 3650;
/// The most hosts of one certificate.
const MAX_HOSTS: usize = 24;

/// `certs ca`.
pub(super) fn ca_command() -> Command {
    Command::new("ca")
        .about("Make the CA of a cluster: DIR/ca.pem and DIR/ca-key.pem, valid for ten years")
        .arg(folder("The folder, which is created with mode 0700"))
        .arg(
            Arg::new(CLUSTER)
                .long(CLUSTER)
                .value_name("NAME")
                .required(true)
                .value_parser(Label::parse)
                .help("The name of the cluster, a label of the DNS names of its nodes"),
        )
        .arg(force("Replace the CA that is there; no certificate that it issued is trusted by the new one"))
}

/// `certs node`.
pub(super) fn node_command() -> Command {
    Command::new("node")
        .about("Make the certificate of a node: DIR/NAME/ with ca.pem, node.pem and node-key.pem, as HUSKV_TLS_DIR takes it")
        .arg(folder("The folder of the CA"))
        .arg(name("The name of the node"))
        .arg(
            Arg::new(HOST)
                .long(HOST)
                .value_name("HOST")
                .action(ArgAction::Append)
                .value_parser(Host::parse)
                .help("A DNS name or IP address at which the node is reached; may be repeated [default NAME]"),
        )
        .arg(days())
        .arg(force("Replace the files that are there"))
}

/// `certs client`.
pub(super) fn client_command() -> Command {
    Command::new("client")
        .about("Make the certificate of a client: DIR/NAME/ with ca.pem, client.pem and client-key.pem")
        .arg(folder("The folder of the CA"))
        .arg(name("The name of the client, which becomes CN=NAME"))
        .arg(days())
        .arg(force("Replace the files that are there"))
}

fn folder(help: &'static str) -> Arg {
    Arg::new(DIR).value_name("DIR").required(true).value_parser(value_parser!(PathBuf)).help(help)
}

fn name(help: &'static str) -> Arg {
    Arg::new(NAME).value_name("NAME").required(true).value_parser(Label::parse_own).help(help)
}

fn days() -> Arg {
    Arg::new(DAYS)
        .long(DAYS)
        .value_name("DAYS")
        .value_parser(value_parser!(u32).range(1..=MAX_DAYS))
        .default_value(DEFAULT_DAYS)
        .help("How long it is valid, 1 to 3650; never beyond the end of the CA")
}

fn force(help: &'static str) -> Arg {
    Arg::new(FORCE).long(FORCE).action(ArgAction::SetTrue).help(help)
}

/// Runs `certs ca` and returns the exit code.
pub(super) fn ca(matches: &ArgMatches) -> u8 {
    let (Some(folder), Some(cluster)) = (matches.get_one::<PathBuf>(DIR), matches.get_one::<Label>(CLUSTER)) else {
        return USAGE;
    };
    let written = authority::create(folder, cluster, matches.get_flag(FORCE)).map_err(ExitError::from);
    exit_code(written.and_then(|written| print(&format!("the CA of the cluster {cluster}"), &written)))
}

/// Runs `certs node` and returns the exit code.
pub(super) fn node(matches: &ArgMatches) -> u8 {
    let hosts: Vec<Host> = matches.get_many::<Host>(HOST).unwrap_or_default().cloned().collect();
    if hosts.len() > MAX_HOSTS {
        return exit_code(Err(ExitError::usage(format_args!("at most {MAX_HOSTS} hosts fit into a certificate"))));
    }
    leaf(matches, "node", |authority, name, days, replace| authority.node(name, &hosts, days, replace))
}

/// Runs `certs client` and returns the exit code.
pub(super) fn client(matches: &ArgMatches) -> u8 {
    leaf(matches, "client", Authority::client)
}

fn leaf(
    matches: &ArgMatches,
    kind: &str,
    issue: impl FnOnce(&Authority, &Label, u32, bool) -> Result<Written, crate::trust::TrustError>,
) -> u8 {
    let (Some(folder), Some(name), Some(days)) =
        (matches.get_one::<PathBuf>(DIR), matches.get_one::<Label>(NAME), matches.get_one::<u32>(DAYS))
    else {
        return USAGE;
    };
    let written = Authority::read(folder).and_then(|authority| issue(&authority, name, *days, matches.get_flag(FORCE)));
    let what = |written: &Written| format!("the {kind} {name} of the cluster {}", written.cluster);
    exit_code(written.map_err(ExitError::from).and_then(|written| print(&what(&written), &written)))
}

/// Prints what was made, until when it is valid, and a line for each file.
fn print(what: &str, written: &Written) -> Result<(), ExitError> {
    let until = humantime::format_rfc3339_seconds(written.info.not_after);
    let reason = if written.ends_with_ca { ", the end of its CA" } else { "" };
    let mut text = format!("{what}, valid until {until}{reason}");
    for file in &written.files {
        // Writing to a String cannot fail.
        write!(text, "\n  {}", file.display()).ok();
    }
    for (folder, mode) in &written.open_folders {
        print_error(format_args!(
            "warning: other users may write the folder {} (mode {mode:04o}), and so replace what is in it; chmod go-w it",
            folder.display()
        ));
    }
    common::print_line(text)
}
