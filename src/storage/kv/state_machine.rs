//! The replicated key-value state machine.
//!
//! Why: committed entries become absolute changes here, in order, once.
//!
//! Invariants: an entry becomes visible as a whole, with its index. Effects, totals and the applied index reach the tree by one flush, or
//! a crash would apply an entry twice. Applying reads no clock, no randomness and no local setting, so all nodes compute the same
//! bytes. The applied index advances by one per entry and terms never fall.
//!
//! See also: [`crate::model::decide`] (the rule), [`super::layers`] (readers), [`super::flush`] (the way to the tree), `storage::snapshot`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use raft::eraftpb::ConfState;

use crate::model::{
    ApplyPoint, Change, Command, CommandResult, DedupTable, Event, IdempotencyKey, Item, List, Members, Page, Proposal,
    TokenName, Write, Written, codec, decide, decide_write,
};

use super::audit;
use super::chunks;
use super::chunks::Header;
use super::dedup_table;
use super::entry_view::{Counters, EntryView, Staged, stage};
use super::flush::redo::RedoFile;
use super::flush::{EffectLine, FlushSignals};
use super::layers::{ReadPoint, StateReader};
use super::memtable::Record;
use super::meta::{State, Unreadable};
use super::meta_cache::MetaCache;
use super::operation::{Applied, Operation};
use super::ttl_index;
use crate::storage::layout::{Kind, STATE_VERSION};
use crate::storage::{Batch, Db, Error};

/// The state machine of one incarnation.
pub struct StateMachine {
    pub(super) reader: StateReader,
    pub(super) redo: RedoFile,
    pub(super) effects: EffectLine,
    pub(super) signals: FlushSignals,
    pub(super) state: State,
    /// The state record of the last flush that has ended.
    pub(super) flushed: State,
    members: Members,
    /// The header of the member table, and the number of its chunks below the active memtable.
    pub(super) members_header: Header,
    pub(super) members_chunks: usize,
    /// The number of chunks of the state record below the active memtable.
    pub(super) state_chunks: usize,
    /// The bytes of all keys and values of clients, as stored.
    live_bytes: u64,
    /// The number of keys with an expiry.
    ttl_keys: u64,
    /// The earliest expiry.
    first_expiry: Option<u64>,
    /// The dedup table.
    dedup: DedupTable,
    /// Events that were not taken yet.
    events: Vec<Event>,
    /// The work of the last [`StateMachine::apply`].
    work: usize,
    /// The metadata of keys.
    metas: MetaCache,
    pub(super) memtable_bytes: usize,
}

impl StateMachine {
    /// Creates the state machine of a new incarnation in an empty database, with this member table and configuration at
    /// (index, term). Durable on return.
    pub(crate) fn create(
        db: Arc<dyn Db>,
        redo: RedoFile,
        (index, term): (u64, u64),
        members: Members,
        conf_state: ConfState,
    ) -> Result<Self, Error> {
        let mut batch = Batch::default();
        let members_header = chunks::put(&mut batch, Kind::Members, b"", index, &codec::encode(&members), 0);
        let mut state = State { index, term, configuration_index: index, conf_state, ..State::default() };
        state.totals.digest = members_header.digest();
        let state_header = chunks::put(&mut batch, Kind::State, b"", index, &state.encode(), 0);
        db.write(batch)?;
        db.sync()?;
        let parts = Parts { state, state_header, members, members_header, live_bytes: 0, ttl_keys: 0 };
        Ok(Self::of(db, redo, parts, None, DedupTable::default()))
    }

    /// Opens a state machine, finishes the flush that a crash has interrupted, and audits it: every value against its checksum, and
    /// their sum against the state record.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Newer`], and read errors.
    pub(crate) fn open(db: Arc<dyn Db>, redo: RedoFile) -> Result<Self, Error> {
        redo.recover(&*db)?;
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
        let (found, live_bytes, ttl_keys) = audit::audit(&*db)?;
        if found != state.totals {
            let (keys, counted) = (found.keys, state.totals.keys);
            let detail = format!("its values do not add up ({keys} keys found, {counted} written)");
            return Err(Error::damaged(&*db, detail));
        }
        let (first_expiry, dedup) = (ttl_index::first_in_tree(&*db)?, dedup_table::read(&*db)?);
        let parts = Parts { state, state_header, members, members_header, live_bytes, ttl_keys };
        Ok(Self::of(db, redo, parts, first_expiry, dedup))
    }

    fn of(tree: Arc<dyn Db>, redo: RedoFile, parts: Parts, first_expiry: Option<u64>, dedup: DedupTable) -> Self {
        let Parts { state, state_header, members, members_header, live_bytes, ttl_keys } = parts;
        let at = ReadPoint { index: state.index, term: state.term, clock: state.clock };
        Self {
            reader: StateReader::new(tree, at),
            redo,
            effects: EffectLine::default(),
            signals: FlushSignals::default(),
            flushed: state.clone(),
            state,
            members,
            members_header,
            members_chunks: members_header.chunks(),
            state_chunks: state_header.chunks(),
            live_bytes,
            ttl_keys,
            first_expiry,
            dedup,
            events: Vec::new(),
            work: 0,
            metas: MetaCache::new(0, 0),
            memtable_bytes: usize::MAX,
        }
    }

    /// Sets the maximum memory of the memtables and the encoding of a flush, all together; without a limit before.
    pub fn limit_memtables(&mut self, bytes: usize) {
        self.memtable_bytes = bytes;
    }

    /// Sets the memory of the cache of metadata, which is empty then; it has a few entries before. `secret` keys its hash.
    pub fn cache_metas(&mut self, bytes: usize, secret: u64) {
        self.metas = MetaCache::new(bytes, secret);
    }

    /// Returns what any thread may read the state by.
    #[must_use]
    pub fn reader(&self) -> &StateReader {
        &self.reader
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

    /// Returns the bytes of all keys and values of clients, as they are stored.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Returns the number of keys with an expiry.
    #[must_use]
    pub fn ttl_keys(&self) -> u64 {
        self.ttl_keys
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
        // No record is before the earliest one, and the tombstones of those that were are not looked at again.
        let Some(first) = self.first_expiry.filter(|first| *first <= clock) else { return Ok(Vec::new()) };
        ttl_index::due(&self.reader.read(), first, clock)
    }

    /// Returns the item of `key`.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn get(&self, key: &[u8]) -> Result<Option<Arc<Item>>, Error> {
        Ok(self.reader.get(key)?.0)
    }

    /// Returns a page of keys.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn list(&self, list: &List) -> Result<Page, Error> {
        Ok(self.reader.list(list)?.0)
    }

    /// Applies committed entries in order; returns one result per applied entry. At least one entry is applied; entries beyond
    /// `max_work` (about the bytes read, replaced and removed) are left for the next call.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn apply(&mut self, entries: Vec<Applied>, max_work: usize) -> Result<Vec<Written>, Error> {
        let mut written = Vec::with_capacity(entries.len());
        self.check_order(&entries)?;
        // Entries 5 to 9 each replace 1 MB, and `max_work` is 2 MB: 5 and 6 are applied, and the caller gives 7 to 9 again.
        self.work = 0;
        let mut lost_first_expiry = false;
        for entry in entries {
            if self.work >= max_work && !written.is_empty() {
                break;
            }
            let (result, staged) = self.apply_entry(entry)?;
            self.work += staged.work;
            lost_first_expiry |= staged.lost_first_expiry;
            written.push(result);
        }
        self.signals.fill.store(self.fill(), Ordering::Relaxed);
        if lost_first_expiry && let Some(first) = self.first_expiry {
            self.first_expiry = ttl_index::first(&self.reader.read(), first)?;
        }
        Ok(written)
    }

    /// Takes the events since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Returns about the bytes that the last [`StateMachine::apply`] read, replaced and removed.
    #[must_use]
    pub fn work(&self) -> usize {
        self.work
    }

    /// Checks that indexes are contiguous and terms never fall; anything else is a bug or damage, and the node stops.
    fn check_order(&self, entries: &[Applied]) -> Result<(), Error> {
        let (mut before, mut last_term) = self.applied();
        for Applied { index, term, .. } in entries {
            if *index != before + 1 || *term < last_term {
                let detail = format!("entry {index} cannot be applied after entry {before}");
                return Err(Error::damaged(&*self.reader.read().tree, detail));
            }
            (before, last_term) = (*index, *term);
        }
        Ok(())
    }

    fn apply_entry(&mut self, Applied { index, term, operation }: Applied) -> Result<(Written, Staged), Error> {
        (self.state.index, self.state.term) = (index, term);
        // Every entry yields one result, also an empty one: the caller pairs entries and results by position.
        let nothing = Written { index, term, clock: self.state.clock, outcome: CommandResult::NoOp, replayed: false };
        let (written, staged) = match operation {
            Operation::Nothing => (nothing, Staged::default()),
            Operation::Membership { change, conf_state } => {
                if let Some(change) = change {
                    self.change_members(index, |members| members.apply(&change));
                }
                self.state.conf_state = conf_state;
                self.state.configuration_index = index;
                (nothing, Staged::default())
            }
            Operation::Command(Proposal { stamp, write }) => {
                // Read before the write is consumed.
                let from_client = write.command.is_of_client();
                // A leader elected later may stamp less than what is applied; the clock then stands still until its
                // stamps are greater.
                self.state.clock = self.state.clock.max(stamp);
                let (written, staged) = self.write(write)?;
                self.state.was_written |= from_client && written.outcome != CommandResult::Invalid;
                (written, staged)
            }
        };
        self.publish();
        Ok((written, staged))
    }

    /// Decides a write and applies its changes, unless it is a duplicate.
    fn write(&mut self, write: Write) -> Result<(Written, Staged), Error> {
        let at = ApplyPoint { index: self.state.index, clock: self.state.clock };
        let mut dedup = std::mem::take(&mut self.dedup);
        let mut staged = Staged::default();
        let decided =
            decide_write(write, at, self.state.term, &dedup, |command, by| self.run(command, by, at, &mut staged));
        // The result is in the table before the next entry is decided: if entries 8 and 9 are one PUT sent twice under one
        // idempotency key, 9 changes nothing and is answered with the result of 8.
        let written = decided.map(|(written, stored)| {
            if let Some(stored) = stored {
                let memtable = &mut self.reader.write().active;
                dedup_table::insert(&mut dedup, stored, memtable, &mut self.state.totals);
            }
            written
        });
        self.dedup = dedup;
        Ok((written?, staged))
    }

    /// Decides a command and puts its changes into the active memtable.
    fn run(
        &mut self,
        command: Command,
        by: Option<TokenName>,
        at: ApplyPoint,
        staged: &mut Staged,
    ) -> Result<CommandResult, Error> {
        let prefix = if let Command::DeletePrefix { prefix } = &command { Some(prefix.clone()) } else { None };
        let (outcome, changes) = {
            let layers = self.reader.read();
            let view = EntryView::new(&layers, &mut self.metas);
            let decided = decide(command, by, at, &view)?;
            staged.work += view.work();
            decided
        };
        if changes.is_empty() && prefix.is_none() {
            return Ok(outcome);
        }
        // Events of one entry are numbered together: 41.1, 41.2.
        let first = self.events.len();
        let mut keys = Vec::with_capacity(changes.len());
        for change in changes {
            self.events.extend(Event::of(&change, at));
            match change {
                Change::Put { key, item } | Change::Touch { key, item } => keys.push((key, Some(item))),
                Change::Delete { key, .. } => keys.push((key, None)),
                Change::Move { raft_id, raft_address, http_address } => self.change_members(at.index, |members| {
                    members.update_addresses(raft_id, &raft_address, &http_address);
                }),
            }
        }
        Event::number(&mut self.events[first..]);
        let (totals, live_bytes, ttl_keys) = (&mut self.state.totals, &mut self.live_bytes, &mut self.ttl_keys);
        let mut counters = Counters { totals, live_bytes, ttl_keys, first_expiry: &mut self.first_expiry };
        let mut layers = self.reader.write();
        if let Some(prefix) = prefix {
            layers.gap.add_removed(&prefix, &outcome, keys.last().map(|(key, _)| key));
        }
        keys.into_iter().try_for_each(|change| stage(&mut layers, &mut self.metas, &mut counters, staged, change))?;
        layers.at = ReadPoint { index: at.index, term: self.state.term, clock: at.clock };
        Ok(outcome)
    }

    /// Changes the member table by the entry at `index`. Its record has that index as its version: the same on every node.
    fn change_members(&mut self, index: u64, how: impl FnOnce(&mut Members)) {
        let mut members = self.members.clone();
        how(&mut members);
        if members == self.members {
            return;
        }
        // The digest is a sum, so the old table is subtracted and the new one added; the other values need not be read.
        let bytes = codec::encode(&members);
        let header = Header::of(Kind::Members, b"", index, &bytes);
        self.state.totals.remove(self.members_header);
        self.state.totals.add(header);
        (self.members, self.members_header) = (members, header);
        let chunks_below = self.members_chunks;
        self.reader.write().active.members = Some(Record { version: index, value: Some(bytes), chunks_below });
    }

    /// Lets readers see the applied index.
    fn publish(&self) {
        let at = ReadPoint { index: self.state.index, term: self.state.term, clock: self.state.clock };
        if self.reader.read().at != at {
            self.reader.write().at = at;
        }
    }
}

impl Drop for StateMachine {
    fn drop(&mut self) {
        self.signals.cancelled.store(true, Ordering::Relaxed);
        self.abort_snapshot();
    }
}

/// What a state machine is built of.
struct Parts {
    state: State,
    state_header: Header,
    members: Members,
    members_header: Header,
    live_bytes: u64,
    ttl_keys: u64,
}
