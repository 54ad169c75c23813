//! Misspelt names of the environment variables without `HUSKV_`, such as `RAFT_NODEID`.
//!
//! Why: an unknown `HUSKV_` variable is an error, but the short variables of the tutorial have no prefix. Without a warning
//! `RAFT_NODEID=node2` would start a second node1.
//!
//! Invariants: a similar name may belong to another program, so it is no error. A variable that the platform sets for a
//! service is not reported.
//!
//! See also: `cli::serve`, which logs the warning.

use std::ffi::OsString;

use super::keys::{KEYS, Key};
use super::service_links::is_service_link;

/// The maximum Levenshtein distance of a misspelt name.
const MAX_DISTANCE: usize = 2;

/// Finds variables that are no settings but are spelt nearly like one: the name found, and the name of the setting.
#[must_use]
pub fn near_misses(variables: &[(OsString, OsString)]) -> Vec<(String, &'static str)> {
    let ours: Vec<&'static str> = KEYS.iter().filter_map(|key: &Key| key.short).collect();
    let mut found = Vec::new();
    for (name, value) in variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value))) {
        let linked = value.to_str().is_some_and(|value| is_service_link(name, value, variables));
        if linked || ours.contains(&name) || KEYS.iter().any(|key| key.variable() == name) {
            continue;
        }
        // `server_port` is also a mistake: names of variables have a case.
        let upper = name.to_ascii_uppercase();
        let nearest = ours.iter().map(|meant| (strsim::levenshtein(&upper, meant), *meant)).min();
        if let Some((_, meant)) = nearest.filter(|(distance, _)| *distance <= MAX_DISTANCE) {
            found.push((name.to_owned(), meant));
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misses(names: &[&str]) -> Vec<(String, &'static str)> {
        near_misses(&names.iter().map(|name| (name.into(), "1".into())).collect::<Vec<_>>())
    }

    #[test]
    fn misspelt_names_are_found() {
        for (misspelt, meant) in [
            ("RAFT_NODEID", "RAFT_NODE_ID"),
            ("SERVERPORT", "SERVER_PORT"),
            ("server_port", "SERVER_PORT"),
            ("RAFT_VOLDIR", "RAFT_VOL_DIR"),
            ("RAFT_PROT", "RAFT_PORT"),
        ] {
            assert_eq!(misses(&[misspelt]), [(misspelt.to_owned(), meant)], "{misspelt}");
        }
    }

    #[test]
    fn settings_and_other_programs_variables_are_left_alone() {
        let names = ["SERVER_PORT", "RAFT_NODE_ID", "HUSKV_LOG", "HUSKV_RAFT_PORT", "PATH", "SERVER_NAME", "HOME", ""];
        assert!(misses(&names).is_empty(), "{:?}", misses(&names));
    }

    #[test]
    fn a_variable_of_a_service_is_not_reported() {
        let of = |value: &str| near_misses(&[("RAFT_0_PORT".into(), value.into())]);
        assert_eq!((of("tcp://10.0.0.1:1111"), of("1111").len()), (vec![], 1));
    }
}
