//! Range queries: the parameters and the result of a list request.
//!
//! Invariants: keys are in byte order; a range includes its start and excludes its end.
//!
//! See also: `http::api::range_and_prefix_delete` (cursors and parameters), `storage::kv::scan` (execution).

use std::sync::Arc;

use bytes::Bytes;

use super::Item;

/// A range query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The inclusive start.
    pub start: Vec<u8>,
    /// The exclusive end, if any.
    pub end: Option<Vec<u8>>,
    /// Whether the order is descending.
    pub reverse: bool,
    /// The maximum keys.
    pub limit: usize,
    /// Whether to return keys without items.
    pub keys_only: bool,
}

/// A page, as of one applied index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys in the requested order; items are None if only keys were requested.
    pub items: Vec<(Bytes, Option<Arc<Item>>)>,
    /// Whether the range has more keys.
    pub more: bool,
}

/// Returns the end of the range of a prefix, None if it is unbounded: `ab` gives `ac`, `a\xff` gives `b`.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    // 0xff cannot be incremented, so trailing ones are dropped and the byte before them is. A prefix of nothing else has no
    // end.
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// Returns the successor of `key`.
#[must_use]
pub fn after(key: &[u8]) -> Vec<u8> {
    // In byte order no key lies between `a` and `a\0`.
    [key, &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_end_of_a_prefix_range_is_its_successor() {
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
