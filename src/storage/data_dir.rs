//! The data directory: bootstrap, recovery checks, incarnation switches, garbage.
//!
//! Why: which log and which state belong together, and to which node, is decided once, here, before either is used.
//!
//! Invariants: the rename of `identity` is the only commit point: a folder is complete and durable before the identity names it,
//! and a folder that nothing names is garbage. The previous incarnation of a joiner is named until a snapshot of the new cluster
//! is installed, and only until then can the node roll back. Each incarnation has a fresh random raft id. Log and state must fit
//! each other (`first - 1 <= applied <= commit <= last`), or the node does not start.
//!
//! See also: `consensus::membership` (when a node joins).

use std::sync::Arc;

use raft::eraftpb::{ConfState, HardState};

use crate::model::{BootHistory, MAX_RAFT_ID, Member, MemberChange, Members, Role};
#[cfg(feature = "plant")]
use crate::plant::{self, Plant};

use super::identity::{decode, encode};
use super::incoming_generations::{Reservation, Reservations, ReservedGeneration};
use super::kv::flush::redo::RedoFile;
use super::layout::{self, IDENTITY};
use super::{Engine, Error, Identity, Journal, PreviousIncarnation, Rewrite, SnapshotTarget, StateMachine};

/// The journal's cache; its reads are rare and in order.
pub(super) const JOURNAL_CACHE_BYTES: u64 = 16 << 20;

/// The first state machine generation of an incarnation.
const FIRST_GENERATION: u64 = 1;

/// The source of randomness; the simulator seeds it.
pub type RandomSource = Box<dyn FnMut() -> u64 + Send>;

/// The options of [`DataDir::open`].
pub struct OpenOptions {
    /// Its name (RAFT_NODE_ID).
    pub name: String,
    /// Its advertised raft address, for the table of a fresh one-voter cluster.
    pub raft_address: String,
    /// Its advertised HTTP address, likewise.
    pub http_address: String,
    /// The cache of the state machine, in bytes.
    pub cache_bytes: u64,
    /// The HTTP port chosen at this start for port 0.
    pub picked_http_port: Option<u16>,
    /// The raft port chosen at this start for port 0.
    pub picked_raft_port: Option<u16>,
    /// Randomness.
    pub random: RandomSource,
}

/// The log and the state of one raft id.
pub struct Incarnation {
    /// Its log.
    pub journal: Journal,
    /// Its state.
    pub state_machine: StateMachine,
}

/// An opened directory.
pub struct DataDir {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) identity: Identity,
    cache_bytes: u64,
    random: RandomSource,
    reservations: Arc<Reservations>,
    /// The journal that a rewrite is writing.
    pub(super) new_journal: Option<u64>,
    /// The last reserved generation, so that no number is used twice by one process.
    last_generation: u64,
}

impl DataDir {
    /// Opens the directory, or bootstraps a one-voter cluster in an empty one. A new boot id is durable on return.
    ///
    /// # Errors
    /// [`Error`] for damage, another name or a newer format; nothing was changed then but by the engine's own recovery.
    pub fn open(engine: Arc<dyn Engine>, mut options: OpenOptions) -> Result<(Self, Incarnation), Error> {
        let found = match engine.read_file(IDENTITY)? {
            Some(bytes) => decode(&bytes, &engine.path())?,
            None => write_first_identity(&*engine, &mut options)?,
        };
        if found.started_as != options.name {
            return Err(Error::OtherName { path: engine.path(), found: found.started_as, asked: options.name });
        }
        let mut data_dir = Self {
            engine,
            identity: found,
            cache_bytes: options.cache_bytes,
            random: options.random,
            reservations: Arc::default(),
            new_journal: None,
            last_generation: FIRST_GENERATION,
        };
        // A bootstrap writes the identity first (`ready` false), then the folder, then `ready`. A folder without an
        // identity is never taken for a new directory: `write_first_identity` refuses it, since its identity file was
        // lost.
        let raft_id = data_dir.identity.raft_id;
        // `ready` is false only between the first identity and the end of the bootstrap: a crash there starts it over.
        let incarnation = if data_dir.identity.ready {
            data_dir.open_incarnation(raft_id, data_dir.identity.journal)?
        } else {
            data_dir.engine.remove(&raft_id.to_string())?;
            let incarnation = data_dir.bootstrap(raft_id, &options.raft_address, &options.http_address)?;
            data_dir.update(|identity| {
                identity.ready = true;
                (identity.raft_address, identity.http_address) = (options.raft_address, options.http_address);
            })?;
            incarnation
        };
        // Crash matrix of a join of node 5, which becomes 9:
        //  identity          | folders                  | the next start
        //  5                 | 5, 9 or a part of it     | opens 5; 9 is garbage
        //  9, previous 5     | 5, 9 with applied 0      | opens 9, which waits for a snapshot or goes back to 5
        //  9, previous 5     | 5, 9 with a snapshot     | opens 9 and commits the join; 5 is garbage
        //  9                 | 5, 9                     | opens 9; 5 is garbage
        if data_dir.identity.previous.is_some() && incarnation.state_machine.applied().0 != 0 {
            // The process ended between the install of the first snapshot and the commit of the join.
            data_dir.commit_join()?;
        }
        // A boot id is durable before the first message of this boot: peers record it, and a boot that forgot its id
        // would look like a clone of the disk.
        let nonce = (data_dir.random)();
        data_dir.update(|identity| {
            identity.picked_http_port = options.picked_http_port.or(identity.picked_http_port);
            identity.picked_raft_port = options.picked_raft_port.or(identity.picked_raft_port);
            identity.boot_history.start(nonce);
        })?;
        Ok((data_dir, incarnation))
    }

    /// Returns the identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Changes and replaces the identity; durable on return.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn update(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), Error> {
        let mut identity = self.identity.clone();
        change(&mut identity);
        self.engine.replace_file(IDENTITY, &encode(&identity))?;
        self.identity = identity;
        Ok(())
    }

    /// Creates a new, empty incarnation in `cluster_id` under a fresh raft id and switches to it; durable on return.
    /// The current incarnation is kept for [`DataDir::roll_back`]; `holds_data` says whether it has data to lose. If it
    /// is empty itself (a join that received nothing), the one before it stays kept.
    ///
    /// # Errors
    /// [`Error`]: the old incarnation is still in use.
    pub fn switch_incarnation(
        &mut self,
        cluster_id: u64,
        raft_address: &str,
        http_address: &str,
        holds_data: bool,
    ) -> Result<Incarnation, Error> {
        let names = self.engine.list("")?;
        // The id must be new for this directory: an old folder of the same id would be taken for this incarnation.
        let raft_id = loop {
            let id = random_id(&mut self.random);
            if id != self.identity.raft_id && !names.contains(&id.to_string()) {
                break id;
            }
        };
        #[cfg(feature = "plant")]
        let raft_id = self.reused_raft_id(&names).unwrap_or(raft_id);
        let nothing = (0, 0);
        let incarnation =
            self.create_incarnation(raft_id, nothing, &HardState::default(), Members::default(), ConfState::default())?;
        self.update(|identity| {
            // Everything below changes in one replacement of the file.
            let present = PreviousIncarnation {
                cluster_id: identity.cluster_id,
                raft_id: identity.raft_id,
                journal: identity.journal,
                formed: identity.formed,
                removed: identity.removed,
                raft_address: std::mem::take(&mut identity.raft_address),
                http_address: std::mem::take(&mut identity.http_address),
                holds_data,
            };
            // An incarnation that never received anything is not worth keeping: if A joined B in vain and now joins C, A stays
            // the one to roll back to.
            identity.previous.get_or_insert(present);
            (identity.cluster_id, identity.raft_id, identity.journal) = (cluster_id, raft_id, 0);
            (identity.formed, identity.removed) = (false, false);
            (identity.raft_address, identity.http_address) = (raft_address.into(), http_address.into());
        })?;
        self.last_generation = FIRST_GENERATION;
        self.new_journal = None;
        Ok(incarnation)
    }

    /// Switches back to the incarnation before the join, and opens it; durable on return. The abandoned one becomes
    /// garbage, and its raft id is never used again. None if no incarnation is kept.
    ///
    /// # Errors
    /// [`Error`] if it cannot be opened; the identity is unchanged then. [`Error::Busy`] if a thread of this process
    /// still has it open.
    pub fn roll_back(&mut self) -> Result<Option<Incarnation>, Error> {
        let Some(previous) = self.identity.previous.clone() else { return Ok(None) };
        // Opens first and renames after: if the old incarnation is damaged, the identity is unchanged.
        let incarnation = self.open_incarnation(previous.raft_id, previous.journal)?;
        self.update(|identity| {
            identity.previous = None;
            (identity.cluster_id, identity.raft_id) = (previous.cluster_id, previous.raft_id);
            identity.journal = previous.journal;
            (identity.formed, identity.removed) = (previous.formed, previous.removed);
            (identity.raft_address, identity.http_address) = (previous.raft_address, previous.http_address);
        })?;
        self.new_journal = None;
        Ok(Some(incarnation))
    }

    /// Commits a join after a snapshot of the cluster was installed: drops the previous incarnation. Durable on return.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn commit_join(&mut self) -> Result<(), Error> {
        if self.identity.formed && self.identity.previous.is_none() {
            return Ok(());
        }
        self.update(|identity| (identity.formed, identity.previous) = (true, None))
    }

    /// Reserves a new generation for a snapshot; nothing of it is on disk yet.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed.
    pub fn reserve_generation(&mut self) -> Result<SnapshotTarget, Error> {
        Ok(SnapshotTarget::new(self.reserve()?, self.cache_bytes))
    }

    /// Prepares a rewrite of this state machine's tree into a new generation; nothing of it is on disk yet.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed.
    pub fn rewrite(&mut self, state_machine: &StateMachine) -> Result<Rewrite, Error> {
        Ok(state_machine.rewrite_into(self.reserve()?, self.cache_bytes))
    }

    fn reserve(&mut self) -> Result<ReservedGeneration, Error> {
        let raft_id = self.identity.raft_id;
        let names = self.engine.list(&raft_id.to_string())?;
        // Above both the folders on disk and the numbers this process has handed out, some of which may have no folder yet.
        let highest = names.iter().filter_map(|name| layout::generation_of(name)).max().unwrap_or_default();
        let generation = highest.max(self.last_generation) + 1;
        self.last_generation = generation;
        let this = Reservation { raft_id, generation };
        Ok(ReservedGeneration::new(self.engine.clone(), self.reservations.clone(), this))
    }

    /// With the planted bug, the id that every incarnation of this name takes.
    #[cfg(feature = "plant")]
    fn reused_raft_id(&self, names: &[String]) -> Option<u64> {
        let id = u64::from(crc32fast::hash(self.identity.started_as.as_bytes()));
        let is_new = id != self.identity.raft_id && !names.contains(&id.to_string());
        (plant::is(Plant::RaftIdReused) && is_new).then_some(id)
    }

    /// Lists folders of unused incarnations and generations, to be removed on another thread. `generation` is the one
    /// in use.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed.
    pub fn garbage(&self, generation: u64) -> Result<Vec<String>, Error> {
        let own = self.identity.raft_id;
        let kept = self.identity.previous.as_ref().map(|previous| previous.raft_id);
        #[cfg(feature = "plant")]
        let kept = kept.filter(|_| !plant::is(Plant::OldIncarnationDropped));
        let reserved = self.reservations.lock();
        let mut garbage = Vec::new();
        for name in self.engine.list("")? {
            match layout::raft_id_of(&name) {
                Some(id)
                    if id != own
                        && Some(id) != kept
                        && !reserved.iter().any(|(held, taken)| held.raft_id == id && !taken) =>
                {
                    garbage.push(name);
                }
                _ => {}
            }
        }
        for name in self.engine.list(&own.to_string())? {
            // A redo record is of use only to its own generation.
            if layout::redo_generation_of(&name).is_some_and(|found| found != generation) {
                garbage.push(format!("{own}/{name}"));
            }
            if layout::journal_number_of(&name)
                .is_some_and(|found| found != self.identity.journal && Some(found) != self.new_journal)
            {
                garbage.push(format!("{own}/{name}"));
            }
            if let Some(found) = layout::generation_of(&name) {
                // A reserved one may be taken into use next; one below the generation in use was skipped.
                let held =
                    found > generation && reserved.contains_key(&Reservation { raft_id: own, generation: found });
                // Example: generation 3 is in use and 4 is reserved. 1 and 2 are garbage; 4 is garbage once its reservation is dropped.
                if found != generation && !held {
                    garbage.push(layout::state_machine(own, found));
                }
            }
        }
        Ok(garbage)
    }

    /// The engine, for removing garbage on another thread and for scratch files.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    fn redo(&self, raft_id: u64, generation: u64) -> RedoFile {
        RedoFile::new(self.engine.clone(), layout::redo(raft_id, generation))
    }

    /// Creates a one-voter cluster as if a snapshot existed at index 1: a configuration at index 0, outside of the log,
    /// breaks joiners (measured).
    fn bootstrap(&self, raft_id: u64, raft_address: &str, http_address: &str) -> Result<Incarnation, Error> {
        let mut members = Members::default();
        members.apply(&MemberChange::Set(Member {
            name: self.identity.started_as.clone(),
            raft_id,
            raft_address: raft_address.into(),
            http_address: http_address.into(),
            role: Role::Voter,
        }));
        let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
        let conf_state = ConfState { voters: vec![raft_id], ..ConfState::default() };
        self.create_incarnation(raft_id, (1, 1), &hard_state, members, conf_state)
    }

    fn create_incarnation(
        &self,
        raft_id: u64,
        base: (u64, u64),
        hard_state: &HardState,
        members: Members,
        conf_state: ConfState,
    ) -> Result<Incarnation, Error> {
        let db = self.engine.open(&layout::state_machine(raft_id, FIRST_GENERATION), true, self.cache_bytes)?;
        let redo = self.redo(raft_id, FIRST_GENERATION);
        let state_machine = StateMachine::create(db, redo, base, members, conf_state)?;
        let db = self.engine.open(&layout::journal(raft_id, 0), true, JOURNAL_CACHE_BYTES)?;
        let journal = Journal::create(db, base.0, base.1, hard_state, FIRST_GENERATION)?;
        Ok(Incarnation { journal, state_machine })
    }

    fn open_incarnation(&mut self, raft_id: u64, journal: u64) -> Result<Incarnation, Error> {
        let folder = raft_id.to_string();
        let names = self.engine.list(&folder)?;
        let damaged = |what: String, detail: String| Err(Error::Damaged { what, detail, path: self.engine.path() });
        if !names.iter().any(|name| layout::generation_of(name).is_some()) {
            return damaged(folder, "it holds no state machine".into());
        }
        let log = layout::journal(raft_id, journal);
        let mut journal = Journal::open(self.engine.open(&log, false, JOURNAL_CACHE_BYTES)?)?;
        let (generation, redo) = (journal.generation(), self.redo(raft_id, journal.generation()));
        let db = self.engine.open(&layout::state_machine(raft_id, generation), false, self.cache_bytes)?;
        let state_machine = StateMachine::open(db, redo)?;
        let ((applied, term), first, last) = (state_machine.applied(), journal.first_index(), journal.last_index());
        // The log may begin after the applied index only by compaction, which never passes a checkpoint. So such a gap means that
        // the state is older than the log.
        if applied + 1 < first {
            return damaged(log, format!("it begins with entry {first}, after what the state has applied ({applied})"));
        }
        // The state never applies what the log does not hold: the log has lost entries.
        if applied > last {
            return damaged(log, format!("log lost: it ends with entry {last}, but the state has applied {applied}"));
        }
        // The same index with another term: the log belongs to another history.
        if journal.term(applied) != Some(term) {
            return damaged(log, format!("log lost: entry {applied} is not the one of term {term} that was applied"));
        }
        // The state machine may have applied an entry whose commit was not recorded yet: the commit travels with the next record.
        journal.raise_commit_to(applied);
        let commit = journal.hard_state().commit;
        if commit > last {
            return damaged(log, format!("log lost: it ends with entry {last}, but entry {commit} was committed"));
        }
        let fits = first <= applied + 1 && applied <= last && commit <= last;
        debug_assert!(fits, "first {first}, applied {applied}, commit {commit}, last {last}");
        // The journal names the generation, so the install of a snapshot is one record: before it the old generation is
        // in use, after it the new one, and the other folder is garbage.
        self.last_generation = journal.generation();
        Ok(Incarnation { journal, state_machine })
    }
}

/// Writes the first identity of an empty directory.
fn write_first_identity(engine: &dyn Engine, options: &mut OpenOptions) -> Result<Identity, Error> {
    if let Some(folder) = engine.list("")?.into_iter().find(|name| layout::raft_id_of(name).is_some()) {
        let detail = format!("identity is missing, but the folder {folder} of a node is there");
        return Err(Error::Damaged { what: IDENTITY.into(), detail, path: engine.path() });
    }
    let identity = Identity {
        started_as: options.name.clone(),
        cluster_id: random_id(&mut options.random),
        raft_id: random_id(&mut options.random),
        journal: 0,
        ready: false,
        formed: false,
        removed: false,
        raft_address: options.raft_address.clone(),
        http_address: options.http_address.clone(),
        picked_http_port: options.picked_http_port,
        picked_raft_port: options.picked_raft_port,
        previous: None,
        boot_history: BootHistory::default(),
    };
    engine.replace_file(IDENTITY, &encode(&identity))?;
    Ok(identity)
}

fn random_id(random: &mut RandomSource) -> u64 {
    loop {
        let id = random() & MAX_RAFT_ID;
        if id != 0 {
            return id;
        }
    }
}
