//! Range queries: the parameters and the result of a list request.
//!
//! Invariants: keys are in byte order; a range includes its start and excludes its end.
//!
//! See also: `http::api::list` (cursors and parameters), `storage::kv::scan` (execution).

use bytes::Bytes;

use super::Item;

/// Which keys a page begins with, and how far it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The smallest key.
    pub start: Vec<u8>,
    /// What all keys are smaller than, if anything.
    pub end: Option<Vec<u8>>,
    /// Whether the page begins with the greatest key and goes down.
    pub reverse: bool,
    /// The most keys of the page.
    pub limit: usize,
    /// Whether the keys alone are wanted.
    pub keys_only: bool,
}

/// One page, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys in the order that was asked for; without their items where the keys alone were wanted.
    pub items: Vec<(Bytes, Option<Item>)>,
    /// Whether the range goes on behind the last of them.
    pub more: bool,
}

/// The smallest key that is greater than all keys with this prefix, if there is one.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut after = prefix[..=kept].to_vec();
    after[kept] += 1;
    Some(after)
}

/// The smallest key that is greater than `key`.
#[must_use]
pub fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_follows_a_prefix_is_the_next_one_of_its_length_or_shorter() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!((after_prefix(b"\xff"), after_prefix(b"")), (None, None));
    }

    proptest! {
        #[test]
        fn a_key_has_the_prefix_or_lies_outside_its_range(prefix: Vec<u8>, key: Vec<u8>) {
            let inside = key >= prefix && after_prefix(&prefix).is_none_or(|end| key < end);
            prop_assert_eq!(inside, key.starts_with(&prefix));
        }
    }
}
