//! The results of named requests, as they lie in the tree.
//!
//! Why: whoever asks again may ask a node that was restarted, or that has the state from a copy.
//!
//! Laws: a result is written in the same batch as the effects of its command. All of them are in memory too, read once at
//! the start, for each named request asks for one. They are state like all the rest: in copies, and in the digest.
//!
//! Not here: which results are kept ([`crate::model::Results`]).

use super::chunks;
use super::chunks::{Header, StateChecksum};
use crate::model::{Results, StoredResult, after, codec};
use crate::plant::{self, Plant};
use crate::storage::layout::{Kind, parse_cell_key};
use crate::storage::{Batch, Db, Error};

/// Reads all results.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn read(db: &dyn Db) -> Result<Results, Error> {
    if plant::is(Plant::ResultsForgotten) {
        return Ok(Results::default());
    }
    let damaged = || Error::damaged(db, "a kept result is not what huskv writes");
    let (mut results, mut from) = (Results::default(), vec![Kind::Result as u8]);
    while let Some((stored, _)) = db.scan(&from, Some(&[Kind::Result as u8 + 1]), 1)?.first() {
        let (_, name, piece) = parse_cell_key(stored).ok_or_else(damaged)?;
        if piece == 0 {
            let (_, bytes) = chunks::read(db, Kind::Result, &name)?.ok_or_else(damaged)?;
            let kept: StoredResult = codec::decode(&bytes).map_err(|_| damaged())?;
            if name != kept.written.index.to_be_bytes() || !results.insert(kept, bytes.len()) {
                return Err(damaged());
            }
        }
        from = after(stored);
    }
    Ok(results)
}

/// Keeps a result, and adds to `batch` what that writes and removes.
pub(crate) fn keep(results: &mut Results, kept: StoredResult, batch: &mut Batch, tally: &mut StateChecksum) {
    if plant::is(Plant::ResultsOutrun) && results.len() >= 8 {
        *results = Results::default();
    }
    let (index, bytes) = (kept.written.index, codec::encode(&kept));
    tally.add(chunks::put(batch, Kind::Result, &index.to_be_bytes(), index, &bytes, None));
    for gone in results.keep(kept, bytes.len()) {
        let index = gone.written.index;
        let header = Header::of(Kind::Result, &index.to_be_bytes(), index, &codec::encode(&gone));
        chunks::delete(batch, Kind::Result, &index.to_be_bytes(), header);
        tally.remove(header);
    }
}
