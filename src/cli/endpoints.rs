//! Which nodes a subcommand asks: those of `--endpoints`, of `HUSKV_ENDPOINTS`, or the node that the same variables
//! start.
//!
//! Why: a shell that works with one cluster names it once, and beside a node, as in a container, nothing need be named.
//!
//! Laws: what is no address is refused before anything is asked. Later wins: the node's own address, the variable, the
//! flag.
//!
//! Not here: asking ([`crate::client`]).

use clap::{Arg, ArgMatches};

use super::complain;
use crate::config::{Config, ENDPOINTS_VARIABLE, Given, hidden_ports, load};

/// The flag of the addresses.
const ENDPOINTS: &str = "endpoints";

/// The flag.
pub(super) fn argument() -> Arg {
    Arg::new(ENDPOINTS)
        .long(ENDPOINTS)
        .value_name("LIST")
        .value_delimiter(',')
        .value_parser(|text: &str| Config::check_address(text).map(|()| text.to_owned()))
        .help(format!(
            "HTTP addresses (host:port) of the nodes to ask, comma-separated [variable {ENDPOINTS_VARIABLE}, default \
             the node that the same variables start]"
        ))
}

/// The addresses; an error in one line.
pub(super) fn given(matches: &ArgMatches) -> Result<Vec<String>, String> {
    if let Some(given) = matches.get_many::<String>(ENDPOINTS) {
        return Ok(given.cloned().collect());
    }
    match std::env::var_os(ENDPOINTS_VARIABLE) {
        Some(list) => listed(&list.to_string_lossy()),
        None => Ok(vec![own()?]),
    }
}

fn listed(list: &str) -> Result<Vec<String>, String> {
    let addresses = list.split(',').map(|address| {
        let address = address.trim();
        Config::check_address(address).map(|()| address.to_owned())
    });
    addresses.collect::<Result<_, _>>().map_err(|why| format!("the variable {ENDPOINTS_VARIABLE}: {why}"))
}

/// The address of the node that the environment of this process would start.
fn own() -> Result<String, String> {
    let given = Given { variables: std::env::vars_os().collect(), ..Given::default() };
    let config = load(&given).map_err(|error| error.to_string())?;
    if let Some(sentence) = hidden_ports(&given.variables, &config) {
        complain(sentence);
    }
    config.local_http().ok_or_else(|| {
        let directory = config.raft.vol_dir.display();
        format!(
            "SERVER_PORT is 0, so the node has picked a port; give --{ENDPOINTS}, {directory}/addresses.json has it"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_addresses_and_nothing_else() {
        assert_eq!(listed("a:1, [::1]:2").unwrap(), ["a:1", "[::1]:2"]);
        for list in ["", "a", "a:1,", "http://a:1"] {
            assert!(listed(list).unwrap_err().contains(ENDPOINTS_VARIABLE), "{list}");
        }
    }
}
