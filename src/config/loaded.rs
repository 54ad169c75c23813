//! Settings with the sources that they were loaded from: what a reload reads again and compares.
//!
//! Why: a running node applies some settings at once and others at its next start, so it has to know which keys differ, and
//! an operator wants to see both values.
//!
//! Invariants: values are compared by what they mean, not as texts: `INFO` and `info` are one level. A reload has the flags and the
//! variables of the start, which no other process can change, so their precedence over the file stays.
//!
//! See also: `node::reload` (what is applied).

use std::collections::BTreeMap;

use super::keys::{KEYS, Key};
use super::{Config, ConfigError, Given, Merge, Source, merged};

/// The keys whose values a running node can change. The files that the keys of `auth` and `tls` name are read again, too.
///
/// `limits.memory_mb`, `limits.key_bytes`, `limits.value_bytes` and `limits.body_bytes` are not among them: the budgets, and the
/// appends that raft has in flight, are divided by them at the start. Nor is `limits.pending_requests`, the size of a queue.
pub const RELOADED: &[&str] = &[
    "limits.watchers",
    "limits.watch_events",
    "limits.watch_mb",
    "limits.request_timeout_ms",
    "limits.requests_per_second",
    "limits.request_burst",
    "http.allowed_origins",
    "http.allowed_hosts",
    "http.trusted_proxies",
    "audit.file",
    "log.level",
];

/// The settings of a node, and where they are from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    values: BTreeMap<&'static str, Vec<String>>,
    given: Given,
}

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// The value before, as a variable would have it.
    pub old: String,
    /// The value after.
    pub new: String,
}

impl Loaded {
    /// Merges all sources and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`] for the first wrong setting.
    pub fn of(given: Given) -> Result<Self, ConfigError> {
        let merge = merged(&given)?;
        let values = merge.values.clone();
        Ok(Self { config: merge.finish()?, values, given })
    }

    /// Reads the file again, and merges it with the variables and flags of the start.
    ///
    /// # Errors
    /// As [`Loaded::of`].
    pub fn again(&self) -> Result<Self, ConfigError> {
        Self::of(Given { again: true, ..self.given.clone() })
    }

    /// Returns the keys that have another value in `new`, in the order of the table.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let text = |of: &Self, key: &Key| of.values.get(key.path).map(|items| items.join(",")).unwrap_or_default();
        let differs = |key: &&'static Key| self.meaning(key) != new.meaning(key);
        KEYS.iter()
            .filter(differs)
            .map(|key| Change { key: key.path, old: text(self, key), new: text(new, key) })
            .collect()
    }

    /// Returns this one with the values of `new` where a running node can change them: what the next reload is compared with. Its
    /// `config` stays that of the start.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        let mut next = self.clone();
        for (key, value) in new.values.iter().filter(|(key, _)| RELOADED.contains(key)) {
            next.values.insert(key, value.clone());
        }
        next
    }

    /// What the value of one key alone makes of empty settings.
    fn meaning(&self, key: &'static Key) -> Config {
        let mut alone = Merge::empty();
        // What was loaded has been parsed before.
        if let Some(items) = self.values.get(key.path) {
            alone.set(key, items.clone(), Source::Default).ok();
        }
        alone.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::find;

    fn loaded(flags: &[(&'static str, &str)]) -> Loaded {
        let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Loaded::of(Given { flags, ..Given::default() }).unwrap()
    }

    #[test]
    fn changes_are_those_of_meaning() {
        let old = loaded(&[("log.level", "INFO"), ("limits.watchers", "007"), ("http.allowed_hosts", "a.b")]);
        assert_eq!(old.changes(&loaded(&[("limits.watchers", "7"), ("http.allowed_hosts", "A.b")])), []);
        let new = loaded(&[("limits.watchers", "7"), ("raft.tick_ms", "40"), ("http.allowed_hosts", "a.b,c.d")]);
        let change = |key, old: &str, new: &str| Change { key, old: old.into(), new: new.into() };
        let (tick, hosts) = (change("raft.tick_ms", "50", "40"), change("http.allowed_hosts", "a.b", "a.b,c.d"));
        assert_eq!(old.changes(&new), [tick.clone(), hosts]);
        // What needs a restart stays a change until then.
        assert_eq!(old.reloaded(&new).changes(&new), [tick]);
    }

    #[test]
    fn a_reload_reads_the_file_again_below_the_flags() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huskv.toml");
        std::fs::write(&path, "[limits]\nwatchers = 1\nwatch_mb = 2\n").unwrap();
        let flags = vec![("limits.watch_mb", "9".to_owned())];
        let given = Given { flags, config: Some(path.display().to_string()), ..Given::default() };
        let old = Loaded::of(given).unwrap();
        std::fs::write(&path, "[limits]\nwatchers = 3\nwatch_mb = 4\n").unwrap();
        let new = old.again().unwrap();
        assert_eq!((new.config.limits.watchers, new.config.limits.watch_mb), (3, 9));
        assert_eq!(old.changes(&new).len(), 1);
        std::fs::write(&path, "[limits]\nwatchers = \"x\"\n").unwrap();
        let error = old.again().unwrap_err().to_string();
        assert!(error.contains("limits.watchers") && error.contains("huskv.toml"), "{error}");
    }

    #[test]
    fn every_reloaded_key_is_one() {
        assert!(RELOADED.iter().all(|path| find(path).is_some()));
    }
}
