//! What the rule reads and what it returns: the state view, the apply point, and changes.
//!
//! Why: the rule and its users (the state machine, the change feed) share these types, so they stand below both.
//!
//! See also: [`decide`](crate::model::decide).

use bytes::Bytes;

use crate::model::value::{Item, KeyMeta, TokenName};

/// The state just before a command, with the effects of earlier commands of the same batch.
pub trait View {
    /// The error of a failed read.
    type Error;
    /// Returns the metadata of `key`, or None if it does not exist.
    ///
    /// # Errors
    /// The error of the store; nothing has been changed.
    fn meta(&self, key: &Bytes) -> Result<Option<KeyMeta>, Self::Error>;

    /// Returns the item of `key`, or None if it does not exist.
    ///
    /// # Errors
    /// As above.
    fn item(&self, key: &Bytes) -> Result<Option<Item>, Self::Error>;

    /// Returns the smallest key in `from..to`; without `to` the range is unbounded.
    ///
    /// # Errors
    /// As above.
    fn next(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Bytes, KeyMeta)>, Self::Error>;
}

/// The position in the log and the cluster time at which a command is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyPoint {
    /// The raft index of the entry.
    pub index: u64,
    /// The cluster clock in milliseconds, including the timestamp of this entry.
    pub clock: u64,
}

/// One absolute change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets the key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value and indexes.
        item: Item,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Bytes,
        /// Whether it expired; otherwise a client removed it.
        expired: bool,
        /// The token of that client; None where its node had no tokens, and for an expiry.
        by: Option<TokenName>,
    },
    /// Changes only the expiry and the token name of the key.
    Touch {
        /// The key.
        key: Bytes,
        /// The whole item with the new expiry.
        item: Item,
    },
    /// Changes the addresses of a member.
    Move {
        /// The raft id of the member.
        raft_id: u64,
        /// Its peer address.
        raft_address: String,
        /// Its client address.
        http_address: String,
    },
}
