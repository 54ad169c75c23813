//! Variables that are nearly, but not quite, those of a setting.
//!
//! Why: an unknown `HUSKV_` variable is an error, but the four short ones carry no prefix of ours. Whoever writes
//! `RAFT_NODEID` would get a second node1 and no word about it.
//!
//! Laws: a name that may well be somebody else's is no error, so this only finds. What the platform makes for a service is
//! no slip.
//!
//! Not here: saying it in the log (`cli`).

use std::ffi::OsString;

use super::keys::{KEYS, Key};
use super::service_links::is_service_link;

/// How many letters may be missing, added or wrong.
const MOST_EDITS: usize = 2;

/// The variables that are no settings but look like a slip in writing one: the name found, and the name meant.
#[must_use]
pub fn near_misses(variables: &[(OsString, OsString)]) -> Vec<(String, &'static str)> {
    let ours: Vec<&'static str> = KEYS.iter().filter_map(|key: &Key| key.short).collect();
    let mut found = Vec::new();
    for (name, value) in variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value))) {
        let linked = value.to_str().is_some_and(|value| is_service_link(name, value, variables));
        if linked || ours.contains(&name) || KEYS.iter().any(|key| key.variable() == name) {
            continue;
        }
        let upper = name.to_ascii_uppercase();
        let near = ours.iter().map(|meant| (edits(&upper, meant), *meant)).min();
        if let Some((_, meant)) = near.filter(|(edits, _)| *edits <= MOST_EDITS) {
            found.push((name.to_owned(), meant));
        }
    }
    found.sort();
    found
}

/// The Levenshtein distance of two names, in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misses(names: &[&str]) -> Vec<(String, &'static str)> {
        near_misses(&names.iter().map(|name| (name.into(), "1".into())).collect::<Vec<_>>())
    }

    #[test]
    fn slips_are_found() {
        for (slip, meant) in [
            ("RAFT_NODEID", "RAFT_NODE_ID"),
            ("SERVERPORT", "SERVER_PORT"),
            ("server_port", "SERVER_PORT"),
            ("RAFT_VOLDIR", "RAFT_VOL_DIR"),
            ("RAFT_PROT", "RAFT_PORT"),
        ] {
            assert_eq!(misses(&[slip]), [(slip.to_owned(), meant)], "{slip}");
        }
    }

    #[test]
    fn settings_and_other_programs_variables_are_left_alone() {
        let names = ["SERVER_PORT", "RAFT_NODE_ID", "HUSKV_LOG", "HUSKV_RAFT_PORT", "PATH", "SERVER_NAME", "HOME", ""];
        assert!(misses(&names).is_empty(), "{:?}", misses(&names));
    }

    #[test]
    fn a_variable_of_a_service_is_no_slip() {
        let of = |value: &str| near_misses(&[("RAFT_0_PORT".into(), value.into())]);
        assert_eq!((of("tcp://10.0.0.1:1111"), of("1111").len()), (vec![], 1));
    }

    #[test]
    fn distances() {
        assert_eq!([edits("", "ab"), edits("ab", ""), edits("abc", "abc"), edits("kitten", "sitting")], [2, 2, 0, 3]);
    }
}
