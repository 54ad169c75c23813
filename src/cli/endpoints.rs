//! Endpoints of a subcommand: `--endpoints`, else `HUSKV_ENDPOINTS`, else the node that the same variables start.
//!
//! Why: a shell that works with one cluster names it once, and beside a node, as in a container, no flag is needed.
//!
//! Invariants: an invalid address is refused before any request. An address may be a URL, `http://host:port`.
//!
//! See also: [`crate::client`], which sends the requests.

use clap::{Arg, ArgMatches};

use super::exit::print_error;
use crate::config::{ENDPOINTS_VARIABLE, Given, hidden_ports, load, parse_address};

/// The name of the flag.
const ENDPOINTS: &str = "endpoints";

/// The flag for the addresses.
pub(super) fn argument() -> Arg {
    Arg::new(ENDPOINTS).long(ENDPOINTS).value_name("LIST").value_parser(parse_list).help(format!(
        "HTTP addresses (host:port) of the nodes to ask, comma-separated [variable {ENDPOINTS_VARIABLE}, default \
             the node that the same variables start]"
    ))
}

/// The addresses that the flag, the variable or the settings give.
pub(super) fn given(matches: &ArgMatches) -> Result<Vec<String>, String> {
    if let Some(given) = matches.get_one::<Vec<String>>(ENDPOINTS) {
        return Ok(given.clone());
    }
    match std::env::var_os(ENDPOINTS_VARIABLE) {
        Some(list) => {
            parse_list(&list.to_string_lossy()).map_err(|error| format!("the variable {ENDPOINTS_VARIABLE}: {error}"))
        }
        None => Ok(vec![own_address()?]),
    }
}

fn parse_list(list: &str) -> Result<Vec<String>, String> {
    list.split(',').map(str::trim).map(endpoint).collect()
}

fn endpoint(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a part of the list is empty; give host:port, and a comma only between two of them".to_owned());
    }
    if text.contains(|c: char| c.is_whitespace() || c == ';') {
        return Err(format!("{text:?} is not host:port; separate addresses with commas"));
    }
    if text.starts_with("https://") {
        return Err(format!("{text:?} is not an address of a node, which has HTTP without TLS; give host:port"));
    }
    // A URL as curl has it: `http://localhost:2221/`.
    let bare = text.strip_prefix("http://").map_or(text, |url| url.strip_suffix('/').unwrap_or(url));
    parse_address(bare).map(|address| address.to_string())
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
        assert_eq!(parse_list("http://a:1, http://b:2/,[::1]:3").unwrap(), ["a:1", "b:2", "[::1]:3"]);
        for (list, named) in [
            ("", "is empty"),
            ("a:1,", "is empty"),
            ("a", "\"a\" is not host:port"),
            ("a:1 b:2", "separate addresses with commas"),
            ("a:1;b:2", "separate addresses with commas"),
            ("https://a:1", "without TLS"),
            ("http://a:1/store", "is not host:port"),
        ] {
            let error = parse_list(list).unwrap_err();
            assert!(error.contains(named), "{list}: {error}");
        }
    }
}
