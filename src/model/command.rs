//! What a client can ask the state machine to do, what comes of it, and the pure rule between the two.
//!
//! Why: the replicas stay equal only if the same command at the same index has the same effect everywhere, so the
//! decision is a function of the command, the index and the state before it, and of nothing else.
//!
//! Laws: one log entry holds one command, so the raft index of the entry is the version of everything it changed.
//!
//! Not here: how the state is stored (`storage::machine`), and membership, which raft's own entries carry
//! ([`crate::model::MemberChange`]).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One change that a client asks for; the content of one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets `key` to `value`, whether or not it existed.
    Put {
        /// The key, 1 to `limits.key_bytes` bytes.
        key: Bytes,
        /// The value: the text of one JSON value, as the client sent it.
        value: Bytes,
    },
    /// Removes `key`; a key that is not there stays away.
    Delete {
        /// The key, 1 to `limits.key_bytes` bytes.
        key: Bytes,
    },
    /// Replaces the addresses of the member with this raft id; of an id that is no member nothing changes.
    Move {
        /// Which member.
        raft_id: u64,
        /// Where its peers dial it, `host:port`.
        raft_address: String,
        /// Where its clients find it, `host:port`.
        http_address: String,
    },
}

/// What applying a [`Command`] came to. A refusal by the state machine would be one of these too: it is an answer,
/// not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The key has its new value; its version is the index of the entry.
    Put,
    /// The key is gone; `existed` tells whether it was there before.
    Deleted {
        /// Whether there was something to remove.
        existed: bool,
    },
    /// The member table was changed, or already said the same.
    Moved,
    /// Nothing was asked (a leader's first entry of its term).
    Nothing,
}

/// What the rule may look at: the state just before the command, earlier commands of the same batch included.
pub trait View {
    /// What reading the state can fail with.
    type Error;
    /// The version of `key`, or None where there is no such key.
    ///
    /// # Errors
    /// Whatever the store fails with; nothing has been changed then.
    fn version(&self, key: &[u8]) -> Result<Option<u64>, Self::Error>;
}

/// One absolute effect on the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value and this version from now on.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// Its new version, the raft index of the change.
        version: u64,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// The member's addresses are these.
    Move {
        /// Which member.
        raft_id: u64,
        /// Its peer address.
        raft_address: String,
        /// Its client address.
        http_address: String,
    },
}

/// Decides `command` at `index` against `view`: the answer for whoever waits, and the effect on the state, if any.
///
/// # Errors
/// Only what `view` fails with.
pub fn decide<V: View>(command: Command, index: u64, view: &V) -> Result<(Outcome, Option<Change>), V::Error> {
    Ok(match command {
        Command::Put { key, value } => (Outcome::Put, Some(Change::Put { key, value, version: index })),
        Command::Delete { key } => {
            let existed = view.version(&key)?.is_some();
            (Outcome::Deleted { existed }, existed.then_some(Change::Delete { key }))
        }
        Command::Move { raft_id, raft_address, http_address } => {
            (Outcome::Moved, Some(Change::Move { raft_id, raft_address, http_address }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    struct Map(BTreeMap<Vec<u8>, u64>);
    impl View for Map {
        type Error = Infallible;
        fn version(&self, key: &[u8]) -> Result<Option<u64>, Infallible> {
            Ok(self.0.get(key).copied())
        }
    }

    #[test]
    fn a_put_takes_the_index_as_its_version() {
        let put = Command::Put { key: "a".into(), value: "1".into() };
        let Ok((outcome, change)) = decide(put, 7, &Map(BTreeMap::new()));
        assert_eq!(outcome, Outcome::Put);
        assert_eq!(change, Some(Change::Put { key: "a".into(), value: "1".into(), version: 7 }));
    }

    #[test]
    fn a_delete_says_whether_the_key_was_there_and_changes_nothing_if_not() {
        let map = Map(BTreeMap::from([(b"a".to_vec(), 3)]));
        let Ok(gone) = decide(Command::Delete { key: "a".into() }, 7, &map);
        assert_eq!(gone, (Outcome::Deleted { existed: true }, Some(Change::Delete { key: "a".into() })));
        let Ok(missing) = decide(Command::Delete { key: "b".into() }, 7, &map);
        assert_eq!(missing, (Outcome::Deleted { existed: false }, None));
    }
}
