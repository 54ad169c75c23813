//! Endpoints of a subcommand: `--endpoints`, else `HUSKV_ENDPOINTS`, else the node that the same variables start.
//!
//! Why: a shell that works with one cluster names it once, and beside a node, as in a container, no flag is needed.
//!
//! Invariants: an invalid address is refused before any request. An address may be a URL, `http://host:port` or
//! `https://host:port`, and all of a list have one scheme.
//!
//! See also: `access` (certificates and tokens), [`crate::client`], which sends the requests.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgMatches};

use super::access;
use super::exit::print_error;
use crate::client::Access;
use crate::config::{ENDPOINTS_VARIABLE, Given, hidden_ports, load, parse_address};
use crate::trust::Mode;

/// The name of the flag.
const ENDPOINTS: &str = "endpoints";
/// The variable with the directory of a secure node's certificates.
const TLS_DIR_VARIABLE: &str = "HUSKV_TLS_DIR";

/// A list of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndpointList {
    /// Whether they are reached over TLS.
    pub https: bool,
    /// Their addresses, `host:port`.
    pub addresses: Vec<String>,
}

/// Where a subcommand sends its requests.
pub(super) struct Target {
    /// The addresses, `host:port`.
    pub addresses: Vec<String>,
    /// How they are reached.
    pub access: Access,
}

/// The flag for the addresses.
pub(super) fn argument() -> Arg {
    Arg::new(ENDPOINTS).long(ENDPOINTS).value_name("LIST").value_parser(parse_list).help(format!(
        "HTTP addresses (host:port, or https://host:port with TLS) of the nodes to ask, comma-separated [variable \
             {ENDPOINTS_VARIABLE}, default the node that the same variables start]"
    ))
}

/// The endpoints that the flag, the variable or the settings give, and the access to them.
pub(super) fn target(matches: &ArgMatches) -> Result<Target, String> {
    let (list, tls_dir) = match given(matches)? {
        Some(list) => (list, std::env::var_os(TLS_DIR_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from)),
        None => own_node()?,
    };
    let access = access::read(&list, tls_dir.as_deref(), &|name| std::env::var_os(name))?;
    Ok(Target { addresses: list.addresses, access })
}

/// The list of the flag, else of the variable.
fn given(matches: &ArgMatches) -> Result<Option<EndpointList>, String> {
    if let Some(given) = matches.get_one::<EndpointList>(ENDPOINTS) {
        return Ok(Some(given.clone()));
    }
    let parse = |list: OsString| {
        parse_list(&list.to_string_lossy()).map_err(|error| format!("the variable {ENDPOINTS_VARIABLE}: {error}"))
    };
    std::env::var_os(ENDPOINTS_VARIABLE).map(parse).transpose()
}

fn parse_list(list: &str) -> Result<EndpointList, String> {
    let parts: Vec<&str> = list.split(',').map(str::trim).collect();
    let addresses = parts.iter().map(|part| endpoint(part)).collect::<Result<Vec<_>, _>>()?;
    let secure = parts.iter().filter(|part| is_https(part)).count();
    if secure != 0 && secure != parts.len() {
        return Err(
            "some addresses of the list have https:// and some have not; give all or none of them with it".into()
        );
    }
    Ok(EndpointList { https: secure != 0, addresses })
}

fn is_https(text: &str) -> bool {
    text.starts_with("https://")
}

fn endpoint(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a part of the list is empty; give host:port, and a comma only between two of them".to_owned());
    }
    if text.contains(|c: char| c.is_whitespace() || c == ';') {
        return Err(format!("{text:?} is not host:port; separate addresses with commas"));
    }
    // A URL as curl has it: `http://localhost:2221/`.
    let url = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let bare = url.map_or(text, |url| url.strip_suffix('/').unwrap_or(url));
    parse_address(bare).map(|address| address.to_string())
}

/// The node that the environment of this process would start: its endpoint, and the directory of its certificates.
fn own_node() -> Result<(EndpointList, Option<PathBuf>), String> {
    let given = Given { variables: std::env::vars_os().collect(), ..Given::default() };
    let config = load(&given).map_err(|error| error.to_string())?;
    if let Some(sentence) = hidden_ports(&given.variables, &config) {
        print_error(sentence);
    }
    // Port 0 is picked at the start of the node, so the settings do not have it.
    let address = config.local_http().ok_or_else(|| {
        let directory = config.raft.vol_dir.display();
        format!(
            "SERVER_PORT is 0, so the node has picked a port; give --{ENDPOINTS}, {directory}/addresses.json has it"
        )
    })?;
    let dir = Some(config.tls.dir.clone()).filter(|dir| !dir.as_os_str().is_empty());
    Ok((EndpointList { https: config.tls.http_mode() != Mode::Off, addresses: vec![address] }, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_only_addresses() {
        let list = |list| {
            let EndpointList { https, addresses } = parse_list(list).unwrap();
            (https, addresses.join(" "))
        };
        assert_eq!(list("a:1, [::1]:2"), (false, "a:1 [::1]:2".to_owned()));
        assert_eq!(list("http://a:1, http://b:2/,[::1]:3"), (false, "a:1 b:2 [::1]:3".to_owned()));
        assert_eq!(list("https://a:1,https://[::1]:2/"), (true, "a:1 [::1]:2".to_owned()));
        for (list, named) in [
            ("", "is empty"),
            ("a:1,", "is empty"),
            ("a", "\"a\" is not host:port"),
            ("a:1 b:2", "separate addresses with commas"),
            ("a:1;b:2", "separate addresses with commas"),
            ("https://a", "is not host:port"),
            ("https://a:1,b:2", "give all or none"),
            ("http://a:1,https://b:2", "give all or none"),
            ("http://https://a:1", "is not host:port"),
            ("https://user:secret@a:1", "is not host:port"),
            ("http://a:1/store", "is not host:port"),
        ] {
            let error = parse_list(list).unwrap_err();
            assert!(error.contains(named), "{list}: {error}");
        }
    }
}
