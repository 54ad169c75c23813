//! `huskv join`, `remove` and `transfer`: membership changes and leadership transfer.
//!
//! Invariants: a warning goes to stderr and does not change the exit code.
//!
//! See also: `consensus::membership` for the conditions of a change.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::join_progress::with_progress;
use crate::cli::common;
use crate::cli::exit::{ExitError, print_error};
use crate::client::MembershipChange;

const NAME: &str = "name";
const ADDRESS: &str = "address";
const FORCE: &str = "force";

/// `huskv join`.
pub(crate) fn join_command() -> Command {
    common::command("join", "60s")
        .about("Make a node a member; when this returns it has all data and votes")
        .arg(Arg::new(NAME).value_name("NAME").required(true).help("The node's name"))
        .arg(Arg::new(ADDRESS).value_name("ADDRESS").required(true).help("Its raft address, host:port"))
        .arg(
            Arg::new(FORCE)
                .long(FORCE)
                .action(ArgAction::SetTrue)
                .help("Join it though it holds data of its own, which is discarded"),
        )
}

/// `huskv remove`.
pub(crate) fn remove_command() -> Command {
    common::command("remove", "10s")
        .about("Remove a member; the leadership of a removed leader is transferred first")
        .arg(Arg::new(NAME).value_name("NAME").required(true).help("The member's name"))
}

/// `huskv transfer`.
pub(crate) fn transfer_command() -> Command {
    common::command("transfer", "10s")
        .about("Transfer the leadership to a member")
        .arg(Arg::new(NAME).value_name("NAME").help("The member's name [default: the most up-to-date one]"))
}

/// Joins a node and returns the exit code.
pub(crate) fn join(matches: &ArgMatches) -> u8 {
    let (name, address) = (text(matches, NAME), text(matches, ADDRESS));
    let force = matches.get_flag(FORCE);
    common::run(matches, |client| async move {
        let joining = client.join(&name, &address, force);
        print_change(matches, with_progress(&client, &name, joining).await?)
    })
}

/// Removes a member and returns the exit code.
pub(crate) fn remove(matches: &ArgMatches) -> u8 {
    let name = text(matches, NAME);
    common::run(matches, |client| async move { print_change(matches, client.remove(&name).await?) })
}

/// Transfers the leadership and returns the exit code.
pub(crate) fn transfer(matches: &ArgMatches) -> u8 {
    let name = common::text(matches, NAME);
    common::run(matches, |client| async move { print_change(matches, client.transfer(name.as_deref()).await?) })
}

fn text(matches: &ArgMatches, name: &str) -> String {
    common::text(matches, name).unwrap_or_default()
}

fn print_change(
    matches: &ArgMatches,
    MembershipChange { message, warning, dropped }: MembershipChange,
) -> Result<(), ExitError> {
    if common::json(matches) {
        return common::print_line(json!({ "message": message, "warning": warning, "dropped": dropped }));
    }
    common::print_line(message)?;
    for remark in [warning, dropped].into_iter().flatten() {
        print_error(remark);
    }
    Ok(())
}
