//! The replicated key-value state machine.
//!
//! Why: committed entries become absolute changes here, in order, once.
//!
//! Invariants: effects, totals and the applied index are one atomic batch, or a crash would apply an entry twice. Applying reads
//! no clock, no randomness and no local setting, so all nodes compute the same bytes. The applied index advances by one per entry
//! and terms never fall. Reads happen between two batches, on the applying thread, because sled inserts a batch key by key.
//!
//! See also: [`crate::model::decide`] (the rule), [`super::memtable`] (when batches reach the tree), `storage::snapshot`.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, SnapshotMetadata};

use crate::model::{
    CommandResult, DedupTable, Event, IdempotencyKey, Item, KeyMeta, List, MemberChange, Members, Page, Proposal,
    Written, codec,
};
use crate::plant::{self, Plant};

use super::apply::{ApplyBatch, Table};
use super::audit;
use super::chunks;
use super::chunks::{Header, StateTotals};
use super::dedup_table;
use super::item_codec;
use super::memtable::Memtable;
use super::meta::{State, Unreadable};
use super::overlay::{KeyState, TouchedKey, TouchedKeys};
use super::scan;
use super::ttl_index;
use crate::storage::layout::{Kind, STATE_VERSION};
use crate::storage::snapshot::send_spool::{EffectSender, Spool};
use crate::storage::{Batch, Db, Error, SnapshotReader, SpoolBound, Spooler};

/// The operation of a committed entry.
#[derive(Debug, Clone)]
pub enum Operation {
    /// No effect but the applied index.
    Nothing,
    /// A command with the leader's timestamp.
    Command(Proposal),
    /// A membership change, with the resulting configuration.
    Membership {
        /// The change of the member table; None if the entry carried nothing readable.
        change: Option<MemberChange>,
        /// The configuration from this index on.
        conf_state: ConfState,
    },
}

/// A committed entry to apply.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its index; each batch continues where the last one ended.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The operation.
    pub operation: Operation,
}

/// The state machine of one incarnation.
pub struct StateMachine {
    db: Memtable,
    state: State,
    members: Members,
    /// The headers of the stored member table and state record.
    members_header: Header,
    state_header: Header,
    /// The earliest expiry.
    first_expiry: Option<u64>,
    /// The dedup table.
    dedup: DedupTable,
    /// Events that were not taken yet.
    events: Vec<Event>,
    /// The work of the last [`StateMachine::apply`].
    work: usize,
}

impl StateMachine {
    /// Creates the state machine of a new incarnation in an empty database, with this member table and configuration at
    /// (index, term). Durable on return.
    pub(crate) fn create(
        db: Arc<dyn Db>,
        (index, term): (u64, u64),
        members: Members,
        conf_state: ConfState,
    ) -> Result<Self, Error> {
        let mut batch = Batch::default();
        let members_header = chunks::put(&mut batch, Kind::Members, b"", index, &codec::encode(&members), None);
        let mut state = State { index, term, configuration_index: index, conf_state, ..State::default() };
        state.totals.digest = members_header.digest();
        let state_header = chunks::put(&mut batch, Kind::State, b"", index, &state.encode(), None);
        db.write(batch)?;
        db.sync()?;
        let events = Vec::new();
        Ok(Self {
            db: Memtable::new(db),
            state,
            members,
            members_header,
            state_header,
            first_expiry: None,
            dedup: DedupTable::default(),
            events,
            work: 0,
        })
    }

    /// Opens a state machine and audits it: every value against its checksum, and their sum against the state record.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Newer`], and read errors.
    pub(crate) fn open(db: Arc<dyn Db>) -> Result<Self, Error> {
        let Some((state_header, bytes)) = chunks::read(&*db, Kind::State, b"")? else {
            return Err(Error::damaged(&*db, "the state record is missing"));
        };
        let state = State::decode(&bytes).map_err(|error| match error {
            Unreadable::Newer(found) => {
                Error::Newer { what: db.name().into(), found: found.into(), known: STATE_VERSION.into() }
            }
            Unreadable::Malformed => Error::damaged(&*db, "the state record cannot be read"),
        })?;
        let Some((members_header, bytes)) = chunks::read(&*db, Kind::Members, b"")? else {
            return Err(Error::damaged(&*db, "the member table is missing"));
        };
        let members = codec::decode(&bytes).map_err(|error| match error {
            codec::CodecError::Version(found) if found > codec::VERSION => {
                Error::Newer { what: db.name().into(), found: found.into(), known: codec::VERSION.into() }
            }
            error => Error::damaged(&*db, format!("the member table cannot be read: {error}")),
        })?;
        // Both sides must agree: the state record says what the sum of all values is, and the audit adds up what is
        // there. A lost update of one key changes the sum, though every checksum that is left matches.
        let found = audit::audit(&*db)?;
        if found != state.totals {
            let (keys, counted) = (found.keys, state.totals.keys);
            let detail = format!("its values do not add up ({keys} keys found, {counted} written)");
            return Err(Error::damaged(&*db, detail));
        }
        let (first_expiry, dedup, events) = (ttl_index::first(&*db)?, dedup_table::read(&*db)?, Vec::new());
        let db = Memtable::new(db);
        Ok(Self { db, state, members, members_header, state_header, first_expiry, dedup, events, work: 0 })
    }

    /// Returns the (index, term) of the last applied entry.
    pub fn applied(&self) -> (u64, u64) {
        (self.state.index, self.state.term)
    }

    /// Returns the configuration at the applied index.
    pub fn conf_state(&self) -> &ConfState {
        &self.state.conf_state
    }

    /// Returns the index of the last membership change.
    pub fn configuration_index(&self) -> u64 {
        self.state.configuration_index
    }

    /// Returns the member table at the applied index.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Returns the number of keys.
    pub fn keys(&self) -> u64 {
        self.state.totals.keys
    }

    /// Whether a request with this idempotency key was applied, so that its stored result would be returned.
    pub fn is_duplicate(&self, idempotency_key: &IdempotencyKey) -> bool {
        self.dedup.contains(&idempotency_key.key, self.state.clock)
    }

    /// Returns the digest of all keys, values, versions, token names and the member table: equal on all nodes at the same applied
    /// index.
    pub fn digest(&self) -> u64 {
        self.state.totals.digest
    }

    /// Whether any client command was ever applied; a change of an address is none.
    pub fn was_written(&self) -> bool {
        self.state.was_written
    }

    /// Returns the cluster clock in milliseconds at the applied index.
    pub fn clock(&self) -> u64 {
        self.state.clock
    }

    /// Returns the earliest expiry by the cluster clock.
    pub fn first_expiry(&self) -> Option<u64> {
        self.first_expiry
    }

    /// Returns the keys due at `clock` with their versions, earliest first; as many as one command may remove.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn due(&self, clock: u64) -> Result<Vec<(Bytes, u64)>, Error> {
        ttl_index::due(&self.db, clock)
    }

    /// Returns the item of `key`.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn get(&self, key: &[u8]) -> Result<Option<Item>, Error> {
        item_codec::read(&self.db, key)
    }

    /// Returns a page of keys.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn list(&self, list: &List) -> Result<Page, Error> {
        scan::page(&self.db, list)
    }

    /// Applies committed entries in order, each batch atomically with its applied index; returns one result per applied
    /// entry. At least one entry is applied; entries beyond `max_work` (about the bytes read, replaced and removed) are
    /// left for the next call.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn apply(&mut self, entries: Vec<Applied>, max_work: usize) -> Result<Vec<Written>, Error> {
        let mut written = Vec::with_capacity(entries.len());
        let mut entries = entries.into_iter().peekable();
        // Entries 5 to 9 each replace a value of 1 MB, and `max_work` is 2 MB: 5 and 6 are applied, and the caller
        // gives 7 to 9 again.
        self.work = 0;
        while entries.peek().is_some() && (self.work < max_work || written.is_empty()) {
            self.work += self.apply_batch(&mut entries, &mut written, max_work.saturating_sub(self.work))?;
        }
        Ok(written)
    }

    /// Returns about the bytes that the last [`StateMachine::apply`] read, replaced and removed.
    #[must_use]
    pub fn work(&self) -> usize {
        self.work
    }

    /// Takes the events since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn apply_batch(
        &mut self,
        entries: &mut impl Iterator<Item = Applied>,
        written: &mut Vec<Written>,
        max_work: usize,
    ) -> Result<usize, Error> {
        let mut batch = ApplyBatch::new(self.state.clone(), self.members.clone(), &self.db);
        for Applied { index, term, operation } in entries {
            let state = &mut batch.state;
            // Applied indexes are contiguous and terms never fall; anything else is a bug or damage, and the node stops.
            if index != state.index + 1 || term < state.term {
                let detail = format!("entry {index} cannot be applied after entry {}", state.index);
                return Err(Error::damaged(&self.db, detail));
            }
            (state.index, state.term) = (index, term);
            // Every entry yields one result, also an empty one: the caller pairs entries and results by position.
            let nothing = Written { index, term, clock: state.clock, outcome: CommandResult::NoOp, replayed: false };
            let mut is_last = false;
            written.push(match operation {
                Operation::Nothing => nothing,
                Operation::Membership { change, conf_state } => {
                    if let Some(change) = change {
                        batch.table.change(index, |members| members.apply(&change));
                    }
                    batch.state.conf_state = conf_state;
                    batch.state.configuration_index = index;
                    nothing
                }
                Operation::Command(Proposal { stamp, write }) => {
                    is_last = write.command.removes_many();
                    // Read before the write is consumed.
                    let from_client = write.command.is_of_client();
                    // A leader elected later may stamp less than what is applied; the clock then stands still until its
                    // stamps are greater.
                    batch.state.clock = batch.state.clock.max(stamp);
                    let written = batch.write(write, &mut self.dedup)?;
                    batch.state.was_written |= from_client && written.outcome != CommandResult::Invalid;
                    written
                }
            });
            // A delete by prefix ends the batch: later commands would have to step over the keys it removed in the overlay.
            if is_last || batch.overlay.work() >= max_work {
                break;
            }
        }
        let ApplyBatch { state, table, overlay, mut events, batch } = batch;
        let work = overlay.work();
        let touched = overlay.into_touched();
        self.commit(batch, state, table, touched)?;
        self.events.append(&mut events);
        Ok(work)
    }

    fn commit(&mut self, mut batch: Batch, mut state: State, table: Table, touched: TouchedKeys) -> Result<(), Error> {
        // One atomic batch. After a crash either all of it is there or none, and the journal repeats what is missing: entries
        // 8 and 9 put `a`, the batch is lost, the state record still says 7, so both are applied again.
        let expiries_changed = stage_changes(&mut batch, touched, &mut state.totals);
        let totals = &mut state.totals;
        // The member table is rewritten only when it changed, under the index of that entry: equal bytes on every node.
        if let Some(index) = table.changed {
            let (bytes, old) = (codec::encode(&table.members), self.members_header);
            // The digest is a sum, so the old table is subtracted and the new one added; the other values need not be
            // read.
            let header = chunks::put(&mut batch, Kind::Members, b"", index, &bytes, Some(old));
            totals.digest = totals.digest.wrapping_sub(old.digest()).wrapping_add(header.digest());
            (self.members, self.members_header) = (table.members, header);
        }
        debug_assert!(
            state.index >= self.state.index && state.term >= self.state.term,
            "the applied index never goes back"
        );
        debug_assert!(state.clock >= self.state.clock, "the cluster clock never goes back");
        // The state record is last in the batch and covers everything before it: totals, applied index, clock.
        if plant::is(Plant::AppliedApart) {
            self.db.write(std::mem::take(&mut batch))?;
            self.db.flushed()?;
        }
        self.state_header =
            chunks::put(&mut batch, Kind::State, b"", state.index, &state.encode(), Some(self.state_header));
        self.state = state;
        self.db.write(batch)?;
        if expiries_changed {
            self.first_expiry = ttl_index::first(&self.db)?;
        }
        Ok(())
    }

    /// Returns the database after flushing the memtable: a sync of it, on any thread, makes all applied entries
    /// durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn db(&self) -> Result<Arc<dyn Db>, Error> {
        self.db.flushed()
    }

    /// Notes that a sync of what [`StateMachine::db`] returned last has ended.
    pub fn synced(&self) {
        self.db.synced();
    }

    /// Estimates the disk space that the applied entries still take once they are flushed and synced.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.db.pending_bytes()
    }

    /// Starts a snapshot; at most one at a time, an earlier one is aborted. Effects applied meanwhile go through
    /// `scratch`.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn begin_snapshot(
        &mut self,
        scratch: std::fs::File,
        bound: impl Into<SpoolBound>,
    ) -> Result<(Spooler, SnapshotReader), Error> {
        let spool = Arc::new(Spool::new(scratch, bound.into()));
        // From here on each flush goes to the snapshot, too. What was buffered before is in the tree now, where the
        // scan finds it.
        let db = self.db.begin_snapshot(EffectSender::new(spool.clone()))?;
        let bytes = db.size_on_disk();
        Ok((Spooler::new(spool.clone()), SnapshotReader::new(db, spool, bytes)))
    }

    /// Ends the running snapshot at the applied index: it is then exactly this state.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn end_snapshot(&mut self) -> Result<(), Error> {
        if let Some(snapshot) = self.db.end_snapshot()? {
            // The snapshot ends where the state machine stands now, not where it began: all effects up to here were
            // passed to it.
            let mut metadata =
                SnapshotMetadata { index: self.state.index, term: self.state.term, ..Default::default() };
            metadata.set_conf_state(self.state.conf_state.clone());
            snapshot.end(metadata);
        }
        Ok(())
    }

    /// Aborts the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        self.db.abort_snapshot();
    }
}

/// Adds the changes of the touched keys and of the TTL index to `batch`, and updates the totals; returns whether any
/// expiry changed.
fn stage_changes(batch: &mut Batch, touched: TouchedKeys, totals: &mut StateTotals) -> bool {
    let mut expiries_changed = false;
    for (key, TouchedKey { before, state: key_state }) in touched {
        let item = match key_state {
            KeyState::Unchanged => continue,
            KeyState::Deleted => None,
            KeyState::Value(item) => Some(item),
        };
        // The version is in the index record, so a put that keeps the expiry still replaces the record.
        let expiry = |stamp: KeyMeta| stamp.expires.map(|expires| (stamp.version, expires));
        let old_expiry = before.and_then(|(_, stamp)| expiry(stamp));
        let new_expiry = item.as_ref().and_then(|item| expiry(item.meta()));
        // Keeps the TTL index in step: a put without ttl over a key with one removes the index record, a touch moves it.
        if old_expiry != new_expiry {
            expiries_changed = true;
            if let Some((version, expires)) = old_expiry {
                totals.remove(ttl_index::delete(batch, &key, version, expires));
            }
            if let Some((version, expires)) = new_expiry {
                totals.add(ttl_index::put(batch, &key, version, expires));
            }
        }
        let before = before.map(|(header, _)| header);
        if let Some(before) = before {
            totals.keys -= 1;
            totals.remove(before);
        }
        match (item, before) {
            (Some(item), _) => {
                totals.keys += 1;
                totals.add(item_codec::put(batch, &key, &item, before));
            }
            (None, Some(before)) => chunks::delete(batch, Kind::Data, &key, before),
            (None, None) => {}
        }
    }
    expiries_changed
}
