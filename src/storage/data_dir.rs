//! The directory of a node: started, checked, adopted.
//!
//! Why: which log and which state belong together, and to whom, is decided once, here, before anything of it is used.
//!
//! Laws: the rename of `identity` is the only flip: a folder is complete and durable before the identity names it, and
//! what nothing names is garbage. An adopted node's previous incarnation is named until a copy of the adopting cluster's
//! state is installed, and only until then can the node go back to it. A raft id is minted anew for each incarnation and
//! never reused. Log and state must fit each other, or the node does not start.
//!
//! Not here: what the log and the state hold, and when to adopt (`consensus::membership`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use raft::eraftpb::{ConfState, HardState};

use crate::model::{BootHistory, DiskSpace, MAX_RAFT_ID, Member, MemberChange, Members, Role, mib};
use crate::plant::{self, Plant};

use super::identity::{decode, encode};
use super::layout::{self, IDENTITY};
use super::snapshot::left;
use super::{Engine, Error, Identity, Journal, Previous, SnapshotWriter, StateMachine};

/// The journal's cache; its reads are rare and in order.
const JOURNAL_CACHE_BYTES: u64 = 16 << 20;

/// The first machine generation of an incarnation.
const FIRST_GENERATION: u64 = 1;

/// What may come with a copy beside the state, about: the effects of what is applied while it is made, 1 GiB.
const CHANGES_BYTES: u64 = 1 << 30;

/// How many times smaller a copy may be than the files that it is of; these have been seen at 12 times the data.
const SHRINKS: u64 = 16;

/// Where random numbers come from; the simulator seeds it.
pub type Mint = Box<dyn FnMut() -> u64 + Send>;

/// What a node is started with.
pub struct OpenOptions {
    /// Its name (RAFT_NODE_ID).
    pub name: String,
    /// Its advertised raft address, for the table of a fresh one-voter cluster.
    pub raft_address: String,
    /// Its advertised HTTP address, likewise.
    pub http_address: String,
    /// The machine's cache.
    pub cache_bytes: u64,
    /// The HTTP port picked now, where port 0 was asked for.
    pub picked_http_port: Option<u16>,
    /// The raft port picked now, likewise.
    pub picked_raft_port: Option<u16>,
    /// Randomness.
    pub mint: Mint,
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
    engine: Arc<dyn Engine>,
    identity: Identity,
    cache_bytes: u64,
    mint: Mint,
    reservations: Arc<Reservations>,
    /// The last generation handed out for the incarnation in use, so that no number is used twice by one process.
    last_generation: u64,
}

impl DataDir {
    /// Opens the directory, or makes a fresh one-voter cluster in an empty one, as if a snapshot existed at (1, 1). A new
    /// life has begun on return, durably.
    ///
    /// # Errors
    /// [`Error`] for damage, another name, a newer format; nothing was changed then, but by the engine's own recovery.
    pub fn open(engine: Arc<dyn Engine>, mut boot: OpenOptions) -> Result<(Self, Incarnation), Error> {
        let found = match engine.read_file(IDENTITY)? {
            Some(bytes) => decode(&bytes, &engine.path())?,
            None => begin(&*engine, &mut boot)?,
        };
        if found.started_as != boot.name {
            return Err(Error::OtherName { path: engine.path(), found: found.started_as, asked: boot.name });
        }
        let mut data_dir = Self {
            engine,
            identity: found,
            cache_bytes: boot.cache_bytes,
            mint: boot.mint,
            reservations: Arc::default(),
            last_generation: FIRST_GENERATION,
        };
        let raft_id = data_dir.identity.raft_id;
        let incarnation = if data_dir.identity.ready {
            data_dir.open_incarnation(raft_id)?
        } else {
            data_dir.engine.remove(&raft_id.to_string())?;
            let incarnation = data_dir.bootstrap(raft_id, &boot.raft_address, &boot.http_address)?;
            data_dir.update(|identity| {
                identity.ready = true;
                (identity.raft_address, identity.http_address) = (boot.raft_address, boot.http_address);
            })?;
            incarnation
        };
        if data_dir.identity.previous.is_some() && incarnation.state_machine.applied().0 != 0 {
            // The process ended between the installation of the first copy and the note of it.
            data_dir.settle()?;
        }
        let nonce = (data_dir.mint)();
        data_dir.update(|identity| {
            identity.picked_http_port = boot.picked_http_port.or(identity.picked_http_port);
            identity.picked_raft_port = boot.picked_raft_port.or(identity.picked_raft_port);
            identity.lives.begin(nonce);
        })?;
        Ok((data_dir, incarnation))
    }

    /// Who the node is.
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

    /// Makes a new, empty incarnation in `cluster_id` under a fresh raft id and flips the identity to it; durable on
    /// return. The incarnation in use is kept for [`DataDir::go_back`]; `holds_data` says whether it has something to lose.
    /// Where that one is empty itself, adopted by another cluster that never sent anything, the one before it stays kept.
    ///
    /// # Errors
    /// [`Error`]: before the flip the old incarnation is still the one.
    pub fn adopt(
        &mut self,
        cluster_id: u64,
        raft_address: &str,
        http_address: &str,
        holds_data: bool,
    ) -> Result<Incarnation, Error> {
        let names = self.engine.list("")?;
        let raft_id = loop {
            let mut id = mint_id(&mut self.mint);
            let known = u64::from(crc32fast::hash(self.identity.started_as.as_bytes()));
            if plant::is(Plant::RaftIdReused) && !names.contains(&known.to_string()) {
                id = known;
            }
            if id != self.identity.raft_id && !names.contains(&id.to_string()) {
                break id;
            }
        };
        let nothing = (0, 0);
        let incarnation =
            self.make(raft_id, nothing, &HardState::default(), Members::default(), ConfState::default())?;
        self.update(|identity| {
            let present = Previous {
                cluster_id: identity.cluster_id,
                raft_id: identity.raft_id,
                formed: identity.formed,
                removed: identity.removed,
                raft_address: std::mem::take(&mut identity.raft_address),
                http_address: std::mem::take(&mut identity.http_address),
                holds_data,
            };
            identity.previous.get_or_insert(present);
            (identity.cluster_id, identity.raft_id) = (cluster_id, raft_id);
            (identity.formed, identity.removed) = (false, false);
            (identity.raft_address, identity.http_address) = (raft_address.into(), http_address.into());
        })?;
        self.last_generation = FIRST_GENERATION;
        Ok(incarnation)
    }

    /// Flips the identity back to the incarnation that was in use before the adoption, and opens it; durable on return.
    /// The abandoned one is left to [`DataDir::garbage`], and its raft id is never used again. None where nothing is kept.
    ///
    /// # Errors
    /// [`Error`] where it cannot be opened; the identity is unchanged then. [`Error::Busy`] where a thread of this process
    /// has not let go of it yet.
    pub fn go_back(&mut self) -> Result<Option<Incarnation>, Error> {
        let Some(previous) = self.identity.previous.clone() else { return Ok(None) };
        let incarnation = self.open_incarnation(previous.raft_id)?;
        self.update(|identity| {
            identity.previous = None;
            (identity.cluster_id, identity.raft_id) = (previous.cluster_id, previous.raft_id);
            (identity.formed, identity.removed) = (previous.formed, previous.removed);
            (identity.raft_address, identity.http_address) = (previous.raft_address, previous.http_address);
        })?;
        Ok(Some(incarnation))
    }

    /// Notes that a copy of the cluster's state is installed: the node is of that cluster on purpose, and has nothing to
    /// go back to. Durable on return.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn settle(&mut self) -> Result<(), Error> {
        if self.identity.formed && self.identity.previous.is_none() {
            return Ok(());
        }
        self.update(|identity| (identity.formed, identity.previous) = (true, None))
    }

    /// A number for a new machine generation, for a copy to be received into; nothing of it is on the disk yet.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed.
    pub fn receive(&mut self) -> Result<Reception, Error> {
        let raft_id = self.identity.raft_id;
        let names = self.engine.list(&raft_id.to_string())?;
        let highest = names.iter().filter_map(|name| layout::generation_of(name)).max().unwrap_or_default();
        let generation = highest.max(self.last_generation) + 1;
        self.last_generation = generation;
        let reserved =
            Reserved::new(self.engine.clone(), self.reservations.clone(), Reservation { raft_id, generation });
        Ok(Reception { reserved, cache_bytes: self.cache_bytes })
    }

    /// Folders of incarnations and generations that nothing names: they can be removed, off the loop. `generation` is
    /// the one in use.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed.
    pub fn garbage(&self, generation: u64) -> Result<Vec<String>, Error> {
        let own = self.identity.raft_id;
        let kept = self.identity.previous.as_ref().filter(|_| !plant::is(Plant::OldIncarnationDropped));
        let kept = kept.map(|previous| previous.raft_id);
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
            if let Some(found) = layout::generation_of(&name) {
                // A reserved one may be taken into use next; one below the generation in use was passed over.
                let held =
                    found > generation && reserved.contains_key(&Reservation { raft_id: own, generation: found });
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

    /// A one-voter cluster as if a snapshot existed at index 1: an off-log configuration at index 0 breaks joiners (m).
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
        self.make(raft_id, (1, 1), &hard_state, members, conf_state)
    }

    fn make(
        &self,
        raft_id: u64,
        base: (u64, u64),
        hard_state: &HardState,
        members: Members,
        conf_state: ConfState,
    ) -> Result<Incarnation, Error> {
        let db = self.engine.open(&layout::state_machine(raft_id, FIRST_GENERATION), true, self.cache_bytes)?;
        let state_machine = StateMachine::create(db, base, members, conf_state)?;
        let db = self.engine.open(&layout::journal(raft_id), true, JOURNAL_CACHE_BYTES)?;
        let journal = Journal::create(db, base.0, base.1, hard_state, FIRST_GENERATION)?;
        Ok(Incarnation { journal, state_machine })
    }

    fn open_incarnation(&mut self, raft_id: u64) -> Result<Incarnation, Error> {
        let folder = raft_id.to_string();
        let names = self.engine.list(&folder)?;
        let damaged = |what: String, detail: String| Err(Error::Damaged { what, detail, path: self.engine.path() });
        if !names.iter().any(|name| layout::generation_of(name).is_some()) {
            return damaged(folder, "it holds no state of the machine".into());
        }
        let log = layout::journal(raft_id);
        let mut journal = Journal::open(self.engine.open(&log, false, JOURNAL_CACHE_BYTES)?)?;
        let state_machine = layout::state_machine(raft_id, journal.generation());
        let state_machine = StateMachine::open(self.engine.open(&state_machine, false, self.cache_bytes)?)?;
        let ((applied, term), first, last) = (state_machine.applied(), journal.first_index(), journal.last_index());
        if applied + 1 < first {
            return damaged(log, format!("it begins with entry {first}, after what the state has applied ({applied})"));
        }
        if applied > last {
            return damaged(log, format!("log lost: it ends with entry {last}, but the state has applied {applied}"));
        }
        if journal.term(applied) != Some(term) {
            return damaged(log, format!("log lost: entry {applied} is not the one of term {term} that was applied"));
        }
        journal.raise_commit(applied);
        let commit = journal.hard_state().commit;
        if commit > last {
            return damaged(log, format!("log lost: it ends with entry {last}, but entry {commit} was committed"));
        }
        self.last_generation = journal.generation();
        Ok(Incarnation { journal, state_machine })
    }
}

/// Writes the first identity of an empty directory.
fn begin(engine: &dyn Engine, boot: &mut OpenOptions) -> Result<Identity, Error> {
    if let Some(folder) = engine.list("")?.into_iter().find(|name| layout::raft_id_of(name).is_some()) {
        let detail = format!("identity is missing, but the folder {folder} of a node is there");
        return Err(Error::Damaged { what: IDENTITY.into(), detail, path: engine.path() });
    }
    let identity = Identity {
        started_as: boot.name.clone(),
        cluster_id: mint_id(&mut boot.mint),
        raft_id: mint_id(&mut boot.mint),
        ready: false,
        formed: false,
        removed: false,
        raft_address: boot.raft_address.clone(),
        http_address: boot.http_address.clone(),
        picked_http_port: boot.picked_http_port,
        picked_raft_port: boot.picked_raft_port,
        previous: None,
        lives: BootHistory::default(),
    };
    engine.replace_file(IDENTITY, &encode(&identity))?;
    Ok(identity)
}

fn mint_id(mint: &mut Mint) -> u64 {
    loop {
        let id = mint() & MAX_RAFT_ID;
        if id != 0 {
            return id;
        }
    }
}

/// A generation that is being received, or was received and may be taken into use next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Reservation {
    raft_id: u64,
    generation: u64,
}

/// All of them, with whether they were taken.
#[derive(Default)]
struct Reservations(Mutex<BTreeMap<Reservation, bool>>);

impl Reservations {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Reservation, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a copy is to be received; dropped, it leaves nothing behind.
pub struct Reception {
    reserved: Reserved,
    cache_bytes: u64,
}

impl Reception {
    /// Makes the generation, which takes a while: not for the loop's thread. `announced` is how many bytes the sender says
    /// its state takes up on its disk.
    ///
    /// # Errors
    /// [`Error`] where there is no room for even a small part of it, or the generation cannot be made.
    pub fn open(self, announced: u64) -> Result<SnapshotWriter, Error> {
        let Self { reserved, cache_bytes } = self;
        if let Some(space) = reserved.space().filter(|space| space.room() < announced / SHRINKS) {
            let (announced, left) = (mib(announced), left(space));
            return Err(Error::copy(format!("{announced} on the sender's disk do not fit on the receiver's: {left}")));
        }
        let most = announced.saturating_mul(2).saturating_add(CHANGES_BYTES);
        let name = layout::state_machine(reserved.this.raft_id, reserved.this.generation);
        let db = reserved.engine.open(&name, true, cache_bytes)?;
        Ok(SnapshotWriter::new(db, reserved, most))
    }
}

/// Holds a folder for a copy: kept out of the garbage, and removed again where nothing came of it.
pub(crate) struct Reserved {
    engine: Arc<dyn Engine>,
    all: Arc<Reservations>,
    this: Reservation,
    kept: bool,
}

impl Reserved {
    fn new(engine: Arc<dyn Engine>, all: Arc<Reservations>, this: Reservation) -> Self {
        all.lock().insert(this.clone(), false);
        Self { engine, all, this, kept: false }
    }

    /// The generation.
    pub(crate) fn generation(&self) -> u64 {
        self.this.generation
    }

    /// What is left of the disk.
    pub(crate) fn space(&self) -> Option<DiskSpace> {
        self.engine.space()
    }

    /// The folder stays.
    pub(crate) fn keep(mut self) {
        self.kept = true;
        self.all.lock().insert(self.this.clone(), true);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is garbage, and is removed at the next start.
            drop(self.engine.remove(&layout::state_machine(self.this.raft_id, self.this.generation)));
            self.all.lock().remove(&self.this);
        }
    }
}
