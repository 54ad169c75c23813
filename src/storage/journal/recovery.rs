//! Reads a journal at the start of a node.
//!
//! Why: what a disk gives back is not what was written until it has been checked: each record against its checksum and
//! against the one before it.
//!
//! Laws: only the last record may be torn, and it is dropped then: nothing in it was acknowledged. Everything else that
//! does not fit is damage, and the node refuses to start rather than vote on a log it does not have. Nothing is written
//! here; the pieces of a torn record go when the next one is appended.
//!
//! Not here: whether the log fits the machine (`data_dir`).

use std::sync::Arc;

use super::Journal;
use super::record::{self, Promise};
use crate::storage::layout::{Bytes, MOST_COUNT, RECORD_VERSION, parse_record_key, record_key};
use crate::storage::{Db, Error};

/// The most pieces that one step reads, 1 MiB.
const STEP: usize = 256;

/// A record whose pieces are being collected.
struct Partial {
    seq: u64,
    pieces: u32,
    promise: Promise,
    bytes: Vec<u8>,
}

/// The walk over all records.
struct Recovery {
    db: Arc<dyn Db>,
    journal: Journal,
    partial: Option<Partial>,
    last_seq: Option<u64>,
    /// Records that do not fit, which is fine if a later one voids them: a compaction may have taken what they follow.
    misfit: Option<String>,
}

impl Journal {
    /// Reads and checks the log in `db`.
    ///
    /// # Errors
    /// [`Error::Damaged`] and [`Error::Newer`], and whatever reading fails with. Nothing is changed.
    pub(crate) fn open(db: Arc<dyn Db>) -> Result<Self, Error> {
        let journal = Self::blank(db.clone());
        let mut recovery = Recovery { db, journal, partial: None, last_seq: None, misfit: None };
        let mut from = record_key(0, 0).to_vec();
        loop {
            let pairs = recovery.db.scan(&from, None, STEP)?;
            let Some((last, _)) = pairs.last() else { break };
            from.clone_from(last);
            from.push(0);
            for (key, piece) in &pairs {
                recovery.piece(key, piece)?;
            }
        }
        recovery.finish()
    }
}

impl Recovery {
    fn piece(&mut self, key: &[u8], piece: &[u8]) -> Result<(), Error> {
        let (seq, number) = parse_record_key(key).ok_or_else(|| self.damaged("it holds a key that is no record's"))?;
        if number == 0 {
            if let Some(torn) = &self.partial {
                return Err(self.damaged(format!("record {} is incomplete, and another follows", torn.seq)));
            }
            if self.last_seq.is_some_and(|last| seq != last + 1) || seq == 0 || seq > MOST_COUNT {
                return Err(self.damaged(format!("records before record {seq} are missing")));
            }
            let promise =
                Promise::read(piece).ok_or_else(|| self.damaged(format!("record {seq} does not begin as one")))?;
            if promise.version > RECORD_VERSION {
                let (found, known) = (promise.version.into(), RECORD_VERSION.into());
                return Err(Error::Newer { what: self.db.name().into(), found, known });
            }
            if promise.version < RECORD_VERSION {
                return Err(self.damaged(format!("record {seq} has no known format")));
            }
            self.partial = Some(Partial { seq, pieces: 0, promise, bytes: Vec::new() });
        }
        let Some(partial) = self.partial.as_mut().filter(|p| p.seq == seq && p.pieces == number) else {
            return Err(self.damaged(format!("a piece of record {seq} is missing")));
        };
        partial.bytes.extend_from_slice(piece);
        partial.pieces += 1;
        let complete = partial.pieces as usize >= partial.promise.pieces();
        self.partial.take_if(|_| complete).map_or(Ok(()), |whole| self.record(&whole))
    }

    fn record(&mut self, whole: &Partial) -> Result<(), Error> {
        let seq = whole.seq;
        let payload = whole
            .promise
            .payload(seq, &whole.bytes)
            .ok_or_else(|| self.damaged(format!("the checksum of record {seq} does not fit")))?;
        let mut bytes = Bytes(payload);
        let unreadable = || self.damaged(format!("record {seq} cannot be read"));
        let mut head = record::decode_head(&mut bytes).filter(record::Head::is_possible).ok_or_else(unreadable)?;
        let (mut entries, mut offsets) = (Vec::new(), Vec::new());
        for nth in 0..u64::from(head.entries) {
            let offset = payload.len() - bytes.0.len();
            let index = head.prev.0 + nth + 1;
            offsets.push(u32::try_from(offset).map_err(|_| unreadable())?);
            entries.push(record::decode_entry(&mut bytes, index).ok_or_else(unreadable)?);
        }
        if !bytes.is_empty() {
            return Err(unreadable());
        }
        let terms = std::iter::once(head.prev.1).chain(entries.iter().map(|entry| entry.term));
        if !terms.is_sorted() {
            return Err(self.damaged(format!("the terms in record {seq} fall")));
        }
        if entries.last().is_some_and(|entry| entry.term > MOST_COUNT) {
            return Err(unreadable());
        }
        if self.last_seq.is_none() && !head.reset {
            // What was before it is compacted away: the log begins here.
            self.journal.index.begin(head.prev);
        }
        self.last_seq = Some(seq);
        if head.reset {
            self.misfit = None;
        } else if self.misfit.is_some() || !self.follows(&head) {
            self.misfit.get_or_insert_with(|| format!("record {seq} does not follow what is before it"));
            (entries, offsets) = (Vec::new(), Vec::new());
            head.prev = (self.journal.last_index(), 0);
        }
        self.journal.admit(seq, whole.pieces, &head, &offsets, entries);
        Ok(())
    }

    fn follows(&self, head: &record::Head) -> bool {
        let (index, term) = head.prev;
        let in_place = head.entries > 0 || index == self.journal.last_index();
        in_place && self.journal.term(index) == Some(term)
    }

    fn finish(mut self) -> Result<Journal, Error> {
        if let Some(misfit) = &self.misfit {
            return Err(self.damaged(misfit.clone()));
        }
        if self.last_seq.is_none() {
            return Err(self.damaged("it holds no record at all"));
        }
        self.journal.torn = self.partial.take().map(|torn| (torn.seq, torn.pieces));
        Ok(self.journal)
    }

    fn damaged(&self, detail: impl Into<String>) -> Error {
        Error::damaged(&*self.db, detail)
    }
}
