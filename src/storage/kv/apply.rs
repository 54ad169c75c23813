//! An apply batch: entries that are decided together before anything is written.
//!
//! Why: each entry sees the effects of the earlier ones of its batch, on keys, member table and dedup table.
//!
//! Invariants: the dedup table in memory is updated at once, so a failure in the middle of a batch ends the state machine.
//!
//! See also: `state_machine` (which writes the whole batch once).

use super::dedup_table;
use super::meta::State;
use super::overlay::{KeyState, Overlay};
use crate::model::{
    ApplyPoint, Change, Command, CommandResult, DedupTable, Event, Members, TokenName, Write, Written, decide,
    decide_write,
};
use crate::storage::{Batch, Db, Error};

/// The running batch.
pub(crate) struct ApplyBatch<'a> {
    /// The state record at the last decided entry.
    pub(crate) state: State,
    /// The member table.
    pub(crate) table: Table,
    /// The effects on keys.
    pub(crate) overlay: Overlay<'a>,
    /// Events for the change feed.
    pub(crate) events: Vec<Event>,
    /// The writes of the dedup table.
    pub(crate) batch: Batch,
}

/// The member table of a batch.
pub(crate) struct Table {
    /// The member table.
    pub(crate) members: Members,
    /// The index of the last entry that changed it: the same on every node, whatever its batches are.
    pub(crate) changed: Option<u64>,
}

impl Table {
    /// Applies a change of the entry at `index`.
    pub(crate) fn change(&mut self, index: u64, how: impl FnOnce(&mut Members)) {
        let mut members = self.members.clone();
        how(&mut members);
        if members != self.members {
            *self = Self { members, changed: Some(index) };
        }
    }
}

impl<'a> ApplyBatch<'a> {
    /// Starts a batch after `state`.
    pub(crate) fn new(state: State, members: Members, db: &'a dyn Db) -> Self {
        let table = Table { members, changed: None };
        Self { state, table, overlay: Overlay::new(db), events: Vec::new(), batch: Batch::default() }
    }

    /// Applies a write, unless it is a duplicate.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn write(&mut self, write: Write, dedup: &mut DedupTable) -> Result<Written, Error> {
        let State { index, term, clock, .. } = self.state;
        let at = ApplyPoint { index, clock };
        // The result is in the table before the next entry of the batch is decided: if entries 8 and 9 are one PUT sent
        // twice under one idempotency key, 9 changes nothing and is answered with the result of 8.
        let (written, stored) = decide_write(write, at, term, dedup, |command, by| self.run(command, by, at))?;
        if let Some(stored) = stored {
            dedup_table::insert(dedup, stored, &mut self.batch, &mut self.state.totals);
        }
        Ok(written)
    }

    /// Decides a command and applies its changes to the overlay.
    fn run(&mut self, command: Command, by: Option<TokenName>, at: ApplyPoint) -> Result<CommandResult, Error> {
        let (outcome, changes) = decide(command, by, at, &self.overlay)?;
        // Events of one entry are numbered together: 41.1, 41.2.
        let first = self.events.len();
        for change in changes {
            self.events.extend(Event::of(&change, at));
            match change {
                Change::Put { key, item } | Change::Touch { key, item } => {
                    self.overlay.set(key, KeyState::Value(item))?
                }
                Change::Delete { key, .. } => self.overlay.set(key, KeyState::Deleted)?,
                Change::Move { raft_id, raft_address, http_address } => {
                    self.table.change(at.index, |members| {
                        members.update_addresses(raft_id, &raft_address, &http_address);
                    });
                }
            }
        }
        Event::number(&mut self.events[first..]);
        Ok(outcome)
    }
}
