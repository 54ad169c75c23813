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
use crate::storage::snapshot::spool::{EffectSender, Spool};
use crate::storage::{Batch, Db, Error, SnapshotReader, SpoolBound, Spooler};

/// What one committed entry asks of the machine.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Nothing but to be counted as applied.
    Nothing,
    /// A command, with the leader's stamp.
    Command(Proposal),
    /// A membership change, with the votes that result from it.
    Membership {
        /// What happens to the table; None where the entry carried nothing readable.
        change: Option<MemberChange>,
        /// The configuration from this index on.
        conf_state: ConfState,
    },
}

/// One committed entry, ready to be applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its index; each batch continues where the last one ended.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What it asks.
    pub operation: Operation,
}

/// The state machine of one incarnation.
pub struct StateMachine {
    db: Memtable,
    state: State,
    members: Members,
    /// What the stored table and the stored state are overwritten as.
    members_header: Header,
    state_header: Header,
    /// The first time at which a key may be removed.
    first_expiry: Option<u64>,
    /// What named requests came to.
    dedup: DedupTable,
    /// What was applied since it was last asked for.
    events: Vec<Event>,
    /// What the last call of [`StateMachine::apply`] has cost.
    work: usize,
}

impl StateMachine {
    /// Makes the machine of a new incarnation in an empty database: this table and these votes, as of (index, term).
    /// Durable on return.
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

    /// Opens a machine and checks all of it: every value against its checksum, and their sum against the state.
    ///
    /// # Errors
    /// [`Error::Damaged`] and [`Error::Newer`], and whatever reading fails with.
    pub(crate) fn open(db: Arc<dyn Db>) -> Result<Self, Error> {
        let Some((state_header, bytes)) = chunks::read(&*db, Kind::State, b"")? else {
            return Err(Error::damaged(&*db, "it does not say what it has applied"));
        };
        let state = State::decode(&bytes).map_err(|error| match error {
            Unreadable::Newer(found) => {
                Error::Newer { what: db.name().into(), found: found.into(), known: STATE_VERSION.into() }
            }
            Unreadable::Malformed => Error::damaged(&*db, "what it says of itself cannot be read"),
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

    /// The (index, term) of the entry applied last.
    pub fn applied(&self) -> (u64, u64) {
        (self.state.index, self.state.term)
    }

    /// The configuration at the applied index.
    pub fn conf_state(&self) -> &ConfState {
        &self.state.conf_state
    }

    /// The index of the last membership change.
    pub fn configuration_index(&self) -> u64 {
        self.state.configuration_index
    }

    /// The member table at the applied index.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.state.totals.keys
    }

    /// Whether a request of this name was done, and would be answered with what it came to.
    pub fn is_duplicate(&self, idempotency_key: &IdempotencyKey) -> bool {
        self.dedup.contains(&idempotency_key.key, self.state.clock)
    }

    /// A sum over all keys, values and versions and the member table: equal on all nodes at the same applied index.
    pub fn digest(&self) -> u64 {
        self.state.totals.digest
    }

    /// Whether any client command was ever applied; a moved address is none.
    pub fn was_written(&self) -> bool {
        self.state.was_written
    }

    /// The cluster's time in milliseconds, as of the entry applied last.
    pub fn clock(&self) -> u64 {
        self.state.clock
    }

    /// The first time, by the cluster's clock, at which a key may be removed.
    pub fn first_expiry(&self) -> Option<u64> {
        self.first_expiry
    }

    /// The keys, with their versions, that may be removed at `clock`, those of the earliest time first; as many as one
    /// command may remove.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn due(&self, clock: u64) -> Result<Vec<(Bytes, u64)>, Error> {
        ttl_index::due(&self.db, clock)
    }

    /// What there is under `key`.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn get(&self, key: &[u8]) -> Result<Option<Item>, Error> {
        item_codec::read(&self.db, key)
    }

    /// A page of keys.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn list(&self, list: &List) -> Result<Page, Error> {
        scan::page(&self.db, list)
    }

    /// Applies committed entries in order, each batch of them atomically with its applied index; one answer for each that
    /// was applied. Those are the first ones, at least one: what comes after `max_work`, about the bytes that entries
    /// read, replace and remove, is left for another call. A batch ends with a command that removes many keys, or commands
    /// after it would step over the same ones again.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn apply(&mut self, entries: Vec<Applied>, max_work: usize) -> Result<Vec<Written>, Error> {
        let mut written = Vec::with_capacity(entries.len());
        let mut entries = entries.into_iter().peekable();
        self.work = 0;
        while entries.peek().is_some() && (self.work < max_work || written.is_empty()) {
            self.work += self.apply_batch(&mut entries, &mut written, max_work.saturating_sub(self.work))?;
        }
        Ok(written)
    }

    /// About the bytes that the last call of [`StateMachine::apply`] has read, replaced and removed.
    #[must_use]
    pub fn work(&self) -> usize {
        self.work
    }

    /// What became of keys since this was last asked, in order.
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
            if index != state.index + 1 || term < state.term {
                let detail = format!("entry {index} was to be applied after entry {}", state.index);
                return Err(Error::damaged(&self.db, detail));
            }
            (state.index, state.term) = (index, term);
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
                    let from_client = write.command.is_of_client();
                    batch.state.clock = batch.state.clock.max(stamp);
                    let written = batch.write(write, &mut self.dedup)?;
                    batch.state.was_written |= from_client && written.outcome != CommandResult::Invalid;
                    written
                }
            });
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
        let expiries_changed = stage_changes(&mut batch, touched, &mut state.totals);
        let totals = &mut state.totals;
        if let Some(index) = table.changed {
            let (bytes, old) = (codec::encode(&table.members), self.members_header);
            let header = chunks::put(&mut batch, Kind::Members, b"", index, &bytes, Some(old));
            totals.digest = totals.digest.wrapping_sub(old.digest()).wrapping_add(header.digest());
            (self.members, self.members_header) = (table.members, header);
        }
        let effects_end = batch.changes.len();
        self.state_header =
            chunks::put(&mut batch, Kind::State, b"", state.index, &state.encode(), Some(self.state_header));
        self.state = state;
        if plant::is(Plant::AppliedApart) {
            let state = batch.changes.split_off(effects_end);
            self.db.write(std::mem::replace(&mut batch, Batch { changes: state }))?;
            self.db.flushed()?;
        }
        self.db.write(batch)?;
        if expiries_changed {
            self.first_expiry = ttl_index::first(&self.db)?;
        }
        Ok(())
    }

    /// The database, with everything applied written to it: a sync of it, on whatever thread, makes that durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn db(&self) -> Result<Arc<dyn Db>, Error> {
        self.db.flushed()
    }

    /// Begins a copy of the state; at most one at a time, an earlier one is aborted. What is applied while it is made goes
    /// into `scratch`.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn begin_snapshot(
        &mut self,
        scratch: std::fs::File,
        bound: impl Into<SpoolBound>,
    ) -> Result<(Spooler, SnapshotReader), Error> {
        let spool = Arc::new(Spool::new(scratch, bound.into()));
        let db = self.db.begin_snapshot(EffectSender::new(spool.clone()))?;
        let bytes = db.size_on_disk();
        Ok((Spooler::new(spool.clone()), SnapshotReader::new(db, spool, bytes)))
    }

    /// Ends the running cut at the present applied index: the copy is then exactly this state.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn end_snapshot(&mut self) -> Result<(), Error> {
        if let Some(snapshot) = self.db.end_snapshot()? {
            let mut metadata =
                SnapshotMetadata { index: self.state.index, term: self.state.term, ..Default::default() };
            metadata.set_conf_state(self.state.conf_state.clone());
            snapshot.end(metadata);
        }
        Ok(())
    }

    /// Gives the running cut up, if any.
    pub fn abort_snapshot(&mut self) {
        self.db.abort_snapshot();
    }
}

/// Adds what became of the keys to `batch`, their expiries with them, and counts it; whether any expiry is another now.
fn stage_changes(batch: &mut Batch, touched: TouchedKeys, totals: &mut StateTotals) -> bool {
    let mut expiries_changed = false;
    for (key, TouchedKey { before, state: key_state }) in touched {
        let item = match key_state {
            KeyState::Unchanged => continue,
            KeyState::Deleted => None,
            KeyState::Value(item) => Some(item),
        };
        let expiry = |stamp: KeyMeta| stamp.expires.map(|expires| (stamp.version, expires));
        let old_expiry = before.and_then(|(_, stamp)| expiry(stamp));
        let new_expiry = item.as_ref().and_then(|item| expiry(item.meta()));
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
