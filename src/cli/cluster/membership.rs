//! `huskv join`, `remove` and `transfer`: who belongs to the cluster, and who leads it.
//!
//! Laws: what the operator should know, such as a warning, goes to stderr; the exit code is 0 all the same.
//!
//! Not here: when a change is allowed (`consensus::membership`).

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use crate::cli::common;
use crate::cli::common::ExitError;
use crate::cli::complain;
use crate::client::Change;

const NAME: &str = "name";
const ADDRESS: &str = "address";
const FORCE: &str = "force";

/// `huskv join`.
pub(crate) fn join_command() -> Command {
    common::command("join", "60s")
        .about("Make a node a member; it has everything and votes when this returns")
        .arg(Arg::new(NAME).value_name("NAME").required(true).help("The node's name"))
        .arg(Arg::new(ADDRESS).value_name("ADDRESS").required(true).help("Its raft address, host:port"))
        .arg(
            Arg::new(FORCE)
                .long(FORCE)
                .action(ArgAction::SetTrue)
                .help("Take it though it holds data of its own, which is given up"),
        )
}

/// `huskv remove`.
pub(crate) fn remove_command() -> Command {
    common::command("remove", "10s")
        .about("Take a member out; removing the leader moves the lead first")
        .arg(Arg::new(NAME).value_name("NAME").required(true).help("The member's name"))
}

/// `huskv transfer`.
pub(crate) fn transfer_command() -> Command {
    common::command("transfer", "10s")
        .about("Move the leadership to a member")
        .arg(Arg::new(NAME).value_name("NAME").help("The member's name [default: the one that is most caught up]"))
}

/// Joins a node; the exit code.
pub(crate) fn join(matches: &ArgMatches) -> u8 {
    let (name, address) = (text(matches, NAME), text(matches, ADDRESS));
    let force = matches.get_flag(FORCE);
    common::run(matches, |client| async move { tell(matches, client.join(&name, &address, force).await?) })
}

/// Removes a member; the exit code.
pub(crate) fn remove(matches: &ArgMatches) -> u8 {
    let name = text(matches, NAME);
    common::run(matches, |client| async move { tell(matches, client.remove(&name).await?) })
}

/// Moves the leadership; the exit code.
pub(crate) fn transfer(matches: &ArgMatches) -> u8 {
    let name = common::text(matches, NAME);
    common::run(matches, |client| async move { tell(matches, client.transfer(name.as_deref()).await?) })
}

fn text(matches: &ArgMatches, name: &str) -> String {
    common::text(matches, name).unwrap_or_default()
}

fn tell(matches: &ArgMatches, Change { message, warning, dropped }: Change) -> Result<(), ExitError> {
    if common::json(matches) {
        return common::say(json!({ "message": message, "warning": warning, "dropped": dropped }));
    }
    common::say(message)?;
    for remark in [warning, dropped].into_iter().flatten() {
        complain(remark);
    }
    Ok(())
}
