//! A bounded cache of the metadata of keys, whichever layer has them.
//!
//! Why: a write needs the metadata of what it replaces. Two lookups in the memtables and one in the tree cost more than all else of
//! applying it, and a page of the tree that is not in memory costs ten times that.
//!
//! The cache is a table of sets with eight ways, as in a processor: the hash of a key names its set, and within it the
//! entry of the oldest version gives way. Its memory is fixed, and is taken from the system only as sets are used.
//!
//! Invariants: an entry is the newest state of its key, a missing key included, because each change of a key sets it. Keys
//! are known by 128 bits of a keyed hash; the hash's key is drawn by the process, so no client can choose two keys with the same ones.
//!
//! See also: [`super::entry_view`] (the only user), [`super::layers`] (where a missing entry is read).

use bytes::Bytes;
use siphasher::sip128::SipHasher13;

use super::chunks::Header;
use super::memtable::StoredMeta;
use crate::model::KeyMeta;

const WAYS: usize = 8;

/// The words of an entry: the other half of the hash, and the packed metadata.
const ENTRY_WORDS: usize = 6;

/// The words of a set: a half of each entry's hash first, so that a lookup reads one line of the processor's cache before it has
/// found its entry. A set of zeros is empty.
type Set = [u64; SET_WORDS];

const SET_WORDS: usize = WAYS + WAYS * ENTRY_WORDS;

/// The bit of an entry's last word that a stored key has, and a missing one has not.
const IS_STORED: u64 = 1 << 40;

/// The cache.
pub(crate) struct MetaCache {
    /// The words of all sets. As numbers and not as arrays, which the standard library would write one by one instead of taking zeroed
    /// memory from the system.
    words: Vec<u64>,
    hasher: SipHasher13,
}

impl MetaCache {
    /// Creates a cache of at most `bytes`, but of one set at least, for hashes under `secret`.
    pub(crate) fn new(bytes: usize, secret: u64) -> Self {
        let sets = (bytes / size_of::<Set>()).max(1);
        let words = vec![0; sets * SET_WORDS];
        // The second half of the hash's key need not be secret.
        Self { words, hasher: SipHasher13::new_with_keys(secret, 0) }
    }

    /// Returns what is known of `key`: its metadata, or that it is missing. None where it is not in the cache.
    pub(crate) fn get(&self, key: &Bytes) -> Option<Option<StoredMeta>> {
        let (set, tag, rest) = self.place(key);
        let set = &self.words.as_chunks().0[set];
        let way = find(set, tag, rest)?;
        Some(unpack(entry(set, way)))
    }

    /// Sets the newest state of `key`.
    pub(crate) fn set(&mut self, key: &Bytes, stored: Option<StoredMeta>) {
        let (set, tag, rest) = self.place(key);
        let set = &mut self.words.as_chunks_mut().0[set];
        let way = find(set, tag, rest).or_else(|| set[..WAYS].iter().position(|tag| *tag == 0));
        // A missing key has version 0, and gives way first.
        let oldest = |set: &Set| (0..WAYS).min_by_key(|way| entry(set, *way)[1]).unwrap_or(0);
        let way = way.unwrap_or_else(|| oldest(set));
        set[way] = tag;
        let start = WAYS + way * ENTRY_WORDS;
        set[start..start + ENTRY_WORDS].copy_from_slice(&pack(rest, stored));
    }

    /// Returns the number of sets.
    fn sets(&self) -> usize {
        self.words.len() / SET_WORDS
    }

    /// Returns the set of `key`, and its hash in two halves.
    fn place(&self, key: &Bytes) -> (usize, u64, u64) {
        let hash = self.hasher.hash(key);
        // Scales the hash to the number of sets, without a division.
        let set = (u128::from(hash.h1) * self.sets() as u128) >> 64;
        let set = usize::try_from(set).expect("it is less than the number of sets");
        (set, hash.h2.max(1), hash.h1)
    }
}

fn find(set: &Set, tag: u64, rest: u64) -> Option<usize> {
    (0..WAYS).find(|way| set[*way] == tag && entry(set, *way)[0] == rest)
}

fn entry(set: &Set, way: usize) -> &[u64] {
    let start = WAYS + way * ENTRY_WORDS;
    &set[start..start + ENTRY_WORDS]
}

/// Packs an entry; an expiry of 0 is none, as on disk.
fn pack(rest: u64, stored: Option<StoredMeta>) -> [u64; ENTRY_WORDS] {
    let Some(StoredMeta { header, meta }) = stored else { return [rest, 0, 0, 0, 0, 0] };
    debug_assert_eq!(header.version, meta.version, "both are the raft index of the last change");
    let lengths = u64::from(header.length) << 32 | u64::from(header.checksum);
    let bytes = u32::try_from(meta.bytes).expect("no value is longer than its length on disk");
    let last = IS_STORED | u64::from(header.format) << 32 | u64::from(bytes);
    [rest, meta.version, meta.create_version, meta.expires.unwrap_or(0), lengths, last]
}

/// The reverse of [`pack`].
#[expect(clippy::cast_possible_truncation, reason = "each word is taken apart into what it was made of")]
fn unpack(entry: &[u64]) -> Option<StoredMeta> {
    let &[_, version, create_version, expires, lengths, last] = entry else { return None };
    if last & IS_STORED == 0 {
        return None;
    }
    let header =
        Header { format: (last >> 32) as u8, version, length: (lengths >> 32) as u32, checksum: lengths as u32 };
    let expires = (expires != 0).then_some(expires);
    let meta = KeyMeta { version, create_version, bytes: last as u32 as usize, expires };
    Some(StoredMeta { header, meta })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::{Item, TokenName, Value};
    use crate::storage::kv::item_codec;

    fn meta(key: &Bytes, version: u64) -> StoredMeta {
        let value = Value { content_type: "text/plain".into(), bytes: vec![7; version as usize % 300].into() };
        let by: Option<TokenName> = (version.is_multiple_of(3)).then(|| "ci".parse().unwrap());
        let expires = (version.is_multiple_of(2)).then_some(u64::MAX - version);
        let item = Item { value, version, create_version: version / 2 + 1, expires, by };
        StoredMeta { header: item_codec::header(key, &item), meta: item.meta() }
    }

    fn key(number: u64) -> Bytes {
        format!("k{number}").into()
    }

    #[test]
    fn each_entry_is_the_newest_state_of_its_key() {
        let mut cache = MetaCache::new(64 << 10, 1);
        let mut newest = HashMap::new();
        for version in 1..20_000 {
            // More keys than there are entries, each changed many times.
            let key = key(version * 7919 % 3001);
            let stored = (!version.is_multiple_of(5)).then(|| meta(&key, version));
            cache.set(&key, stored);
            newest.insert(key, stored);
        }
        let known = newest.iter().filter_map(|(key, stored)| Some((cache.get(key)?, stored)));
        let (mut stored, mut missing) = (0, 0);
        for (found, newest) in known {
            assert_eq!(found, *newest);
            *(if newest.is_some() { &mut stored } else { &mut missing }) += 1;
        }
        assert!(stored > 800 && missing > 0, "{stored} and {missing} of {} entries", 8 * cache.sets());
        assert_eq!(cache.get(&key(4000)), None);
    }

    #[test]
    fn a_full_set_drops_the_oldest_version() {
        let mut cache = MetaCache::new(0, 1);
        assert_eq!(cache.sets(), 1);
        (1..=9).for_each(|version| cache.set(&key(version), Some(meta(&key(version), version))));
        assert_eq!(cache.get(&key(1)), None);
        cache.set(&key(5), None);
        cache.set(&key(10), Some(meta(&key(10), 10)));
        assert_eq!(cache.get(&key(5)), None, "a missing key goes first");
        for version in [2, 3, 4, 6, 7, 8, 9, 10] {
            assert_eq!(cache.get(&key(version)), Some(Some(meta(&key(version), version))));
        }
    }
}
