//! Journal recovery: reads and checks all records at start.
//!
//! Why: each record is checked against its checksum and against the record before it, because a disk may return something else
//! than what was written.
//!
//! Invariants: only the last record may be torn. It is dropped, since nothing in it was acknowledged. Any other mismatch is
//! damage, and the node refuses to start rather than vote without its log. Nothing is written here; the chunks of a torn record
//! are removed with the next append.
//!
//! See also: `data_dir` (whether the log fits the state).

use std::sync::Arc;

use super::Journal;
use super::record::{self, RecordHeader};
use crate::storage::layout::{FieldReader, MAX_COUNT, RECORD_VERSION, parse_record_key, record_key};
use crate::storage::{Db, Error};

/// The maximum chunks of one scan, 1 MiB.
const SCAN_CHUNKS: usize = 256;

/// A record whose chunks are being collected.
struct Partial {
    seq: u64,
    chunks: u32,
    header: RecordHeader,
    bytes: Vec<u8>,
}

/// The state of the scan over all records.
struct Recovery {
    db: Arc<dyn Db>,
    journal: Journal,
    partial: Option<Partial>,
    last_seq: Option<u64>,
    /// The first record that does not follow its predecessor. Valid if a later reset voids it: compaction may have
    /// removed what it follows.
    mismatch: Option<String>,
}

impl Journal {
    /// Reads and checks the log in `db`.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Newer`], and read errors. Nothing is changed.
    pub(crate) fn open(db: Arc<dyn Db>) -> Result<Self, Error> {
        let journal = Self::blank(db.clone());
        let mut recovery = Recovery { db, journal, partial: None, last_seq: None, mismatch: None };
        let mut from = record_key(0, 0).to_vec();
        loop {
            // Resumes behind the last key of the scan before.
            let pairs = recovery.db.scan(&from, None, SCAN_CHUNKS)?;
            let Some((last, _)) = pairs.last() else { break };
            from.clone_from(last);
            from.push(0);
            for (key, chunk) in &pairs {
                recovery.read_chunk(key, chunk)?;
            }
        }
        recovery.finish()
    }
}

impl Recovery {
    fn read_chunk(&mut self, key: &[u8], chunk: &[u8]) -> Result<(), Error> {
        let (seq, number) = parse_record_key(key).ok_or_else(|| self.damaged("it holds a key that is no record's"))?;
        // Chunk 0 begins a record. The one before must be complete: only the last record of the journal may be torn.
        if number == 0 {
            if let Some(torn) = &self.partial {
                return Err(self.damaged(format!("record {} is incomplete, and another follows", torn.seq)));
            }
            // Compaction removes whole records from the front, so the first number may be any and the others follow it.
            if self.last_seq.is_some_and(|last| seq != last + 1) || seq == 0 || seq > MAX_COUNT {
                return Err(self.damaged(format!("records before record {seq} are missing")));
            }
            let header =
                RecordHeader::read(chunk).ok_or_else(|| self.damaged(format!("record {seq} does not begin as one")))?;
            if header.version > RECORD_VERSION {
                let (found, known) = (header.version.into(), RECORD_VERSION.into());
                return Err(Error::Newer { what: self.db.name().into(), found, known });
            }
            if header.version < RECORD_VERSION {
                return Err(self.damaged(format!("record {seq} has no known format")));
            }
            self.partial = Some(Partial { seq, chunks: 0, header, bytes: Vec::new() });
        }
        let Some(partial) = self.partial.as_mut().filter(|p| p.seq == seq && p.chunks == number) else {
            return Err(self.damaged(format!("a piece of record {seq} is missing")));
        };
        partial.bytes.extend_from_slice(chunk);
        partial.chunks += 1;
        // The header in chunk 0 says how long the record is: 9 000 bytes are the chunks 0, 1 and 2. A crash after chunk
        // 1 leaves a record that never completes and is still in `partial` at the end: the torn one.
        let complete = partial.chunks as usize >= partial.header.chunks();
        self.partial.take_if(|_| complete).map_or(Ok(()), |partial| self.read_record(&partial))
    }

    fn read_record(&mut self, partial: &Partial) -> Result<(), Error> {
        let seq = partial.seq;
        let payload = partial
            .header
            .payload(seq, &partial.bytes)
            .ok_or_else(|| self.damaged(format!("the checksum of record {seq} does not fit")))?;
        let mut bytes = FieldReader(payload);
        let unreadable = || self.damaged(format!("record {seq} cannot be read"));
        let mut meta =
            record::decode_meta(&mut bytes).filter(record::RecordMeta::is_possible).ok_or_else(unreadable)?;
        let (mut entries, mut offsets) = (Vec::new(), Vec::new());
        for nth in 0..u64::from(meta.entries) {
            let offset = payload.len() - bytes.0.len();
            let index = meta.prev.0 + nth + 1;
            offsets.push(u32::try_from(offset).map_err(|_| unreadable())?);
            entries.push(record::decode_entry(&mut bytes, index).ok_or_else(unreadable)?);
        }
        if !bytes.is_empty() {
            return Err(unreadable());
        }
        // Raft never lets terms fall along the log, and a vote on a log with falling terms would be wrong.
        let terms = std::iter::once(meta.prev.1).chain(entries.iter().map(|entry| entry.term));
        if !terms.is_sorted() {
            return Err(self.damaged(format!("the terms in record {seq} fall")));
        }
        if entries.last().is_some_and(|entry| entry.term > MAX_COUNT) {
            return Err(unreadable());
        }
        // Worked example: compaction has removed records 1 to 3. Record 4 has `prev = (7, 2)` and entries 8 and 9, so the log
        // begins at 8. Record 5 has `prev = (8, 2)` and an entry 9 of term 3: it overrides the 9 of record 4.
        if self.last_seq.is_none() && !meta.reset {
            // Everything before was compacted: the log begins here.
            self.journal.index.begin(meta.prev);
        }
        self.last_seq = Some(seq);
        if meta.reset {
            // Why a mismatch waits for a later reset. Record 1 has entries 2 to 10, record 2 a hard state alone (prev
            // 10), record 3 overrides from entry 5 on (prev 4), record 4 is the reset of an installed snapshot. A
            // compaction has removed record 1. The log then seems to begin at 10, and record 3 does not follow; but
            // nothing before record 4 is live.
            // Everything before is void, whether it fits or not.
            self.mismatch = None;
        } else if self.mismatch.is_some() || !self.follows(&meta) {
            // Kept as a record without entries, so that a later reset can still void it; otherwise the open fails.
            self.mismatch.get_or_insert_with(|| format!("record {seq} does not follow what is before it"));
            (entries, offsets) = (Vec::new(), Vec::new());
            meta.prev = (self.journal.last_index(), 0);
        }
        self.journal.index_record(seq, partial.chunks, &meta, &offsets, entries);
        Ok(())
    }

    fn follows(&self, meta: &record::RecordMeta) -> bool {
        // With entries, `prev` may be anywhere in the log, and the record overrides what comes after it. Without
        // entries it names the end of the log; any other index means that a record in between is missing.
        let (index, term) = meta.prev;
        let in_place = meta.entries > 0 || index == self.journal.last_index();
        in_place && self.journal.term(index) == Some(term)
    }

    fn finish(mut self) -> Result<Journal, Error> {
        if let Some(mismatch) = &self.mismatch {
            return Err(self.damaged(mismatch.clone()));
        }
        if self.last_seq.is_none() {
            return Err(self.damaged("it holds no record at all"));
        }
        // Only the last record can be incomplete here: another record behind an incomplete one is an error above.
        self.journal.torn = self.partial.take().map(|torn| (torn.seq, torn.chunks));
        Ok(self.journal)
    }

    fn damaged(&self, detail: impl Into<String>) -> Error {
        Error::damaged(&*self.db, detail)
    }
}
