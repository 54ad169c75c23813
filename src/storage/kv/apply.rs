//! A batch of entries while it is decided.
//!
//! Why: each entry sees what the earlier ones of its batch did, to the keys, the member table and the kept results, before
//! any of it is written.
//!
//! Laws: what is kept of results is taken in at once, so a failure in the middle of a batch ends the machine.
//!
//! Not here: writing it down, which happens once for the whole batch (`state_machine`).

use super::dedup_table;
use super::meta::State;
use super::overlay::{Now, Overlay};
use crate::model::{
    ApplyPoint, Change, Command, CommandResult, Event, Members, Results, Write, Written, decide, decide_once,
};
use crate::storage::{Batch, Db, Error};

/// A batch while it is decided.
pub(crate) struct Progress<'a> {
    /// The state, as of the entry decided last.
    pub(crate) state: State,
    /// The member table.
    pub(crate) table: Table,
    /// What becomes of the keys.
    pub(crate) overlay: Overlay<'a>,
    /// What watchers are to be told.
    pub(crate) events: Vec<Event>,
    /// What keeping results writes.
    pub(crate) batch: Batch,
}

/// The member table of a batch.
pub(crate) struct Table {
    /// The table itself.
    pub(crate) members: Members,
    /// The index of the last entry that changed it, if any: the same on every node, whatever shares a batch there.
    pub(crate) changed: Option<u64>,
}

impl Table {
    /// Has the entry at `index` change it.
    pub(crate) fn change(&mut self, index: u64, how: impl FnOnce(&mut Members)) {
        let mut members = self.members.clone();
        how(&mut members);
        if members != self.members {
            *self = Self { members, changed: Some(index) };
        }
    }
}

impl<'a> Progress<'a> {
    /// A batch after `state`, of which nothing is decided.
    pub(crate) fn new(state: State, members: Members, db: &'a dyn Db) -> Self {
        let table = Table { members, changed: None };
        Self { state, table, overlay: Overlay::new(db), events: Vec::new(), batch: Batch::default() }
    }

    /// Does what a client asks for, unless that was done before.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn write(&mut self, write: Write, results: &mut Results) -> Result<Written, Error> {
        let State { index, term, clock, .. } = self.state;
        let at = ApplyPoint { index, clock };
        let (written, kept) = decide_once(write, at, term, results, |command| self.run(command, at))?;
        if let Some(kept) = kept {
            dedup_table::keep(results, kept, &mut self.batch, &mut self.state.tally);
        }
        Ok(written)
    }

    /// Decides a command and takes its effects.
    fn run(&mut self, command: Command, at: ApplyPoint) -> Result<CommandResult, Error> {
        let (outcome, changes) = decide(command, at, &self.overlay)?;
        let first = self.events.len();
        for change in changes {
            self.events.extend(Event::of(&change, at));
            match change {
                Change::Put { key, item } | Change::Touch { key, item } => self.overlay.set(key, Now::Holds(item))?,
                Change::Delete { key, .. } => self.overlay.set(key, Now::Gone)?,
                Change::Move { raft_id, raft_address, http_address } => {
                    self.table.change(at.index, |members| {
                        members.relocate(raft_id, &raft_address, &http_address);
                    });
                }
            }
        }
        Event::number(&mut self.events[first..]);
        Ok(outcome)
    }
}
