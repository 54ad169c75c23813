//! The journal: raft's log and hard state.
//!
//! Why: one turn of the consensus loop is one record and one sync. Records are only appended: a record whose entries begin at an
//! index overrides all earlier entries from that index on, so nothing is changed in place and a crash leaves a prefix.
//!
//! Invariants: the chunks of a record are written one by one, in order, not as a batch (a batch costs a second sync); length and
//! checksum detect a torn record. Compaction removes whole records, oldest first, in one batch, and never the last one. So term,
//! vote and `term(first_index - 1)` are always in what is left, and no overridden entry comes back. Terms never fall along the
//! log.
//!
//! See also: [`recovery`] (reading at start), [`record`] (bytes), [`index`] (what is live).

pub(crate) mod entry_cache;
pub(crate) mod index;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod rewrite;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use protobuf::Message;
use raft::eraftpb::{Entry, HardState};

use crate::plant::{self, Plant};

use super::layout::{self, CHUNK_BYTES, record_key};
use super::{Batch, Db, Error};
use index::Index;
use record::{LogId, RecordHeader, RecordMeta};

/// The log of one incarnation.
pub struct Journal {
    db: Arc<dyn Db>,
    hard_state: HardState,
    generation: u64,
    checkpoint: LogId,
    /// Records and entry locations.
    pub(crate) index: Index,
    next_seq: u64,
    /// The chunks written since the log was opened.
    chunks_written: usize,
    written_bytes: u64,
    /// A torn last record, whose chunks are removed before its number is written again.
    pub(crate) torn: Option<(u64, u32)>,
    /// The payload of the record read last.
    last_payload: Mutex<Option<(u64, Bytes)>>,
}

impl Journal {
    /// Returns an empty log with nothing on disk.
    pub(crate) fn blank(db: Arc<dyn Db>) -> Self {
        Self {
            db,
            hard_state: HardState::default(),
            generation: 0,
            checkpoint: (0, 0),
            index: Index::default(),
            next_seq: 1,
            chunks_written: 0,
            written_bytes: 0,
            torn: None,
            last_payload: Mutex::new(None),
        }
    }

    /// Creates the log of a new incarnation in an empty database; its first entry will be `base_index + 1`. Durable on
    /// return.
    ///
    /// # Errors
    /// [`Error`] for a failed write.
    pub fn create(
        db: Arc<dyn Db>,
        base_index: u64,
        base_term: u64,
        hard_state: &HardState,
        generation: u64,
    ) -> Result<Self, Error> {
        let mut journal = Self::blank(db);
        journal.install(base_index, base_term, generation, hard_state)?;
        Ok(journal)
    }

    /// Sets the maximum bytes of the last entries in memory.
    pub fn limit_entry_cache(&mut self, max_bytes: usize) {
        self.index.limit_cache(max_bytes);
    }

    /// Returns the last recorded hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state.clone()
    }

    /// Returns the index of the first entry; one more than [`Journal::last_index`] if the log is empty.
    pub fn first_index(&self) -> u64 {
        self.index.base().0 + 1
    }

    /// Returns the index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.index.last()
    }

    /// Returns the term of the entry at `index`; None outside of `first_index() - 1..=last_index()`.
    pub fn term(&self, index: u64) -> Option<u64> {
        self.index.term(index)
    }

    /// Returns entries from `low` to before `high`: at least one, then as many as fit `max_bytes`. The range must be
    /// within `first_index()..=last_index() + 1`.
    ///
    /// # Errors
    /// [`Error`] for damage, and for a range outside of the log.
    pub fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        if low < self.first_index() || high > self.last_index() + 1 {
            let (first, last) = (self.first_index(), self.last_index());
            return Err(self.damaged(format!("it has entries {first} to {last}, asked for {low} to before {high}")));
        }
        // Whatever its size the first entry is returned: with an empty answer raft could neither send nor apply an
        // entry over the limit.
        let mut found = Vec::new();
        let mut size = 0;
        for index in low..high {
            let entry = match self.index.cached(index) {
                Some(entry) => entry.clone(),
                None => self.fetch(index)?,
            };
            size += u64::from(entry.compute_size());
            if size > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        Ok(found)
    }

    /// Appends one record: these entries, which override all from the first one's index on, and the hard state. Not
    /// durable before [`Journal::sync`].
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn append(&mut self, entries: &[Entry], hard_state: &HardState) -> Result<(), Error> {
        // Entries 5 6 over a log that ends at 7 follow entry 4 and override 5, 6 and 7.
        let before = entries.first().map_or(self.last_index(), |entry| entry.index.saturating_sub(1));
        let in_order = entries.iter().zip(before + 1..).all(|(entry, index)| entry.index == index);
        let Some(term) = self.term(before).filter(|_| in_order) else {
            return Err(self.damaged(format!("raft appended entries that do not follow its entry {before}")));
        };
        self.write((before, term), false, entries, hard_state)
    }

    /// Makes all appended records durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.db.sync()
    }

    /// Replaces the whole log by a snapshot that ends at (index, term): records its state machine generation and the
    /// hard state, whose commit is at least index. One record, durable on return: the commit point of an install.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn install(&mut self, index: u64, term: u64, generation: u64, hard_state: &HardState) -> Result<(), Error> {
        debug_assert!(
            hard_state.commit >= index || plant::is(Plant::CommitNotRaised),
            "what a snapshot holds is committed"
        );
        self.generation = generation;
        self.checkpoint = (index, term);
        // The generation goes with the reset in one record: log and state are switched together or not at all.
        self.write((index, term), true, &[], hard_state)?;
        self.sync()
    }

    /// Records another generation of the same state, durable on return: the commit point of a rewrite.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn switch_generation(&mut self, generation: u64, hard_state: &HardState) -> Result<(), Error> {
        self.generation = generation;
        self.append(&[], hard_state)?;
        self.sync()
    }

    /// Sets the checkpoint of the state machine; written with the next record.
    pub fn record_checkpoint(&mut self, index: u64, term: u64) {
        debug_assert!(index >= self.checkpoint.0, "a checkpoint never goes back");
        self.checkpoint = (index, term);
    }

    /// Returns the last checkpoint, (0, 0) if there is none.
    pub fn checkpoint(&self) -> (u64, u64) {
        self.checkpoint
    }

    /// Returns the state machine generation of this log.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Removes the oldest records whose live entries are all at or below `index`, never the last record, until about
    /// `max_chunks` chunks are removed; the record that passes the bound is the last one, or a later one with which the log
    /// can begin. Returns whether more could be removed.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn compact(&mut self, index: u64, max_chunks: usize) -> Result<bool, Error> {
        // One batch, oldest record first: after a crash the log begins at the old or at the new position.
        let mut batch = Batch::default();
        let mut count = 0;
        for record in self.index.removable(index, max_chunks) {
            batch.changes.extend((0..record.chunks).map(|chunk| (record_key(record.seq, chunk).to_vec(), None)));
            count += 1;
        }
        if count == 0 {
            return Ok(false);
        }
        self.db.write(batch)?;
        Ok(self.index.remove(count, index))
    }

    /// Returns the number of chunks written since the log was opened.
    pub fn chunks_written(&self) -> usize {
        self.chunks_written
    }

    /// Returns about the bytes of all entries.
    pub fn live_bytes(&self) -> u64 {
        self.bytes_after(self.first_index() - 1)
    }

    /// Returns about its bytes on disk.
    pub fn size_on_disk(&self) -> u64 {
        self.db.size_on_disk()
    }

    /// Returns about the bytes of the entries after `index`.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.index.bytes_after(index)
    }

    /// Returns the bytes of the records that were written since the log was opened.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Raises the commit to the applied index. The state machine may be ahead of the recorded commit after a crash, and
    /// raft panics if applied is greater than commit.
    pub(crate) fn raise_commit_to(&mut self, applied: u64) {
        if plant::is(Plant::CommitNotRaised) {
            return;
        }
        self.hard_state.commit = self.hard_state.commit.max(applied);
    }

    fn write(&mut self, prev: LogId, reset: bool, entries: &[Entry], hard_state: &HardState) -> Result<(), Error> {
        // Chunks of a torn record have the number of the next one: without this removal a shorter record would be followed by
        // the old record's chunks.
        if let Some((seq, chunks)) = self.torn.take() {
            let changes = (0..chunks).map(|chunk| (record_key(seq, chunk).to_vec(), None)).collect();
            self.db.write(Batch { changes })?;
        }
        // The log is 8 to 20 and entries 18 and 19 come again in a later term: `base` is (7, t), where the log begins,
        // `prev` is (17, t), what this record follows, and the old 18, 19 and 20 are overridden.
        let meta = RecordMeta {
            hard_state: self.recorded_hard_state(hard_state, reset),
            generation: self.generation,
            checkpoint: self.checkpoint,
            base: if reset { prev } else { self.index.base() },
            reset,
            prev,
            entries: u32::try_from(entries.len()).expect("raft bounds a Ready to far below 4 G entries"),
        };
        let seq = self.next_seq;
        let (bytes, offsets) = record::encode(seq, &meta, entries);
        self.written_bytes += bytes.len() as u64;
        // One put per chunk, in order: after a crash a prefix of them is there, and the header tells that it is torn.
        let mut chunks = 0;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.db.put(&record_key(seq, chunks), chunk)?;
            chunks += 1;
        }
        self.chunks_written += chunks as usize;
        self.index_record(seq, chunks, &meta, &offsets, entries.to_vec());
        Ok(())
    }

    /// Returns the hard state as it is recorded: all of it.
    fn recorded_hard_state(&self, hard_state: &HardState, reset: bool) -> (u64, u64, u64) {
        if plant::is(Plant::HardStateLeftOut)
            && (hard_state.term, hard_state.vote) == (self.hard_state.term, self.hard_state.vote)
            && !reset
        {
            return (0, 0, 0);
        }
        (hard_state.term, hard_state.vote, hard_state.commit)
    }

    /// Adds a record that is on disk and follows the log.
    pub(crate) fn index_record(
        &mut self,
        seq: u64,
        chunks: u32,
        meta: &RecordMeta,
        offsets: &[u32],
        entries: Vec<Entry>,
    ) {
        self.set_hard_state(meta);
        self.generation = meta.generation;
        self.checkpoint = meta.checkpoint;
        self.next_seq = seq + 1;
        self.index.insert(seq, chunks, meta, offsets, entries);
    }

    fn set_hard_state(&mut self, meta: &RecordMeta) {
        if plant::is(Plant::HardStateLeftOut) && meta.hard_state.0 == 0 {
            return;
        }
        self.hard_state = meta.hard_state();
    }

    /// Reads an entry from disk.
    fn fetch(&self, index: u64) -> Result<Entry, Error> {
        // Only entries that the cache has evicted are read here, mostly in order, for a slow follower. The payload of
        // the last record is kept, so a record of 100 entries is read and checked once, not 100 times.
        let location =
            self.index.location(index).ok_or_else(|| self.damaged(format!("entry {index} has no location")))?;
        let payload = self.payload(location.seq)?;
        payload
            .get(location.offset as usize..)
            .and_then(|bytes| record::decode_entry(&mut layout::FieldReader(bytes), index))
            .filter(|entry| Some(entry.term) == self.term(index))
            .ok_or_else(|| self.damaged(format!("record {} does not hold entry {index}", location.seq)))
    }

    /// Reads the payload of a record and verifies its checksum.
    fn payload(&self, seq: u64) -> Result<Bytes, Error> {
        let mut last_payload = self.last_payload.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, payload)) = last_payload.as_ref().filter(|(cached, _)| *cached == seq) {
            return Ok(payload.clone());
        }
        let mut record = Vec::new();
        // Keys are big-endian: the chunks of record 5 are (5, 0), (5, 1), ... and end before (6, 0).
        for (_, chunk) in self.db.scan(&record_key(seq, 0), Some(&record_key(seq + 1, 0)), usize::MAX)? {
            record.extend_from_slice(&chunk);
        }
        let payload = RecordHeader::read(&record)
            .and_then(|header| header.payload(seq, &record))
            .ok_or_else(|| self.damaged(format!("the checksum of record {seq} does not fit")))?;
        let payload = Bytes::copy_from_slice(payload);
        *last_payload = Some((seq, payload.clone()));
        Ok(payload)
    }

    fn damaged(&self, detail: impl Into<String>) -> Error {
        Error::damaged(&*self.db, detail)
    }
}
