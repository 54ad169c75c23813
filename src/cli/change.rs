//! `huskv join`, `remove` and `transfer`: who belongs to the cluster, and who leads it.
//!
//! Laws: what the operator should know, such as a warning, goes to stderr; the exit code is 0 all the same.
//!
//! Not here: when a change is allowed (`consensus::membership`).

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::ask::{self, Ending};
use super::complain;
use crate::client::Change;

const NAME: &str = "name";
const ADDRESS: &str = "address";
const FORCE: &str = "force";

/// `huskv join`.
pub(super) fn join_command() -> Command {
    ask::command("join", "60s")
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
pub(super) fn remove_command() -> Command {
    ask::command("remove", "10s")
        .about("Take a member out; removing the leader moves the lead first")
        .arg(Arg::new(NAME).value_name("NAME").required(true).help("The member's name"))
}

/// `huskv transfer`.
pub(super) fn transfer_command() -> Command {
    ask::command("transfer", "10s")
        .about("Move the leadership to a member")
        .arg(Arg::new(NAME).value_name("NAME").help("The member's name [default: the one that is most caught up]"))
}

/// Joins a node; the exit code.
pub(super) fn join(matches: &ArgMatches) -> u8 {
    let (name, address) = (text(matches, NAME), text(matches, ADDRESS));
    let force = matches.get_flag(FORCE);
    ask::run(matches, |client| async move { tell(matches, client.join(&name, &address, force).await?) })
}

/// Removes a member; the exit code.
pub(super) fn remove(matches: &ArgMatches) -> u8 {
    let name = text(matches, NAME);
    ask::run(matches, |client| async move { tell(matches, client.remove(&name).await?) })
}

/// Moves the leadership; the exit code.
pub(super) fn transfer(matches: &ArgMatches) -> u8 {
    let name = ask::text(matches, NAME);
    ask::run(matches, |client| async move { tell(matches, client.transfer(name.as_deref()).await?) })
}

fn text(matches: &ArgMatches, name: &str) -> String {
    ask::text(matches, name).unwrap_or_default()
}

fn tell(matches: &ArgMatches, Change { message, warning, dropped }: Change) -> Result<(), Ending> {
    if ask::json(matches) {
        return ask::say(json!({ "message": message, "warning": warning, "dropped": dropped }));
    }
    ask::say(message)?;
    for remark in [warning, dropped].into_iter().flatten() {
        complain(remark);
    }
    Ok(())
}
