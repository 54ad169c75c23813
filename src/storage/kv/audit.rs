//! The start-up audit of a state machine: reads and verifies every value.
//!
//! Why: sled silently drops updates if a byte in the middle of its log is flipped. So a start reads every value once, checks it
//! against its checksum, and compares the sum of all digests with the one that the state recorded.
//!
//! Invariants: every expiry belongs to an item and every item with an expiry has exactly one.
//!
//! See also: [`super::chunks`] (checksums and digests).

use super::chunks::{Header, StateTotals, describe};
use super::{item_codec, ttl_index};
use crate::storage::layout::{Kind, is_key_of, parse_chunk_key};
use crate::storage::{Db, Error};

/// The maximum pairs of one scan, up to 1 MiB.
const STEP: usize = 256;

/// The state of an audit.
#[derive(Default)]
struct Found {
    totals: StateTotals,
    /// The bytes of all keys and values of clients, as stored.
    live_bytes: u64,
    /// The number of keys with an expiry.
    ttl_keys: u64,
    /// The digests of the expiries that items require, minus those that exist.
    expiries: u64,
}

/// Reads and verifies every value and the TTL index; returns the totals, the bytes of all keys and values of clients, and the number
/// of keys with an expiry.
pub(crate) fn audit(db: &dyn Db) -> Result<(StateTotals, u64, u64), Error> {
    let mut found = Found::default();
    let mut from = Kind::FIRST.to_vec();
    let mut value: Option<Partial> = None;
    loop {
        let pairs = db.scan(&from, None, STEP)?;
        let Some((last, _)) = pairs.last() else { break };
        from.clone_from(last);
        from.push(0);
        for (stored, chunk) in &pairs {
            let (kind, key, number) = parse_chunk_key(stored)
                .filter(|(kind, key, _)| is_key_of(*kind, key))
                .ok_or_else(|| Error::damaged(db, "it holds a key that huskv does not write"))?;
            // Chunk 0 begins a value and ends the one before. All chunks of a value are adjacent and in order.
            if number == 0 {
                finish(value.take(), &mut found, db)?;
                let (header, first) = Header::decode(kind, chunk, db)?;
                value = Some(Partial { kind, key, header, bytes: first.to_vec(), chunks: 1 });
                continue;
            }
            match &mut value {
                Some(open) if open.kind == kind && open.key == key && open.chunks == usize::from(number) => {
                    open.bytes.extend_from_slice(chunk);
                    open.chunks += 1;
                }
                _ => return Err(Error::damaged(db, format!("a piece of {} is missing", describe(kind, &key)))),
            }
        }
    }
    finish(value, &mut found, db)?;
    // Items add the digests of the expiries they require and the index subtracts those it has, so 0 means that they match.
    if found.expiries != 0 {
        return Err(Error::damaged(db, "the times at which its keys expire do not fit the keys"));
    }
    Ok((found.totals, found.live_bytes, found.ttl_keys))
}

struct Partial {
    kind: Kind,
    key: Vec<u8>,
    header: Header,
    bytes: Vec<u8>,
    chunks: usize,
}

fn finish(value: Option<Partial>, found: &mut Found, db: &dyn Db) -> Result<(), Error> {
    let Some(Partial { kind, key, header, bytes, chunks }) = value else { return Ok(()) };
    if chunks != header.chunks() || !header.fits(kind, &key, &bytes) {
        return Err(Error::damaged(db, format!("the checksum of the value of {} does not fit", describe(kind, &key))));
    }
    match kind {
        Kind::Data => {
            found.live_bytes += (key.len() + header.total()) as u64;
            if let Some(expires) = item_codec::check(db, header, &bytes)? {
                // What the index record of this item must be is computed and not looked up: one pass in key order,
                // without random reads.
                let digest = ttl_index::header(&key, header.version, expires).digest();
                found.expiries = found.expiries.wrapping_add(digest);
            }
        }
        Kind::Expiry => {
            found.expiries = found.expiries.wrapping_sub(header.digest());
            found.ttl_keys += 1;
        }
        Kind::State | Kind::Members | Kind::Result => {}
    }
    if kind != Kind::State {
        found.totals.add(header);
        found.totals.keys += u64::from(kind == Kind::Data);
    }
    Ok(())
}
