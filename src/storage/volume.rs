//! The directory of a node: started, checked, adopted.

use std::sync::Arc;

use super::{Engine, Error, Identity, Journal, Machine, SnapshotWriter};

/// Where random numbers come from; the simulator seeds it.
pub type Mint = Box<dyn FnMut() -> u64 + Send>;

/// What a node is started with.
pub struct Boot {
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
    pub machine: Machine,
}

/// An opened directory.
pub struct Volume;

impl Volume {
    /// Opens the directory, or makes a fresh one-voter cluster in an empty one, as if a snapshot existed at (1, 1).
    ///
    /// # Errors
    /// [`Error`] for damage, another name, a newer format; nothing was changed then.
    pub fn open(_engine: Arc<dyn Engine>, _boot: Boot) -> Result<(Self, Incarnation), Error> {
        todo!()
    }
    /// Who the node is.
    pub fn identity(&self) -> &Identity {
        todo!()
    }
    /// Changes and replaces the identity; durable on return.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn update(&mut self, _change: impl FnOnce(&mut Identity)) -> Result<(), Error> {
        todo!()
    }
    /// Makes a new, empty incarnation in `cluster_id` under a fresh raft id and flips the identity to it; durable on
    /// return. The old incarnation's folder is left to [`Volume::garbage`].
    ///
    /// # Errors
    /// [`Error`]: before the flip the old incarnation is still the one.
    pub fn adopt(&mut self, _cluster_id: u64, _raft_address: &str, _http_address: &str) -> Result<Incarnation, Error> {
        todo!()
    }
    /// A new machine generation for a copy to be received into.
    ///
    /// # Errors
    /// [`Error`] where it cannot be made.
    pub fn receive(&mut self) -> Result<SnapshotWriter, Error> {
        todo!()
    }
    /// Folders of incarnations and generations that nothing names: they can be removed, off the loop. `generation` is
    /// the one in use.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed.
    pub fn garbage(&self, _generation: u64) -> Result<Vec<String>, Error> {
        todo!()
    }
    /// The engine, for removing garbage on another thread and for scratch files.
    pub fn engine(&self) -> Arc<dyn Engine> {
        todo!()
    }
}
