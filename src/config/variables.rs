//! The variables of settings among those of the environment.
//!
//! Invariants: an unknown variable with our prefix is an error, except what the platform sets for a service; the error names
//! the variable that was likely meant. Variables of other programs are left out.
//!
//! See also: variables without our prefix ([`super::near_misses`]).

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::keys::{KEYS, Key};
use super::service_links::is_service_link;
use super::{CLIENT_VARIABLES, CONFIG_VARIABLE, ConfigError, PREFIX, Source, error};

/// The maximum Levenshtein distance of a misspelt name.
const MAX_DISTANCE: usize = 2;

/// Selects the variables of settings. An unknown variable with our prefix is an error.
pub(super) fn select(variables: &[(OsString, OsString)]) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        let is_link = || value.to_str().is_some_and(|value| is_service_link(&name, value, variables));
        if CLIENT_VARIABLES.contains(&name.as_str()) || is_link() {
            continue;
        }
        let known = name == CONFIG_VARIABLE
            || KEYS.iter().any(|key| key.short == Some(name.as_str()) || key.variable() == name);
        if !known && name.starts_with(PREFIX) {
            return Err(error(&name, Source::Variable(name.clone()), unknown(&name)));
        }
        if known {
            let Some(value) = value.to_str() else {
                return Err(error(&name, Source::Variable(name.clone()), "not UTF-8"));
            };
            found.insert(name, value.to_owned());
        }
    }
    Ok(found)
}

fn unknown(name: &str) -> String {
    let meant = likely(name).map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
    format!("unknown setting; {meant}huskv --help lists all")
}

/// Returns the variable that the unknown variable `name` was likely meant to be.
fn likely(name: &str) -> Option<String> {
    // `HUSKV_PORT` and `HUSKV_HTTP_PORT` are SERVER_PORT, which has the path `server.port` and the flag `http-port`. Distance
    // comes second: `HUSKV_PORT` is two letters from `HUSKV_HOST`.
    let word = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let is_part = |key: &Key| {
        let last = key.path.rsplit('.').next();
        let short = key.short.map(str::to_ascii_lowercase);
        last == Some(&word) || short.as_ref() == Some(&word) || key.aliases.contains(&word.replace('_', "-").as_str())
    };
    let similar = || {
        let all = KEYS.iter().flat_map(|key| [Some(key.variable()), key.short.map(str::to_owned)]).flatten();
        let all = all.chain([CONFIG_VARIABLE.to_owned()]).chain(CLIENT_VARIABLES.map(str::to_owned));
        let nearest = all.map(|known| (strsim::levenshtein(name, &known), known)).min();
        nearest.filter(|(distance, _)| *distance <= MAX_DISTANCE).map(|(_, known)| known)
    };
    KEYS.iter().find(|key| is_part(key)).map(Key::known_as).or_else(similar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_variable_is_refused_with_the_one_that_was_likely_meant() {
        for (name, meant) in [
            ("HUSKV_PORT", "SERVER_PORT"),
            ("HUSKV_HTTP_PORT", "SERVER_PORT"),
            ("HUSKV_NODE_ID", "RAFT_NODE_ID"),
            ("HUSKV_NAME", "RAFT_NODE_ID"),
            ("HUSKV_RAFT_VOL_DIRS", "HUSKV_RAFT_VOL_DIR"),
            ("HUSKV_JION", "HUSKV_JOIN"),
            ("HUSKV_ENDPOINT", "HUSKV_ENDPOINTS"),
            ("HUSKV_TOKENFILE", "HUSKV_TOKEN_FILE"),
            ("HUSKV_CERTS", "HUSKV_CERT"),
        ] {
            let error = select(&[(name.into(), "2221".into())]).unwrap_err();
            assert_eq!(
                error.problem,
                format!("unknown setting; did you mean {meant}? huskv --help lists all"),
                "{name}"
            );
        }
        let error = select(&[("HUSKV_COLOUR_OF_THE_SKY".into(), "blue".into())]).unwrap_err();
        assert_eq!(error.problem, "unknown setting; huskv --help lists all");
    }

    #[test]
    fn the_variables_of_clients_are_no_settings() {
        let given: Vec<_> = CLIENT_VARIABLES.iter().map(|name| ((*name).into(), "x".into())).collect();
        assert!(select(&given).unwrap().is_empty());
    }
}
