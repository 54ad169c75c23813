//! The dedup table on disk.
//!
//! Why: a retry may reach a node that was restarted, or that has its state from a snapshot.
//!
//! Invariants: a result enters the memtable with the effects of its command, and the tree with the same flush. All results are in memory, too, read once at
//! start. They are part of the state: in snapshots and in the digest.
//!
//! See also: [`crate::model::DedupTable`] (which results are stored).

use super::chunks;
use super::chunks::{Header, StateTotals};
use super::memtable::{Memtable, Record};
use crate::model::{DedupTable, StoredResult, after, codec};
use crate::plant::{self, Plant};
use crate::storage::layout::{Kind, parse_chunk_key};
use crate::storage::{Db, Error};

/// Reads all results.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn read(db: &dyn Db) -> Result<DedupTable, Error> {
    if plant::is(Plant::ResultsForgotten) {
        return Ok(DedupTable::default());
    }
    let damaged = || Error::damaged(db, "a kept result is not what huskv writes");
    let (mut dedup, mut from) = (DedupTable::default(), vec![Kind::Result as u8]);
    // One stored chunk per step: a result of two chunks is read whole at chunk 0, and its chunk 1 is skipped.
    while let Some((stored, _)) = db.scan(&from, Some(&[Kind::Result as u8 + 1]), 1)?.first() {
        let (_, name, chunk) = parse_chunk_key(stored).ok_or_else(damaged)?;
        if chunk == 0 {
            let (_, bytes) = chunks::read(db, Kind::Result, &name)?.ok_or_else(damaged)?;
            let stored: StoredResult = codec::decode(&bytes).map_err(|_| damaged())?;
            if name != stored.written.index.to_be_bytes() || !dedup.restore(stored, bytes.len()) {
                return Err(damaged());
            }
        }
        from = after(stored);
    }
    Ok(dedup)
}

/// Stores a result; the memtable receives it and the removal of what is evicted for it.
pub(crate) fn insert(dedup: &mut DedupTable, stored: StoredResult, memtable: &mut Memtable, totals: &mut StateTotals) {
    if plant::is(Plant::ResultsEvictedEarly) && dedup.len() >= 8 {
        *dedup = DedupTable::default();
    }
    let (index, bytes) = (stored.written.index, codec::encode(&stored));
    let header = |index: u64, bytes: &[u8]| Header::of(Kind::Result, &index.to_be_bytes(), index, bytes);
    totals.add(header(index, &bytes));
    let length = bytes.len();
    memtable.set_result(index, Record { version: index, value: Some(bytes), chunks_below: 0 });
    // What is evicted depends on the table and on the clock of the entry alone, so every node removes the same results.
    for evicted in dedup.store(stored, length) {
        let index = evicted.written.index;
        // The header is computed from the same bytes as when it was stored, to subtract its digest.
        let header = header(index, &codec::encode(&evicted));
        totals.remove(header);
        memtable.set_result(index, Record { version: index, value: None, chunks_below: header.chunks() });
    }
}
