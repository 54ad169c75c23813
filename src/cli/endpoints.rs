//! Endpoints of a subcommand: `--endpoints`, else `HUSKV_ENDPOINTS`, else the node that the same variables start.
//!
//! Why: a shell that works with one cluster names it once, and beside a node, as in a container, no flag is needed.
//!
//! Invariants: an invalid address is refused before any request.
//!
//! See also: [`crate::client`], which sends the requests.

use clap::{Arg, ArgMatches};

use super::exit::print_error;
use crate::config::{ENDPOINTS_VARIABLE, Given, hidden_ports, load, parse_address};

/// The name of the flag.
const ENDPOINTS: &str = "endpoints";

/// The flag for the addresses.
pub(super) fn argument() -> Arg {
    Arg::new(ENDPOINTS)
        .long(ENDPOINTS)
        .value_name("LIST")
        .value_delimiter(',')
        .value_parser(|text: &str| parse_address(text).map(|address| address.to_string()))
        .help(format!(
            "HTTP addresses (host:port) of the nodes to ask, comma-separated [variable {ENDPOINTS_VARIABLE}, default \
             the node that the same variables start]"
        ))
}

/// The addresses that the flag, the variable or the settings give.
pub(super) fn given(matches: &ArgMatches) -> Result<Vec<String>, String> {
    if let Some(given) = matches.get_many::<String>(ENDPOINTS) {
        return Ok(given.cloned().collect());
    }
    match std::env::var_os(ENDPOINTS_VARIABLE) {
        Some(list) => parse_list(&list.to_string_lossy()),
        None => Ok(vec![own_address()?]),
    }
}

fn parse_list(list: &str) -> Result<Vec<String>, String> {
    let addresses = list.split(',').map(|address| parse_address(address.trim()).map(|address| address.to_string()));
    addresses.collect::<Result<_, _>>().map_err(|error| format!("the variable {ENDPOINTS_VARIABLE}: {error}"))
}

/// The address of the node that the environment of this process would start.
fn own_address() -> Result<String, String> {
    let given = Given { variables: std::env::vars_os().collect(), ..Given::default() };
    let config = load(&given).map_err(|error| error.to_string())?;
    if let Some(sentence) = hidden_ports(&given.variables, &config) {
        print_error(sentence);
    }
    // Port 0 is picked at the start of the node, so the settings do not have it.
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
    fn a_list_holds_only_addresses() {
        assert_eq!(parse_list("a:1, [::1]:2").unwrap(), ["a:1", "[::1]:2"]);
        for list in ["", "a", "a:1,", "http://a:1"] {
            assert!(parse_list(list).unwrap_err().contains(ENDPOINTS_VARIABLE), "{list}");
        }
    }
}
